"""What processor exceptions mean: which structured exception they raise, and which bugcheck if nothing handles it.

Sources: "Bug Check Code Reference" (Microsoft Learn); ntstatus.h; Intel 64 manual, volume 3, for vectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vm.emulated.debug.bugcheck import BugcheckCode, fast_fail_name
from vm.emulated.faults import STATUS_ACCESS_VIOLATION, Bugcheck, KernelEvent, NtException, Site
from vm.emulated.mm import memory_faults
from vm.emulated.mm.memory import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vm.emulated.kernel import Kernel

# ntstatus.h
STATUS_UNWIND: Final = 0xC0000027
STATUS_DATATYPE_MISALIGNMENT: Final = 0x80000002
STATUS_BREAKPOINT: Final = 0x80000003
STATUS_SINGLE_STEP: Final = 0x80000004
STATUS_ILLEGAL_INSTRUCTION: Final = 0xC000001D
STATUS_NONCONTINUABLE_EXCEPTION: Final = 0xC0000025
STATUS_INTEGER_DIVIDE_BY_ZERO: Final = 0xC0000094
STATUS_INTEGER_OVERFLOW: Final = 0xC0000095
STATUS_PRIVILEGED_INSTRUCTION: Final = 0xC0000096
STATUS_ASSERTION_FAILURE: Final = 0xC0000420

SYSTEM_HALF: Final = 0xFFFF_8000_0000_0000
USER_HALF_END: Final = 0x0000_8000_0000_0000
INVALID_ADDRESS: Final = (1 << 64) - 1
_U32: Final = 0xFFFF_FFFF

# Vectors (Intel 64 manual, volume 3) and the interrupts that Windows uses for itself.
_DOUBLE_FAULT, _FAST_FAIL, _ASSERTION, _DEBUG_SERVICE = 8, 0x29, 0x2C, 0x2D
_INSTRUCTION_SIZE: Final = {3: 1, _FAST_FAIL: 2, _ASSERTION: 2, _DEBUG_SERVICE: 2}
"""Of the instruction that raises a software interrupt: Windows reports its own address."""
_VECTOR_STATUS: Final = {
    0: STATUS_INTEGER_DIVIDE_BY_ZERO,
    1: STATUS_SINGLE_STEP,
    3: STATUS_BREAKPOINT,
    4: STATUS_INTEGER_OVERFLOW,
    6: STATUS_ILLEGAL_INSTRUCTION,
    _ASSERTION: STATUS_ASSERTION_FAILURE,
    _DEBUG_SERVICE: STATUS_BREAKPOINT,
}


def unhandled(kernel: Kernel, status: int, information: Sequence[int], rip: int, why: str = "") -> Bugcheck:
    """The bugcheck for an exception that nothing handled.

    Sources: Microsoft Learn, "Bug Check 0x1E", "0x50", "0xA", "0xD1", "0xBE", "0xFC".

    Args:
        kernel: the machine.
        status: exception code.
        information: EXCEPTION_RECORD.ExceptionInformation.
        rip: the instruction at fault.
        why: why the page table refused the access, if it did.
    """
    first, second, *_ = (*information, 0, 0)
    if status == STATUS_ACCESS_VIOLATION and len(information) == 2:
        access, address = first, second
        if USER_HALF_END <= address < SYSTEM_HALF:
            return Bugcheck(
                BugcheckCode.KMODE_EXCEPTION_NOT_HANDLED, status, rip, 0, INVALID_ADDRESS,
                reason=f"access through 0x{address:X}, which is no address: bits 48 to 63 differ from bit 47",
            )  # fmt: skip
        known = memory_faults.bugcheck_for(kernel, address, access, why, rip)
        if known is not None:
            return known
        if kernel.irql >= 2:
            code = BugcheckCode.DRIVER_IRQL_NOT_LESS_OR_EQUAL
            return Bugcheck(
                code, address, kernel.irql, access, rip,
                reason=f"{_verb(access)} of user address 0x{address:X} at IRQL {kernel.irql}",
            )  # fmt: skip
        what = f"{_verb(access)} of user address 0x{address:X} outside __try"
        if address < 0x10000:
            what = f"{_verb(access)} through a null pointer, address 0x{address:X}"
        return Bugcheck(BugcheckCode.KMODE_EXCEPTION_NOT_HANDLED, status, rip, access, address, reason=what)
    return Bugcheck(
        BugcheckCode.KMODE_EXCEPTION_NOT_HANDLED, status, rip, first, second,
        reason=f"exception 0x{status:08X} was raised and nothing handled it",
    )  # fmt: skip


def _verb(access: int) -> str:
    return {ACCESS_READ: "read", ACCESS_WRITE: "write", ACCESS_EXECUTE: "execution"}.get(access, "access")


def event_of_interrupt(_kernel: Kernel, vector: int, rip: int, registers: Sequence[int]) -> KernelEvent:
    """What a processor exception or software interrupt of driver code means.

    Args:
        vector: interrupt vector.
        rip: the instruction pointer, behind the instruction for a software interrupt.
        registers: the 16 general registers.
    """
    rip -= _INSTRUCTION_SIZE.get(vector, 0)
    if vector == _FAST_FAIL:
        code = registers[1] & _U32
        bugcheck = Bugcheck(
            BugcheckCode.KERNEL_SECURITY_CHECK_FAILURE, code, reason=f"fast fail {code}: {fast_fail_name(code)}"
        )
        bugcheck.site = Site(rip, tuple(registers))
        return bugcheck
    if vector == _DOUBLE_FAULT:
        bugcheck = Bugcheck(BugcheckCode.UNEXPECTED_KERNEL_MODE_TRAP, _DOUBLE_FAULT, reason="double fault")
        bugcheck.site = Site(rip, tuple(registers))
        return bugcheck
    status = _VECTOR_STATUS.get(vector)
    if status is not None:
        return NtException(status, rip=rip)
    # Everything else is a general protection fault, which Windows reports as an access violation of no address.
    return NtException(STATUS_ACCESS_VIOLATION, 0, INVALID_ADDRESS, rip=rip)
