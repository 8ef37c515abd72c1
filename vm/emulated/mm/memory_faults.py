"""Which bugcheck a refused access to a kernel address becomes.

Sources: Microsoft Learn, "Bug Check 0x50: PAGE_FAULT_IN_NONPAGED_AREA", "0x7F: UNEXPECTED_KERNEL_MODE_TRAP",
"0xBE: ATTEMPTED_WRITE_TO_READONLY_MEMORY", "0xCC: PAGE_FAULT_IN_FREED_SPECIAL_POOL",
"0xCE: DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS", "0xD1: DRIVER_IRQL_NOT_LESS_OR_EQUAL",
"0xD5: DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL", "0xD6: DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION",
"0xFC: ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vm.emulated.faults import Bugcheck, PageFault
from vm.emulated.layout import SYSTEM_RANGE_START
from vm.emulated.mm.memory import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

_VERBS: Final = {ACCESS_READ: "read", ACCESS_WRITE: "write", ACCESS_EXECUTE: "execution"}
_OPERATION: Final = {ACCESS_READ: 0, ACCESS_WRITE: 2, ACCESS_EXECUTE: 0x10}
"""Second parameter of bugcheck 0x50."""
_DOUBLE_FAULT: Final = 8
_DISPATCH_LEVEL: Final = 2


def bugcheck_outside_drivers(kernel: Kernel, fault: PageFault) -> Bugcheck:
    """The bugcheck for memory that the kernel itself touches on behalf of no call: a timer or event that is gone."""
    if fault.address < SYSTEM_RANGE_START:
        reason = f"the kernel's own {_VERBS[fault.access]} of {fault}"
        return Bugcheck(0xA, fault.address, kernel.irql, fault.access, 0, reason=reason)
    found = bugcheck_for(kernel, fault.address, fault.access, fault.reason, 0)
    assert found is not None
    code = {0xD5: 0xCC, 0xD6: 0xCD}.get(found.code, found.code)
    return Bugcheck(code, *found.parameters, reason=f"by the kernel itself: {found.reason}", notes=found.notes)


def bugcheck_for(kernel: Kernel, address: int, access: int, why: str, rip: int) -> Bugcheck | None:
    """The bugcheck for a refused access, None for an address that exception handlers may deal with.

    Args:
        kernel: the machine, only read.
        address: what was touched.
        access: how, as in faults.PageFault.
        why: the page table's reason.
        rip: the instruction that touched it.
    """
    if address < SYSTEM_RANGE_START:
        return None
    gone = kernel.unloaded_at(rip) or kernel.unloaded_at(address)
    if gone is not None:
        reason = f"{gone} was unloaded without undoing what still calls or reads it"
        return Bugcheck(0xCE, address, access, rip, reason=reason)
    stack = kernel.threads.stack_of(address)
    if stack is not None and address < stack[0]:
        reason = "kernel stack overflow (double fault): the driver recurses too deep"
        return Bugcheck(0x7F, _DOUBLE_FAULT, address, reason=reason)
    verb = _VERBS.get(access, "access")
    note = kernel.pool.describe(address)
    notes = (note,) if note else ()
    irql = kernel.irql
    if irql >= _DISPATCH_LEVEL and "pageable" in why:
        reason = f"{verb} of pageable memory at IRQL {irql}"
        return Bugcheck(0xD1, address, irql, access, rip, reason=reason, notes=notes)
    if kernel.mem.is_mapped(address):
        reason = f"{verb} of {why}"
        return Bugcheck(0xFC if access == ACCESS_EXECUTE else 0xBE, address, reason=reason, notes=notes)
    pool = kernel.pool.fault_code(address)
    if pool is not None:
        what = "pool memory that was freed" if pool == 0xD5 else "memory beyond the end of a pool block"
        return Bugcheck(pool, address, access, rip, reason=f"{verb} of {what}", notes=notes)
    if irql >= _DISPATCH_LEVEL:
        return Bugcheck(0xD1, address, irql, access, rip, reason=f"{verb} of {why} at IRQL {irql}")
    return Bugcheck(0x50, address, _OPERATION[access], rip, reason=f"{verb} of {why}")
