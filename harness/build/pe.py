"""Reads PE32+ images: headers, sections, imports, debug references, checksum.

The layout is that of the Microsoft "PE Format" specification and of winnt.h. Everything read from a file is bounded
before it is used, so a malformed file ends in an `ImageError` that says what is wrong and at which offset.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MACHINE_AMD64: Final = 0x8664
MACHINE_ARM64: Final = 0xAA64
MACHINE_NAMES: Final[Mapping[int, str]] = {
    0x014C: "x86 (0x14C)",
    0x01C4: "Arm Thumb-2 (0x1C4)",
    0x8664: "x64 (0x8664)",
    0xAA64: "Arm64 (0xAA64)",
}
X64_ONLY: Final = frozenset({MACHINE_AMD64})
ALL_64_BIT: Final = frozenset({MACHINE_AMD64, MACHINE_ARM64})
PE32_PLUS_MAGIC: Final = 0x20B
SUBSYSTEM_NATIVE: Final = 1

DLLCHARACTERISTICS_HIGH_ENTROPY_VA: Final = 0x0020
DLLCHARACTERISTICS_DYNAMIC_BASE: Final = 0x0040
DLLCHARACTERISTICS_FORCE_INTEGRITY: Final = 0x0080
DLLCHARACTERISTICS_NX_COMPAT: Final = 0x0100
DLLCHARACTERISTICS_GUARD_CF: Final = 0x4000

SCN_MEM_DISCARDABLE: Final = 0x02000000
SCN_MEM_EXECUTE: Final = 0x20000000
SCN_MEM_READ: Final = 0x40000000
SCN_MEM_WRITE: Final = 0x80000000

DIRECTORY_IMPORT: Final = 1
DIRECTORY_RESOURCE: Final = 2
DIRECTORY_EXCEPTION: Final = 3
DIRECTORY_SECURITY: Final = 4
DIRECTORY_BASERELOC: Final = 5
DIRECTORY_DEBUG: Final = 6
DIRECTORY_LOAD_CONFIG: Final = 10
DIRECTORY_IAT: Final = 12

DEBUG_TYPE_CODEVIEW: Final = 2
DEBUG_TYPE_REPRO: Final = 16
LOAD_CONFIG_SECURITY_COOKIE_OFFSET: Final = 88
"""Offset of SecurityCookie in IMAGE_LOAD_CONFIG_DIRECTORY64 (winnt.h)."""

_FILE_HEADER_SIZE: Final = 20
_OPTIONAL_HEADER_FIXED_SIZE: Final = 112
SECTION_HEADER_SIZE: Final = 40
_CHECKSUM_FIELD: Final = 64
_DIRECTORY_ENTRY_SIZE: Final = 8
_MAXIMUM_SECTIONS: Final = 96
_MAXIMUM_DIRECTORIES: Final = 16
_MAXIMUM_NAME: Final = 4096
_MAXIMUM_IMPORTS: Final = 16384
_MAXIMUM_MODULES: Final = 1024
_MAXIMUM_DEBUG_ENTRIES: Final = 64
_DEBUG_ENTRY_SIZE: Final = 28
_ORDINAL_FLAG: Final = 1 << 63


@dataclass(frozen=True)
class Section:
    """One section header, with its name resolved through the string table where it is a long one."""

    name: str
    virtual_size: int
    rva: int
    raw_size: int
    raw_offset: int
    characteristics: int

    @property
    def extent(self) -> int:
        """Bytes of address space that the section takes, before alignment."""
        return max(self.virtual_size, self.raw_size)

    @property
    def writable(self) -> bool:
        """True when the section is mapped with write access."""
        return bool(self.characteristics & SCN_MEM_WRITE)

    @property
    def executable(self) -> bool:
        """True when the section is mapped with execute access."""
        return bool(self.characteristics & SCN_MEM_EXECUTE)


@dataclass(frozen=True)
class Import:
    """One imported function: by name, or ``#n`` for an ordinal."""

    module: str
    name: str


@dataclass(frozen=True)
class Image:
    """A parsed PE32+ image."""

    data: bytes
    machine: int
    header_offset: int
    timestamp: int
    characteristics: int
    entry_rva: int
    image_base: int
    section_alignment: int
    file_alignment: int
    size_of_image: int
    size_of_headers: int
    checksum: int
    subsystem: int
    dll_characteristics: int
    directories: tuple[tuple[int, int], ...]
    sections: tuple[Section, ...]

    @property
    def optional_header_offset(self) -> int:
        """File offset of IMAGE_OPTIONAL_HEADER64."""
        return self.header_offset + 4 + _FILE_HEADER_SIZE

    @property
    def checksum_offset(self) -> int:
        """File offset of the CheckSum field."""
        return self.optional_header_offset + _CHECKSUM_FIELD

    def directory_offset(self, index: int) -> int:
        """File offset of one data directory entry."""
        return self.optional_header_offset + _OPTIONAL_HEADER_FIXED_SIZE + index * _DIRECTORY_ENTRY_SIZE

    @property
    def section_table_offset(self) -> int:
        """File offset of the first section header."""
        (optional_size,) = struct.unpack_from("<H", self.data, self.header_offset + 20)
        return self.optional_header_offset + int(optional_size)

    def directory(self, index: int) -> tuple[int, int]:
        """Address and size of a data directory; (0, 0) when the image has no such entry."""
        return self.directories[index] if index < len(self.directories) else (0, 0)

    @property
    def certificate_table(self) -> tuple[int, int]:
        """File offset and size of the attribute certificate table; (0, 0) when unsigned.

        Raises:
            ImageError: the table lies outside the file or inside its headers.
        """
        offset, size = self.directory(DIRECTORY_SECURITY)
        if not offset and not size:
            return (0, 0)
        if offset < self.size_of_headers or offset + size > len(self.data):
            message = f"the certificate table at offset 0x{offset:X}, 0x{size:X} bytes, lies outside the file"
            raise ImageError(message)
        return (offset, size)

    def section_at(self, rva: int) -> Section | None:
        """The section that holds an RVA."""
        return next((s for s in self.sections if s.rva <= rva < s.rva + s.extent), None)

    def read(self, rva: int, size: int, what: str) -> bytes:
        """Bytes of the mapped image that the file initialises; `what` names them in the error.

        Raises:
            ImageError: the range is not inside the headers or one section's data.
        """
        if rva >= 0 and rva + size <= min(self.size_of_headers, len(self.data)):
            return self.data[rva : rva + size]
        section = self.section_at(rva)
        if section is None or rva - section.rva + size > section.raw_size:
            message = f"{what} at RVA 0x{rva:X}, 0x{size:X} bytes, lies outside the image's initialised data"
            raise ImageError(message)
        start = section.raw_offset + rva - section.rva
        return self.data[start : start + size]

    def string(self, rva: int, what: str) -> str:
        """A NUL-terminated ASCII string of the mapped image.

        Raises:
            ImageError: it is not terminated, or is not ASCII.
        """
        section = self.section_at(rva)
        if section is None or rva - section.rva >= section.raw_size:
            message = f"{what} at RVA 0x{rva:X} lies outside the image's initialised data"
            raise ImageError(message)
        start = section.raw_offset + rva - section.rva
        limit = min(section.raw_offset + section.raw_size, start + _MAXIMUM_NAME)
        end = self.data.find(b"\0", start, limit)
        if end < 0:
            message = f"{what} at RVA 0x{rva:X} is not terminated"
            raise ImageError(message)
        try:
            return self.data[start:end].decode("ascii")
        except UnicodeDecodeError:
            message = f"{what} at RVA 0x{rva:X} is not ASCII"
            raise ImageError(message) from None

    def imports(self) -> list[Import]:
        """Every imported function, in the order of the import tables.

        Raises:
            ImageError: a table or a name lies outside the image.
        """
        rva, size = self.directory(DIRECTORY_IMPORT)
        found: list[Import] = []
        if not rva:
            return found
        for number, position in enumerate(range(rva, rva + max(size, 20), 20)):
            fields = struct.unpack("<5I", self.read(position, 20, "an import descriptor"))
            if not fields[3]:
                break
            # A module of which nothing is imported counts as well: a large file has room for millions.
            if number == _MAXIMUM_MODULES:
                message = f"the image imports from more than {_MAXIMUM_MODULES} modules"
                raise ImageError(message)
            module = self.string(fields[3], "the name of an imported module")
            for name in self._thunk_names(fields[0] or fields[4], module):
                # Descriptors of a malformed image may share tables, which multiplies the work.
                if len(found) == _MAXIMUM_IMPORTS:
                    message = f"the image imports more than {_MAXIMUM_IMPORTS} functions"
                    raise ImageError(message)
                found.append(Import(module, name))
        return found

    def _thunk_names(self, rva: int, module: str) -> Iterator[str]:
        what = f"the import table of {module}"
        while True:
            (thunk,) = struct.unpack("<Q", self.read(rva, 8, what))
            if not thunk:
                return
            if thunk & _ORDINAL_FLAG:
                yield f"#{thunk & 0xFFFF}"
            else:
                yield self.string((thunk & 0x7FFFFFFF) + 2, f"the name of an import from {module}")
            rva += 8

    def debug_entries(self) -> Iterator[tuple[int, int, int]]:
        """Type, size and file offset of each entry of the debug directory.

        Raises:
            ImageError: the debug directory lies outside the file, or has more entries than any linker writes.
        """
        rva, size = self.directory(DIRECTORY_DEBUG)
        if size > _MAXIMUM_DEBUG_ENTRIES * _DEBUG_ENTRY_SIZE:
            message = f"the debug directory has 0x{size:X} bytes, more than any linker writes"
            raise ImageError(message)
        for position in range(rva, rva + size - size % _DEBUG_ENTRY_SIZE, _DEBUG_ENTRY_SIZE):
            entry = self.read(position, _DEBUG_ENTRY_SIZE, "a debug directory entry")
            kind, length, _, offset = struct.unpack_from("<4I", entry, 12)
            yield kind, length, offset

    def pdb_references(self) -> list[str]:
        """Paths of the PDB files that the debug directory names (CodeView RSDS records).

        Raises:
            ImageError: the debug directory or a record lies outside the file.
        """
        paths: list[str] = []
        for kind, length, offset in self.debug_entries():
            if kind != DEBUG_TYPE_CODEVIEW:
                continue
            if offset + length > len(self.data):
                message = f"the CodeView record at offset 0x{offset:X}, 0x{length:X} bytes, lies outside the file"
                raise ImageError(message)
            record = self.data[offset : offset + min(length, 24 + _MAXIMUM_NAME)]
            if record[:4] == b"RSDS":
                paths.append(record[24:].partition(b"\0")[0].decode("utf-8", "replace"))
        return paths

    def security_cookie_rva(self) -> int | None:
        """RVA of the /GS cookie that the load configuration names, None where there is none.

        Raises:
            ImageError: the load configuration or the cookie's address lies outside the image.
        """
        rva, _ = self.directory(DIRECTORY_LOAD_CONFIG)
        if not rva:
            return None
        (size,) = struct.unpack("<I", self.read(rva, 4, "the load configuration"))
        if size < LOAD_CONFIG_SECURITY_COOKIE_OFFSET + 8:
            return None
        field = self.read(rva + LOAD_CONFIG_SECURITY_COOKIE_OFFSET, 8, "the security cookie's address")
        (address,) = struct.unpack("<Q", field)
        if not address:
            return None
        if not self.image_base <= address < self.image_base + self.size_of_image:
            message = f"the security cookie's address 0x{address:X} lies outside the image"
            raise ImageError(message)
        return int(address) - self.image_base

    def computed_checksum(self) -> int:
        """The PE checksum of the file as it is (ImageHlp's CheckSumMappedFile)."""
        return compute_checksum(self.data, self.checksum_offset)


def compute_checksum(data: bytes, checksum_offset: int) -> int:
    """Sum of the file's 16-bit words with end-around carry, the checksum field taken as zero, plus the length."""
    blank = bytearray(data)
    blank[checksum_offset : checksum_offset + 4] = bytes(4)
    # Folding 16-bit words with end-around carry is arithmetic modulo 0xFFFF, where only a file of zeros gives zero; one
    # large number is summed in no more memory than the file has.
    number = int.from_bytes(blank, "little")
    total = number % 0xFFFF or (0xFFFF if number else 0)
    return total + len(data)


def with_checksum(data: bytes) -> bytes:
    """The same image with its CheckSum field corrected. Raises ImageError for what is not an image."""
    image = parse(data, ALL_64_BIT)
    edited = bytearray(data)
    struct.pack_into("<I", edited, image.checksum_offset, image.computed_checksum())
    return bytes(edited)


def load(path: Path, machines: frozenset[int] = X64_ONLY) -> Image:
    """Read and parse an image file.

    Args:
        path: the file.
        machines: the architectures that are accepted.

    Raises:
        ImageError: the file cannot be read, or is no PE32+ image for such a machine; the message starts with the path.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"{path}: cannot be read: {error.strerror}"
        raise ImageError(message) from error
    try:
        return parse(data, machines)
    except ImageError as error:
        message = f"{path}: {error}"
        raise ImageError(message) from None


def parse(data: bytes, machines: frozenset[int] = X64_ONLY) -> Image:
    """Parse the headers and section table of a PE32+ image, for x64 unless other architectures are named.

    Raises:
        ImageError: not a PE, truncated, another architecture, or headers that contradict each other.
    """
    header = _find_header(data)
    machine, count, timestamp, _, _, optional_size, characteristics = struct.unpack_from("<HHIIIHH", data, header + 4)
    if machine not in machines:
        name = MACHINE_NAMES.get(machine, f"machine 0x{machine:X}")
        message = f"the image is for {name}; a driver for x64 (0x8664) was expected"
        raise ImageError(message)
    if count > _MAXIMUM_SECTIONS:
        message = f"the header counts {count} sections; Windows accepts at most {_MAXIMUM_SECTIONS}"
        raise ImageError(message)
    optional = header + 4 + _FILE_HEADER_SIZE
    if optional_size < _OPTIONAL_HEADER_FIXED_SIZE or optional + optional_size > len(data):
        message = f"the optional header at offset 0x{optional:X} is truncated"
        raise ImageError(message)
    (magic,) = struct.unpack_from("<H", data, optional)
    if magic != PE32_PLUS_MAGIC:
        message = f"the optional header has magic 0x{magic:X}; a 64-bit image has 0x{PE32_PLUS_MAGIC:X} (PE32+)"
        raise ImageError(message)
    (entry_rva,) = struct.unpack_from("<I", data, optional + 16)
    image_base, section_alignment, file_alignment = struct.unpack_from("<QII", data, optional + 24)
    size_of_image, size_of_headers, checksum = struct.unpack_from("<III", data, optional + 56)
    subsystem, dll_characteristics = struct.unpack_from("<HH", data, optional + 68)
    if not 0 < size_of_headers <= len(data):
        message = f"the headers claim 0x{size_of_headers:X} bytes of a file of 0x{len(data):X}"
        raise ImageError(message)
    table = optional + optional_size
    if table + count * SECTION_HEADER_SIZE > len(data):
        message = f"the section table at offset 0x{table:X} is truncated"
        raise ImageError(message)
    return Image(
        data=data,
        machine=machine,
        header_offset=header,
        timestamp=timestamp,
        characteristics=characteristics,
        entry_rva=entry_rva,
        image_base=image_base,
        section_alignment=section_alignment,
        file_alignment=file_alignment,
        size_of_image=size_of_image,
        size_of_headers=size_of_headers,
        checksum=checksum,
        subsystem=subsystem,
        dll_characteristics=dll_characteristics,
        directories=_directories(data, optional, optional_size),
        sections=_sections(data, table, count, _string_table(data, header)),
    )


def _find_header(data: bytes) -> int:
    if data[:2] != b"MZ":
        message = "not a PE image: the file does not start with MZ"
        raise ImageError(message)
    if len(data) < 64:
        message = f"not a PE image: the file ends after {len(data)} bytes, inside the DOS header"
        raise ImageError(message)
    (header,) = struct.unpack_from("<I", data, 0x3C)
    if header + 4 + _FILE_HEADER_SIZE > len(data):
        message = f"the PE header at offset 0x{header:X} lies outside the file"
        raise ImageError(message)
    if data[header : header + 4] != b"PE\0\0":
        message = f"not a PE image: no PE signature at offset 0x{header:X}"
        raise ImageError(message)
    return int(header)


def _directories(data: bytes, optional: int, optional_size: int) -> tuple[tuple[int, int], ...]:
    (count,) = struct.unpack_from("<I", data, optional + 108)
    if count > _MAXIMUM_DIRECTORIES or _OPTIONAL_HEADER_FIXED_SIZE + count * _DIRECTORY_ENTRY_SIZE > optional_size:
        message = f"the optional header counts {count} data directories, more than it has room for"
        raise ImageError(message)
    start = optional + _OPTIONAL_HEADER_FIXED_SIZE
    return tuple(struct.unpack_from("<II", data, start + i * _DIRECTORY_ENTRY_SIZE) for i in range(count))


def _string_table(data: bytes, header: int) -> bytes:
    """The COFF string table, empty where the image has none: linkers put names longer than eight bytes there."""
    pointer, symbols = struct.unpack_from("<II", data, header + 12)
    start = pointer + symbols * 18
    if not pointer or start + 4 > len(data):
        return b""
    (size,) = struct.unpack_from("<I", data, start)
    return data[start : start + size]


def _sections(data: bytes, table: int, count: int, strings: bytes) -> tuple[Section, ...]:
    sections = []
    for index in range(count):
        position = table + index * SECTION_HEADER_SIZE
        raw_name, *fields = struct.unpack_from("<8s4I12xI", data, position)
        virtual_size, rva, raw_size, raw_offset, characteristics = fields
        if raw_size and raw_offset + raw_size > len(data):
            message = f"section {index + 1} ends at offset 0x{raw_offset + raw_size:X} of a file of 0x{len(data):X}"
            raise ImageError(message)
        sections.append(
            Section(_section_name(raw_name, strings), virtual_size, rva, raw_size, raw_offset, characteristics)
        )
    return tuple(sections)


def _section_name(raw: bytes, strings: bytes) -> str:
    name = raw.rstrip(b"\0")
    if name[:1] == b"/" and name[1:].isdigit() and int(name[1:]) < len(strings):
        start = int(name[1:])
        name = strings[start : start + _MAXIMUM_NAME].partition(b"\0")[0]
    return name.decode("ascii", "backslashreplace")
