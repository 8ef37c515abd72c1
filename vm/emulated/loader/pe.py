"""Reads a driver image (PE32+) as the Windows loader would, refusing whatever Windows or this machine cannot load.

Nothing in the file is trusted: each count, size and address is checked before it is used, and what is wrong ends in
`BadImage`. Formats and field names are those of "PE Format" (Microsoft Learn) and winnt.h.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from vm.emulated.layout import PAGE
from vm.emulated.loader.code_integrity import DIRECTORY_SECURITY, Signature, judge_signature
from vm.emulated.loader.instruction_search import SpecialInstruction, find_special_instructions
from vm.emulated.loader.pe_headers import BadImage, Headers, Reader, read_headers, read_sections

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BadImage", "DriverImage", "Import", "Section", "SpecialInstruction", "compute_checksum"]

SUBSYSTEM_NATIVE: Final = 1
FILE_RELOCS_STRIPPED: Final = 0x0001
FILE_EXECUTABLE_IMAGE: Final = 0x0002
FILE_DLL: Final = 0x2000
DLLCHARACTERISTICS_FORCE_INTEGRITY: Final = 0x0080

DIRECTORY_EXPORT, DIRECTORY_IMPORT, DIRECTORY_EXCEPTION, DIRECTORY_BASERELOC = 0, 1, 3, 5
DIRECTORY_LOAD_CONFIG: Final = 10

SCN_EXECUTE, SCN_READ, SCN_WRITE, SCN_DISCARDABLE = 0x2000_0000, 0x4000_0000, 0x8000_0000, 0x0200_0000
RELOCATION_ABSOLUTE, RELOCATION_DIR64 = 0, 10

MAXIMUM_IMAGE_SIZE: Final = 64 << 20
"""A quarter of the machine's physical memory."""
MAXIMUM_FILE_SIZE: Final = 4 * MAXIMUM_IMAGE_SIZE
"""Debug information may lie in the file and not in the image."""
MAXIMUM_IMPORTS: Final = 16384

# Offsets in IMAGE_LOAD_CONFIG_DIRECTORY64 (winnt.h).
_SECURITY_COOKIE, _GUARD_CHECK, _GUARD_DISPATCH, _XFG_CHECK, _XFG_DISPATCH = 0x58, 0x70, 0x78, 0x118, 0x120


@dataclass(frozen=True)
class Section:
    """One section of an image.

    Attributes:
        name: up to eight characters.
        rva: where it starts.
        size: bytes that it occupies in memory, before rounding to pages.
        read: it may be read; likewise write and execute.
        discardable: the kernel discards it once DriverEntry has returned, if its name starts with INIT.
        pageable: its name starts with PAGE.
    """

    name: str
    rva: int
    size: int
    read: bool
    write: bool
    execute: bool
    discardable: bool

    @property
    def pageable(self) -> bool:
        """True for sections that Windows pages out: by convention of the linker, those named PAGE*."""
        return self.name.startswith("PAGE")

    def contains(self, rva: int) -> bool:
        """True when the address is inside."""
        return self.rva <= rva < self.rva + self.size


@dataclass(frozen=True)
class Import:
    """One import: `name` is a string, or an integer for an import by ordinal."""

    dll: str
    name: str | int
    iat_rva: int


def _page_up(size: int) -> int:
    return (size + PAGE - 1) & ~(PAGE - 1)


class _Mapped(Reader):
    """The image as it lies in memory, before relocation: addresses are RVAs."""

    def bad_directory(self, name: str, rva: int) -> BadImage:
        return self.bad(f"the {name} is damaged at RVA 0x{rva:X}")

    def slice(self, offset: int, size: int, what: str) -> bytes:
        if offset < 0 or size < 0 or offset + size > len(self.data):
            raise self.bad_directory(what, offset)
        return self.data[offset : offset + size]

    def text(self, rva: int, what: str) -> str:
        """A NUL-terminated name of 1 to 512 printable ASCII characters. Raises BadImage."""
        raw = self.slice(rva, min(513, max(len(self.data) - rva, 0)), what)
        name, end, _ = raw.partition(b"\0")
        if not name or not end or not all(0x20 < c < 0x7F for c in name):
            raise self.bad(f"the {what} has an entry without a valid name at RVA 0x{rva:X}")
        return name.decode("ascii")


def _map_sections(reader: Reader, headers: Headers) -> tuple[_Mapped, tuple[Section, ...]]:
    raw = read_sections(reader, headers)
    if not 0 < headers.size_of_image <= MAXIMUM_IMAGE_SIZE:
        raise reader.bad(f"absurd image size {headers.size_of_image:,}", f"at most {MAXIMUM_IMAGE_SIZE:,} bytes load")
    table_end = headers.section_table + 40 * headers.section_count
    if headers.size_of_headers < table_end or headers.size_of_headers > raw[0].rva:
        raise reader.bad(f"header size 0x{headers.size_of_headers:X} does not fit between the headers and the sections")
    image = bytearray(_page_up(headers.size_of_image))
    head = reader.slice(0, headers.size_of_headers, "the headers")
    image[: len(head)] = head
    sections = []
    # Windows loads sections that follow each other without a hole, in ascending order (PE Format, section table).
    expected = raw[0].rva
    alignment = headers.section_alignment
    for section in raw:
        if section.rva % alignment or section.rva < expected:
            raise reader.bad(f"section {section.name!r} at RVA 0x{section.rva:X} is misaligned or overlaps another")
        if section.rva > expected:
            raise reader.bad(f"a hole lies before section {section.name!r} (RVA 0x{expected:X} to 0x{section.rva:X})")
        if section.virtual_size == 0:
            raise reader.bad(f"section {section.name!r} is empty")
        expected = (section.rva + section.virtual_size + alignment - 1) & ~(alignment - 1)
        if section.rva + section.virtual_size > headers.size_of_image:
            raise reader.bad(f"section {section.name!r} reaches beyond the image size 0x{headers.size_of_image:X}")
        data = section.data[: _page_up(section.virtual_size) if alignment >= PAGE else section.virtual_size]
        image[section.rva : section.rva + len(data)] = data
        flags = section.characteristics
        sections.append(
            Section(
                section.name, section.rva, section.virtual_size,
                bool(flags & SCN_READ), bool(flags & SCN_WRITE), bool(flags & SCN_EXECUTE),
                bool(flags & SCN_DISCARDABLE),
            )
        )  # fmt: skip
    return _Mapped(bytes(image[: _page_up(headers.size_of_image)]), reader.file), tuple(sections)


def _imports(image: _Mapped, rva: int) -> tuple[Import, ...]:
    if not rva:
        return ()
    found: list[Import] = []
    while True:
        lookup, _, _, name_rva, table = image.unpack("<IIIII", rva, "import directory")
        if not name_rva and not table:
            return tuple(found)
        dll = image.text(name_rva, "import directory").lower()
        source = lookup or table
        while True:
            (entry,) = image.unpack("<Q", source, "import directory")
            if entry == 0:
                break
            image.slice(table, 8, "import directory")
            name: str | int = entry & 0xFFFF if entry >> 63 else image.text((entry & 0x7FFFFFFF) + 2, "import table")
            found.append(Import(dll, name, table))
            if len(found) > MAXIMUM_IMPORTS:
                raise image.bad(f"more than {MAXIMUM_IMPORTS:,} imports")
            source += 8
            table += 8
        rva += 20


def _exports(image: _Mapped, rva: int, size: int) -> dict[str, int]:
    """Named exports; forwarders (addresses inside the directory) are left out, as a driver has none to offer."""
    if not rva:
        return {}
    functions, names, function_table, name_table, ordinal_table = image.unpack("<IIIII", rva + 20, "export directory")
    if max(functions, names) > MAXIMUM_IMPORTS:
        raise image.bad("absurd number of exports")
    addresses = image.unpack(f"<{functions}I", function_table, "export directory")
    name_rvas = image.unpack(f"<{names}I", name_table, "export directory")
    ordinals = image.unpack(f"<{names}H", ordinal_table, "export directory")
    found = {}
    for name_rva, ordinal in zip(name_rvas, ordinals, strict=True):
        if ordinal >= functions or addresses[ordinal] >= len(image.data):
            raise image.bad_directory("export directory", rva)
        if not rva <= addresses[ordinal] < rva + size:
            found[image.text(name_rva, "export directory")] = addresses[ordinal]
    return found


def _relocations(image: _Mapped, rva: int, size: int) -> array[int]:
    found: array[int] = array("I")
    end = rva + size
    limit = len(image.data) - 8
    while rva + 8 <= end:
        page, block = image.unpack("<II", rva, "relocation directory")
        if block < 8 or block % 2 or rva + block > end:
            raise image.bad_directory("relocation directory", rva)
        for entry in image.unpack(f"<{(block - 8) // 2}H", rva + 8, "relocation directory"):
            kind = entry >> 12
            if kind == RELOCATION_ABSOLUTE:
                continue
            at = page + (entry & 0xFFF)
            if kind != RELOCATION_DIR64 or at > limit:
                raise image.bad(f"relocation of type {kind} at RVA 0x{at:X} that an x64 image cannot have")
            found.append(at)
        rva += block
    return found


def _functions(image: _Mapped, rva: int, size: int) -> tuple[tuple[int, int, int], ...]:
    """RUNTIME_FUNCTION entries (begin, end, unwind information), ascending."""
    if not rva or not size:
        return ()
    data = image.slice(rva, size - size % 12, "exception directory")
    functions = sorted(entry for entry in struct.iter_unpack("<III", data) if entry != (0, 0, 0))
    end_before = 0
    for begin, end, unwind in functions:
        if not end_before <= begin < end <= len(image.data) or not 0 < (unwind & ~1) < len(image.data):
            raise image.bad_directory("exception directory", rva)
        end_before = end
    return tuple(functions)


@dataclass(frozen=True)
class DriverImage:
    """A driver image that can be loaded.

    Attributes:
        name: the file's name without directory, or ``driver.sys`` for bytes.
        path: the file, None for bytes.
        machine: IMAGE_FILE_MACHINE_AMD64, always.
        entry: RVA of the entry point; 0 for a library without one, which is no driver by itself.
        size_of_image: bytes to reserve, a multiple of the page size.
        image_base: preferred base, from which `mapped` is relocated.
        size_of_headers: bytes of headers at RVA 0.
        section_alignment: SectionAlignment.
        dll_characteristics: IMAGE_DLLCHARACTERISTICS_*.
        mapped: the image as it lies in memory at its preferred base.
        sections: ascending.
        imports: in the order of the import directory.
        exports: RVA by name.
        relocations: RVAs of 64-bit addresses.
        functions: RUNTIME_FUNCTION entries (begin, end, unwind information), ascending.
        exception_directory: RVA of the first of them in the file's own order.
        security_cookie: RVA of __security_cookie or None.
        guard_check: RVA of the pointer that CFG checks call through, or None; likewise the three others.
        signature: whether there is one, and whether it was made for this file.
        checksum: the header's checksum.
        computed_checksum: what it should be.
    """

    name: str
    path: Path | None
    machine: int
    entry: int
    size_of_image: int
    image_base: int
    size_of_headers: int
    section_alignment: int
    dll_characteristics: int
    mapped: bytes
    sections: tuple[Section, ...]
    imports: tuple[Import, ...]
    exports: dict[str, int]
    relocations: array[int]
    functions: tuple[tuple[int, int, int], ...]
    exception_directory: int
    security_cookie: int | None
    guard_check: int | None
    guard_dispatch: int | None
    xfg_check: int | None
    xfg_dispatch: int | None
    signature: Signature
    checksum: int
    computed_checksum: int

    @classmethod
    def parse(cls, source: Path | bytes) -> DriverImage:
        """Read and check an image.

        Raises:
            BadImage: it is not a driver for this machine, or damaged.
        """
        if isinstance(source, bytes):
            path, data, file = None, source, "driver image"
        else:
            path, file = source, str(source)
            try:
                data = _read(source)
            except OSError as error:
                raise BadImage(f"{file}: {error.strerror}; name a driver image that can be read") from error
        reader = Reader(data, file)
        headers = read_headers(reader)
        _check_loadable(reader, headers)
        image, sections = _map_sections(reader, headers)
        library = bool(headers.characteristics & FILE_DLL) and headers.entry == 0
        if not library and not any(s.execute and s.contains(headers.entry) for s in sections):
            raise reader.bad(f"the entry point (RVA 0x{headers.entry:X}) is not in executable memory")
        directories = headers.directories
        pointers = _load_config(image, headers)
        security_offset, security_size = directories[DIRECTORY_SECURITY]
        if security_size and security_offset + security_size > len(data):
            raise reader.bad("the signature is truncated", "sign the driver again")
        return cls(
            name=path.name if path else "driver.sys", path=path, machine=headers.machine, entry=headers.entry,
            size_of_image=len(image.data), image_base=headers.image_base, size_of_headers=headers.size_of_headers,
            section_alignment=headers.section_alignment, dll_characteristics=headers.dll_characteristics,
            mapped=image.data, sections=sections, imports=_imports(image, directories[DIRECTORY_IMPORT][0]),
            exports=_exports(image, *directories[DIRECTORY_EXPORT]),
            relocations=_relocations(image, *directories[DIRECTORY_BASERELOC]),
            functions=_functions(image, *directories[DIRECTORY_EXCEPTION]),
            exception_directory=directories[DIRECTORY_EXCEPTION][0],
            security_cookie=pointers.get(_SECURITY_COOKIE), guard_check=pointers.get(_GUARD_CHECK),
            guard_dispatch=pointers.get(_GUARD_DISPATCH), xfg_check=pointers.get(_XFG_CHECK),
            xfg_dispatch=pointers.get(_XFG_DISPATCH), signature=judge_signature(data, headers),
            checksum=headers.checksum, computed_checksum=compute_checksum(data, headers.checksum_offset),
        )  # fmt: skip

    def __getstate__(self) -> dict[str, object]:
        """The fields, without what `cached_property` keeps beside them."""
        return {name: value for name, value in self.__dict__.items() if name in self.__dataclass_fields__}

    @property
    def force_integrity(self) -> bool:
        """Linked with /INTEGRITYCHECK, as Ex and Ex2 process-notify registration demands."""
        return bool(self.dll_characteristics & DLLCHARACTERISTICS_FORCE_INTEGRITY)

    @property
    def checksum_ok(self) -> bool:
        """True when the header's checksum is right. Windows refuses a boot-time or signed driver with a wrong one."""
        return self.checksum == self.computed_checksum

    @cached_property
    def special_instructions(self) -> tuple[SpecialInstruction, ...]:
        """Instructions that the CPU emulator gets wrong, ascending; found by opcode, confirmed by disassembly."""
        return tuple(find_special_instructions(self))


def _check_loadable(reader: Reader, headers: Headers) -> None:
    if headers.subsystem != SUBSYSTEM_NATIVE:
        raise reader.bad(
            f"not a driver: subsystem {headers.subsystem} instead of native (1)", "link with /driver /subsystem:native"
        )
    if not headers.characteristics & FILE_EXECUTABLE_IMAGE:
        raise reader.bad("not an executable image: the linker left errors in it")
    if headers.characteristics & FILE_RELOCS_STRIPPED:
        raise reader.bad("it has no relocations, and drivers load at any address", "link with /dynamicbase, no /fixed")


def _read(path: Path) -> bytes:
    """The file, of which no more is read than the largest driver has. Raises OSError, BadImage."""
    with path.open("rb") as stream:
        data = stream.read(MAXIMUM_FILE_SIZE + 1)
    if len(data) > MAXIMUM_FILE_SIZE:
        raise BadImage(f"{path}: larger than {MAXIMUM_FILE_SIZE >> 20} MiB, which no driver is; name a driver (.sys)")
    return data


def compute_checksum(data: bytes, field: int) -> int:
    """The PE checksum: 16-bit one's-complement sum of the file without the checksum field, plus its length.

    The sum is the file's value modulo 0xFFFF, which one division of a long integer gives.
    """
    number = int.from_bytes(data[:field] + b"\0\0\0\0" + data[field + 4 :], "little")
    return (number % 0xFFFF or (0xFFFF if number else 0)) + len(data)


def _load_config(image: _Mapped, headers: Headers) -> dict[int, int]:
    """RVAs that the load configuration names, by their offset in it."""
    rva, size = headers.directories[DIRECTORY_LOAD_CONFIG]
    if not rva or not size:
        return {}
    (size,) = image.unpack("<I", rva, "load configuration")
    found = {}
    for offset in (_SECURITY_COOKIE, _GUARD_CHECK, _GUARD_DISPATCH, _XFG_CHECK, _XFG_DISPATCH):
        if offset + 8 > size:
            break
        (address,) = image.unpack("<Q", rva + offset, "load configuration")
        if address:
            target = address - headers.image_base
            if not 0 < target <= len(image.data) - 8:
                raise image.bad_directory("load configuration", rva + offset)
            found[offset] = target
    return found
