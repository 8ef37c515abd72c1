"""Finds out whether KVM runs guests at speed, by running one: that /dev/kvm exists says nothing.

Where a host's KVM is itself emulated, an unmodified guest crawls although libvirt offers KVM. The probe is a ROM that
enters long mode, counts, and reports through the panic device; a machine that is not there within the deadline would
not run Windows either.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vm.windows.hypervisor.devices import Panic, PanicModel
from vm.windows.hypervisor.domain_xml import Accelerator, CrashAction, Devices, Domain, Loader, OperatingSystem
from vm.windows.hypervisor.domains import PVPANIC_PORT
from vm.windows.hypervisor.mark import Mark

ROM_SIZE: Final = 0x10000
"""Size of the ROM: a real-mode segment, the last 64 KiB below 1 MiB and below 4 GiB."""
ROM_BASE: Final = 0xF0000
RESET_OFFSET: Final = 0xFFF0
"""Where the processor starts, 16 bytes below the ROM's end (Intel SDM volume 3, "First Instruction Executed")."""
LOOPS: Final = 20_000_000
DEADLINE: Final = 3.0
"""Seconds until the probe must have crashed: 0.7 where KVM works, never where it crawls."""
PANICKED: Final = 1
"""Bit of pvpanic's port: a panic that the host should process (QEMU, "PVPANIC device")."""
PROBE_MEMORY_MIB: Final = 16

_PROTECTED_OFFSET: Final = 0x100
_LONG_OFFSET: Final = 0x200
_GDT_OFFSET: Final = 0x300
_GDT_POINTER_OFFSET: Final = 0x340
_CODE32: Final = 0x08
_DATA: Final = 0x10
_CODE64: Final = 0x18
# Page tables in RAM, one page each: they must be writable, and a ROM is not.
_PML4: Final = 0x1000
_PDPT: Final = 0x2000
_DIRECTORY: Final = 0x3000
_STACK: Final = 0x8000


def build_rom(loops: int = LOOPS) -> bytes:
    """The probe: 64 KiB of ROM.

    Args:
        loops: how often it counts, below 2**32.
    """
    rom = bytearray(b"\xf4" * ROM_SIZE)  # hlt wherever nothing else is
    _put(rom, 0, _real_mode())
    _put(rom, _PROTECTED_OFFSET, _protected_mode())
    _put(rom, _LONG_OFFSET, _long_mode(loops))
    _put(rom, _GDT_OFFSET, _descriptors())
    _put(rom, _GDT_POINTER_OFFSET, struct.pack("<HI", 4 * 8 - 1, ROM_BASE + _GDT_OFFSET))
    # jmp far 0xF000:0x0000: leaves the segment base that only the reset gives for the one below 1 MiB.
    _put(rom, RESET_OFFSET, b"\xea" + struct.pack("<HH", 0, ROM_BASE >> 4))
    return bytes(rom)


def _put(rom: bytearray, offset: int, code: bytes) -> None:
    rom[offset : offset + len(code)] = code


def _real_mode() -> bytes:
    """16-bit: load the descriptors, turn protection on."""
    return b"".join(
        (
            b"\xfa",  # cli
            # o32 lgdt cs:[pointer]
            b"\x2e\x66\x0f\x01\x16" + struct.pack("<H", _GDT_POINTER_OFFSET),
            b"\x0f\x20\xc0",  # mov eax, cr0
            b"\x66\x83\xc8\x01",  # or eax, 1 (PE)
            b"\x0f\x22\xc0",  # mov cr0, eax
            # jmp far CODE32:protected, 32-bit offset
            b"\x66\xea" + struct.pack("<IH", ROM_BASE + _PROTECTED_OFFSET, _CODE32),
        )
    )


def _protected_mode() -> bytes:
    """32-bit: map the first GiB onto itself with pages of 2 MiB, turn long mode on."""
    return b"".join(
        (
            b"\x66\xb8" + struct.pack("<H", _DATA),  # mov ax, DATA
            b"\x8e\xd8\x8e\xc0\x8e\xd0",  # mov ds, ax; mov es, ax; mov ss, ax
            b"\xbc" + struct.pack("<I", _STACK),  # mov esp, STACK
            b"\xfc",  # cld
            b"\x31\xc0",  # xor eax, eax
            b"\xbf" + struct.pack("<I", _PML4),  # mov edi, PML4
            b"\xb9" + struct.pack("<I", 3 * 4096 // 4),  # mov ecx, words in three pages
            b"\xf3\xab",  # rep stosd
            # Present and writable (3); the directory's entry also maps a page of 2 MiB (0x80).
            _store(_PML4, _PDPT | 3),
            _store(_PDPT, _DIRECTORY | 3),
            _store(_DIRECTORY, 0x83),
            b"\x0f\x20\xe0",  # mov eax, cr4
            b"\x83\xc8\x20",  # or eax, 0x20 (PAE)
            b"\x0f\x22\xe0",  # mov cr4, eax
            b"\xb8" + struct.pack("<I", _PML4),  # mov eax, PML4
            b"\x0f\x22\xd8",  # mov cr3, eax
            b"\xb9" + struct.pack("<I", 0xC0000080),  # mov ecx, EFER
            b"\x0f\x32",  # rdmsr
            b"\x0d" + struct.pack("<I", 0x100),  # or eax, 0x100 (LME)
            b"\x0f\x30",  # wrmsr
            b"\x0f\x20\xc0",  # mov eax, cr0
            b"\x0d" + struct.pack("<I", 0x80000000),  # or eax, 0x80000000 (PG)
            b"\x0f\x22\xc0",  # mov cr0, eax
            # jmp far CODE64:long
            b"\xea" + struct.pack("<IH", ROM_BASE + _LONG_OFFSET, _CODE64),
        )
    )


def _store(address: int, value: int) -> bytes:
    """Mov dword [address], value."""
    return b"\xc7\x05" + struct.pack("<II", address, value)


def _long_mode(loops: int) -> bytes:
    """64-bit: count, report, stop."""
    return b"".join(
        (
            # mov rcx, loops: an instruction that only long mode has
            b"\x48\xb9" + struct.pack("<Q", loops),
            b"\x48\xff\xc9",  # again: dec rcx
            b"\x75\xfb",  # jnz again
            b"\x66\xba" + struct.pack("<H", PVPANIC_PORT),  # mov dx, port
            b"\xb0" + bytes([PANICKED]),  # mov al, panicked
            b"\xee",  # out dx, al
            b"\xfa\xf4",  # cli; hlt
            b"\xeb\xfc",  # jmp to the cli
        )
    )


def _descriptors() -> bytes:
    """The GDT: flat segments with a base of 0 and a limit of 4 GiB (Intel SDM volume 3, "Segment Descriptors")."""
    return struct.pack(
        "<4Q",
        0,
        0x00CF_9B00_0000_FFFF,  # 32-bit code
        0x00CF_9300_0000_FFFF,  # data
        0x00AF_9B00_0000_FFFF,  # 64-bit code
    )


def probe_domain(name: str, rom: Path, mark: Mark) -> Domain:
    """The domain that runs the probe under KVM; start it so that it ends with the connection (autodestroy).

    Args:
        name: the domain's name.
        rom: file with `build_rom` on the hypervisor's host.
        mark: the project's mark.
    """
    return Domain(
        accelerator=Accelerator.KVM,
        name=name,
        mark=mark,
        memory_mib=PROBE_MEMORY_MIB,
        os=OperatingSystem(loader=Loader(read_only=True, kind="rom", path=rom)),
        on_reboot="destroy",
        on_crash=CrashAction.DESTROY,
        devices=Devices(
            panics=(Panic(model=PanicModel.ISA, address="isa", port=f"0x{PVPANIC_PORT:x}"),), memory_balloon="none"
        ),
    )


@dataclass(frozen=True)
class Observation:
    """What the probe's machine did.

    Attributes:
        offered: whether the hypervisor offers KVM at all (domain capabilities).
        crashed_after: seconds from its start until its CRASHED event; None when none came within the deadline.
        refused: why it could not be started, empty when it was.
    """

    offered: bool
    crashed_after: float | None = None
    refused: str = ""


@dataclass(frozen=True)
class Choice:
    """Which accelerator machines get.

    Attributes:
        accelerator: the accelerator.
        reason: why, in words for headers and reports.
        measured: whether a machine that ran showed it. What the hypervisor only said, or refused for want of a right or
            of memory, may be otherwise the next time.
    """

    accelerator: Accelerator
    reason: str
    measured: bool = True


def choose(observation: Observation, deadline: float = DEADLINE) -> Choice:
    """Decide by what the probe did.

    Args:
        observation: what it did.
        deadline: seconds that it had.
    """
    if not observation.offered:
        return Choice(Accelerator.QEMU, "TCG, slow: the hypervisor offers no KVM", measured=False)
    if observation.refused:
        reason = f"TCG, slow: a machine does not start under KVM: {observation.refused}"
        return Choice(Accelerator.QEMU, reason, measured=False)
    seconds = observation.crashed_after
    if seconds is None:
        return Choice(
            Accelerator.QEMU,
            f"TCG, slow: KVM is offered but did not run the probe within {deadline:g} s; it is emulated itself",
        )
    if seconds > deadline:
        return Choice(
            Accelerator.QEMU, f"TCG, slow: KVM needed {seconds:.1f} s for the probe, {deadline:g} s are allowed"
        )
    return Choice(Accelerator.KVM, f"KVM: the probe ran in {seconds:.1f} s")
