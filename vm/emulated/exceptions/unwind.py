"""Unwinds x64 stack frames from an image's exception data, as RtlVirtualUnwind does.

Formats and rules: "x64 exception handling" (Microsoft Learn): UNWIND_INFO, unwind procedure, epilogue code.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vm.emulated.kernel import Kernel
    from vm.emulated.loader.image import LoadedImage

RSP, RBP = 4, 5
"""Positions among the general registers, in the order of the x64 encoding."""

FLAG_EXCEPTION_HANDLER, FLAG_UNWIND_HANDLER, FLAG_CHAINED = 1, 2, 4

_PUSH_NONVOL, _ALLOC_LARGE, _ALLOC_SMALL, _SET_FPREG, _SAVE_NONVOL, _SAVE_NONVOL_FAR = range(6)
_EPILOG, _SPARE, _SAVE_XMM128, _SAVE_XMM128_FAR, _PUSH_MACHFRAME = range(6, 11)
_SLOTS: Final = {_SAVE_NONVOL: 2, _SAVE_NONVOL_FAR: 3, _EPILOG: 2, _SPARE: 3, _SAVE_XMM128: 2, _SAVE_XMM128_FAR: 3}

_MAXIMUM_CHAIN: Final = 32
_MASK: Final = (1 << 64) - 1


class BadUnwindData(Exception):
    """The image's exception data is damaged: Windows could not unwind through it either."""


@dataclass(frozen=True)
class UnwindCode:
    """One prologue operation: the offset behind its instruction, UWOP_*, its operation information and operand."""

    offset: int
    operation: int
    info: int
    operand: int = 0


@dataclass(frozen=True)
class UnwindInfo:
    """UNWIND_INFO of one function or function part.

    Attributes:
        flags: FLAG_*.
        prolog_size: length of the prologue in bytes.
        frame_register: number of the frame pointer register, 0 for none.
        frame_offset: what it lies above the stack pointer, in bytes.
        codes: in the order of the table, last operation first.
        handler: RVA of the language-specific handler, 0 for none.
        handler_data: RVA of that handler's data.
        chained: the RUNTIME_FUNCTION that this part belongs to, or None.
    """

    flags: int
    prolog_size: int
    frame_register: int
    frame_offset: int
    codes: tuple[UnwindCode, ...]
    handler: int
    handler_data: int
    chained: tuple[int, int, int] | None


@dataclass(frozen=True)
class Frame:
    """One frame, unwound.

    Attributes:
        control: the instruction pointer in it.
        registers: the general registers in it.
        image: the image that its code is in, None for code outside images.
        function: its RUNTIME_FUNCTION, None for a leaf.
        establisher: the establisher frame.
        flags: FLAG_EXCEPTION_HANDLER, FLAG_UNWIND_HANDLER, when its handler is to be called.
        handler: address of its language-specific handler, 0 for none.
        handler_data: address of that handler's data.
        caller: the instruction pointer in the caller.
        caller_registers: the general registers in the caller.
    """

    control: int
    registers: tuple[int, ...]
    image: LoadedImage | None
    function: tuple[int, int, int] | None
    establisher: int
    flags: int
    handler: int
    handler_data: int
    caller: int
    caller_registers: tuple[int, ...]


def parse_unwind_info(mapped: bytes, rva: int) -> UnwindInfo:
    """Read UNWIND_INFO from an image as it lies in memory.

    Raises:
        BadUnwindData: it is damaged.
    """
    try:
        first, prolog, count, frame = struct.unpack_from("<BBBB", mapped, rva)
        slots = struct.unpack_from(f"<{count}H", mapped, rva + 4)
        tail = rva + 4 + 2 * ((count + 1) & ~1)
        version, flags = first & 7, first >> 3
        if version not in (1, 2):
            raise BadUnwindData(f"unwind information of version {version} at RVA 0x{rva:X}")
        handler = handler_data = 0
        chained = None
        if flags & FLAG_CHAINED:
            begin, end, unwind = struct.unpack_from("<III", mapped, tail)
            chained = (begin, end, unwind)
        elif flags & (FLAG_EXCEPTION_HANDLER | FLAG_UNWIND_HANDLER):
            (handler,) = struct.unpack_from("<I", mapped, tail)
            handler_data = tail + 4
        codes = tuple(_codes(slots, rva))
    except struct.error:
        raise BadUnwindData(f"unwind information outside the image, at RVA 0x{rva:X}") from None
    return UnwindInfo(flags, prolog, frame & 15, (frame >> 4) * 16, codes, handler, handler_data, chained)


def _codes(slots: Sequence[int], rva: int) -> Iterator[UnwindCode]:
    index = 0
    while index < len(slots):
        slot = slots[index]
        offset, operation, info = slot & 0xFF, slot >> 8 & 15, slot >> 12
        if operation > _PUSH_MACHFRAME:
            raise BadUnwindData(f"unknown unwind operation {operation} at RVA 0x{rva:X}")
        size = (2 if info == 0 else 3) if operation == _ALLOC_LARGE else _SLOTS.get(operation, 1)
        if index + size > len(slots):
            raise BadUnwindData(f"truncated unwind operation at RVA 0x{rva:X}")
        operand = 0
        if size == 2:
            operand = slots[index + 1]
        elif size == 3:
            operand = slots[index + 1] | slots[index + 2] << 16
        yield UnwindCode(offset, operation, info, operand)
        index += size


def unwind(kernel: Kernel, control: int, registers: Sequence[int]) -> Frame:
    """Unwind one frame.

    Args:
        kernel: whose memory and images are read.
        control: the instruction pointer in the frame.
        registers: the 16 general registers in it.

    Raises:
        PageFault: the stack cannot be read.
        BadUnwindData: the exception data is damaged.
    """
    image = kernel.image_at(control)
    function = image.function_at(control) if image else None
    state = list(registers)
    if image is None or function is None:
        caller = _pop(kernel, state)
        return Frame(control, tuple(registers), image, None, registers[RSP], 0, 0, 0, caller, tuple(state))
    mapped = image.image.mapped
    info = parse_unwind_info(mapped, function[2])
    offset = control - image.base - function[0]
    if offset >= info.prolog_size:
        epilogue = _epilogue(mapped, control - image.base, function)
        if epilogue is not None:
            return _leave(kernel, Frame(control, tuple(registers), image, function, 0, 0, 0, 0, 0, ()), epilogue)
    establisher = _frame_base(info, offset, state)
    machine_frame = _undo(kernel, info, offset, establisher, state)
    part = info
    for _ in range(_MAXIMUM_CHAIN):
        if part.chained is None:
            break
        part = parse_unwind_info(mapped, part.chained[2])
        machine_frame = _undo(kernel, part, 1 << 30, _frame_base(part, 1 << 30, state), state) or machine_frame
    else:
        raise BadUnwindData(f"endless chain of unwind information from RVA 0x{function[2]:X}")
    if machine_frame is not None:
        caller, state[RSP] = machine_frame
    else:
        caller = _pop(kernel, state)
    # The handler is that of the primary part, and none is called for a prologue.
    flags = part.flags & (FLAG_EXCEPTION_HANDLER | FLAG_UNWIND_HANDLER) if offset >= info.prolog_size else 0
    handler = image.base + part.handler if flags else 0
    handler_data = image.base + part.handler_data if flags else 0
    return Frame(
        control, tuple(registers), image, function, establisher, flags, handler, handler_data, caller, tuple(state)
    )


def unwind_host_frame(kernel: Kernel, registers: Sequence[int]) -> tuple[int, list[int]]:
    """Step over the stub through which the host called guest code: the guest code that had called the host.

    The stub keeps the stack pointer in rbp. Below it lies the frame of the export call that the host was handling.

    Raises:
        PageFault: there is none, the host made an outermost call.
    """
    state = list(registers)
    state[RSP] = state[RBP]
    state[RBP] = _pop(kernel, state)
    return _pop(kernel, state), state


def walk(kernel: Kernel, control: int, registers: Sequence[int], limit: int, *, across_host: bool) -> Iterator[Frame]:
    """Frames from the innermost outwards, at most `limit`.

    Ends where the stack does, and where it cannot be understood: raises nothing.

    Args:
        kernel: whose memory and images are read.
        control: the instruction pointer.
        registers: the 16 general registers.
        limit: number of frames.
        across_host: go on through frames in which the host called guest code again.
    """
    # Imported here to keep the events of the kernel out of what the formats need.
    from vm.emulated.faults import PageFault

    count = 0
    while count < limit:
        try:
            if kernel.cpu.is_host_frame(control):
                if not across_host:
                    return
                control, registers = unwind_host_frame(kernel, registers)
                if kernel.image_at(control) is None:
                    return
                continue
            frame = unwind(kernel, control, registers)
        except (PageFault, BadUnwindData):
            if count == 0:
                yield Frame(control, tuple(registers), kernel.image_at(control), None, 0, 0, 0, 0, 0, tuple(registers))
            return
        yield frame
        count += 1
        if frame.caller_registers[RSP] <= frame.registers[RSP] or frame.caller == 0:
            return
        control, registers = frame.caller, frame.caller_registers


def _pop(kernel: Kernel, state: list[int]) -> int:
    value = kernel.mem.u64(state[RSP])
    state[RSP] = (state[RSP] + 8) & _MASK
    return value


def _frame_base(info: UnwindInfo, offset: int, state: list[int]) -> int:
    """Base of saved registers: from the frame register once the prologue has set it, else the stack pointer."""
    if info.frame_register:
        set_at = next((code.offset for code in info.codes if code.operation == _SET_FPREG), 0)
        if offset >= set_at:
            return (state[info.frame_register] - info.frame_offset) & _MASK
    return state[RSP]


def _undo(kernel: Kernel, info: UnwindInfo, offset: int, base: int, state: list[int]) -> tuple[int, int] | None:
    """Undo the prologue operations that were executed; returns rip and rsp of a machine frame, if there is one."""
    memory = kernel.mem
    machine_frame = None
    for code in info.codes:
        if offset < code.offset and code.operation != _EPILOG:
            continue
        operation = code.operation
        if operation == _PUSH_NONVOL:
            state[code.info] = _pop(kernel, state)
        elif operation == _ALLOC_LARGE:
            state[RSP] = (state[RSP] + (code.operand * 8 if code.info == 0 else code.operand)) & _MASK
        elif operation == _ALLOC_SMALL:
            state[RSP] = (state[RSP] + code.info * 8 + 8) & _MASK
        elif operation == _SET_FPREG:
            state[RSP] = (state[info.frame_register] - info.frame_offset) & _MASK
        elif operation == _SAVE_NONVOL:
            state[code.info] = memory.u64((base + code.operand * 8) & _MASK)
        elif operation == _SAVE_NONVOL_FAR:
            state[code.info] = memory.u64((base + code.operand) & _MASK)
        elif operation == _PUSH_MACHFRAME:
            at = state[RSP] + (8 if code.info else 0)
            machine_frame = (memory.u64(at), memory.u64(at + 24))
    return machine_frame


@dataclass(frozen=True)
class _Epilogue:
    """What is left of an epilogue: a stack adjustment, then registers to pop."""

    frame_register: int | None
    displacement: int
    pops: tuple[int, ...]


def _epilogue(mapped: bytes, rva: int, function: tuple[int, int, int]) -> _Epilogue | None:
    """Decode the rest of an epilogue at an address, None when the code there is something else.

    The architecture allows few forms: add rsp or lea rsp, pops, then ret or a jump.
    """
    code = mapped[rva : function[1]].ljust(function[1] - rva + 16, b"\xcc")
    at = 0
    register, displacement = None, 0
    if code[at : at + 3] == b"\x48\x83\xc4":
        register, displacement, at = RSP, struct.unpack_from("<b", code, at + 3)[0], at + 4
    elif code[at : at + 3] == b"\x48\x81\xc4":
        register, displacement, at = RSP, struct.unpack_from("<i", code, at + 3)[0], at + 7
    elif code[at : at + 2] in (b"\x48\x8d", b"\x49\x8d") and code[at + 2] & 0x38 == 0x20 and code[at + 2] & 7 != RSP:
        register = code[at + 2] & 7 | (8 if code[at] & 1 else 0)
        if code[at + 2] >> 6 == 1:
            displacement, at = struct.unpack_from("<b", code, at + 3)[0], at + 4
        elif code[at + 2] >> 6 == 2:
            displacement, at = struct.unpack_from("<i", code, at + 3)[0], at + 7
        else:
            return None
    pops = []
    while True:
        if 0x58 <= code[at] <= 0x5F:
            pops.append(code[at] - 0x58)
            at += 1
        elif code[at] == 0x41 and 0x58 <= code[at + 1] <= 0x5F:
            pops.append(code[at + 1] - 0x58 + 8)
            at += 2
        else:
            break
    if not _leaves(code, at, (function[0] - rva, function[1] - rva)):
        return None
    return _Epilogue(register, displacement, tuple(pops))


def _leaves(code: bytes, at: int, function: tuple[int, int]) -> bool:
    """True for ret, and for a jump out of the function, which begins and ends where `function` says."""
    if code[at : at + 1] in (b"\xc3", b"\xc2") or code[at : at + 2] == b"\xf3\xc3":
        return True
    if code[at : at + 1] == b"\xe9":
        target = at + 5 + int(struct.unpack_from("<i", code, at + 1)[0])
        return not function[0] < target < function[1]
    if code[at : at + 1] == b"\xeb":
        target = at + 2 + int(struct.unpack_from("<b", code, at + 1)[0])
        return not function[0] < target < function[1]
    # jmp through memory, and jmp through a register with REX.W, as compilers mark tail calls.
    return code[at : at + 2] == b"\xff\x25" or (code[at : at + 2] == b"\x48\xff" and code[at + 2] & 0x38 == 0x20)


def _leave(kernel: Kernel, frame: Frame, epilogue: _Epilogue) -> Frame:
    state = list(frame.registers)
    if epilogue.frame_register is not None:
        state[RSP] = (state[epilogue.frame_register] + epilogue.displacement) & _MASK
    for register in epilogue.pops:
        state[register] = _pop(kernel, state)
    caller = _pop(kernel, state)
    return replace(frame, establisher=frame.registers[RSP], caller=caller, caller_registers=tuple(state))
