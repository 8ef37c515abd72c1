"""The kernel's format engine, over a guest's variable arguments.

It follows "Format specification syntax: printf and wprintf functions" of Microsoft's C runtime documentation, with the
kernel's counted strings (%Z, %wZ) and without floating point, which DbgPrint's page excludes. A bad pointer faults as
it does on Windows: PageFault passes through.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vm.emulated.rtl import codepage

if TYPE_CHECKING:
    from vm.emulated.mm.memory import Memory

_SPECIFICATION = re.compile(
    r"%(?P<flags>[-+ #0]*)(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d*))?"
    r"(?P<size>hh|h|ll|l|I64|I32|I|w|z|t|j)?(?P<type>[diouxXpcCsSZ%])"
)
_WIDE_SIZES = ("l", "w", "ll")
_BITS = {"hh": 8, "h": 16, "ll": 64, "I64": 64, "I": 64, "z": 64, "t": 64, "j": 64}
"""Integers by size prefix; long and int have 32 bits."""
_MAXIMUM_STRING = 0x10000


@dataclass(frozen=True)
class Formatted:
    """What came out.

    Attributes:
        text: the output.
        wide_used: a conversion from or to UTF-16 took part, which Windows allows at PASSIVE_LEVEL only.
    """

    text: str
    wide_used: bool


def from_list(memory: Memory, pointer: int) -> Iterator[int]:
    """Arguments behind a va_list of the x64 convention: 8 bytes each."""
    while True:
        yield memory.u64(pointer)
        pointer += 8


def from_call(argument: Callable[[int], int], first: int) -> Iterator[int]:
    """Arguments of a variadic call from index `first`; `argument` reads one of them."""
    index = first
    while True:
        yield argument(index)
        index += 1


def render(memory: Memory, template: str, arguments: Iterator[int], *, wide: bool = False) -> Formatted:
    """Format.

    Args:
        memory: guest memory, where strings are.
        template: the format string. What is no valid specification in it is copied.
        arguments: the values, raw 64-bit words.
        wide: the function is one of the wide family, so that %s and %c take UTF-16 and %S and %C bytes.

    Raises:
        PageFault: a string argument cannot be read.
    """
    return _Engine(memory, arguments, wide).run(template)


class _Engine:
    def __init__(self, memory: Memory, arguments: Iterator[int], wide: bool) -> None:
        self._memory = memory
        self._arguments = arguments
        self._wide = wide
        self._wide_used = False

    def run(self, template: str) -> Formatted:
        return Formatted(_SPECIFICATION.sub(self._convert, template), self._wide_used)

    def _convert(self, match: re.Match[str]) -> str:
        if match["type"] == "%":
            return "%"
        flags = match["flags"]
        width = self._number(match["width"])
        if width is not None and width < 0:
            flags, width = flags + "-", -width
        precision = self._number(match["precision"])
        if precision is not None and precision < 0:
            precision = None
        kind, size = match["type"], match["size"] or ""
        if kind in "diouxX":
            sign, digits = self._integer(kind, size, flags, precision)
            zeros = "0" in flags and "-" not in flags and precision is None
        elif kind == "p":
            sign, digits, zeros = "", f"{next(self._arguments):016X}", False
        else:
            sign, digits, zeros = "", self._text(kind, size, precision), "0" in flags and "-" not in flags
        missing = (width or 0) - len(sign) - len(codepage.units(digits) if not digits.isascii() else digits)
        if missing <= 0:
            return sign + digits
        if "-" in flags:
            return sign + digits + " " * missing
        return sign + "0" * missing + digits if zeros else " " * missing + sign + digits

    def _number(self, text: str | None) -> int | None:
        if text is None:
            return None
        if text != "*":
            return int(text) if text else 0
        value = next(self._arguments) & 0xFFFFFFFF
        return value - (1 << 32) if value >> 31 else value

    def _integer(self, kind: str, size: str, flags: str, precision: int | None) -> tuple[str, str]:
        bits = _BITS.get(size, 32)
        value = next(self._arguments) & ((1 << bits) - 1)
        sign = ""
        if kind in "di":
            if value >> (bits - 1):
                value, sign = (1 << bits) - value, "-"
            else:
                sign = "+" if "+" in flags else " " if " " in flags else ""
        digits = format(value, {"o": "o", "x": "x", "X": "X"}.get(kind, "d"))
        if precision is not None:
            digits = "" if value == 0 and precision == 0 else digits.rjust(precision, "0")
        if "#" in flags:
            if kind == "o" and not digits.startswith("0"):
                digits = "0" + digits
            elif kind in "xX" and value:
                sign = "0" + kind
        return sign, digits

    def _is_wide(self, kind: str, size: str) -> bool:
        if size in _WIDE_SIZES:
            return True
        if size == "h":
            return False
        return self._wide if kind in "scZ" else not self._wide

    def _text(self, kind: str, size: str, precision: int | None) -> str:
        value = next(self._arguments)
        wide = self._is_wide(kind, size)
        self._wide_used = self._wide_used or (wide and not self._wide)
        if kind in "cC":
            return chr(value & 0xFFFF) if wide else codepage.decode(bytes([value & 0xFF]))
        limit = _MAXIMUM_STRING if precision is None else precision
        text = self._counted(value, wide, limit) if kind == "Z" else self._terminated(value, wide, limit)
        return "(null)"[:limit] if text is None else text

    def _counted(self, address: int, wide: bool, limit: int) -> str | None:
        if address == 0:
            return None
        buffer = self._memory.u64(address + 8)
        if buffer == 0:
            return None
        length = self._memory.u16(address)
        if wide:
            return codepage.from_wide(self._memory.read(buffer, min(length & ~1, limit * 2)))
        return codepage.decode(self._memory.read(buffer, min(length, limit)))

    def _terminated(self, address: int, wide: bool, limit: int) -> str | None:
        if address == 0:
            return None
        if wide:
            return self._memory.wide(address, limit)
        return codepage.decode(self._memory.ascii(address, limit).encode("latin-1"))
