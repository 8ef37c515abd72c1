"""Structured exception handling: finds and runs the handlers of driver code, as RtlDispatchException does.

Language handlers run as guest code, whichever they are: the import __C_specific_handler, implemented below, or one
linked into the driver, such as __GSHandlerCheck_SEH, which calls the former itself. A handler that accepts an exception
asks for the unwinding by storing TargetIp in the dispatcher context.

Sources: "x64 exception handling", "Structured Exception Handling" (Microsoft Learn); structures from winnt.h. A search
ends at the frame through which the host called guest code; an exception that leaves a filter or a termination handler
is therefore unhandled.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from unicorn.x86_const import UC_X86_REG_RSP

from vm.emulated.debug.bugcheck import BugcheckCode
from vm.emulated.exceptions import exception_in_flight
from vm.emulated.exceptions.processor_exceptions import (
    INVALID_ADDRESS,
    STATUS_ASSERTION_FAILURE,
    STATUS_BREAKPOINT,
    STATUS_DATATYPE_MISALIGNMENT,
    STATUS_ILLEGAL_INSTRUCTION,
    STATUS_INTEGER_DIVIDE_BY_ZERO,
    STATUS_INTEGER_OVERFLOW,
    STATUS_NONCONTINUABLE_EXCEPTION,
    STATUS_PRIVILEGED_INSTRUCTION,
    STATUS_SINGLE_STEP,
    STATUS_UNWIND,
    SYSTEM_HALF,
    USER_HALF_END,
    event_of_interrupt,
    unhandled,
)
from vm.emulated.exceptions.unwind import (
    FLAG_EXCEPTION_HANDLER,
    FLAG_UNWIND_HANDLER,
    RSP,
    BadUnwindData,
    Frame,
    unwind,
    walk,
)
from vm.emulated.exports import APC_LEVEL, PASSIVE_LEVEL, ExportTable
from vm.emulated.faults import STATUS_ACCESS_VIOLATION, Bugcheck, NtException, PageFault
from vm.emulated.layout import PAGE, USER_PROBE_ADDRESS
from vm.emulated.mm.memory import ACCESS_READ, ACCESS_WRITE
from vm.emulated.processor.operands import exact_fault_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vm.emulated.kernel import Kernel

__all__ = [
    "EXPORTS",
    "STATUS_ILLEGAL_INSTRUCTION",
    "STATUS_PRIVILEGED_INSTRUCTION",
    "Resume",
    "dispatch",
    "event_of_interrupt",
    "exact_fault_address",
    "unhandled",
]

EXPORTS = ExportTable()

_CONTINUABLE: Final = frozenset(
    {
        STATUS_ACCESS_VIOLATION, STATUS_BREAKPOINT, STATUS_SINGLE_STEP, STATUS_ILLEGAL_INSTRUCTION,
        STATUS_INTEGER_DIVIDE_BY_ZERO, STATUS_INTEGER_OVERFLOW, STATUS_PRIVILEGED_INSTRUCTION, STATUS_ASSERTION_FAILURE,
    }
)  # fmt: skip
"""What the processor raises. What a driver raises with ExRaiseStatus cannot be continued."""

# winnt.h: EXCEPTION_RECORD.ExceptionFlags, EXCEPTION_DISPOSITION, filter results
EXCEPTION_NONCONTINUABLE, EXCEPTION_UNWINDING, EXCEPTION_EXIT_UNWIND, EXCEPTION_TARGET_UNWIND = 0x1, 0x2, 0x4, 0x20
_CONTINUE_EXECUTION, _CONTINUE_SEARCH = 0, 1
EXCEPTION_EXECUTE_HANDLER, EXCEPTION_CONTINUE_SEARCH, EXCEPTION_CONTINUE_EXECUTION = 1, 0, 0xFFFF_FFFF

# winnt.h: EXCEPTION_RECORD, CONTEXT, DISPATCHER_CONTEXT, EXCEPTION_POINTERS for x64. They lie on the driver's stack,
# in this order, below the frame at fault.
_RECORD: Final = struct.Struct("<IIQQI4x")
_RECORD_SIZE, _CONTEXT_SIZE, _DISPATCHER_SIZE, _POINTERS_SIZE = 0xA0, 0x4D0, 0x50, 0x10
_RECORD_FLAGS, _RECORD_PARAMETERS, _RECORD_INFORMATION, _MAXIMUM_PARAMETERS = 4, 0x18, 0x20, 15
_CONTEXT_FLAGS, _CONTEXT_REGISTERS, _CONTEXT_RIP = 0x30, 0x78, 0xF8
_CONTEXT_CONTROL_AND_INTEGER: Final = 0x10_0003
_TARGET_IP, _SCOPE_INDEX = 0x20, 0x48
_POINTERS_AFTER_DISPATCHER: Final = _DISPATCHER_SIZE

_MAXIMUM_FRAMES: Final = 1024
_MAXIMUM_SCOPES: Final = 4096
_U32: Final = 0xFFFF_FFFF


@dataclass(frozen=True)
class Resume:
    """Where guest code goes on: instruction pointer and general registers."""

    rip: int
    registers: list[int]


def dispatch(
    kernel: Kernel, status: int, information: Sequence[int], rip: int, registers: Sequence[int]
) -> Resume | None:
    """Offer an exception to the driver's handlers.

    Args:
        kernel: whose CPU is stopped at the exception.
        status: exception code.
        information: EXCEPTION_RECORD.ExceptionInformation.
        rip: the instruction at fault, or the return address of the export call that raised it.
        registers: the 16 general registers there.

    Returns:
        Where to go on, or None when nothing handles it: then the machine stops with `unhandled`.

    Raises:
        Bugcheck: a handler stopped the machine, or there is no stack left for the exception.
    """
    if status == STATUS_INTEGER_DIVIDE_BY_ZERO or tuple(information) == (0, INVALID_ADDRESS):
        exception_in_flight.forget(kernel.cpu.engine)
    if status == STATUS_UNWIND and len(information) == 2:
        return _unwind_to_request(kernel, information, rip, registers)
    if status == STATUS_ACCESS_VIOLATION and len(information) == 2:
        access, address = information
        if address >= SYSTEM_HALF or (kernel.irql >= 2 and address < USER_HALF_END):
            return None  # Windows stops at such a fault; no handler sees it ("Bug Check 0x50").
        # Of an address that is not canonical the processor does not say what was touched.
        information = (0, INVALID_ADDRESS) if address >= USER_HALF_END else (access, address)
    dispatcher = _Dispatcher(kernel, status, information, rip, registers)
    resume = dispatcher.search()
    if resume is not None and dispatcher.continued and status not in _CONTINUABLE:
        if status == STATUS_NONCONTINUABLE_EXCEPTION:
            return None
        return dispatch(kernel, STATUS_NONCONTINUABLE_EXCEPTION, (), rip, registers)
    return resume


class _Dispatcher:
    """One exception on its way through the frames of driver code."""

    def __init__(
        self, kernel: Kernel, status: int, information: Sequence[int], rip: int, registers: Sequence[int]
    ) -> None:
        self._kernel = kernel
        self._status = status
        self._rip = rip
        self._registers = list(registers)
        self.continued = False
        top = registers[RSP] - _RECORD_SIZE - _CONTEXT_SIZE * 2 - _DISPATCHER_SIZE - _POINTERS_SIZE
        self._record = top & ~15
        self._context = self._record + _RECORD_SIZE
        self._unwind_context = self._context + _CONTEXT_SIZE
        self._context_of_dispatcher = self._unwind_context + _CONTEXT_SIZE
        self._stack = self._record - 0x20
        try:
            self._write_record(information)
        except PageFault as fault:
            raise Bugcheck(
                BugcheckCode.UNEXPECTED_KERNEL_MODE_TRAP, 8, fault.address, rip,
                reason="kernel stack overflow (double fault): there is no stack left to handle an exception",
            ) from None  # fmt: skip

    def _write_record(self, information: Sequence[int]) -> None:
        memory = self._kernel.mem
        # The cell at the top of the handlers' stack is zero, so that a stack walk ends there.
        memory.fill(self._stack, self._context_of_dispatcher + _DISPATCHER_SIZE + _POINTERS_SIZE - self._stack)
        information = information[:_MAXIMUM_PARAMETERS]
        flags = 0 if self._status in _CONTINUABLE else EXCEPTION_NONCONTINUABLE
        memory.write(self._record, _RECORD.pack(self._status, flags, 0, self._rip, len(information)))
        memory.write(self._record + _RECORD_INFORMATION, struct.pack(f"<{len(information)}Q", *information))
        self._write_context(self._context, self._rip, self._registers)
        pointers = self._context_of_dispatcher + _POINTERS_AFTER_DISPATCHER
        memory.write(pointers, struct.pack("<QQ", self._record, self._context))

    def _write_context(self, at: int, rip: int, registers: Sequence[int]) -> None:
        memory = self._kernel.mem
        memory.set_u32(at + _CONTEXT_FLAGS, _CONTEXT_CONTROL_AND_INTEGER)
        memory.write(at + _CONTEXT_REGISTERS, struct.pack("<17Q", *registers, rip))

    def search(self) -> Resume | None:
        """First pass: ask each frame's handler, innermost first."""
        frames: list[Frame] = []
        control: int = self._rip
        registers: Sequence[int] = self._registers
        while len(frames) < _MAXIMUM_FRAMES and not self._kernel.cpu.is_host_frame(control):
            try:
                frame = unwind(self._kernel, control, registers)
            except (PageFault, BadUnwindData):
                return None
            frames.append(frame)
            if frame.flags & FLAG_EXCEPTION_HANDLER:
                disposition = self._call_handler(frame, 0)
                target = self._kernel.mem.u64(self._context_of_dispatcher + _TARGET_IP)
                if target:
                    return self._unwind(frames, target)
                if disposition == _CONTINUE_EXECUTION:
                    self.continued = True
                    return self._resume_from_context()
                if disposition != _CONTINUE_SEARCH:
                    return None
            if frame.caller_registers[RSP] <= frame.registers[RSP] or not frame.caller:
                return None
            control, registers = frame.caller, frame.caller_registers
        return None

    def unwind_frames(self, target_frame: int, target: int, result: int) -> Resume | None:
        """RtlUnwind: run termination handlers up to and within the frame with an establisher frame."""
        frames: list[Frame] = []
        control: int = self._rip
        registers: Sequence[int] = self._registers
        while len(frames) < _MAXIMUM_FRAMES and not self._kernel.cpu.is_host_frame(control):
            try:
                frame = unwind(self._kernel, control, registers)
            except (PageFault, BadUnwindData):
                return None
            frames.append(frame)
            if frame.establisher == target_frame:
                return self._unwind(frames, target, result)
            control, registers = frame.caller, frame.caller_registers
        return None

    def _unwind(self, frames: Sequence[Frame], target: int, result: int | None = None) -> Resume:
        """Second pass: run termination handlers, innermost first, then leave for the target."""
        memory = self._kernel.mem
        flags = memory.u32(self._record + _RECORD_FLAGS) | EXCEPTION_UNWINDING
        for frame in frames:
            if frame is frames[-1]:
                flags |= EXCEPTION_TARGET_UNWIND
            if frame.flags & FLAG_UNWIND_HANDLER:
                memory.set_u32(self._record + _RECORD_FLAGS, flags)
                self._call_handler(frame, target)
        registers = list(frames[-1].registers)
        registers[0] = self._status if result is None else result
        return Resume(target, registers)

    def _call_handler(self, frame: Frame, target: int) -> int:
        """Call a frame's language handler as guest code; returns its EXCEPTION_DISPOSITION."""
        kernel = self._kernel
        assert frame.image is not None
        assert frame.function is not None
        base = frame.image.base
        entry = next(i for i, function in enumerate(frame.image.image.functions) if function == frame.function)
        kernel.mem.write(
            self._context_of_dispatcher,
            struct.pack(
                "<10Q",
                frame.control, base, base + frame.image.image.exception_directory + entry * 12, frame.establisher,
                target, self._unwind_context, frame.handler, frame.handler_data, 0, 0,
            ),
        )  # fmt: skip
        self._write_context(self._unwind_context, frame.caller, frame.caller_registers)
        kernel.cpu.engine.write(UC_X86_REG_RSP, self._stack)
        disposition = kernel.call(
            frame.handler, self._record, frame.establisher, self._context, self._context_of_dispatcher
        )
        return disposition & _U32

    def _resume_from_context(self) -> Resume:
        *registers, rip = struct.unpack("<17Q", self._kernel.mem.read(self._context + _CONTEXT_REGISTERS, 17 * 8))
        return Resume(rip, registers)


def _unwind_to_request(kernel: Kernel, information: Sequence[int], rip: int, registers: Sequence[int]) -> Resume | None:
    """Serve RtlUnwind and _local_unwind, which arrive as an exception of their own."""
    target_frame, target = information
    return _Dispatcher(kernel, STATUS_UNWIND, (), rip, registers).unwind_frames(target_frame, target, 0)


@EXPORTS.function("__C_specific_handler", args="ptr ptr ptr ptr")
def c_specific_handler(kernel: Kernel, record: int, frame: int, _context: int, dispatcher: int) -> int:
    """Language handler of __try, __except and __finally in C.

    The handler data is a scope table (SCOPE_TABLE_AMD64, winnt.h), inner scopes before outer ones.
    """
    memory = kernel.mem
    control, base = memory.u64(dispatcher), memory.u64(dispatcher + 8)
    table = memory.u64(dispatcher + 0x38)
    target = memory.u64(dispatcher + _TARGET_IP)
    flags = memory.u32(record + _RECORD_FLAGS)
    count = memory.u32(table)
    if count > _MAXIMUM_SCOPES:
        return _CONTINUE_SEARCH
    rva = control - base
    for index in range(memory.u32(dispatcher + _SCOPE_INDEX), count):
        begin, end, handler, jump = struct.unpack("<IIII", memory.read(table + 4 + 16 * index, 16))
        if not begin <= rva < end:
            continue
        if flags & (EXCEPTION_UNWINDING | EXCEPTION_EXIT_UNWIND):
            if flags & EXCEPTION_TARGET_UNWIND and (begin <= target - base < end or (jump and base + jump == target)):
                break
            if not jump:
                memory.set_u32(dispatcher + _SCOPE_INDEX, index + 1)
                kernel.call(base + handler, 1, frame)
        elif jump:
            verdict = EXCEPTION_EXECUTE_HANDLER
            if handler != EXCEPTION_EXECUTE_HANDLER:
                verdict = kernel.call(base + handler, dispatcher + _POINTERS_AFTER_DISPATCHER, frame) & _U32
            if verdict >> 31:
                return _CONTINUE_EXECUTION
            if verdict:
                memory.set_u64(dispatcher + _TARGET_IP, base + jump)
                return _CONTINUE_SEARCH
    return _CONTINUE_SEARCH


# Exports that raise


@EXPORTS.function("ExRaiseStatus", "RtlRaiseStatus", args="u32", irql=APC_LEVEL)
def ex_raise_status(_kernel: Kernel, status: int) -> int:
    """Raise an exception with a status ("ExRaiseStatus", Microsoft Learn)."""
    raise NtException(status)


@EXPORTS.function("ExRaiseAccessViolation", irql=PASSIVE_LEVEL)
def ex_raise_access_violation(_kernel: Kernel) -> int:
    """Raise STATUS_ACCESS_VIOLATION."""
    raise NtException(STATUS_ACCESS_VIOLATION)


@EXPORTS.function("ExRaiseDatatypeMisalignment", irql=PASSIVE_LEVEL)
def ex_raise_datatype_misalignment(_kernel: Kernel) -> int:
    """Raise STATUS_DATATYPE_MISALIGNMENT."""
    raise NtException(STATUS_DATATYPE_MISALIGNMENT)


@EXPORTS.function("RtlRaiseException", args="ptr")
def rtl_raise_exception(kernel: Kernel, record: int) -> int:
    """Raise what an EXCEPTION_RECORD says."""
    count = min(kernel.mem.u32(record + _RECORD_PARAMETERS), _MAXIMUM_PARAMETERS)
    information = struct.unpack(f"<{count}Q", kernel.mem.read(record + _RECORD_INFORMATION, count * 8))
    raise NtException(kernel.mem.u32(record), *information)


@EXPORTS.function("_local_unwind", args="ptr ptr")
def local_unwind(_kernel: Kernel, frame: int, target: int) -> int:
    """Leave __try blocks with termination handlers, as compilers ask for with goto or return out of them."""
    raise NtException(STATUS_UNWIND, frame, target)


@EXPORTS.function("RtlUnwind", args="ptr ptr ptr ptr")
def rtl_unwind(_kernel: Kernel, frame: int, target: int, _record: int, _result: int) -> int:
    """Unwind to a frame and go on at an address."""
    raise NtException(STATUS_UNWIND, frame, target)


@EXPORTS.function("ProbeForRead", args="ptr size u32", irql=APC_LEVEL)
def probe_for_read(_kernel: Kernel, address: int, length: int, alignment: int) -> None:
    """Check that a range is in the user half and aligned; touches nothing ("ProbeForRead", Microsoft Learn)."""
    _probe(address, length, alignment, ACCESS_READ)


@EXPORTS.function("ProbeForWrite", args="ptr size u32", irql=APC_LEVEL)
def probe_for_write(kernel: Kernel, address: int, length: int, alignment: int) -> None:
    """As ProbeForRead, and write to each page of the range ("ProbeForWrite", Microsoft Learn)."""
    if length == 0:
        return
    _probe(address, length, alignment, ACCESS_WRITE)
    page = address
    while page < address + length:
        if not kernel.mem.is_mapped(page, 1, ACCESS_WRITE << 1):
            raise NtException(STATUS_ACCESS_VIOLATION, ACCESS_WRITE, page)
        page = (page & -PAGE) + PAGE


def _probe(address: int, length: int, alignment: int, access: int) -> None:
    if length == 0:
        return
    if alignment and address & (alignment - 1):
        raise NtException(STATUS_DATATYPE_MISALIGNMENT)
    if address + length > USER_PROBE_ADDRESS:
        raise NtException(STATUS_ACCESS_VIOLATION, access, USER_PROBE_ADDRESS)


@EXPORTS.function("RtlCaptureStackBackTrace", args="u32 u32 ptr ptr")
def rtl_capture_stack_back_trace(kernel: Kernel, skip: int, count: int, trace: int, hash_: int) -> int:
    """Return addresses of the callers, the caller of this function first ("RtlCaptureStackBackTrace")."""
    registers = kernel.cpu.registers()
    frames = walk(kernel, kernel.caller(), _behind_call(registers), min(skip + count, 64), across_host=False)
    addresses = [frame.control for frame in frames][skip:]
    for index, address in enumerate(addresses):
        kernel.mem.set_u64(trace + 8 * index, address)
    if hash_:
        kernel.mem.set_u32(hash_, sum(addresses) & _U32)
    return len(addresses)


def _behind_call(registers: list[int]) -> list[int]:
    """Registers as the caller of the current export has them behind the call: a trap stub pushes nothing."""
    state = list(registers)
    state[RSP] += 8
    return state
