"""Reads the headers and section table of an x64 PE file, bounds-checked: what loader and symbol reader share.

Formats and field names are those of "PE Format" (Microsoft Learn) and winnt.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from vm.emulated.layout import PAGE
from vm.errors import MachineConfigurationError

MACHINE_AMD64: Final = 0x8664
MACHINE_NAMES: Final = {0x14C: "32-bit x86", 0xAA64: "ARM64", 0x1C4: "32-bit ARM", 0x200: "Itanium", 0xA641: "ARM64EC"}
MAXIMUM_SECTIONS: Final = 96
"""What the Windows loader accepts (PE Format, NumberOfSections)."""
SECTOR: Final = 0x200


class BadImage(MachineConfigurationError):
    """A file that cannot be a driver of this machine; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class RawSection:
    """A section header as the file has it; `data` holds the initialised bytes."""

    name: str
    virtual_size: int
    rva: int
    data: bytes
    characteristics: int


class Reader:
    """Bounds-checked access to the file's bytes."""

    def __init__(self, data: bytes, file: str) -> None:
        self.data = data
        self.file = file

    def bad(self, what: str, fix: str = "rebuild the driver or copy the file again") -> BadImage:
        """The error to raise."""
        return BadImage(f"{self.file}: {what}; {fix}")

    def slice(self, offset: int, size: int, what: str) -> bytes:
        """Bytes that must be there. Raises BadImage."""
        if offset < 0 or size < 0 or offset + size > len(self.data):
            raise self.bad(
                f"the file is truncated: {what} needs {offset + size:,} bytes, the file has {len(self.data):,}"
            )
        return self.data[offset : offset + size]

    def unpack(self, format_: str, offset: int, what: str) -> tuple[int, ...]:
        """Integers that must be there. Raises BadImage."""
        return struct.unpack(format_, self.slice(offset, struct.calcsize(format_), what))


@dataclass(frozen=True)
class Headers:
    """What the file and optional headers say."""

    machine: int
    section_count: int
    section_table: int
    characteristics: int
    symbol_table: int
    symbol_count: int
    entry: int
    image_base: int
    section_alignment: int
    size_of_image: int
    size_of_headers: int
    checksum_offset: int
    checksum: int
    subsystem: int
    dll_characteristics: int
    directories: tuple[tuple[int, int], ...]


def read_headers(reader: Reader) -> Headers:
    """Headers of an x64 PE file. Raises BadImage."""
    data = reader.data
    if len(data) < 0x40 or data[:2] != b"MZ":
        raise reader.bad("not a PE image: it does not start with an MZ header", "name a compiled driver (.sys)")
    (pe,) = reader.unpack("<I", 0x3C, "the DOS header")
    if pe % 4 or reader.slice(pe, 4, "the PE header") != b"PE\0\0":
        raise reader.bad("not a PE image: no PE signature where the DOS header points", "name a compiled driver (.sys)")
    machine, sections, _stamp, symbols, symbol_count, optional_size, characteristics = reader.unpack(
        "<HHIIIHH", pe + 4, "the file header"
    )
    if machine != MACHINE_AMD64:
        name = MACHINE_NAMES.get(machine, f"machine type 0x{machine:04X}")
        raise reader.bad(f"built for another architecture ({name})", "build the driver for x64 (AMD64)")
    optional = pe + 24
    (magic,) = reader.unpack("<H", optional, "the optional header")
    if magic != 0x20B or optional_size < 112:
        raise reader.bad(f"not a PE32+ image (optional header magic 0x{magic:X}, {optional_size} bytes)")
    (entry,) = reader.unpack("<I", optional + 16, "the optional header")
    base, section_alignment, file_alignment = reader.unpack("<QII", optional + 24, "the optional header")
    size_of_image, size_of_headers, checksum, subsystem, dll = reader.unpack(
        "<IIIHH", optional + 56, "the optional header"
    )
    (count,) = reader.unpack("<I", optional + 108, "the optional header")
    count = min(count, 16, (optional_size - 112) // 8)
    flat = reader.unpack(f"<{count * 2}I", optional + 112, "the data directories")
    directories = tuple(zip(flat[::2], flat[1::2], strict=True)) + ((0, 0),) * (16 - count)
    if not 1 <= sections <= MAXIMUM_SECTIONS:
        raise reader.bad(f"{sections} sections, where a driver has 1 to {MAXIMUM_SECTIONS}")
    power = section_alignment & (section_alignment - 1) == 0 and file_alignment & (file_alignment - 1) == 0
    if not power or not 0 < file_alignment <= section_alignment <= 0x20_0000:
        raise reader.bad(f"bad alignment (sections 0x{section_alignment:X}, file 0x{file_alignment:X})")
    if base % 0x10000:
        raise reader.bad(f"image base 0x{base:X} is not a multiple of 64 KiB")
    return Headers(
        machine, sections, optional + optional_size, characteristics, symbols, symbol_count, entry, base,
        section_alignment, size_of_image, size_of_headers, optional + 64, checksum, subsystem, dll, directories,
    )  # fmt: skip


def read_sections(reader: Reader, headers: Headers) -> list[RawSection]:
    """Section headers with their initialised bytes, long names (``/123``) resolved. Raises BadImage."""
    sections = []
    strings = headers.symbol_table + 18 * headers.symbol_count if headers.symbol_table else 0
    for index in range(headers.section_count):
        at = headers.section_table + 40 * index
        raw_name = reader.slice(at, 8, "the section table").rstrip(b"\0")
        virtual_size, rva, raw_size, raw_offset = reader.unpack("<IIII", at + 8, "the section table")
        (characteristics,) = reader.unpack("<I", at + 36, "the section table")
        name = raw_name.decode("latin-1")
        if strings and name.startswith("/") and name[1:].isdigit():
            start = strings + int(name[1:])
            name = reader.data[start : start + 256].split(b"\0", 1)[0].decode("latin-1") or name
        data = b""
        if raw_size and raw_offset:
            if headers.section_alignment >= PAGE:
                raw_offset &= ~(SECTOR - 1)
            data = reader.slice(raw_offset, raw_size, f"section {name!r}")
        sections.append(RawSection(name, virtual_size or raw_size, rva, data, characteristics))
    return sections
