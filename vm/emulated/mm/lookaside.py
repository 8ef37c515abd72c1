"""Lookaside lists.

The fast paths are inline functions of wdm.h: they pop from the list's SLIST_HEADER or call its Allocate routine, and
push to it or call its Free routine. Lists get a depth of 0, so that every block goes back to the pool, where its use
after free is noticed; Driver Verifier does the same for special pool.

Sources: Microsoft Learn, "Using Lookaside Lists", "ExInitializeNPagedLookasideList", "ExInitializeLookasideListEx",
"Bug Check 0xC4" (0xCA to 0xCD); GENERAL_LOOKASIDE of wdm.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm.emulated.exports import APC_LEVEL, DISPATCH_LEVEL, ExportTable
from vm.emulated.faults import Bugcheck
from vm.emulated.ntstatus import STATUS_INVALID_PARAMETER, STATUS_SUCCESS

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

# GENERAL_LOOKASIDE (wdm.h, x64)
_SIZE = 0x60
_MAXIMUM_DEPTH = 0x12
_TYPE = 0x24
_FREE = 0x38
_LIST_ENTRY = 0x40
_MINIMUM_BLOCK = 8
"""LOOKASIDE_MINIMUM_BLOCK_SIZE (wdm.h)."""
_DEPTH_SHOWN = 256

# POOL_TYPE and its modifiers (wdm.h), EX_LOOKASIDE_LIST_EX_FLAGS
_NON_PAGED, _PAGED = 0, 1
_POOL_RAISE_IF_ALLOCATION_FAILURE = 16
_POOL_NX_ALLOCATION = 512
_FLAG_RAISE_ON_FAIL, _FLAG_FAIL_NO_RAISE = 1, 2


@dataclass
class LookasideState:
    """What a checkpoint keeps: lists in use, with the address that initialised each."""

    lists: dict[int, int] = field(default_factory=dict)


class Lookaside:
    """Every lookaside list of the machine."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.state = LookasideState()

    def rebind(self) -> None:
        """Nothing is cached."""

    def initialise(self, address: int, pool_type: int, size: int, tag: int, allocate: int, free: int) -> None:
        """Fill in a GENERAL_LOOKASIDE. Raises Bugcheck 0xC4 0xCA for a list in use, 0xCD for blocks too small."""
        kernel = self._kernel
        if address in self.state.lists:
            raise Bugcheck(0xC4, 0xCA, address, reason=f"lookaside list 0x{address:X} is initialised a second time")
        if size < _MINIMUM_BLOCK:
            raise Bugcheck(
                0xC4, 0xCD, address, size, _MINIMUM_BLOCK, reason=f"a lookaside list is made for blocks of {size} bytes"
            )
        allocate = allocate or kernel.resolve_export("ExAllocatePoolWithTag")
        free = free or kernel.resolve_export("ExFreePool")
        kernel.mem.fill(address, _SIZE)
        kernel.mem.set_u16(address + _MAXIMUM_DEPTH, _DEPTH_SHOWN)
        kernel.mem.write(address + _TYPE, struct.pack("<IIIQQ", pool_type, tag, size, allocate, free))
        head = address + _LIST_ENTRY
        kernel.mem.write(head, struct.pack("<QQ", head, head))
        self.state.lists[address] = kernel.caller()

    def delete(self, address: int) -> None:
        """Free what the list holds. Raises Bugcheck 0xC4 0xCB for a list that is not in use."""
        kernel = self._kernel
        if self.state.lists.pop(address, None) is None:
            raise Bugcheck(0xC4, 0xCB, address, reason=f"lookaside list 0x{address:X} is deleted but not initialised")
        pop = kernel.resolve_export("ExpInterlockedPopEntrySList")
        while entry := kernel.call(pop, address):
            kernel.call(kernel.mem.u64(address + _FREE), entry, address)

    def check_gone(self, first: int, size: int) -> None:
        """No list in use may lie in memory that goes away. Raises Bugcheck 0xC4 0xCC."""
        for address, site in self.state.lists.items():
            if first <= address < first + size:
                raise Bugcheck(
                    0xC4, 0xCC, address, first, size,
                    reason=f"memory that holds lookaside list 0x{address:X}, initialised at "
                    f"{self._kernel.describe_code(site)}, was freed or unloaded; the list was never deleted",
                )  # fmt: skip


@EXPORTS.function("ExInitializeNPagedLookasideList", args="ptr ptr ptr u32 size u32 u16", irql=DISPATCH_LEVEL)
def ex_initialize_npaged_lookaside_list(
    kernel: Kernel, lookaside: int, allocate: int, free: int, flags: int, size: int, tag: int, _depth: int
) -> None:
    """Microsoft Learn, ExInitializeNPagedLookasideList."""
    kind = _NON_PAGED | flags & (_POOL_RAISE_IF_ALLOCATION_FAILURE | _POOL_NX_ALLOCATION)
    kernel.lookaside.initialise(lookaside, kind, size, tag, allocate, free)


@EXPORTS.function("ExInitializePagedLookasideList", args="ptr ptr ptr u32 size u32 u16", irql=APC_LEVEL)
def ex_initialize_paged_lookaside_list(
    kernel: Kernel, lookaside: int, allocate: int, free: int, flags: int, size: int, tag: int, _depth: int
) -> None:
    """Microsoft Learn, ExInitializePagedLookasideList."""
    kind = _PAGED | flags & _POOL_RAISE_IF_ALLOCATION_FAILURE
    kernel.lookaside.initialise(lookaside, kind, size, tag, allocate, free)


@EXPORTS.function("ExInitializeLookasideListEx", args="ptr ptr ptr u32 u32 size u32 u16", irql=DISPATCH_LEVEL)
def ex_initialize_lookaside_list_ex(
    kernel: Kernel, lookaside: int, allocate: int, free: int, kind: int, flags: int, size: int, tag: int, depth: int
) -> int:
    """Microsoft Learn, ExInitializeLookasideListEx: Depth has to be 0."""
    if depth or flags not in (0, _FLAG_RAISE_ON_FAIL, _FLAG_FAIL_NO_RAISE):
        return STATUS_INVALID_PARAMETER
    if flags == _FLAG_RAISE_ON_FAIL:
        kind |= _POOL_RAISE_IF_ALLOCATION_FAILURE
    kernel.lookaside.initialise(lookaside, kind, size, tag, allocate, free)
    return STATUS_SUCCESS


@EXPORTS.function("ExDeleteNPagedLookasideList", "ExDeleteLookasideListEx", args="ptr", irql=DISPATCH_LEVEL)
def ex_delete_lookaside_list(kernel: Kernel, lookaside: int) -> None:
    """Microsoft Learn, ExDeleteNPagedLookasideList, ExDeleteLookasideListEx."""
    kernel.lookaside.delete(lookaside)


@EXPORTS.function("ExDeletePagedLookasideList", args="ptr", irql=APC_LEVEL)
def ex_delete_paged_lookaside_list(kernel: Kernel, lookaside: int) -> None:
    """Microsoft Learn, ExDeletePagedLookasideList."""
    kernel.lookaside.delete(lookaside)
