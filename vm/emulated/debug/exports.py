"""DbgPrint and its relatives, and breakpoints (Microsoft Learn, "Sending Output to the Debugger"; wdm.h).

Every component and level is kept: the emulated machine is a debugger whose filters are open.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vm.emulated.exports import PASSIVE_LEVEL, ExportTable
from vm.emulated.faults import Bugcheck, NtException
from vm.emulated.ntstatus import STATUS_ASSERTION_FAILURE, STATUS_BREAKPOINT, STATUS_SUCCESS
from vm.emulated.rtl import codepage, printf

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

MAXIMUM_OUTPUT = 512
"""Bytes that one call transmits at most (Microsoft Learn, DbgPrint)."""

EXPORTS.variable("KdDebuggerEnabled", lambda _kernel: b"\0")
EXPORTS.variable("KdDebuggerNotPresent", lambda _kernel: b"\1")


def _print(kernel: Kernel, template: int, arguments: Iterator[int], prefix: str = "") -> int:
    text = codepage.decode(kernel.mem.ascii(template).encode("latin-1"))
    formatted = printf.render(kernel.mem, text, arguments)
    kernel.debug.write((prefix + formatted.text)[:MAXIMUM_OUTPUT])
    if formatted.wide_used and kernel.irql > PASSIVE_LEVEL:
        kernel.debug.line(
            f"verifier: DbgPrint with a Unicode conversion at IRQL {kernel.irql}, called from 0x{kernel.caller():X}; "
            "%C, %S, %lc, %ls, %wc, %ws and %wZ are allowed at PASSIVE_LEVEL only"
        )
    return STATUS_SUCCESS


@EXPORTS.function("DbgPrint", "DbgPrintReturnControlC", args="ptr ...")
def dbg_print(kernel: Kernel, template: int) -> int:
    """Microsoft Learn, DbgPrint."""
    return _print(kernel, template, printf.from_call(kernel.cpu.argument, 1))


@EXPORTS.function("DbgPrintEx", args="u32 u32 ptr ...")
def dbg_print_ex(kernel: Kernel, _component: int, _level: int, template: int) -> int:
    """Microsoft Learn, DbgPrintEx."""
    return _print(kernel, template, printf.from_call(kernel.cpu.argument, 3))


@EXPORTS.function("vDbgPrintEx", args="u32 u32 ptr ptr")
def v_dbg_print_ex(kernel: Kernel, _component: int, _level: int, template: int, arguments: int) -> int:
    """Microsoft Learn, vDbgPrintEx."""
    return _print(kernel, template, printf.from_list(kernel.mem, arguments))


@EXPORTS.function("vDbgPrintExWithPrefix", args="ptr u32 u32 ptr ptr")
def v_dbg_print_ex_with_prefix(
    kernel: Kernel, prefix: int, _component: int, _level: int, template: int, arguments: int
) -> int:
    """Microsoft Learn, vDbgPrintExWithPrefix."""
    before = codepage.decode(kernel.mem.ascii(prefix).encode("latin-1"))
    return _print(kernel, template, printf.from_list(kernel.mem, arguments), before)


@EXPORTS.function("DbgQueryDebugFilterState", args="u32 u32")
def dbg_query_debug_filter_state(_kernel: Kernel, _component: int, _level: int) -> int:
    """The filters that the page of DbgPrintEx describes: all are open."""
    return 1


@EXPORTS.function("DbgBreakPoint", args="")
def dbg_break_point(_kernel: Kernel) -> int:
    """Microsoft Learn, DbgBreakPoint: the breakpoint exception; without a handler or a debugger the machine stops."""
    raise NtException(STATUS_BREAKPOINT, 0)


@EXPORTS.function("DbgBreakPointWithStatus", args="u32")
def dbg_break_point_with_status(_kernel: Kernel, status: int) -> int:
    """Microsoft Learn, DbgBreakPointWithStatus."""
    raise NtException(STATUS_BREAKPOINT, status)


@EXPORTS.function("RtlAssert", args="ptr ptr u32 ptr")
def rtl_assert(kernel: Kernel, assertion: int, file: int, line: int, message: int) -> int:
    """Microsoft Learn, ASSERT: what a checked build's failed assertion calls; without a debugger the machine stops."""
    text = f"Assertion failed: {kernel.mem.ascii(assertion)}, {kernel.mem.ascii(file)}({line})"
    if message:
        text += f": {kernel.mem.ascii(message)}"
    kernel.debug.line(text)
    raise Bugcheck(0x1E, STATUS_ASSERTION_FAILURE, kernel.caller(), reason=text)
