"""Reads a driver image (PE32+) as the Windows loader would, refusing whatever Windows or this machine cannot load.

Nothing in the file is trusted: each count, size and address is checked before it is used, and what is wrong ends in
`BadImage`. Formats and field names are those of "PE Format" (Microsoft Learn) and winnt.h.
"""

from __future__ import annotations

import re
import struct
from array import array
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import capstone

from vm.emulated.layout import PAGE
from vm.errors import MachineConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

MACHINE_AMD64: Final = 0x8664
MACHINE_NAMES: Final = {0x14C: "32-bit x86", 0xAA64: "ARM64", 0x1C4: "32-bit ARM", 0x200: "Itanium", 0xA641: "ARM64EC"}
SUBSYSTEM_NATIVE: Final = 1
FILE_RELOCS_STRIPPED: Final = 0x0001
FILE_EXECUTABLE_IMAGE: Final = 0x0002
FILE_DLL: Final = 0x2000
DLLCHARACTERISTICS_FORCE_INTEGRITY: Final = 0x0080

DIRECTORY_EXPORT, DIRECTORY_IMPORT, DIRECTORY_EXCEPTION, DIRECTORY_SECURITY, DIRECTORY_BASERELOC = 0, 1, 3, 4, 5
DIRECTORY_LOAD_CONFIG: Final = 10

SCN_EXECUTE, SCN_READ, SCN_WRITE, SCN_DISCARDABLE = 0x2000_0000, 0x4000_0000, 0x8000_0000, 0x0200_0000
RELOCATION_ABSOLUTE, RELOCATION_DIR64 = 0, 10

MAXIMUM_IMAGE_SIZE: Final = 64 << 20
"""A quarter of the machine's physical memory."""
MAXIMUM_SECTIONS: Final = 96
"""What the Windows loader accepts (PE Format, NumberOfSections)."""
MAXIMUM_IMPORTS: Final = 16384
SECTOR: Final = 0x200

# Offsets in IMAGE_LOAD_CONFIG_DIRECTORY64 (winnt.h).
_SECURITY_COOKIE, _GUARD_CHECK, _GUARD_DISPATCH, _XFG_CHECK, _XFG_DISPATCH = 0x58, 0x70, 0x78, 0x118, 0x120

# Prefixes vary, so each candidate is looked for by its opcode and confirmed by disassembling its function.
_SPECIAL_OPCODES: Final = re.compile(
    rb"\x0f(?:[\x20\x22][\xc0-\xff]|\x31|\x01[\xf9\xca\xcb]|\xc7[\xf0-\xff])", re.DOTALL
)
_SPECIAL_MNEMONICS: Final = frozenset({"rdtsc", "rdtscp", "rdrand", "rdseed", "stac", "clac"})


class BadImage(MachineConfigurationError):
    """A file that cannot be a driver of this machine; the message names the file, what is wrong and what to do."""


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


@dataclass(frozen=True)
class SpecialInstruction:
    """An instruction that the CPU emulator gets wrong: mov to and from cr8, rdtsc(p), rdrand, rdseed, stac, clac."""

    rva: int
    size: int
    mnemonic: str
    operands: str


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
class _Headers:
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


def read_headers(reader: Reader) -> _Headers:
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
    return _Headers(
        machine, sections, optional + optional_size, characteristics, symbols, symbol_count, entry, base,
        section_alignment, size_of_image, size_of_headers, optional + 64, checksum, subsystem, dll, directories,
    )  # fmt: skip


def read_sections(reader: Reader, headers: _Headers) -> list[RawSection]:
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


def _map_sections(reader: Reader, headers: _Headers) -> tuple[_Mapped, tuple[Section, ...]]:
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
        has_signature: there is a security directory. Whether it verifies is another question.
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
    has_signature: bool
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
                data = source.read_bytes()
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
            xfg_dispatch=pointers.get(_XFG_DISPATCH), has_signature=security_size > 0,
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
        return tuple(_special_instructions(self))


def _check_loadable(reader: Reader, headers: _Headers) -> None:
    if headers.subsystem != SUBSYSTEM_NATIVE:
        raise reader.bad(
            f"not a driver: subsystem {headers.subsystem} instead of native (1)", "link with /driver /subsystem:native"
        )
    if not headers.characteristics & FILE_EXECUTABLE_IMAGE:
        raise reader.bad("not an executable image: the linker left errors in it")
    if headers.characteristics & FILE_RELOCS_STRIPPED:
        raise reader.bad("it has no relocations, and drivers load at any address", "link with /dynamicbase, no /fixed")


def compute_checksum(data: bytes, field: int) -> int:
    """The PE checksum: 16-bit one's-complement sum of the file without the checksum field, plus its length.

    The sum is the file's value modulo 0xFFFF, which one division of a long integer gives.
    """
    number = int.from_bytes(data[:field] + b"\0\0\0\0" + data[field + 4 :], "little")
    return (number % 0xFFFF or (0xFFFF if number else 0)) + len(data)


def _load_config(image: _Mapped, headers: _Headers) -> dict[int, int]:
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


def _special_instructions(image: DriverImage) -> list[SpecialInstruction]:
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
