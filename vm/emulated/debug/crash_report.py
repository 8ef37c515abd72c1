"""Turns a bugcheck into a report for people: the stack with source lines, and what is known of the memory involved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vm.emulated import layout
from vm.emulated.debug.bugcheck import BugcheckCode, bugcheck_name, explain
from vm.emulated.debug.symbols import Symbols
from vm.emulated.exceptions.unwind import RSP, Frame, walk
from vm.emulated.processor.operands import follows_call, instruction_at, touches
from vm.machine import CrashReport, StackFrame

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vm.emulated.faults import Bugcheck
    from vm.emulated.kernel import Kernel
    from vm.emulated.loader.image import LoadedImage

MAXIMUM_FRAMES: Final = 32

_FAULT_ADDRESS_FIRST: Final = frozenset(
    {
        BugcheckCode.IRQL_NOT_LESS_OR_EQUAL,
        BugcheckCode.PAGE_FAULT_IN_NONPAGED_AREA,
        BugcheckCode.ATTEMPTED_WRITE_TO_READONLY_MEMORY,
        BugcheckCode.PAGE_FAULT_IN_FREED_SPECIAL_POOL,
        BugcheckCode.PAGE_FAULT_BEYOND_END_OF_ALLOCATION,
        BugcheckCode.DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS,
        BugcheckCode.DRIVER_IRQL_NOT_LESS_OR_EQUAL,
        BugcheckCode.DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL,
        BugcheckCode.DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION,
        BugcheckCode.ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY,
    }
)
"""Bugchecks whose first parameter is the address that was touched ("Bug Check Code Reference", Microsoft Learn)."""


def build_report(
    kernel: Kernel, bugcheck: Bugcheck, rip: int, registers: Sequence[int], *, activity: str = ""
) -> CrashReport:
    """Describe a bugcheck.

    Args:
        kernel: the stopped machine; only read.
        bugcheck: why it stopped.
        rip: the instruction at fault, or the return address of the export call that stopped the machine.
        registers: the 16 general registers there.
        activity: what the machine was doing.
    """
    address = _fault_address(bugcheck)
    at_call = _is_return_address(kernel, rip, registers, address)
    site = bugcheck.site
    frames: list[StackFrame] = []
    if bugcheck.rip is not None and (site is None or site.rip != bugcheck.rip):
        # The code to blame is not where guest code was stopped: no registers lead from there to its callers.
        place = locate(kernel, bugcheck.rip)
        frames = [place] if place is not None else []
        if site is not None:
            frames.extend(stack(kernel, site.rip, site.registers))
    else:
        frames.extend(_frames(kernel, rip, registers, at_call=at_call))
    notes = list(bugcheck.notes)
    notes.extend(_notes(kernel, bugcheck, rip, address, at_call=at_call))
    return CrashReport(
        code=bugcheck.code,
        name=bugcheck_name(bugcheck.code),
        parameters=bugcheck.parameters,
        reason=bugcheck.reason,
        frames=tuple(frames[:MAXIMUM_FRAMES]),
        activity=activity,
        notes=tuple(dict.fromkeys(notes)),
    )


def stack(kernel: Kernel, rip: int, registers: Sequence[int]) -> tuple[StackFrame, ...]:
    """The call stack from an instruction or return address outwards, innermost first, at most MAXIMUM_FRAMES."""
    at_call = _is_return_address(kernel, rip, registers, None)
    return tuple(_frames(kernel, rip, registers, at_call=at_call))[:MAXIMUM_FRAMES]


def _is_return_address(kernel: Kernel, rip: int, registers: Sequence[int], address: int | None) -> bool:
    """True when guest code was stopped in an export that it called, not by an access of its own to an address."""
    return follows_call(kernel, rip) and (address is None or not touches(kernel, rip, address, registers))


def _frames(kernel: Kernel, rip: int, registers: Sequence[int], *, at_call: bool) -> Iterator[StackFrame]:
    if registers[RSP] == 0:
        return
    for index, frame in enumerate(walk(kernel, rip, registers, MAXIMUM_FRAMES, across_host=True)):
        yield from _symbolise(kernel, frame, behind_call=index > 0 or at_call)


def locate(kernel: Kernel, address: int) -> StackFrame | None:
    """Where an address in driver or kernel code lies in the sources, None outside every image."""
    image = kernel.image_at(address)
    return None if image is None else next(_places(image, address, address - image.base))


def describe_address(kernel: Kernel, address: int) -> str | None:
    """A sentence about what lies at an address, None when the machine knows nothing of it."""
    if note := kernel.pool.describe(address):
        return note
    image = kernel.image_at(address)
    if image is not None:
        section = image.section_at(address)
        where = f"section {section.name}" if section else "the headers"
        discarded = " (discarded after DriverEntry)" if section and section.discardable and image.discarded else ""
        place = locate(kernel, address) if section and section.execute else None
        inside = f", {place}" if place and place.function else ""
        return f"0x{address:X} is {image.name}+0x{address - image.base:X} in {where}{discarded}{inside}"
    gone = kernel.unloaded_at(address)
    if gone is not None:
        return f"0x{address:X} was part of {gone}, which is unloaded"
    if address < 0x10000:
        return f"0x{address:X} is next to address 0: a null pointer, or a field of a structure at one"
    if layout.STACKS <= address < layout.STACKS + (1 << 40):
        offset = (address - layout.STACKS) % layout.STACK_STRIDE
        inside = "inside" if offset < layout.STACK_SIZE else "outside"
        return f"0x{address:X} is {inside} a kernel stack"
    if address < layout.USER_PROBE_ADDRESS:
        return f"0x{address:X} is a user-mode address"
    if address < layout.SYSTEM_RANGE_START:
        return f"0x{address:X} is no address: bits 48 to 63 differ from bit 47"
    return None


def _fault_address(bugcheck: Bugcheck) -> int | None:
    if bugcheck.code in _FAULT_ADDRESS_FIRST:
        return bugcheck.parameters[0]
    if bugcheck.code == BugcheckCode.KMODE_EXCEPTION_NOT_HANDLED and bugcheck.parameters[0] == 0xC0000005:
        return bugcheck.parameters[3]
    return None


def _notes(kernel: Kernel, bugcheck: Bugcheck, rip: int, address: int | None, *, at_call: bool) -> Iterator[str]:
    meaning = explain(bugcheck.code, bugcheck.parameters)
    if meaning is not None and meaning not in bugcheck.reason:
        yield meaning
    if address is not None and not bugcheck.notes and "null pointer" not in bugcheck.reason:
        about = describe_address(kernel, address)
        if about is not None:
            yield about
    if address is not None and not at_call:
        instruction = instruction_at(kernel, rip)
        if instruction is not None:
            yield f"instruction: {instruction.mnemonic} {instruction.op_str}".rstrip()


def _symbolise(kernel: Kernel, frame: Frame, *, behind_call: bool) -> Iterator[StackFrame]:
    """A frame and the calls inlined into it, innermost first.

    A return address belongs to what follows the call, so the byte before it is looked up.
    """
    control = frame.control
    image = frame.image
    if image is None:
        gone = kernel.unloaded_at(control)
        export = kernel.export_at(control)
        if export is not None:
            yield StackFrame("ntoskrnl", control, export)
        else:
            yield StackFrame(f"unloaded {gone}" if gone else "unknown", control)
        return
    yield from _places(image, control - 1 if behind_call else control, control - image.base)


def _places(image: LoadedImage, address: int, offset: int) -> Iterator[StackFrame]:
    path = image.image.path
    location = Symbols.for_image(path).lookup(address - image.base) if path is not None else None
    if location is not None and location.function is not None:
        for place in (location, *location.inlined_into):
            yield StackFrame(image.name, offset, place.function, place.file, place.line)
        return
    nearest = image.nearest_export(address)
    yield StackFrame(image.name, offset, nearest[0] if nearest else None)
