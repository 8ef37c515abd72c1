"""Conversions between ANSI, OEM, UTF-8 and UTF-16 text (wdm.h, ntifs.h).

Both the ANSI and the OEM code page of this machine are Windows-1252. Each function's page on Microsoft Learn is its
source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vm.emulated.exports import PASSIVE_LEVEL, ExportTable
from vm.emulated.ntstatus import (
    STATUS_BUFFER_OVERFLOW,
    STATUS_BUFFER_TOO_SMALL,
    STATUS_SOME_NOT_MAPPED,
    STATUS_SUCCESS,
)
from vm.emulated.rtl import codepage, upcase
from vm.emulated.rtl.strings import bytes_of, recase, store

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()


@EXPORTS.function(
    "RtlAnsiStringToUnicodeString", "RtlOemStringToUnicodeString", args="ptr ptr bool", irql=PASSIVE_LEVEL
)
def rtl_ansi_string_to_unicode_string(kernel: Kernel, target: int, source: int, allocate: bool) -> int:
    """Microsoft Learn, RtlAnsiStringToUnicodeString."""
    text = codepage.wide(codepage.decode(bytes_of(kernel, source)))
    return store(kernel, target, text, b"\0\0", allocate=allocate, too_small=STATUS_BUFFER_OVERFLOW)


@EXPORTS.function(
    "RtlUnicodeStringToAnsiString", "RtlUnicodeStringToOemString", args="ptr ptr bool", irql=PASSIVE_LEVEL
)
def rtl_unicode_string_to_ansi_string(kernel: Kernel, target: int, source: int, allocate: bool) -> int:
    """Microsoft Learn, RtlUnicodeStringToAnsiString."""
    text = codepage.encode(codepage.from_wide(bytes_of(kernel, source)))
    return store(kernel, target, text, b"\0", allocate=allocate, too_small=STATUS_BUFFER_OVERFLOW)


@EXPORTS.function(
    "RtlUpcaseUnicodeStringToAnsiString", "RtlUpcaseUnicodeStringToOemString", args="ptr ptr bool", irql=PASSIVE_LEVEL
)
def rtl_upcase_unicode_string_to_ansi_string(kernel: Kernel, target: int, source: int, allocate: bool) -> int:
    """Microsoft Learn, RtlUpcaseUnicodeStringToOemString (ntifs.h)."""
    text = codepage.encode(codepage.from_wide(recase(kernel, source, upcase.table())))
    return store(kernel, target, text, b"\0", allocate=allocate, too_small=STATUS_BUFFER_OVERFLOW)


@EXPORTS.function(
    "RtlxUnicodeStringToAnsiSize",
    "RtlUnicodeStringToAnsiSize",
    "RtlxUnicodeStringToOemSize",
    "RtlUnicodeStringToOemSize",
    args="ptr",
    irql=PASSIVE_LEVEL,
)
def rtl_unicode_string_to_ansi_size(kernel: Kernel, string: int) -> int:
    """Microsoft Learn, RtlUnicodeStringToAnsiSize: with the terminator; the code page has single bytes."""
    return kernel.mem.u16(string) // 2 + 1


@EXPORTS.function(
    "RtlxAnsiStringToUnicodeSize",
    "RtlAnsiStringToUnicodeSize",
    "RtlxOemStringToUnicodeSize",
    "RtlOemStringToUnicodeSize",
    args="ptr",
    irql=PASSIVE_LEVEL,
)
def rtl_ansi_string_to_unicode_size(kernel: Kernel, string: int) -> int:
    """Microsoft Learn, RtlAnsiStringToUnicodeSize: with the terminator."""
    return kernel.mem.u16(string) * 2 + 2


def _deliver(kernel: Kernel, target: int, room: int, stored: int, text: bytes, unit: int) -> int:
    kept = text[: room // unit * unit]
    if kept:
        kernel.mem.write(target, kept)
    if stored:
        kernel.mem.set_u32(stored, len(kept))
    return STATUS_SUCCESS if len(kept) == len(text) else STATUS_BUFFER_OVERFLOW


@EXPORTS.function("RtlMultiByteToUnicodeN", "RtlOemToUnicodeN", args="ptr u32 ptr ptr u32", irql=PASSIVE_LEVEL)
def rtl_multi_byte_to_unicode_n(kernel: Kernel, target: int, room: int, stored: int, source: int, size: int) -> int:
    """Microsoft Learn, RtlMultiByteToUnicodeN (ntifs.h)."""
    text = codepage.wide(codepage.decode(kernel.mem.read(source, size)))
    _deliver(kernel, target, room, stored, text, 2)
    return STATUS_SUCCESS


@EXPORTS.function("RtlUnicodeToMultiByteN", "RtlUnicodeToOemN", args="ptr u32 ptr ptr u32", irql=PASSIVE_LEVEL)
def rtl_unicode_to_multi_byte_n(kernel: Kernel, target: int, room: int, stored: int, source: int, size: int) -> int:
    """Microsoft Learn, RtlUnicodeToMultiByteN (ntifs.h)."""
    text = codepage.encode(codepage.from_wide(kernel.mem.read(source, size)))
    _deliver(kernel, target, room, stored, text, 1)
    return STATUS_SUCCESS


@EXPORTS.function("RtlMultiByteToUnicodeSize", args="ptr ptr u32", irql=PASSIVE_LEVEL)
def rtl_multi_byte_to_unicode_size(kernel: Kernel, result: int, _source: int, size: int) -> int:
    """Microsoft Learn, RtlMultiByteToUnicodeSize (ntifs.h)."""
    kernel.mem.set_u32(result, size * 2)
    return STATUS_SUCCESS


@EXPORTS.function("RtlUnicodeToMultiByteSize", args="ptr ptr u32", irql=PASSIVE_LEVEL)
def rtl_unicode_to_multi_byte_size(kernel: Kernel, result: int, _source: int, size: int) -> int:
    """Microsoft Learn, RtlUnicodeToMultiByteSize (ntifs.h)."""
    kernel.mem.set_u32(result, size // 2)
    return STATUS_SUCCESS


@EXPORTS.function("RtlUTF8ToUnicodeN", args="ptr u32 ptr ptr u32", irql=PASSIVE_LEVEL)
def rtl_utf8_to_unicode_n(kernel: Kernel, target: int, room: int, stored: int, source: int, size: int) -> int:
    """Microsoft Learn, RtlUTF8ToUnicodeN: bytes that are no UTF-8 become U+FFFD and STATUS_SOME_NOT_MAPPED.

    Without a target only the size is answered.
    """
    raw = kernel.mem.read(source, size)
    text = raw.decode("utf-8", "replace")
    return _unicode_answer(kernel, target, room, stored, codepage.wide(text), 2, text.encode() == raw)


@EXPORTS.function("RtlUnicodeToUTF8N", args="ptr u32 ptr ptr u32", irql=PASSIVE_LEVEL)
def rtl_unicode_to_utf8_n(kernel: Kernel, target: int, room: int, stored: int, source: int, size: int) -> int:
    """Microsoft Learn, RtlUnicodeToUTF8N: lone surrogates become U+FFFD and STATUS_SOME_NOT_MAPPED."""
    raw = kernel.mem.read(source, size & ~1)
    text = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in codepage.from_wide(raw))
    return _unicode_answer(kernel, target, room, stored, text.encode(), 1, codepage.wide(text) == raw)


def _unicode_answer(kernel: Kernel, target: int, room: int, stored: int, text: bytes, unit: int, exact: bool) -> int:
    mapped = STATUS_SUCCESS if exact else STATUS_SOME_NOT_MAPPED
    if not target:
        kernel.mem.set_u32(stored, len(text))
        return mapped
    kept = text[: room // unit * unit]
    if len(kept) < len(text):
        kept = _whole_characters(kept, unit)
    if kept:
        kernel.mem.write(target, kept)
    if stored:
        kernel.mem.set_u32(stored, len(kept))
    return mapped if len(kept) == len(text) else STATUS_BUFFER_TOO_SMALL


def _whole_characters(cut: bytes, unit: int) -> bytes:
    """A cut text without the part of a character at its end."""
    if unit == 2:
        high = cut[-2:] and 0xD8 <= cut[-1] <= 0xDB
        return cut[:-2] if high else cut
    return cut.decode("utf-8", "ignore").encode()
