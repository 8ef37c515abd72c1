"""Makes the domain of a machine from what its profile says of the hardware."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vm.errors import MachineConfigurationError
from vm.windows.hypervisor.devices import (
    Backing,
    Base,
    Bus,
    CacheMode,
    Channel,
    Controller,
    Disk,
    DiskDevice,
    Graphics,
    ImageFormat,
    Panic,
    PanicModel,
    Serial,
    Tpm,
)
from vm.windows.hypervisor.domain_xml import (
    Accelerator,
    Clock,
    Cpu,
    CpuFeature,
    CpuMode,
    Devices,
    Domain,
    Enlightenments,
    FirmwareFeature,
    Loader,
    OperatingSystem,
    PlatformFeatures,
    Timer,
)
from vm.windows.hypervisor.guest_network import GuestNetwork
from vm.windows.hypervisor.mark import Mark
from vm.windows.profiles.profile import DiskBus, Firmware, Hardware

AGENT_CHANNEL: Final = "org.qemu.guest_agent.0"
PVPANIC_PORT: Final = 0x505
"""QEMU, "PVPANIC device"."""
SPINLOCK_RETRIES: Final = 8191
"""What QEMU's "Hyper-V Enlightenments" recommends, 0x1fff."""

ENLIGHTENMENTS: Final = frozenset(
    {
        "relaxed",
        "vapic",
        "spinlocks",
        "vpindex",
        "runtime",
        "synic",
        "stimer",
        "reset",
        "frequencies",
        "reenlightenment",
        "tlbflush",
        "ipi",
    }
)
REQUIRES: Final = {
    "synic": ("vpindex",),
    "stimer": ("vpindex", "synic"),
    "tlbflush": ("vpindex",),
    "ipi": ("vpindex",),
}
"""Which enlightenments another one needs (QEMU, "Hyper-V Enlightenments")."""
NEEDS_KVM: Final = "vpindex"
"""QEMU starts no machine with it under TCG, where a processor's number cannot be set."""

NVME_SINCE: Final = (11, 5, 0)
"""The libvirt whose "Domain XML format" first has an emulated NVMe disk."""

_BUSES: Final = {DiskBus.SATA: Bus.SATA, DiskBus.NVME: Bus.NVME, DiskBus.VIRTIO_SCSI: Bus.SCSI}


@dataclass(frozen=True)
class Files:
    """Files that a domain uses, on the hypervisor's host.

    Attributes:
        disk: the system disk, qcow2.
        backing: what the disk is an overlay of; None for a disk that stands alone.
        variables: variables of the firmware, needed for UEFI.
        serial_log: file that keeps what the guest writes to its serial port; None to keep nothing.
        media: CDs in the order of their drives; the machine starts from the first one while its disk starts nothing.
    """

    disk: Path
    backing: Path | None = None
    variables: Path | None = None
    serial_log: Path | None = None
    media: tuple[Path, ...] = ()


def build_domain(
    hardware: Hardware,
    files: Files,
    *,
    name: str,
    accelerator: Accelerator,
    mark: Mark,
    nested: bool = False,
) -> Domain:
    """The domain of a machine.

    Args:
        hardware: the machine.
        files: its files; an overlay is thrown away, so its writes may be lost when the host fails.
        name: the domain's name.
        accelerator: what runs it.
        mark: the project's mark.
        nested: whether the guest runs a hypervisor of its own, which memory integrity needs.

    Raises:
        MachineConfigurationError: an enlightenment is unknown or lacks one that it needs, or UEFI has no file for its
            variables.
    """
    uefi = hardware.firmware is Firmware.UEFI
    if uefi and files.variables is None:
        raise MachineConfigurationError(f"{name}: UEFI firmware needs a file for its variables; none was given")
    return Domain(
        accelerator=accelerator,
        name=name,
        mark=mark,
        memory_mib=hardware.memory_mib,
        cpus=hardware.cpus,
        os=_operating_system(hardware, files) if uefi else OperatingSystem(),
        features=PlatformFeatures(
            acpi=True,
            apic=True,
            hyperv=_enlightenments(hardware, accelerator),
            smm=True if hardware.secure_boot else None,
            vmcoreinfo=True,
        ),
        cpu=_cpu(hardware, accelerator, nested=nested),
        clock=_clock(accelerator),
        suspend_to_memory=False,
        suspend_to_disk=False,
        devices=_devices(hardware, files),
        network=GuestNetwork(hardware.network.value),
    )


def clone_of(golden: Domain, *, disk: Path, variables: Path | None, mark: Mark, serial_log: Path | None) -> Domain:
    """The domain that a golden machine's saved memory is restored with.

    The name, the network adapter and the number of devices stay as they were saved: libvirt refuses other ones.

    Args:
        golden: the domain as it was saved.
        disk: overlay on the golden machine's disk.
        variables: copy of its firmware variables, None for BIOS.
        mark: the clone's mark.
        serial_log: file for the clone's serial port, None to keep nothing.

    Raises:
        MachineConfigurationError: the golden machine has UEFI firmware and no `variables` are given, or the reverse, or
            it has no disk.
    """
    if (golden.os.variables is None) != (variables is None):
        raise MachineConfigurationError(f"{golden.name}: a clone has its own firmware variables exactly if it is UEFI")
    disks = golden.devices.disks
    system = next((one for one in disks if one.device is DiskDevice.DISK and one.path is not None), None)
    if system is None or system.path is None:
        raise MachineConfigurationError(f"{golden.name}: there is no disk to make an overlay of")
    overlay = replace(
        system,
        format=ImageFormat.QCOW2,
        cache=CacheMode.UNSAFE,
        path=disk,
        backing=Backing(format=system.format, path=system.path, below=_base(system.backing)),
    )
    serials = tuple(
        replace(one, log=serial_log, append=None if serial_log is None else False) for one in golden.devices.serials
    )
    return replace(
        golden,
        mark=mark,
        os=replace(golden.os, variables=variables),
        devices=replace(
            golden.devices,
            disks=tuple(overlay if one is system else one for one in disks),
            serials=serials,
        ),
    )


def _base(backing: Backing | None) -> Base | None:
    """What the golden machine's own disk stands on, which is an image: nothing is below that."""
    return None if backing is None else Base(format=backing.format, path=backing.path)


def check_supported(domain: Domain, version: tuple[int, int, int]) -> None:
    """Whether a libvirt is new enough for a domain.

    Args:
        domain: the domain.
        version: version of the libvirt that will run it.

    Raises:
        MachineConfigurationError: it is not; names what and the remedy.
    """
    if version < NVME_SINCE and any(disk.bus is Bus.NVME for disk in domain.devices.disks):
        raise MachineConfigurationError(
            f"{domain.name}: hardware.disk_bus = nvme needs libvirt {_dotted(NVME_SINCE)}, this is {_dotted(version)};"
            " set it to sata or virtio-scsi"
        )


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))


def _operating_system(hardware: Hardware, files: Files) -> OperatingSystem:
    # Both features are always named: without them libvirt takes whichever build the host lists first.
    return OperatingSystem(
        firmware="efi",
        features=(
            FirmwareFeature(name="secure-boot", enabled=hardware.secure_boot),
            FirmwareFeature(name="enrolled-keys", enabled=hardware.secure_boot),
        ),
        loader=Loader(secure=True) if hardware.secure_boot else None,
        variables=files.variables,
    )


def _enlightenments(hardware: Hardware, accelerator: Accelerator) -> Enlightenments | None:
    wanted = set(hardware.enlightenments)
    if unknown := sorted(wanted - ENLIGHTENMENTS):
        raise MachineConfigurationError(
            f"hardware.enlightenments: {unknown[0]!r} is not known; choose from {', '.join(sorted(ENLIGHTENMENTS))}"
        )
    for one in sorted(wanted):
        if missing := [other for other in REQUIRES.get(one, ()) if other not in wanted]:
            raise MachineConfigurationError(f"hardware.enlightenments: {one!r} needs {missing[0]!r}; add it")
    if accelerator is Accelerator.QEMU:
        wanted = {one for one in wanted if one != NEEDS_KVM and NEEDS_KVM not in REQUIRES.get(one, ())}
    if not wanted:
        return None
    return Enlightenments(
        mode="custom",
        spinlock_retries=SPINLOCK_RETRIES if "spinlocks" in wanted else None,
        **dict.fromkeys(sorted(wanted), True),
    )


def _cpu(hardware: Hardware, accelerator: Accelerator, *, nested: bool) -> Cpu:
    if accelerator is Accelerator.QEMU:
        # Nothing is taken away here: without svm, a Linux guest under QEMU 7.2's TCG soon reads wrong data.
        return Cpu(mode=CpuMode.MAXIMUM, check="none", sockets=1, cores=hardware.cpus, threads=1)
    # A hypervisor in the guest slows it and hides faults; it is taken away unless memory integrity asks for it.
    hidden = () if nested else tuple(CpuFeature(policy="disable", name=name) for name in ("vmx", "svm"))
    return Cpu(mode=CpuMode.HOST_PASSTHROUGH, check="none", sockets=1, cores=hardware.cpus, threads=1, features=hidden)


def _clock(accelerator: Accelerator) -> Clock:
    hyperv = () if accelerator is Accelerator.QEMU else (Timer(name="hypervclock", present=True),)
    return Clock(
        timers=(
            Timer(name="rtc", tick_policy="catchup"),
            Timer(name="pit", tick_policy="delay"),
            Timer(name="hpet", present=False),
            *hyperv,
        )
    )


def _system_disk(hardware: Hardware, files: Files) -> Disk:
    overlay = files.backing is not None
    return Disk(
        device=DiskDevice.DISK,
        format=ImageFormat.QCOW2,
        cache=CacheMode.UNSAFE if overlay else CacheMode.WRITEBACK,
        discard="unmap",
        path=files.disk,
        backing=None if files.backing is None else Backing(format=ImageFormat.QCOW2, path=files.backing),
        target="nvme0n1" if hardware.disk_bus is DiskBus.NVME else "sda",
        bus=_BUSES[hardware.disk_bus],
        # A name of the project's own: an NVMe controller must have one, and the guest can tell the disk by it.
        serial="ntproof-system",
        boot=1,
    )


def _devices(hardware: Hardware, files: Files) -> Devices:
    drives = tuple(
        Disk(
            device=DiskDevice.CDROM,
            format=ImageFormat.RAW,
            path=path,
            target=f"sd{chr(ord('b') + index)}",
            bus=Bus.SATA,
            boot=2 if index == 0 else None,
            read_only=True,
        )
        for index, path in enumerate(files.media)
    )
    storage = {
        DiskBus.SATA: (),
        DiskBus.NVME: (Controller(kind="nvme", index=0),),
        DiskBus.VIRTIO_SCSI: (Controller(kind="scsi", index=0, model="virtio-scsi"),),
    }[hardware.disk_bus]
    panics = [Panic(model=PanicModel.ISA, address="isa", port=f"0x{PVPANIC_PORT:x}")]
    if hardware.hyperv_panic:
        panics.append(Panic(model=PanicModel.HYPERV))
    return Devices(
        disks=(_system_disk(hardware, files), *drives),
        # Without USB nothing polls the guest; its keyboard is a PS/2 one.
        controllers=(*storage, Controller(kind="usb", model="none")),
        serials=(Serial(log=files.serial_log, append=None if files.serial_log is None else False),),
        channels=(Channel(name=AGENT_CHANNEL),),
        graphics=(Graphics(),),
        video="vga",
        tpms=(Tpm(),) if hardware.tpm else (),
        panics=tuple(panics),
        memory_balloon="none",
    )
