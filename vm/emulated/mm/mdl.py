"""Memory descriptor lists: description, locking and mapping of buffers.

Sources: Microsoft Learn, "Using MDLs", IoAllocateMdl, MmProbeAndLockPages, MmMapLockedPagesSpecifyCache,
MmBuildMdlForNonPagedPool, "Bug Check 0x4E: PFN_LIST_CORRUPT", "Bug Check 0xDA: SYSTEM_PTE_MISUSE"; layout
and flags: wdm.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm.emulated.exports import APC_LEVEL, DISPATCH_LEVEL, ExportTable
from vm.emulated.faults import Bugcheck, NtException, PageFault
from vm.emulated.io import layout as at
from vm.emulated.layout import MDL_MAPPINGS, MDL_SIZE, PAGE, USER_PROBE_ADDRESS
from vm.emulated.mm.memory import ACCESS_READ, ACCESS_WRITE, READ, WRITE
from vm.emulated.ntstatus import STATUS_ACCESS_VIOLATION, STATUS_INSUFFICIENT_RESOURCES
from vm.emulated.processor.cpu import MissingImport

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

SYSTEM_PTE_MISUSE = 0xDA
PFN_LIST_CORRUPT = 0x4E
USER_MODE = 1
IO_READ_ACCESS, IO_WRITE_ACCESS, IO_MODIFY_ACCESS = 0, 1, 2
"""LOCK_OPERATION (wdm.h)."""


@dataclass
class MdlState:
    """What a checkpoint keeps of MDLs."""

    live: dict[int, int] = field(default_factory=dict)
    """MDLs in use: address to the return address of the call that made it, 0 for the kernel's own."""
    mappings: dict[int, int] = field(default_factory=dict)
    """System mappings: base address to number of pages."""
    next_mapping: int = MDL_MAPPINGS


def _state(kernel: Kernel) -> MdlState:
    if kernel.io.state.mdls is None:
        kernel.io.state.mdls = MdlState()
    return kernel.io.state.mdls


def pages_spanned(address: int, size: int) -> int:
    """ADDRESS_AND_SIZE_TO_SPAN_PAGES."""
    return ((address & (PAGE - 1)) + size + PAGE - 1) // PAGE


def create(kernel: Kernel, address: int, size: int, *, site: int = 0) -> int:
    """An MDL for a buffer, its pages not filled in."""
    count = pages_spanned(address, size)
    body = kernel.heap.allocate(MDL_SIZE + 8 * max(count, 1))
    kernel.mem.write(
        body,
        struct.pack("<QHHIQQQII", 0, MDL_SIZE + 8 * count, 0, 0, 0, 0, address & -PAGE, size, address & (PAGE - 1)),
    )
    _state(kernel).live[body] = site
    return body


def lock(kernel: Kernel, body: int, *, write: bool) -> None:
    """Fill in the pages of a buffer and mark it locked. Raises PageFault for what is not accessible."""
    mem = kernel.mem
    start, size, offset = struct.unpack("<QII", mem.read(body + at.MDL_START_VA, 16))
    pages = mem.arena_pages(start + offset, size, ACCESS_WRITE if write else ACCESS_READ)
    mem.write(body + at.MDL_PAGES, struct.pack(f"<{len(pages)}Q", *(page >> 12 for page in pages)))
    flags = mem.u16(body + at.MDL_FLAGS) | at.MDL_PAGES_LOCKED | (at.MDL_WRITE_OPERATION if write else 0)
    mem.set_u16(body + at.MDL_FLAGS, flags)


def map_locked(kernel: Kernel, body: int) -> int:
    """Map locked pages at a fresh system address, an unmapped page behind them; returns where the buffer starts."""
    mem, state = kernel.mem, _state(kernel)
    offset = mem.u32(body + at.MDL_BYTE_OFFSET)
    count = pages_spanned(offset, mem.u32(body + at.MDL_BYTE_COUNT))
    numbers = struct.unpack(f"<{count}Q", mem.read(body + at.MDL_PAGES, 8 * count))
    base = state.next_mapping
    state.next_mapping += (count + 1) * PAGE
    mem.map_pages(base, [number << 12 for number in numbers], READ | WRITE)
    state.mappings[base] = count
    mem.set_u64(body + at.MDL_MAPPED_SYSTEM_VA, base + offset)
    mem.set_u16(body + at.MDL_FLAGS, mem.u16(body + at.MDL_FLAGS) | at.MDL_MAPPED_TO_SYSTEM_VA)
    return base + offset


def unmap(kernel: Kernel, body: int) -> None:
    """Undo the system mapping of an MDL."""
    mem, state = kernel.mem, _state(kernel)
    base = mem.u64(body + at.MDL_MAPPED_SYSTEM_VA) & -PAGE
    count = state.mappings.pop(base, None)
    if count is None:
        raise Bugcheck(SYSTEM_PTE_MISUSE, 0, body, base, reason="MmUnmapLockedPages of what is not mapped")
    mem.unmap(base, count * PAGE, release=False)
    mem.set_u16(body + at.MDL_FLAGS, mem.u16(body + at.MDL_FLAGS) & ~at.MDL_MAPPED_TO_SYSTEM_VA)


def unlock(kernel: Kernel, body: int) -> None:
    """Undo mapping and locking.

    Raises:
        Bugcheck: 0x4E PFN_LIST_CORRUPT for an MDL that is not locked (Microsoft: Bug Check 0x4E).
    """
    mem = kernel.mem
    flags = mem.u16(body + at.MDL_FLAGS)
    if not flags & at.MDL_PAGES_LOCKED:
        raise Bugcheck(PFN_LIST_CORRUPT, 7, 0, 0, body, reason="MmUnlockPages of an MDL whose pages are not locked")
    if flags & at.MDL_MAPPED_TO_SYSTEM_VA:
        unmap(kernel, body)
    mem.set_u16(body + at.MDL_FLAGS, mem.u16(body + at.MDL_FLAGS) & ~(at.MDL_PAGES_LOCKED | at.MDL_WRITE_OPERATION))


def destroy(kernel: Kernel, body: int) -> None:
    """Unlock where locked and free, as the I/O manager does at the end of a request."""
    while body:
        following = kernel.mem.u64(body + at.MDL_NEXT)
        if kernel.mem.u16(body + at.MDL_FLAGS) & at.MDL_PAGES_LOCKED:
            unlock(kernel, body)
        free(kernel, body)
        body = following


def free(kernel: Kernel, body: int) -> None:
    """Free an MDL. Raises Bugcheck for what is none."""
    if _state(kernel).live.pop(body, None) is None:
        raise Bugcheck(0xC2, 0x46, body, reason=f"IoFreeMdl of 0x{body:X}, which is no MDL")
    kernel.heap.free(body)


def leftovers(kernel: Kernel, low: int, high: int) -> list[str]:
    """MDLs that code in an address range made and did not free, in words."""
    return [
        f"MDL 0x{body:X} allocated at {kernel.describe_code(site)}"
        for body, site in _state(kernel).live.items()
        if low <= site < high
    ]


@EXPORTS.function("IoAllocateMdl", args="ptr u32 bool bool ptr", irql=DISPATCH_LEVEL)
def io_allocate_mdl(kernel: Kernel, address: int, length: int, secondary: bool, _quota: bool, irp: int) -> int:
    """Microsoft Learn, IoAllocateMdl: becomes the IRP's MDL, or with `secondary` the last of its chain."""
    if length >= 1 << 31 or kernel.faults.memory_is_short("IoAllocateMdl"):
        return 0
    body = create(kernel, address, length, site=kernel.caller())
    if irp:
        link = irp + at.IRP_MDL_ADDRESS
        while secondary and kernel.mem.u64(link):
            link = kernel.mem.u64(link) + at.MDL_NEXT
        kernel.mem.set_u64(link, body)
    return body


@EXPORTS.function("IoFreeMdl", args="ptr", irql=DISPATCH_LEVEL)
def io_free_mdl(kernel: Kernel, body: int) -> None:
    """Microsoft Learn, IoFreeMdl."""
    if kernel.mem.u16(body + at.MDL_FLAGS) & at.MDL_PAGES_LOCKED:
        raise Bugcheck(
            0xC4, 0xB6, body, reason="IoFreeMdl of an MDL whose pages are still locked: MmUnlockPages is missing"
        )
    free(kernel, body)


@EXPORTS.function("MmBuildMdlForNonPagedPool", args="ptr", irql=DISPATCH_LEVEL)
def mm_build_mdl_for_nonpaged_pool(kernel: Kernel, body: int) -> None:
    """Microsoft Learn, MmBuildMdlForNonPagedPool."""
    mem = kernel.mem
    start, size, offset = struct.unpack("<QII", mem.read(body + at.MDL_START_VA, 16))
    pages = mem.arena_pages(start + offset, size)
    mem.write(body + at.MDL_PAGES, struct.pack(f"<{len(pages)}Q", *(page >> 12 for page in pages)))
    mem.set_u64(body + at.MDL_MAPPED_SYSTEM_VA, start + offset)
    mem.set_u16(body + at.MDL_FLAGS, mem.u16(body + at.MDL_FLAGS) | at.MDL_SOURCE_IS_NONPAGED_POOL)


@EXPORTS.function("MmProbeAndLockPages", args="ptr u8 u32", irql=DISPATCH_LEVEL)
def mm_probe_and_lock_pages(kernel: Kernel, body: int, mode: int, operation: int) -> None:
    """Microsoft Learn, MmProbeAndLockPages: raises STATUS_ACCESS_VIOLATION for what the mode may not access."""
    mem = kernel.mem
    start, size, offset = struct.unpack("<QII", mem.read(body + at.MDL_START_VA, 16))
    end = start + offset + size
    if mode == USER_MODE and end > USER_PROBE_ADDRESS:
        raise NtException(STATUS_ACCESS_VIOLATION)
    if start < USER_PROBE_ADDRESS and kernel.irql > APC_LEVEL:
        raise Bugcheck(
            0xA, start + offset, kernel.irql, 0, kernel.caller(), reason="pageable memory locked at DISPATCH_LEVEL"
        )
    if kernel.faults.memory_is_short("MmProbeAndLockPages"):
        # That it raises is documented, with which status is not.
        raise NtException(STATUS_INSUFFICIENT_RESOURCES)
    try:
        lock(kernel, body, write=operation != IO_READ_ACCESS)
    except PageFault:
        raise NtException(STATUS_ACCESS_VIOLATION) from None


@EXPORTS.function("MmUnlockPages", args="ptr", irql=DISPATCH_LEVEL)
def mm_unlock_pages(kernel: Kernel, body: int) -> None:
    """Microsoft Learn, MmUnlockPages: also undoes the system mapping."""
    unlock(kernel, body)


@EXPORTS.function("MmMapLockedPagesSpecifyCache", args="ptr u8 u32 ptr u32 u32", irql=DISPATCH_LEVEL)
def mm_map_locked_pages_specify_cache(
    kernel: Kernel, body: int, mode: int, _cache: int, _address: int, _bugcheck: int, _priority: int
) -> int:
    """Microsoft Learn, MmMapLockedPagesSpecifyCache, for system addresses."""
    _check_mapping(kernel, body, mode)
    return 0 if kernel.faults.memory_is_short("MmMapLockedPagesSpecifyCache") else map_locked(kernel, body)


def _check_mapping(kernel: Kernel, body: int, mode: int) -> None:
    flags = kernel.mem.u16(body + at.MDL_FLAGS)
    if mode == USER_MODE:
        raise MissingImport("ntoskrnl.exe", "MmMapLockedPagesSpecifyCache with AccessMode UserMode")
    if not flags & (at.MDL_PAGES_LOCKED | at.MDL_SOURCE_IS_NONPAGED_POOL) or flags & at.MDL_MAPPED_TO_SYSTEM_VA:
        raise Bugcheck(
            SYSTEM_PTE_MISUSE, 0, body, reason="MmMapLockedPagesSpecifyCache of pages that are not locked, or twice"
        )


@EXPORTS.function("MmMapLockedPages", args="ptr u8", irql=DISPATCH_LEVEL)
def mm_map_locked_pages(kernel: Kernel, body: int, mode: int) -> int:
    """Microsoft Learn, MmMapLockedPages (obsolete): as with MmCached; it stops the system instead of failing."""
    _check_mapping(kernel, body, mode)
    return map_locked(kernel, body)


@EXPORTS.function("MmUnmapLockedPages", args="ptr ptr", irql=DISPATCH_LEVEL)
def mm_unmap_locked_pages(kernel: Kernel, _address: int, body: int) -> None:
    """Microsoft Learn, MmUnmapLockedPages."""
    unmap(kernel, body)


@EXPORTS.function("MmSizeOfMdl", args="ptr size", irql=15)
def mm_size_of_mdl(_kernel: Kernel, address: int, length: int) -> int:
    """Microsoft Learn, MmSizeOfMdl."""
    return MDL_SIZE + 8 * pages_spanned(address, length)
