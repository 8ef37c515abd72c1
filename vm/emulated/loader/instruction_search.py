"""Finds the instructions of a driver that the CPU emulator gets wrong, so that they can be hooked.

Each candidate is found by its opcode bytes, which is fast, and confirmed by disassembling its function.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import capstone

if TYPE_CHECKING:
    from vm.emulated.loader.pe import DriverImage, Section

_SPECIAL_OPCODES: Final = re.compile(
    rb"\x0f(?:[\x20\x22][\xc0-\xff]|\x31|\x01[\xf9\xca\xcb]|\xc7[\xf0-\xff])", re.DOTALL
)
_SPECIAL_MNEMONICS: Final = frozenset({"rdtsc", "rdtscp", "rdrand", "rdseed", "stac", "clac"})


@dataclass(frozen=True)
class SpecialInstruction:
    """An instruction that the CPU emulator gets wrong: mov to and from cr8, rdtsc(p), rdrand, rdseed, stac, clac."""

    rva: int
    size: int
    mnemonic: str
    operands: str


def find_special_instructions(image: DriverImage) -> list[SpecialInstruction]:
    """The instructions to watch for in an image, ascending."""
    found = {}
    swept: set[tuple[int, int]] = set()
    disassembler = None
    for section in image.sections:
        if not section.execute:
            continue
        for match in _SPECIAL_OPCODES.finditer(image.mapped, section.rva, section.rva + section.size):
            span = _code_span(image, section, match.start())
            if span in swept:
                continue
            swept.add(span)
            if disassembler is None:
                disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
                disassembler.skipdata = True
            for address, size, mnemonic, operands in disassembler.disasm_lite(image.mapped[slice(*span)], span[0]):
                if mnemonic in _SPECIAL_MNEMONICS or (mnemonic == "mov" and "cr8" in operands):
                    found[address] = SpecialInstruction(address, size, mnemonic, operands)
    return [found[rva] for rva in sorted(found)]


def _code_span(image: DriverImage, section: Section, rva: int) -> tuple[int, int]:
    """The function around an address; for leaf functions, which have no entry, the gap between its neighbours."""
    begin, finish = section.rva, section.rva + section.size
    for start, end, _ in image.functions:
        if start <= rva < end:
            return start, end
        if end <= rva:
            begin = max(begin, end)
        elif start > rva:
            return begin, min(finish, start)
    return begin, finish
