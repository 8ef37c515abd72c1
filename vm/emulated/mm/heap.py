"""Memory for structures that the kernel itself owns: devices, IRPs, process objects.

A bump allocator with free lists by size. It is not pool: drivers never free it, and it counts as nobody's leak.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vm.emulated.layout import KERNEL_DATA, KERNEL_DATA_SIZE
from vm.emulated.mm.memory import READ, WRITE, Memory
from vm.errors import MachineBroken

_ALIGNMENT = 16


@dataclass
class HeapState:
    """What a checkpoint keeps."""

    next: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    free: dict[int, list[int]] = field(default_factory=dict)


class Heap:
    """Kernel-owned nonpaged memory, mapped in steps as it grows."""

    _STEP = 0x1_0000

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.state = HeapState()
        self._mapped = 0

    def rebind(self) -> None:
        """Recompute what is mapped after a restore."""
        self._mapped = 0
        while self._memory.is_mapped(KERNEL_DATA + self._mapped):
            self._mapped += self._STEP

    def allocate(self, size: int) -> int:
        """Zeroed memory, 16-byte aligned.

        Raises:
            MachineBroken: the kernel's own memory is used up.
        """
        size = (max(size, 1) + _ALIGNMENT - 1) & -_ALIGNMENT
        state = self.state
        free = state.free.get(size)
        if free:
            address = free.pop()
            self._memory.fill(address, size)
        else:
            address = KERNEL_DATA + state.next
            state.next += size
            while state.next > self._mapped:
                if self._mapped >= KERNEL_DATA_SIZE:
                    state.next -= size
                    raise MachineBroken(
                        f"the emulated kernel's own memory, {KERNEL_DATA_SIZE >> 20} MB, is used up: too many objects "
                        "(processes, devices, requests, work items) exist at once, perhaps because a driver keeps them"
                    )
                self._memory.map(KERNEL_DATA + self._mapped, self._STEP, READ | WRITE)
                self._mapped += self._STEP
        state.sizes[address] = size
        return address

    def free(self, address: int) -> None:
        """Give memory back."""
        self.state.free.setdefault(self.state.sizes.pop(address), []).append(address)
