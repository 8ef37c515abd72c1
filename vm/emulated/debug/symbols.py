"""Source lines of driver code, from the DWARF of a twin file ``<image>.dwarf`` or of the image itself.

Nothing is read before the first question: a run without a crash pays nothing for debug information.
"""

from __future__ import annotations

import bisect
import functools
import inspect
import io
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from elftools.common.exceptions import DWARFError, ELFError
from elftools.dwarf.descriptions import describe_form_class
from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

from vm.emulated.loader.pe_headers import BadImage, Reader, read_headers, read_sections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_DAMAGED: Final = (
    DWARFError,
    ELFError,
    BadImage,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
)
"""What the reader of debug information raises for damaged input. A crash report then goes without source lines."""


@dataclass(frozen=True)
class SourceLocation:
    """Where an address lies in the sources.

    Attributes:
        function: the function, an inlined one included; None if unknown.
        offset: bytes from the start of the function that the code was compiled into.
        file: path as the compiler recorded it, None if unknown.
        line: line number, None if unknown.
        inlined_into: the callers that the function was inlined into, innermost first; their line is that of the call.
    """

    function: str | None
    offset: int
    file: str | None
    line: int | None
    inlined_into: tuple[SourceLocation, ...] = ()


@dataclass(frozen=True)
class _Range:
    """Code of one function, or of one inlined call with the place of that call."""

    begin: int
    end: int
    name: str
    call_file: str | None = None
    call_line: int | None = None
    depth: int = 0


@dataclass(frozen=True)
class _Tables:
    """Line rows by address, each with the unit that it comes from, and how to read the functions of a unit.

    A row is (file, line); one without a file ends a sequence of addresses.
    """

    addresses: list[int]
    rows: list[tuple[str | None, int | None, int]]
    functions_of: Callable[[int], list[_Range]]


class Symbols:
    """Debug information of one image file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def for_image(cls, path: Path) -> Symbols:
        """Symbols of an image; shared in the process until the file changes."""
        try:
            stamp = tuple((p.stat().st_mtime_ns, p.stat().st_size) for p in (_twin(path), path) if p.is_file())
        except OSError:
            stamp = ()
        return _cached(path, stamp)

    @functools.cached_property
    def _tables(self) -> _Tables:
        for path in (_twin(self._path), self._path):
            try:
                tables = _read(path)
            except _DAMAGED:
                continue
            if tables.rows:
                return tables
        return _Tables([], [], lambda _unit: [])

    @property
    def available(self) -> bool:
        """True when there are source lines."""
        return bool(self._tables.rows)

    def lookup(self, rva: int) -> SourceLocation | None:
        """Function, file and line of an address in the image, None when nothing is known of it."""
        tables = self._tables
        index = bisect.bisect_right(tables.addresses, rva) - 1
        file, line, unit = tables.rows[index] if index >= 0 else (None, None, 0)
        if file is None:
            return None
        around = sorted((r for r in tables.functions_of(unit) if r.begin <= rva < r.end), key=lambda r: -r.depth)
        offset = rva - min((r.begin for r in around if r.depth == 0), default=rva)
        locations = []
        for entry in around:
            locations.append(SourceLocation(entry.name, offset, file, line))
            file, line = entry.call_file, entry.call_line
        if not locations:
            return SourceLocation(None, 0, file, line)
        first = locations[0]
        return SourceLocation(first.function, offset, first.file, first.line, tuple(locations[1:]))

    def statement_lines(self) -> frozenset[tuple[str, int]]:
        """Every (file, line) that has code."""
        return frozenset((file, line) for file, line, _ in self._tables.rows if file and line)


def _twin(path: Path) -> Path:
    return path.with_name(path.name + ".dwarf")


@functools.lru_cache(maxsize=64)
def _cached(path: Path, _stamp: tuple[tuple[int, int], ...]) -> Symbols:
    return Symbols(path)


def _read(path: Path) -> _Tables:
    reader = Reader(path.read_bytes(), str(path))
    headers = read_headers(reader)
    sections = {section.name: section.data[: section.virtual_size] for section in read_sections(reader, headers)}
    if ".debug_info" not in sections or ".debug_line" not in sections:
        return _Tables([], [], lambda _unit: [])

    def descriptor(name: str) -> Any:
        data = sections.get("." + name)
        return None if data is None else DebugSectionDescriptor(io.BytesIO(data), "." + name, 0, len(data), 0)

    config = DwarfConfig(little_endian=True, machine_arch="x64", default_address_size=8)
    parameters = inspect.signature(DWARFInfo.__init__).parameters
    wanted = {name: descriptor(name.removesuffix("_sec")) for name in parameters if name.endswith("_sec")}
    dwarf = DWARFInfo(config=config, **wanted)
    rows: list[tuple[int, str | None, int | None, int]] = []
    units: list[tuple[Any, _Files]] = []
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        if program is None:
            continue
        files = _Files(unit, program)
        rows.extend(_rows(program, files, headers.image_base, len(units)))
        units.append((unit, files))

    @functools.cache
    def functions_of(number: int) -> list[_Range]:
        # Headers of Windows fill a unit with thousands of types, so only the units that are asked for are read.
        unit, files = units[number]
        try:
            return list(_functions(dwarf, unit.get_top_DIE(), files, headers.image_base))
        except _DAMAGED:
            return []

    # At equal addresses the end of a sequence comes first, so that the next one begins there.
    rows.sort(key=lambda row: (row[0], row[1] is not None))
    return _Tables([row[0] for row in rows], [row[1:] for row in rows], functions_of)


def _rows(program: Any, files: _Files, base: int, unit: int) -> Iterator[tuple[int, str | None, int | None, int]]:
    """Line rows of one unit. Code that the compiler gives no line (line 0) counts for the line before it."""
    line: int | None = None
    for entry in program.get_entries():
        state = entry.state
        if state is None:
            continue
        if state.end_sequence:
            line = None
            yield state.address - base, None, None, unit
        else:
            line = state.line or line
            yield state.address - base, files.path(state.file), line, unit


class _Files:
    """The file table of one unit."""

    def __init__(self, unit: Any, program: Any) -> None:
        top = unit.get_top_DIE()
        self._five = program["version"] >= 5
        self._entries = program["file_entry"]
        self._directories = [d.decode("utf-8", "replace") for d in program["include_directory"]]
        compiled_in = top.attributes.get("DW_AT_comp_dir")
        self._compiled_in = compiled_in.value.decode("utf-8", "replace") if compiled_in else ""

    @functools.cache  # noqa: B019 - lives as long as the reading of one unit
    def path(self, index: int) -> str | None:
        """Path of a file by its number in the table."""
        position = index if self._five else index - 1
        if not 0 <= position < len(self._entries):
            return None
        entry = self._entries[position]
        directory = entry.dir_index if self._five else entry.dir_index - 1
        folder = self._directories[directory] if 0 <= directory < len(self._directories) else self._compiled_in
        name = entry.name.decode("utf-8", "replace").replace("\\", "/")
        return posixpath.normpath(posixpath.join(folder.replace("\\", "/"), name))


def _functions(dwarf: Any, die: Any, files: _Files, base: int, depth: int = 0) -> Iterator[_Range]:
    for child in die.iter_children():
        if child.tag == "DW_TAG_subprogram":
            for begin, end in _extent(dwarf, child, base):
                yield _Range(begin, end, _name(child))
            yield from _functions(dwarf, child, files, base, 1)
        elif child.tag == "DW_TAG_inlined_subroutine":
            call_file, call_line = child.attributes.get("DW_AT_call_file"), child.attributes.get("DW_AT_call_line")
            file = files.path(call_file.value) if call_file else None
            for begin, end in _extent(dwarf, child, base):
                yield _Range(begin, end, _name(child), file, call_line.value if call_line else None, depth)
            yield from _functions(dwarf, child, files, base, depth + 1)
        elif depth and child.tag == "DW_TAG_lexical_block":
            yield from _functions(dwarf, child, files, base, depth)


def _extent(dwarf: Any, die: Any, base: int) -> Iterator[tuple[int, int]]:
    low, high = die.attributes.get("DW_AT_low_pc"), die.attributes.get("DW_AT_high_pc")
    ranges = die.attributes.get("DW_AT_ranges")
    if low and high:
        end = high.value if describe_form_class(high.form) == "address" else low.value + high.value
        yield low.value - base, end - base
    elif ranges:
        start = die.cu.get_top_DIE().attributes.get("DW_AT_low_pc")
        origin = start.value if start else 0
        for entry in dwarf.range_lists().get_range_list_at_offset(ranges.value, die.cu):
            if hasattr(entry, "base_address"):
                origin = entry.base_address
            else:
                offset = 0 if getattr(entry, "is_absolute", False) else origin
                yield entry.begin_offset + offset - base, entry.end_offset + offset - base


def _name(die: Any) -> str:
    for _ in range(8):
        if name := die.attributes.get("DW_AT_name"):
            return str(name.value.decode("utf-8", "replace"))
        link = next((a for a in ("DW_AT_abstract_origin", "DW_AT_specification") if a in die.attributes), None)
        if link is None:
            break
        die = die.get_DIE_from_attribute(link)
    return "?"
