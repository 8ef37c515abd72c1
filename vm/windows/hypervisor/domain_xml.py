"""A domain as a typed class ("Domain XML format", libvirt): what is not here, no machine of this project has."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from vm.windows.hypervisor import xml_fields
from vm.windows.hypervisor.devices import (
    ON,
    YES,
    Channel,
    Controller,
    Disk,
    Graphics,
    Panic,
    Serial,
    Tpm,
)
from vm.windows.hypervisor.guest_network import GuestNetwork, GuestNetworkRule
from vm.windows.hypervisor.mark import Mark, MarkRule
from vm.windows.hypervisor.xml_fields import (
    XmlError,
    choice,
    declared,
    file,
    mebibytes,
    part,
    parts,
    present,
    switch,
    text,
    whole,
)

TAG: Final = "domain"


class Accelerator(enum.Enum):
    """What runs the guest's instructions: libvirt's domain type."""

    KVM = "kvm"
    QEMU = "qemu"
    """QEMU's own translator, TCG."""


class CpuMode(enum.Enum):
    """Which processor the guest sees."""

    HOST_PASSTHROUGH = "host-passthrough"
    MAXIMUM = "maximum"


class CrashAction(enum.Enum):
    """What becomes of a domain whose guest crashed."""

    PRESERVE = "preserve"
    """It stays as it is, for a dump and a picture."""
    DESTROY = "destroy"


@dataclass(frozen=True)
class FirmwareFeature:
    """A feature by which libvirt chooses among the host's UEFI builds.

    Attributes:
        name: ``secure-boot`` or ``enrolled-keys``.
        enabled: whether the firmware must have it, or must not.
    """

    name: str = text("@name")
    enabled: bool = switch("@enabled", YES)


@dataclass(frozen=True)
class Loader:
    """Firmware that is named or restricted, beyond what libvirt chooses.

    Attributes:
        read_only: whether the guest cannot write to it.
        secure: whether only System Management Mode may write to the variables.
        kind: ``rom`` or ``pflash``.
        path: its file; None for libvirt's choice.
    """

    read_only: bool | None = switch("@readonly", YES, default=None)
    secure: bool | None = switch("@secure", YES, default=None)
    kind: str | None = text("@type", default=None)
    path: Path | None = file("", default=None)


@dataclass(frozen=True)
class OperatingSystem:
    """What is started, and by which firmware.

    Attributes:
        kind: ``hvm``.
        arch: processor architecture.
        machine: machine type, ``q35``; libvirt answers with a version of it.
        firmware: ``efi`` to have libvirt choose a UEFI build; None for BIOS or a loader of one's own.
        features: what that build must have.
        loader: see there.
        variables: file of the firmware's variables.
        kernel: Linux kernel to start without a boot loader.
        initrd: its initial RAM disk.
        command_line: its command line.
    """

    kind: str = text("type", default="hvm")
    arch: str = text("type@arch", default="x86_64")
    machine: str = text("type@machine", default="q35")
    firmware: str | None = text("@firmware", default=None)
    features: tuple[FirmwareFeature, ...] = parts("firmware/feature", FirmwareFeature)
    loader: Loader | None = part("loader", Loader, default=None)
    variables: Path | None = file("nvram", default=None)
    kernel: Path | None = file("kernel", default=None)
    initrd: Path | None = file("initrd", default=None)
    command_line: str | None = text("cmdline", default=None)


@dataclass(frozen=True)
class Enlightenments:
    """Hyper-V enlightenments, each one on or left out; the fields have libvirt's names."""

    mode: str | None = text("@mode", default=None)
    relaxed: bool | None = switch("relaxed@state", ON, default=None)
    vapic: bool | None = switch("vapic@state", ON, default=None)
    spinlocks: bool | None = switch("spinlocks@state", ON, default=None)
    spinlock_retries: int | None = whole("spinlocks@retries", default=None)
    vpindex: bool | None = switch("vpindex@state", ON, default=None)
    runtime: bool | None = switch("runtime@state", ON, default=None)
    synic: bool | None = switch("synic@state", ON, default=None)
    stimer: bool | None = switch("stimer@state", ON, default=None)
    reset: bool | None = switch("reset@state", ON, default=None)
    frequencies: bool | None = switch("frequencies@state", ON, default=None)
    reenlightenment: bool | None = switch("reenlightenment@state", ON, default=None)
    tlbflush: bool | None = switch("tlbflush@state", ON, default=None)
    ipi: bool | None = switch("ipi@state", ON, default=None)


@dataclass(frozen=True)
class PlatformFeatures:
    """Features of the platform.

    Attributes:
        acpi: whether there is ACPI.
        apic: whether there is an APIC.
        hyperv: Hyper-V enlightenments.
        smm: whether there is System Management Mode, which Secure Boot needs.
        vmcoreinfo: whether the guest can say where its dump's headers are, so that the host can make a Windows dump.
    """

    acpi: bool = present("acpi", default=False)
    apic: bool = present("apic", default=False)
    hyperv: Enlightenments | None = part("hyperv", Enlightenments, default=None)
    smm: bool | None = switch("smm@state", ON, default=None)
    vmcoreinfo: bool | None = switch("vmcoreinfo@state", ON, default=None)


@dataclass(frozen=True)
class CpuFeature:
    """A feature of the processor.

    Attributes:
        name: libvirt's name of it.
        policy: ``disable`` or ``require``.
    """

    policy: str = text("@policy")
    name: str = text("@name")


@dataclass(frozen=True)
class Cpu:
    """The processor.

    Attributes:
        mode: which one.
        check: ``none``: what the host lacks is left out.
        sockets: sockets; Windows clients use at most two.
        cores: cores of each.
        threads: threads of each core.
        features: what is added or taken away.
    """

    mode: CpuMode = choice("@mode", CpuMode)
    check: str | None = text("@check", default=None)
    sockets: int | None = whole("topology@sockets", default=None)
    cores: int | None = whole("topology@cores", default=None)
    threads: int | None = whole("topology@threads", default=None)
    features: tuple[CpuFeature, ...] = parts("feature", CpuFeature)


@dataclass(frozen=True)
class Timer:
    """A timer.

    Attributes:
        name: ``rtc``, ``pit``, ``hpet`` or ``hypervclock``.
        tick_policy: what becomes of ticks that came too late.
        present: whether the guest has it.
    """

    name: str = text("@name")
    tick_policy: str | None = text("@tickpolicy", default=None)
    present: bool | None = switch("@present", YES, default=None)


@dataclass(frozen=True)
class Clock:
    """The guest's clock.

    Attributes:
        offset: what the real-time clock shows at the start, ``utc`` or ``localtime`` of the host.
        timers: the timers.
    """

    offset: str = text("@offset", default="utc")
    timers: tuple[Timer, ...] = parts("timer", Timer)


@dataclass(frozen=True)
class Devices:
    """The devices. Attributes are lists of the classes in `devices`, in the order in which the guest finds them.

    Attributes:
        disks: disks and CD drives.
        controllers: controllers that are not left to libvirt.
        serials: serial ports.
        channels: channels to programs in the guest.
        graphics: how the screen is looked at.
        video: model of the graphics adapter, ``vga``; a picture of the screen needs one.
        tpms: at most one TPM.
        panics: panic devices.
        memory_balloon: ``none`` to have none.
    """

    disks: tuple[Disk, ...] = parts("disk", Disk)
    # libvirt adds its own controllers; those are not the project's to say anything of.
    controllers: tuple[Controller, ...] = parts(
        "controller", Controller, chosen=lambda found: found.get("type") in {"scsi", "nvme", "usb"}
    )
    serials: tuple[Serial, ...] = parts("serial", Serial)
    channels: tuple[Channel, ...] = parts("channel", Channel)
    graphics: tuple[Graphics, ...] = parts("graphics", Graphics)
    video: str | None = text("video/model@type", default=None)
    tpms: tuple[Tpm, ...] = parts("tpm", Tpm)
    panics: tuple[Panic, ...] = parts("panic", Panic)
    memory_balloon: str | None = text("memballoon@model", default=None)


@dataclass(frozen=True)
class Domain:
    """A virtual machine.

    Attributes:
        accelerator: what runs its instructions.
        name: its name, unique on a hypervisor.
        uuid: its identity; None to let libvirt make one.
        mark: the project's mark.
        memory_mib: memory in MiB.
        cpus: virtual processors.
        os: what is started.
        features: of the platform.
        cpu: the processor; None for QEMU's default.
        clock: the clock; None for libvirt's default.
        on_poweroff, on_reboot: libvirt's words for what becomes of it when the guest goes off or restarts.
        on_crash: what becomes of it when the guest crashed.
        suspend_to_memory, suspend_to_disk: whether the guest may sleep, which would look like a hang.
        devices: the devices.
        network: the network adapter, which is given to QEMU past libvirt; None to have none.
    """

    accelerator: Accelerator = choice("@type", Accelerator)
    name: str = text("name")
    uuid: str | None = text("uuid", default=None)
    mark: Mark | None = declared(MarkRule(), None)
    memory_mib: int = mebibytes("memory")
    cpus: int = whole("vcpu", default=1)
    os: OperatingSystem = part("os", OperatingSystem)
    features: PlatformFeatures | None = part("features", PlatformFeatures, default=None)
    cpu: Cpu | None = part("cpu", Cpu, default=None)
    clock: Clock | None = part("clock", Clock, default=None)
    on_poweroff: str = text("on_poweroff", default="destroy")
    on_reboot: str = text("on_reboot", default="restart")
    on_crash: CrashAction = choice("on_crash", CrashAction, default=CrashAction.PRESERVE)
    suspend_to_memory: bool | None = switch("pm/suspend-to-mem@enabled", YES, default=None)
    suspend_to_disk: bool | None = switch("pm/suspend-to-disk@enabled", YES, default=None)
    devices: Devices = part("devices", Devices)
    network: GuestNetwork | None = declared(GuestNetworkRule(), None)

    def to_element(self) -> ET.Element:
        """The domain as XML.

        Raises:
            XmlError: a name or path holds what XML cannot.
        """
        return xml_fields.write(self, TAG)

    def to_xml(self) -> str:
        """The domain as text, for virDomainDefineXML and virDomainRestoreFlags. Raises as `to_element`."""
        return xml_fields.render(self.to_element())

    @classmethod
    def from_xml(cls, xml: str) -> Domain:
        """Read a domain, as virDomainGetXMLDesc or virDomainSaveImageGetXMLDesc gives it.

        What a machine of this project does not have is left out, so the result is not the whole of a foreign domain.

        Raises:
            XmlError: it is not a domain, or one that this project cannot have made.
        """
        root = xml_fields.parse(xml, "domain")
        if root.tag != TAG:
            raise XmlError(f"expected a domain, found {root.tag!r}")
        return xml_fields.read(cls, root)
