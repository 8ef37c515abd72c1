"""Pool memory: every block is special pool, so that an access past its end or after its free faults at once.

A block ends at the end of its last page, followed by an unmapped guard page; a freed block is unmapped and its address
never used again. Up to 15 alignment bytes after the block carry a pattern that is checked at free. Allocation sites are
kept, and what a driver still owns when it is unloaded is a leak.

Sources: Microsoft Learn, "Special Pool", "ExAllocatePool2", "ExAllocatePoolWithTag", "Bug Check 0xC2: BAD_POOL_CALLER",
"Bug Check 0xC4: DRIVER_VERIFIER_DETECTED_VIOLATION", "Bug Check 0xC1: SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION".
"""

from __future__ import annotations

import bisect
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm.emulated.exports import APC_LEVEL, DISPATCH_LEVEL, ExportTable
from vm.emulated.faults import Bugcheck, NtException
from vm.emulated.layout import PAGE, SPECIAL_POOL
from vm.emulated.mm.memory import PAGEABLE, READ, WRITE, OutOfPhysicalMemory
from vm.emulated.mm.release_checks import memory_goes_away

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

STATUS_INSUFFICIENT_RESOURCES = 0xC000009A

_ALIGNMENT = 16
_SLACK = 0xFB
_FRESH = 0xCD
_FREED_REMEMBERED = 4096
_LARGEST = 64 << 20

# POOL_TYPE (wdm.h)
_PAGED_POOL = 1
_POOL_RAISE_IF_ALLOCATION_FAILURE = 16

# POOL_FLAGS (wdm.h)
_POOL_FLAG_UNINITIALIZED = 0x2
_POOL_FLAG_RAISE_ON_FAILURE = 0x20
_POOL_FLAG_NON_PAGED = 0x40
_POOL_FLAG_NON_PAGED_EXECUTE = 0x80
_POOL_FLAG_PAGED = 0x100


def tag_text(tag: int) -> str:
    """A pool tag as people write it: its four bytes in memory order."""
    return tag.to_bytes(4, "little").decode("latin-1")


@dataclass(slots=True)
class Block:
    """One pool block: where it is, what it is, and who made it."""

    address: int
    size: int
    tag: int
    paged: bool
    site: int
    freed_by: int = 0


@dataclass
class PoolState:
    """What a checkpoint keeps."""

    blocks: dict[int, Block] = field(default_factory=dict)
    freed: deque[Block] = field(default_factory=lambda: deque(maxlen=_FREED_REMEMBERED))
    next: int = SPECIAL_POOL
    allocations: int = 0


class Pool:
    """The pool of one machine, on behalf of its drivers."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._memory = kernel.mem
        self.state = PoolState()

    def rebind(self) -> None:
        """Nothing is cached."""

    def allocate(self, size: int, tag: int, *, paged: bool = False, zero: bool = True, site: int = 0) -> int:
        """A block of `size` bytes, or 0 when memory is short.

        Args:
            size: bytes, at least 1.
            tag: pool tag.
            paged: from paged pool: not to be touched at DISPATCH_LEVEL.
            zero: zero-filled; otherwise filled with a pattern that makes uninitialised use visible.
            site: return address of the allocating call, for reports.
        """
        if size > _LARGEST:
            return 0
        pages = (size + PAGE - 1) // PAGE
        try:
            offsets = self._memory.take_pages(pages)
        except OutOfPhysicalMemory:
            return 0
        base = self.state.next
        self.state.next = base + (pages + 1) * PAGE
        self._memory.map_pages(base, offsets, READ | WRITE | (PAGEABLE if paged else 0))
        address = base + pages * PAGE - ((size + _ALIGNMENT - 1) & -_ALIGNMENT)
        arena = self._memory.arena
        fresh = bytes([0 if zero else _FRESH]) * PAGE
        for offset in offsets:
            arena[offset : offset + PAGE] = fresh
        slack = -size % _ALIGNMENT
        if slack:
            arena[offsets[-1] + PAGE - slack : offsets[-1] + PAGE] = bytes([_SLACK]) * slack
        self.state.blocks[address] = Block(address, size, tag, paged, site)
        self.state.allocations += 1
        return address

    def free(self, address: int, tag: int | None = None, *, site: int = 0) -> None:
        """Give a block back. Raises Bugcheck for everything that is not a live block."""
        block = self.state.blocks.get(address)
        if block is None:
            earlier = next((b for b in reversed(self.state.freed) if b.address == address), None)
            if earlier is not None:
                raise Bugcheck(
                    0xC2, 7, 0, earlier.tag, address,
                    reason=f"pool block {tag_text(earlier.tag)!r} freed twice",
                    notes=(self._describe_block(earlier, address),),
                )  # fmt: skip
            raise Bugcheck(0xC2, 0x46, address, reason="free of an address that no pool block starts at")
        if tag and tag != block.tag:
            raise Bugcheck(
                0xC2, 0xA, address, block.tag, tag,
                reason=f"pool block {tag_text(block.tag)!r} freed with tag {tag_text(tag)!r}",
                notes=(self._describe_block(block, address),),
            )  # fmt: skip
        slack = -block.size % _ALIGNMENT
        end = address + block.size
        after = self._memory.arena_bytes(end, slack)
        if after != bytes([_SLACK]) * slack:
            at = next(index for index, byte in enumerate(after) if byte != _SLACK)
            raise Bugcheck(
                0xC1, address, end + at, slack, 0x24,
                reason=f"{slack - at} bytes past the end of pool block {tag_text(block.tag)!r} were overwritten",
                notes=(self._describe_block(block, end + at),),
            )  # fmt: skip
        memory_goes_away(self._kernel, address, block.size)
        first = address & -PAGE
        self._memory.unmap(first, end - first)
        del self.state.blocks[address]
        block.freed_by = site
        self.state.freed.append(block)

    def fault_code(self, address: int) -> int | None:
        """Bugcheck code for a refused access near pool memory: 0xD5 freed, 0xD6 beyond the end, else None."""
        block = self.block_near(address)
        if block is None:
            return None
        return 0xD5 if block.freed_by or block.address not in self.state.blocks else 0xD6

    def block_near(self, address: int) -> Block | None:
        """The block, live or freed, whose pages or guard page hold an address."""
        if not SPECIAL_POOL <= address < self.state.next:
            return None
        for block in reversed(self.state.freed):
            if self._covers(block, address):
                return block
        keys = list(self.state.blocks)
        index = bisect.bisect_right(keys, address)
        for key in keys[max(0, index - 2) : index + 1]:
            if self._covers(self.state.blocks[key], address):
                return self.state.blocks[key]
        return None

    @staticmethod
    def _covers(block: Block, address: int) -> bool:
        last_page = (block.address + block.size - 1) & -PAGE
        return block.address & -PAGE <= address < last_page + 2 * PAGE

    def describe(self, address: int) -> str | None:
        """A sentence about the block that holds or precedes an address, or None."""
        block = self.block_near(address)
        return None if block is None else self._describe_block(block, address)

    def _describe_block(self, block: Block, address: int) -> str:
        kind = "paged" if block.paged else "nonpaged"
        text = (
            f"{kind} pool block {tag_text(block.tag)!r} at 0x{block.address:X}, {block.size} bytes, offset "
            f"{address - block.address}, allocated {self._by(block.site)}"
        )
        return text if block.address in self.state.blocks else f"{text}, freed {self._by(block.freed_by)}"

    def _by(self, site: int) -> str:
        """Who allocated or freed a block; the kernel's own blocks (IRPs, system buffers) have no site."""
        return f"at {self._kernel.describe_code(site)}" if site else "by the kernel"


def _check_irql(kernel: Kernel, *, paged: bool, pool_type: int, size: int) -> None:
    irql = kernel.irql
    if paged and irql > APC_LEVEL:
        raise Bugcheck(0xC4, 0x1, irql, pool_type, size, reason=f"paged pool allocated at IRQL {irql}")
    if irql > DISPATCH_LEVEL:
        raise Bugcheck(0xC4, 0x2, irql, pool_type, size, reason=f"nonpaged pool allocated at IRQL {irql}")
    if size == 0:
        raise Bugcheck(0xC4, 0x0, irql, pool_type, 0, reason="pool allocation of zero bytes")


def _allocate_by_flags(kernel: Kernel, flags: int, size: int, tag: int) -> int:
    kinds = flags & (_POOL_FLAG_PAGED | _POOL_FLAG_NON_PAGED | _POOL_FLAG_NON_PAGED_EXECUTE)
    if kinds.bit_count() != 1 or tag == 0:
        return _refused(kernel, raises=bool(flags & _POOL_FLAG_RAISE_ON_FAILURE))
    paged = kinds == _POOL_FLAG_PAGED
    _check_irql(kernel, paged=paged, pool_type=flags, size=size)
    zero = not flags & _POOL_FLAG_UNINITIALIZED
    return _take(kernel, size, tag, paged=paged, zero=zero, raises=bool(flags & _POOL_FLAG_RAISE_ON_FAILURE))


def _take(kernel: Kernel, size: int, tag: int, *, paged: bool, raises: bool, zero: bool = False) -> int:
    block = 0
    if not kernel.faults.memory_is_short("a pool allocation", tag):
        block = kernel.pool.allocate(size, tag, paged=paged, zero=zero, site=kernel.caller())
    return block or _refused(kernel, raises=raises)


def _refused(_kernel: Kernel, *, raises: bool) -> int:
    if raises:
        raise NtException(STATUS_INSUFFICIENT_RESOURCES)
    return 0


@EXPORTS.function("ExAllocatePool2", args="u64 size u32")
def ex_allocate_pool2(kernel: Kernel, flags: int, size: int, tag: int) -> int:
    """Microsoft Learn, ExAllocatePool2: zeroed unless POOL_FLAG_UNINITIALIZED."""
    return _allocate_by_flags(kernel, flags, size, tag)


@EXPORTS.function("ExAllocatePool3", args="u64 size u32 ptr u32")
def ex_allocate_pool3(kernel: Kernel, flags: int, size: int, tag: int, _parameters: int, _count: int) -> int:
    """Microsoft Learn, ExAllocatePool3: extended parameters only tune placement."""
    return _allocate_by_flags(kernel, flags, size, tag)


@EXPORTS.function("ExAllocatePoolWithTag", "ExAllocatePoolWithTagPriority", args="u32 size u32")
def ex_allocate_pool_with_tag(kernel: Kernel, pool_type: int, size: int, tag: int) -> int:
    """Microsoft Learn, ExAllocatePoolWithTag: contents undefined."""
    paged = bool(pool_type & _PAGED_POOL)
    _check_irql(kernel, paged=paged, pool_type=pool_type, size=size)
    return _take(kernel, size, tag, paged=paged, raises=bool(pool_type & _POOL_RAISE_IF_ALLOCATION_FAILURE))


@EXPORTS.function("ExAllocatePoolWithQuotaTag", args="u32 size u32")
def ex_allocate_pool_with_quota_tag(kernel: Kernel, pool_type: int, size: int, tag: int) -> int:
    """Microsoft Learn, ExAllocatePoolWithQuotaTag: raises unless POOL_QUOTA_FAIL_INSTEAD_OF_RAISE (8)."""
    paged = bool(pool_type & _PAGED_POOL)
    _check_irql(kernel, paged=paged, pool_type=pool_type, size=size)
    return _take(kernel, size, tag, paged=paged, raises=not pool_type & 8)


@EXPORTS.function("ExAllocatePool", args="u32 size")
def ex_allocate_pool(kernel: Kernel, pool_type: int, size: int) -> int:
    """Microsoft Learn, ExAllocatePool: as with the tag 'None'."""
    return ex_allocate_pool_with_tag(kernel, pool_type, size, int.from_bytes(b"None", "little")) or 0


@EXPORTS.function("ExFreePoolWithTag", args="ptr u32", irql=DISPATCH_LEVEL)
def ex_free_pool_with_tag(kernel: Kernel, block: int, tag: int) -> None:
    """Microsoft Learn, ExFreePoolWithTag: paged blocks at APC_LEVEL at most."""
    _free(kernel, block, tag)


@EXPORTS.function("ExFreePool", args="ptr", irql=DISPATCH_LEVEL)
def ex_free_pool(kernel: Kernel, block: int) -> None:
    """Microsoft Learn, ExFreePool."""
    _free(kernel, block, None)


@EXPORTS.function("ExFreePool2", args="ptr u32 ptr u32", irql=DISPATCH_LEVEL)
def ex_free_pool2(kernel: Kernel, block: int, tag: int, _parameters: int, _count: int) -> None:
    """Microsoft Learn, ExFreePool2."""
    _free(kernel, block, tag)


def _free(kernel: Kernel, address: int, tag: int | None) -> None:
    block = kernel.pool.state.blocks.get(address)
    if block is not None and block.paged and kernel.irql > APC_LEVEL:
        raise Bugcheck(
            0xC4, 0x11, kernel.irql, _PAGED_POOL, address, reason=f"paged pool block freed at IRQL {kernel.irql}"
        )
    kernel.pool.free(address, tag, site=kernel.caller())
