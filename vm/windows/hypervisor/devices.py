"""Devices of a domain as typed classes ("Domain XML format", libvirt)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vm.windows.hypervisor.xml_fields import choice, file, part, present, switch, text, whole

YES: Final = ("yes", "no")
ON: Final = ("on", "off")


class DiskDevice(enum.Enum):
    """What the guest sees."""

    DISK = "disk"
    CDROM = "cdrom"


class ImageFormat(enum.Enum):
    """How a disk's file is laid out."""

    QCOW2 = "qcow2"
    RAW = "raw"


class CacheMode(enum.Enum):
    """How writes reach the host's disk."""

    WRITEBACK = "writeback"
    """Flushes of the guest reach the disk: for what is kept."""
    UNSAFE = "unsafe"
    """They do not: for what is thrown away."""


class Bus(enum.Enum):
    """What a disk is attached to, by libvirt's names."""

    SATA = "sata"
    SCSI = "scsi"
    NVME = "nvme"
    VIRTIO = "virtio"


class PanicModel(enum.Enum):
    """How a guest says that it crashed."""

    ISA = "isa"
    """pvpanic's port: says that it happened, without more."""
    HYPERV = "hyperv"
    """Hyper-V's crash registers, which carry the bugcheck and its parameters; only KVM has them."""


@dataclass(frozen=True)
class Base:
    """The lowest file of a chain.

    Attributes:
        kind: ``file``.
        format: how it is laid out.
        path: the file.
        pinned: whether it is said that nothing is below it.
    """

    kind: str = text("@type", default="file")
    format: ImageFormat = choice("format@type", ImageFormat)
    path: Path = file("source@file")
    pinned: bool = present("backingStore", default=True)


@dataclass(frozen=True)
class Backing:
    """The read-only file below an overlay.

    Attributes:
        kind: ``file``.
        format: how it is laid out.
        path: the file.
        pinned: whether it is said what is below it, or that nothing is, so that no image can name a file of its choice.
        below: what it is itself an overlay of, None for nothing.
    """

    kind: str = text("@type", default="file")
    format: ImageFormat = choice("format@type", ImageFormat)
    path: Path = file("source@file")
    pinned: bool = present("backingStore", default=True)
    below: Base | None = part("backingStore", Base, default=None, empty_is_none=True)


@dataclass(frozen=True)
class Disk:
    """A disk or CD drive.

    Attributes:
        kind: ``file``.
        device: disk or CD.
        driver: ``qemu``.
        format: how the file is laid out.
        cache: how writes reach the host.
        discard: ``unmap`` to give space back that the guest frees.
        path: the file; None for an empty CD drive.
        backing: what an overlay stands on.
        target: name of the drive, unique in the domain, such as ``sda``.
        bus: what it is attached to.
        serial: serial number that the guest sees.
        boot: its place in the order of starting, from 1; None to never start from it.
        read_only: whether the guest cannot write.
    """

    kind: str = text("@type", default="file")
    device: DiskDevice = choice("@device", DiskDevice)
    driver: str = text("driver@name", default="qemu")
    format: ImageFormat = choice("driver@type", ImageFormat)
    cache: CacheMode | None = choice("driver@cache", CacheMode, default=None)
    discard: str | None = text("driver@discard", default=None)
    path: Path | None = file("source@file", default=None)
    backing: Backing | None = part("backingStore", Backing, default=None, empty_is_none=True)
    target: str = text("target@dev")
    bus: Bus = choice("target@bus", Bus)
    serial: str | None = text("serial", default=None)
    boot: int | None = whole("boot@order", default=None)
    read_only: bool = present("readonly", default=False)


@dataclass(frozen=True)
class Controller:
    """A controller that libvirt does not add by itself as it is needed.

    Attributes:
        kind: ``scsi``, ``usb``, ``nvme``, ``virtio-serial`` and so on.
        index: its number among its kind.
        model: which one; ``none`` to have none.
    """

    kind: str = text("@type")
    index: int | None = whole("@index", default=None)
    model: str | None = text("@model", default=None)


@dataclass(frozen=True)
class Serial:
    """A serial port.

    Attributes:
        kind: ``pty``: read through the hypervisor's console stream, also from another host.
        log: file on the hypervisor's host that takes all that the guest writes.
        append: whether the log keeps what it had.
        target: ``isa-serial``.
        port: number of the port, from 0.
    """

    kind: str = text("@type", default="pty")
    log: Path | None = file("log@file", default=None)
    append: bool | None = switch("log@append", ON, default=None)
    target: str = text("target@type", default="isa-serial")
    port: int = whole("target@port", default=0)


@dataclass(frozen=True)
class Channel:
    """A channel to a program in the guest.

    Attributes:
        kind: ``unix``.
        target: ``virtio``.
        name: the guest's name of it.
    """

    kind: str = text("@type", default="unix")
    target: str = text("target@type", default="virtio")
    name: str = text("target@name")


@dataclass(frozen=True)
class Graphics:
    """How the screen is looked at.

    Attributes:
        kind: ``vnc``.
        listen: ``none``: nobody can connect but through libvirt (virDomainOpenGraphics).
    """

    kind: str = text("@type", default="vnc")
    listen: str = text("listen@type", default="none")


@dataclass(frozen=True)
class Tpm:
    """A TPM.

    Attributes:
        model: ``tpm-crb``, the interface that TPM 2.0 has.
        backend: ``emulator``: swtpm.
        version: ``2.0``.
    """

    model: str = text("@model", default="tpm-crb")
    backend: str = text("backend@type", default="emulator")
    version: str = text("backend@version", default="2.0")


@dataclass(frozen=True)
class Panic:
    """A panic device.

    Attributes:
        model: how the guest says that it crashed.
        address: ``isa`` where a port is given.
        port: the port of an ISA one, as ``0x505``.
    """

    model: PanicModel = choice("@model", PanicModel)
    address: str | None = text("address@type", default=None)
    port: str | None = text("address@iobase", default=None)
