"""The kernel's case mapping of UTF-16 units: one table, shared by host code and by the guest part of the kernel.

NT upcases each UTF-16 unit by itself, by a table of its own, so surrogate pairs and characters whose upper case is
longer than one unit stay as they are. The table here is computed from Python's character data and kept to what the
recommended up-case table of Microsoft's exFAT specification shows of Windows: Unicode 5.0, and no mapping that merges
a letter with another letter's pair (dotless i, long s, the micro sign), except the final sigma.
"""

from __future__ import annotations

import struct
from functools import cache

_SIGMA = 0x03C2
_CASED = ((0x0061, 0x058F), (0x1D00, 0x24FF), (0x2C00, 0x2DFF), (0xFF41, 0xFF5A))
"""The ranges that hold every lower-case letter with a pair in Unicode 5.0."""
_LATER_SOURCES = ((0x2C2F, 0x2C2F), (0x2C5F, 0x2C5F))
_LATER_TARGETS = ((0x2C6D, 0x2C74), (0x2C7E, 0x2C7F), (0xA640, 0xABFF), (0x1C90, 0x1CBF))
"""Ranges that became case pairs after Unicode 5.0."""


def _within(value: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= value <= last for first, last in ranges)


def _upcase(unit: int) -> int:
    character = chr(unit)
    upper = character.upper()
    if upper == character or _within(unit, _LATER_SOURCES):
        return unit
    if len(upper) != 1:
        upper = character.title()
    if len(upper) != 1 or ord(upper) > 0xFFFF or _within(ord(upper), _LATER_TARGETS):
        return unit
    if upper.lower() != character and unit != _SIGMA:
        return unit
    return ord(upper)


@cache
def table() -> tuple[int, ...]:
    """Upper case of each of the 65,536 UTF-16 units."""
    upper = list(range(0x10000))
    for first, last in _CASED:
        for unit in range(first, last + 1):
            upper[unit] = _upcase(unit)
    return tuple(upper)


@cache
def lower_table() -> tuple[int, ...]:
    """Lower case of each UTF-16 unit: the inverse of `table`."""
    lower = list(range(0x10000))
    for unit, upper in enumerate(table()):
        if unit not in (upper, _SIGMA):
            lower[upper] = unit
    return tuple(lower)


@cache
def table_bytes() -> bytes:
    """`table` as the guest's NtUpcaseTable: 65,536 little-endian words."""
    return struct.pack("<65536H", *table())


def upcase(text: str) -> str:
    """Upper case of a text, unit by unit; lone surrogates are kept."""
    raw = text.encode("utf-16-le", "surrogatepass")
    upper = table()
    units = (upper[unit] for unit in struct.unpack(f"<{len(raw) // 2}H", raw))
    return struct.pack(f"<{len(raw) // 2}H", *units).decode("utf-16-le", "surrogatepass")
