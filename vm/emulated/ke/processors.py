"""Processors as drivers count them, and KeBugCheckEx.

Sources are the pages of the same names on Microsoft Learn. The machine has one processor in one group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vm.emulated.exports import APC_LEVEL, ExportTable
from vm.emulated.faults import Bugcheck

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

_ALL_GROUPS = 0xFFFF
"""ALL_PROCESSOR_GROUPS (ntdef.h)."""

EXPORTS.variable("KeNumberProcessors", lambda _kernel: b"\1")


@EXPORTS.function("KeQueryActiveProcessorCount", args="ptr", irql=APC_LEVEL)
def ke_query_active_processor_count(kernel: Kernel, affinity: int) -> int:
    """KeQueryActiveProcessorCount: also stores the affinity mask."""
    if affinity:
        kernel.mem.set_u64(affinity, 1)
    return 1


@EXPORTS.function("KeQueryActiveProcessors", irql=APC_LEVEL)
def ke_query_active_processors(_kernel: Kernel) -> int:
    """KeQueryActiveProcessors: the affinity mask."""
    return 1


@EXPORTS.function("KeQueryActiveProcessorCountEx", "KeQueryMaximumProcessorCountEx", args="u16")
def ke_query_active_processor_count_ex(_kernel: Kernel, group: int) -> int:
    """KeQueryActiveProcessorCountEx, KeQueryMaximumProcessorCountEx: 0 for a group that does not exist."""
    return int(group in (0, _ALL_GROUPS))


@EXPORTS.function("KeQueryMaximumProcessorCount", "KeQueryActiveGroupCount", "KeQueryMaximumGroupCount")
def ke_query_maximum_processor_count(_kernel: Kernel) -> int:
    """KeQueryMaximumProcessorCount, KeQueryActiveGroupCount, KeQueryMaximumGroupCount."""
    return 1


@EXPORTS.function("KeGetCurrentProcessorNumberEx", args="ptr")
def ke_get_current_processor_number_ex(kernel: Kernel, number: int) -> int:
    """KeGetCurrentProcessorNumberEx: also stores a PROCESSOR_NUMBER (ntdef.h)."""
    if number:
        kernel.mem.set_u32(number, 0)
    return 0


@EXPORTS.function("KeBugCheckEx", args="u32 u64 u64 u64 u64")
def ke_bug_check_ex(_kernel: Kernel, code: int, first: int, second: int, third: int, fourth: int) -> None:
    """KeBugCheckEx: the driver stops the machine itself."""
    raise Bugcheck(code, first, second, third, fourth, reason="the driver called KeBugCheckEx")


@EXPORTS.function("KeBugCheck", args="u32")
def ke_bug_check(_kernel: Kernel, code: int) -> None:
    """KeBugCheck."""
    raise Bugcheck(code, reason="the driver called KeBugCheck")
