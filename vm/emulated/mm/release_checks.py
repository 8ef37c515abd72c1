"""What may not lie in memory that is freed or unloaded, because the kernel still uses it.

Sources: Microsoft Learn, "Bug Check 0xC7: TIMER_OR_DPC_INVALID", "Bug Check 0xC4" (0xCC, 0xD2), "Bug Check 0xE4:
WORKER_INVALID".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vm.emulated.faults import Bugcheck

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel


def memory_goes_away(kernel: Kernel, first: int, size: int) -> None:
    """Check what lies in memory that is freed or unloaded. Raises Bugcheck for what the kernel still uses."""
    kernel.timers.check_gone(first, size)
    kernel.locks.check_gone(first, size)
    kernel.lookaside.check_gone(first, size)
    for address, item in kernel.io.state.work_items.items():
        if first <= address < first + size and item.queued:
            raise Bugcheck(
                0xE4, 0, address, first, first + size,
                reason=f"memory that holds the queued work item 0x{address:X} was freed or unloaded",
            )  # fmt: skip
