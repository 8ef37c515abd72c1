"""Decodes the operands of the instruction at fault, for the exact address that it touched."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import capstone
from capstone import x86_const as x86

from vm.emulated.faults import PageFault
from vm.emulated.layout import PAGE, PCR

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vm.emulated.kernel import Kernel

_MASK: Final = (1 << 64) - 1
_LONGEST_INSTRUCTION: Final = 15
_RSP, _RSI, _RDI = 4, 6, 7
_NAMES: Final = (
    ("rax", "eax"), ("rcx", "ecx"), ("rdx", "edx"), ("rbx", "ebx"), ("rsp", "esp"), ("rbp", "ebp"), ("rsi", "esi"),
    ("rdi", "edi"), ("r8", "r8d"), ("r9", "r9d"), ("r10", "r10d"), ("r11", "r11d"), ("r12", "r12d"), ("r13", "r13d"),
    ("r14", "r14d"), ("r15", "r15d"),
)  # fmt: skip


@functools.cache
def _disassembler() -> Any:
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    disassembler.detail = True
    return disassembler


def instruction_at(kernel: Kernel, rip: int) -> Any | None:
    """The decoded instruction at an address, None when there is none to read."""
    code = b""
    try:
        code = kernel.mem.read(rip, min(_LONGEST_INSTRUCTION, PAGE - rip % PAGE))
        code += kernel.mem.read(rip + len(code), _LONGEST_INSTRUCTION - len(code))
    except PageFault:
        if not code:
            return None
    return next(_disassembler().disasm(code, rip, 1), None)


def exact_fault_address(kernel: Kernel, rip: int, page_va: int, registers: Sequence[int]) -> int:
    """The first byte that the instruction at `rip` could not access, given an address in the page at fault.

    Returns `page_va` where no operand of the instruction explains the fault.
    """
    page = page_va & -PAGE
    if page <= rip < page + PAGE:
        return rip
    instruction = instruction_at(kernel, rip)
    if instruction is None:
        return page_va
    if rip + instruction.size > page >= rip:
        return page
    for address, size in _accesses(instruction, registers):
        if address < page + PAGE and address + max(size, 1) > page:
            return max(address, page)
    return page_va


def touches(kernel: Kernel, rip: int, address: int, registers: Sequence[int]) -> bool:
    """True when the instruction at `rip` may touch the byte at an address."""
    instruction = instruction_at(kernel, rip)
    if instruction is None:
        return address == rip
    return any(start <= address < start + max(size, 1) for start, size in _accesses(instruction, registers))


def follows_call(kernel: Kernel, rip: int) -> bool:
    """True when the bytes before `rip` are a call instruction, which makes `rip` look like a return address."""
    try:
        code = kernel.mem.read(rip - 7, 7)
    except PageFault:
        return False
    # call rel32; call [rip+disp32]; call register; call [register+disp8] and [register+disp32]
    return (
        code[2] == 0xE8
        or code[1:3] == b"\xff\x15"
        or (code[5] == 0xFF and code[6] & 0xF8 in (0xD0, 0x10))
        or (code[4] == 0xFF and code[5] & 0xF8 == 0x50)
        or (code[1] == 0xFF and code[2] & 0xF8 == 0x90)
    )


def _accesses(instruction: Any, registers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Addresses and sizes that an instruction may touch; not all of them need be touched."""
    for operand in instruction.operands:
        if operand.type == x86.X86_OP_MEM and instruction.id != x86.X86_INS_LEA:
            yield _effective(instruction, operand.mem, registers), operand.size
    rsp = registers[_RSP]
    if instruction.id in (x86.X86_INS_PUSH, x86.X86_INS_CALL, x86.X86_INS_PUSHFQ):
        yield (rsp - 8) & _MASK, 8
    elif instruction.id in (x86.X86_INS_POP, x86.X86_INS_RET, x86.X86_INS_POPFQ, x86.X86_INS_IRETQ):
        yield rsp, 8
    # capstone gives string instructions as memory operands; what repeats has advanced its registers already.
    if instruction.mnemonic.startswith(("rep", "movs", "stos", "lods", "cmps", "scas")):
        yield registers[_RSI], 8
        yield registers[_RDI], 8


def _effective(instruction: Any, memory: Any, registers: Sequence[int]) -> int:
    address = memory.disp
    if memory.base:
        name = instruction.reg_name(memory.base)
        address += instruction.address + instruction.size if name == "rip" else _value(name, registers)
    if memory.index:
        address += _value(instruction.reg_name(memory.index), registers) * memory.scale
    if memory.segment and instruction.reg_name(memory.segment) == "gs":
        address += PCR
    return int(address & _MASK)


def _value(name: str, registers: Sequence[int]) -> int:
    for (whole, half), value in zip(_NAMES, registers, strict=True):
        if name == whole:
            return value
        if name == half:
            return value & 0xFFFF_FFFF
    return 0
