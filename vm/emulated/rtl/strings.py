"""Counted strings that are converted, duplicated or matched (wdm.h, ntddk.h, ntifs.h).

What is called often is guest code (guest/strings.c). Each function's page on Microsoft Learn is its source.
"""

from __future__ import annotations

import re
import struct
import uuid
from typing import TYPE_CHECKING

from vm.emulated.exports import APC_LEVEL, PASSIVE_LEVEL, ExportTable
from vm.emulated.faults import Bugcheck
from vm.emulated.ntstatus import (
    STATUS_BUFFER_OVERFLOW,
    STATUS_BUFFER_TOO_SMALL,
    STATUS_INVALID_PARAMETER,
    STATUS_INVALID_PARAMETER_2,
    STATUS_NAME_TOO_LONG,
    STATUS_NO_MEMORY,
    STATUS_SUCCESS,
)
from vm.emulated.rtl import codepage, upcase
from vm.emulated.rtl.crt_format import digits_of

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

STRING_TAG = 0x67727453
"""'Strg', under which Rtl functions allocate buffers."""
MAXIMUM_STRING = 0xFFFF
_DUPLICATE_NUL = 1
_DUPLICATE_ALLOCATE_EMPTY = 2
_GUID = re.compile(r"\{[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}")


def units_of(data: bytes) -> tuple[int, ...]:
    """UTF-16 units of little-endian bytes."""
    return struct.unpack(f"<{len(data) // 2}H", data)


def bytes_of(kernel: Kernel, string: int) -> bytes:
    """Contents of a counted string."""
    length = kernel.mem.u16(string)
    return kernel.mem.read(kernel.mem.u64(string + 8), length) if length else b""


def recase(kernel: Kernel, string: int, table: tuple[int, ...]) -> bytes:
    """Contents of a counted string with each UTF-16 unit mapped through a table."""
    units = units_of(bytes_of(kernel, string))
    return struct.pack(f"<{len(units)}H", *(table[unit] for unit in units))


def store(kernel: Kernel, target: int, text: bytes, terminator: bytes, *, allocate: bool, too_small: int) -> int:
    """Put text into a counted string whose buffer is there, or is to be allocated from paged pool.

    Room for the terminator is required, as the pages of the Ansi and Unicode conversions say of MaximumLength.
    """
    size = len(text) + len(terminator)
    if len(text) > MAXIMUM_STRING - len(terminator):
        return STATUS_INVALID_PARAMETER_2
    if allocate:
        short = kernel.faults.memory_is_short("the allocation of a string")
        buffer = 0 if short else kernel.pool.allocate(max(size, 2), STRING_TAG, paged=True)
        if not buffer:
            return STATUS_NO_MEMORY
        kernel.mem.set_unicode_string(target, len(text), size, buffer)
    elif kernel.mem.u16(target + 2) < size:
        return too_small
    else:
        buffer = kernel.mem.u64(target + 8)
        kernel.mem.set_u16(target, len(text))
    if size:
        kernel.mem.write(buffer, text + terminator)
    return STATUS_SUCCESS


# Case


@EXPORTS.function("HostUpcaseAtRaisedIrql", args="ptr ptr")
def host_upcase_at_raised_irql(kernel: Kernel, table: int, caller: int) -> None:
    """A case-insensitive string function above APC_LEVEL: what a page fault on the case table brings.

    Source: the IRQL that the pages of RtlEqualUnicodeString, RtlCompareUnicodeString, RtlPrefixUnicodeString and
    RtlUpcaseUnicodeChar state, and "Bug Check 0xA".
    """
    raise Bugcheck(
        0xA,
        table,
        kernel.irql,
        0,
        caller,
        reason=f"case-insensitive string function called at IRQL {kernel.irql}; the table of cases is pageable",
    )


def _change_case(kernel: Kernel, target: int, source: int, allocate: bool, table: tuple[int, ...]) -> int:
    text = recase(kernel, source, table)
    if allocate:
        return store(kernel, target, text, b"", allocate=True, too_small=STATUS_BUFFER_OVERFLOW)
    if kernel.mem.u16(target + 2) < len(text):
        return STATUS_BUFFER_OVERFLOW
    if text:
        kernel.mem.write(kernel.mem.u64(target + 8), text)
    kernel.mem.set_u16(target, len(text))
    return STATUS_SUCCESS


@EXPORTS.function("RtlUpcaseUnicodeString", args="ptr ptr bool", irql=PASSIVE_LEVEL)
def rtl_upcase_unicode_string(kernel: Kernel, target: int, source: int, allocate: bool) -> int:
    """Microsoft Learn, RtlUpcaseUnicodeString: the result is not terminated."""
    return _change_case(kernel, target, source, allocate, upcase.table())


@EXPORTS.function("RtlDowncaseUnicodeString", args="ptr ptr bool", irql=PASSIVE_LEVEL)
def rtl_downcase_unicode_string(kernel: Kernel, target: int, source: int, allocate: bool) -> int:
    """Microsoft Learn, RtlDowncaseUnicodeString."""
    return _change_case(kernel, target, source, allocate, upcase.lower_table())


@EXPORTS.function("RtlDowncaseUnicodeChar", args="u16", irql=PASSIVE_LEVEL)
def rtl_downcase_unicode_char(_kernel: Kernel, unit: int) -> int:
    """Microsoft Learn, RtlDowncaseUnicodeChar."""
    return upcase.lower_table()[unit]


@EXPORTS.function("RtlUpperString", args="ptr ptr", irql=PASSIVE_LEVEL)
def rtl_upper_string(kernel: Kernel, target: int, source: int) -> None:
    """Microsoft Learn, RtlUpperString: as much as fits."""
    text = bytes_of(kernel, source).upper()[: kernel.mem.u16(target + 2)]
    if text:
        kernel.mem.write(kernel.mem.u64(target + 8), text)
    kernel.mem.set_u16(target, len(text))


# Life


@EXPORTS.function("RtlDuplicateUnicodeString", args="u32 ptr ptr", irql=APC_LEVEL)
def rtl_duplicate_unicode_string(kernel: Kernel, flags: int, source: int, target: int) -> int:
    """Microsoft Learn, RtlDuplicateUnicodeString (ntifs.h)."""
    if flags & ~3 or (flags & _DUPLICATE_ALLOCATE_EMPTY and not flags & _DUPLICATE_NUL) or not source or not target:
        return STATUS_INVALID_PARAMETER
    text = bytes_of(kernel, source)
    terminator = b"\0\0" if flags & _DUPLICATE_NUL else b""
    if not text and not flags & _DUPLICATE_ALLOCATE_EMPTY:
        kernel.mem.set_unicode_string(target, 0, 0, 0)
        return STATUS_SUCCESS
    if len(text) + len(terminator) > MAXIMUM_STRING:
        return STATUS_NAME_TOO_LONG
    return store(kernel, target, text, terminator, allocate=True, too_small=STATUS_NO_MEMORY)


@EXPORTS.function("RtlCreateUnicodeString", args="ptr ptr", irql=PASSIVE_LEVEL)
def rtl_create_unicode_string(kernel: Kernel, target: int, source: int) -> int:
    """Microsoft Learn, RtlCreateUnicodeString (ntifs.h): TRUE when the copy could be made."""
    text = codepage.wide(kernel.mem.wide(source))
    return int(store(kernel, target, text, b"\0\0", allocate=True, too_small=STATUS_NO_MEMORY) == STATUS_SUCCESS)


@EXPORTS.function("RtlFreeUnicodeString", "RtlFreeAnsiString", "RtlFreeOemString", args="ptr", irql=PASSIVE_LEVEL)
def rtl_free_string(kernel: Kernel, string: int) -> None:
    """Microsoft Learn, RtlFreeUnicodeString and RtlFreeAnsiString: the structure is zeroed."""
    buffer = kernel.mem.u64(string + 8)
    if buffer:
        kernel.pool.free(buffer)
        kernel.mem.set_unicode_string(string, 0, 0, 0)


@EXPORTS.function("RtlInitAnsiStringEx", args="ptr ptr")
def rtl_init_ansi_string_ex(kernel: Kernel, target: int, text: int) -> int:
    """Microsoft Learn, RtlInitAnsiStringEx (ntifs.h)."""
    length = len(kernel.mem.ascii(text, MAXIMUM_STRING)) if text else 0
    if length > MAXIMUM_STRING - 1:
        return STATUS_NAME_TOO_LONG
    kernel.mem.set_unicode_string(target, length, length + 1 if text else 0, text)
    return STATUS_SUCCESS


@EXPORTS.function("RtlValidateUnicodeString", args="u32 ptr", irql=PASSIVE_LEVEL)
def rtl_validate_unicode_string(kernel: Kernel, flags: int, string: int) -> int:
    """Exported for ntstrsafe.h's validation: lengths are even, in order, and nonzero ones have a buffer."""
    if flags:
        return STATUS_INVALID_PARAMETER
    if not string:
        return STATUS_SUCCESS
    length, maximum, buffer = kernel.mem.u16(string), kernel.mem.u16(string + 2), kernel.mem.u64(string + 8)
    valid = not length & 1 and not maximum & 1 and length <= maximum and (buffer or not maximum)
    return STATUS_SUCCESS if valid else STATUS_INVALID_PARAMETER


@EXPORTS.function("RtlAppendStringToString", args="ptr ptr")
def rtl_append_string_to_string(kernel: Kernel, target: int, source: int) -> int:
    """Microsoft Learn, RtlAppendStringToString (ntifs.h)."""
    return _append(kernel, target, bytes_of(kernel, source))


@EXPORTS.function("RtlAppendAsciizToString", args="ptr ptr")
def rtl_append_asciiz_to_string(kernel: Kernel, target: int, source: int) -> int:
    """Microsoft Learn, RtlAppendAsciizToString (ntifs.h)."""
    return _append(kernel, target, kernel.mem.ascii(source, 0x10000).encode("latin-1") if source else b"")


def _append(kernel: Kernel, target: int, text: bytes) -> int:
    length = kernel.mem.u16(target)
    if length + len(text) > kernel.mem.u16(target + 2):
        return STATUS_BUFFER_TOO_SMALL
    if text:
        kernel.mem.write(kernel.mem.u64(target + 8) + length, text)
    kernel.mem.set_u16(target, length + len(text))
    return STATUS_SUCCESS


# Numbers and GUIDs


@EXPORTS.function("RtlIntegerToUnicodeString", args="u32 u32 ptr", irql=PASSIVE_LEVEL)
def rtl_integer_to_unicode_string(kernel: Kernel, value: int, base: int, target: int) -> int:
    """Microsoft Learn, RtlIntegerToUnicodeString."""
    return _integer_to_string(kernel, value, base, target, 32)


@EXPORTS.function("RtlInt64ToUnicodeString", args="u64 u32 ptr", irql=PASSIVE_LEVEL)
def rtl_int64_to_unicode_string(kernel: Kernel, value: int, base: int, target: int) -> int:
    """Microsoft Learn, RtlInt64ToUnicodeString."""
    return _integer_to_string(kernel, value, base, target, 64)


def _integer_to_string(kernel: Kernel, value: int, base: int, target: int, bits: int) -> int:
    if base not in (0, 2, 8, 10, 16):
        return STATUS_INVALID_PARAMETER
    text = codepage.wide(digits_of(value, base or 10, bits, signed=False).upper())
    if kernel.mem.u16(target + 2) < len(text):
        return STATUS_BUFFER_OVERFLOW
    terminator = b"\0\0" if kernel.mem.u16(target + 2) >= len(text) + 2 else b""
    kernel.mem.write(kernel.mem.u64(target + 8), text + terminator)
    kernel.mem.set_u16(target, len(text))
    return STATUS_SUCCESS


def parse_integer(text: str, base: int) -> int | None:
    """A number as RtlUnicodeStringToInteger and RtlCharToInteger read it, None for a bad base.

    Leading blanks, a sign, and with base 0 the prefixes 0x, 0o and 0b; digits end at the first other character.
    """
    if base not in (0, 2, 8, 10, 16):
        return None
    text = text.lstrip("".join(map(chr, range(1, 33))))
    negative = text.startswith("-")
    if text[:1] in ("+", "-"):
        text = text[1:]
    if base == 0:
        base = {"0x": 16, "0o": 8, "0b": 2}.get(text[:2], 10)
        if base != 10:
            text = text[2:]
    value = 0
    for character in text:
        digit = "0123456789abcdef".find(character.lower()) if character.isascii() else -1
        if not 0 <= digit < base:
            break
        value = value * base + digit
    return (-value if negative else value) & 0xFFFFFFFF


@EXPORTS.function("RtlUnicodeStringToInteger", args="ptr u32 ptr", irql=PASSIVE_LEVEL)
def rtl_unicode_string_to_integer(kernel: Kernel, string: int, base: int, result: int) -> int:
    """Microsoft Learn, RtlUnicodeStringToInteger."""
    value = parse_integer(codepage.from_wide(bytes_of(kernel, string)), base)
    if value is None:
        return STATUS_INVALID_PARAMETER
    kernel.mem.set_u32(result, value)
    return STATUS_SUCCESS


@EXPORTS.function("RtlCharToInteger", args="ptr u32 ptr", irql=PASSIVE_LEVEL)
def rtl_char_to_integer(kernel: Kernel, text: int, base: int, result: int) -> int:
    """Microsoft Learn, RtlCharToInteger (ntifs.h)."""
    value = parse_integer(kernel.mem.ascii(text), base)
    if value is None:
        return STATUS_INVALID_PARAMETER
    kernel.mem.set_u32(result, value)
    return STATUS_SUCCESS


@EXPORTS.function("RtlStringFromGUID", args="ptr ptr", irql=PASSIVE_LEVEL)
def rtl_string_from_guid(kernel: Kernel, guid: int, target: int) -> int:
    """Microsoft Learn, RtlStringFromGUID: the caller frees the buffer with RtlFreeUnicodeString."""
    text = "{" + str(uuid.UUID(bytes_le=kernel.mem.read(guid, 16))).upper() + "}"
    return store(kernel, target, codepage.wide(text), b"\0\0", allocate=True, too_small=STATUS_NO_MEMORY)


@EXPORTS.function("RtlGUIDFromString", args="ptr ptr", irql=PASSIVE_LEVEL)
def rtl_guid_from_string(kernel: Kernel, string: int, result: int) -> int:
    """Microsoft Learn, RtlGUIDFromString: braces and hyphens are required."""
    text = codepage.from_wide(bytes_of(kernel, string))
    if not _GUID.fullmatch(text):
        return STATUS_INVALID_PARAMETER
    kernel.mem.write(result, uuid.UUID(text).bytes_le)
    return STATUS_SUCCESS


# Wildcards

_DOS_STAR, _DOS_QM, _DOS_DOT = "<", ">", '"'


def name_matches(expression: str, name: str) -> bool:
    """FsRtlIsNameInExpression on text whose case is settled (ntifs.h).

    `*` matches any run, `?` one character; DOS_STAR `<` any run up to and including the last period, DOS_QM `>` one
    character, or none at a period or the end, DOS_DOT `"` a period, or nothing at the end.
    """
    last_period = name.rfind(".")
    reached = {0}
    for symbol in expression:
        following: set[int] = set()
        for at in reached:
            character = name[at : at + 1]
            if symbol == "*":
                following.update(range(at, len(name) + 1))
            elif symbol == _DOS_STAR:
                end = last_period + 1 if last_period >= at else len(name)
                following.update(range(at, end + 1))
            elif symbol == _DOS_QM:
                following.add(at if character in ("", ".") else at + 1)
            elif symbol == _DOS_DOT:
                if character in ("", "."):
                    following.add(at + len(character))
            elif character and symbol in ("?", character):
                following.add(at + 1)
        reached = following
    return len(name) in reached


@EXPORTS.function("FsRtlIsNameInExpression", args="ptr ptr bool ptr", irql=PASSIVE_LEVEL)
def fs_rtl_is_name_in_expression(kernel: Kernel, expression: int, name: int, insensitive: bool, table: int) -> int:
    """Microsoft Learn, FsRtlIsNameInExpression (ntifs.h): the expression comes in upper case."""
    text = codepage.from_wide(bytes_of(kernel, name))
    if insensitive:
        if table:
            units = units_of(codepage.wide(text))
            text = "".join(chr(kernel.mem.u16(table + unit * 2)) for unit in units)
        else:
            text = upcase.upcase(text)
    pattern = "".join(codepage.units(codepage.from_wide(bytes_of(kernel, expression))))
    return int(name_matches(pattern, "".join(codepage.units(text))))


@EXPORTS.function("FsRtlDoesNameContainWildCards", args="ptr", irql=PASSIVE_LEVEL)
def fs_rtl_does_name_contain_wild_cards(kernel: Kernel, name: int) -> int:
    """Microsoft Learn, FsRtlDoesNameContainWildCards (ntifs.h)."""
    text = codepage.from_wide(bytes_of(kernel, name))
    return int(any(character in '*?<>"' for character in text))
