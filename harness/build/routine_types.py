"""Finds routines that are declared otherwise than Windows calls them, from an image's debug information.

A cast hides such a routine from the compiler, and no machine shows it: on x64 the caller of a routine without a result
does not look at the register that would hold one. The binary gives it away nevertheless, to who reads its DWARF.
"""

from __future__ import annotations

import inspect
import io
import struct
from typing import TYPE_CHECKING, Any, Final

import capstone
from elftools.common.exceptions import DWARFError, ELFError
from elftools.dwarf.descriptions import describe_form_class
from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

from harness.build import pe
from harness.build.findings import Finding, Severity
from harness.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DIRECTORY_BASE_RELOCATION: Final = 5  # IMAGE_DIRECTORY_ENTRY_BASERELOC, winnt.h
_RELOCATION_DIR64: Final = 10  # IMAGE_REL_BASED_DIR64, winnt.h
_LONGEST_CHAIN: Final = 64
"""Steps from one entry of the debug information to the next; a chain that is longer comes back to where it was."""
_NAMELESS: Final = ("DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type")
_DAMAGED: Final = (DWARFError, ELFError, KeyError, IndexError, ValueError, AttributeError, TypeError)


def check_routine_types(path: Path) -> list[Finding]:
    """Unload routines that return a value (wdm.h documentation: DRIVER_UNLOAD returns VOID).

    An unload routine is known by its one argument, the driver object, and by its address being taken: Windows has no
    other callback with that argument alone, and a function of the driver's own is called and not stored.

    Args:
        path: the ``.sys``; its DWARF is in the twin ``<path>.dwarf`` or in the image itself.

    Raises:
        ImageError: the file is no x64 image, or there is no DWARF to be read.
    """
    twin = path.with_name(f"{path.name}.dwarf")
    image = pe.load(twin if twin.is_file() else path)
    try:
        suspects = {begin: name for begin, name in _suspects(_dwarf(image)) if begin}
    except _DAMAGED as error:
        raise ImageError(f"{path}: its debug information cannot be read: {error}") from error
    taken = {image.image_base + rva for rva in _addresses_taken(image)}
    return [
        Finding(
            "unload-type",
            Severity.ERROR,
            f"the unload routine {name} returns a value, and DRIVER_UNLOAD returns none",
            "declare it with DRIVER_UNLOAD and assign it without a cast, so that the compiler sees what is wrong",
        )
        for begin, name in sorted(suspects.items())
        if begin in taken
    ]


def _dwarf(image: pe.Image) -> DWARFInfo:
    def content(name: str) -> DebugSectionDescriptor | None:
        section = next((s for s in image.sections if s.name == f".{name}"), None)
        if section is None:
            return None
        size = min(section.raw_size, section.virtual_size)
        data = image.data[section.raw_offset : section.raw_offset + size]
        return DebugSectionDescriptor(io.BytesIO(data), section.name, 0, len(data), 0)

    if content("debug_info") is None:
        raise ImageError("there is no DWARF beside the image or in it; build it with -gdwarf-4")
    wanted = [name for name in inspect.signature(DWARFInfo.__init__).parameters if name.endswith("_sec")]
    config = DwarfConfig(little_endian=True, machine_arch="x64", default_address_size=8)
    return DWARFInfo(config=config, **{name: content(name.removesuffix("_sec")) for name in wanted})


def _suspects(dwarf: DWARFInfo) -> Iterator[tuple[int, str]]:
    """Address and name of each function that takes a driver object alone and returns a value."""
    for unit in dwarf.iter_CUs():
        for die in unit.get_top_DIE().iter_children():
            if die.tag != "DW_TAG_subprogram" or "DW_AT_low_pc" not in die.attributes:
                continue
            origin = _origin(die)
            arguments = [child for child in origin.iter_children() if child.tag == "DW_TAG_formal_parameter"]
            if len(arguments) == 1 and _is_driver_object(arguments[0]) and _type(origin) is not None:
                low = die.attributes["DW_AT_low_pc"]
                if describe_form_class(low.form) == "address":
                    yield int(low.value), origin.attributes["DW_AT_name"].value.decode("utf-8", "replace")


def _origin(die: Any) -> Any:
    """The declaration that a function's code belongs to."""
    for _ in range(_LONGEST_CHAIN):
        if "DW_AT_name" in die.attributes:
            return die
        link = "DW_AT_abstract_origin" if "DW_AT_abstract_origin" in die.attributes else "DW_AT_specification"
        die = die.get_DIE_from_attribute(link)
    raise ValueError("a function is declared by itself")


def _type(die: Any) -> Any:
    """The type of a function's result or of a variable without its other names; None for void."""
    for _ in range(_LONGEST_CHAIN):
        if "DW_AT_type" not in die.attributes:
            return None
        die = die.get_DIE_from_attribute("DW_AT_type")
        if die.tag not in _NAMELESS:
            return die
    raise ValueError("a type is another name of itself")


def _is_driver_object(argument: Any) -> bool:
    pointer = _type(argument)
    target = _type(pointer) if pointer is not None and pointer.tag == "DW_TAG_pointer_type" else None
    name = None if target is None else target.attributes.get("DW_AT_name")
    return name is not None and name.value == b"_DRIVER_OBJECT"


def _addresses_taken(image: pe.Image) -> set[int]:
    """RVAs that code loads with LEA or that relocated data holds."""
    return set(_loaded_addresses(image)) | set(_stored_addresses(image))


def _loaded_addresses(image: pe.Image) -> Iterator[int]:
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    decoder.skipdata = True
    for section in image.sections:
        if not section.executable:
            continue
        code = image.data[section.raw_offset : section.raw_offset + section.raw_size]
        for instruction in decoder.disasm(code, section.rva):
            if instruction.id != capstone.x86.X86_INS_LEA:
                continue
            memory = instruction.operands[1].mem
            if memory.base == capstone.x86.X86_REG_RIP:
                yield instruction.address + instruction.size + memory.disp


def _stored_addresses(image: pe.Image) -> Iterator[int]:
    rva, size = image.directory(_DIRECTORY_BASE_RELOCATION)
    end = rva + size
    while rva and rva + 8 <= end:
        page, length = struct.unpack("<II", image.read(rva, 8, "a block of base relocations"))
        if length < 8:
            raise ImageError(f"a block of base relocations at RVA 0x{rva:X} has {length} bytes")
        entries = image.read(rva + 8, length - 8, "base relocations")
        for (entry,) in struct.iter_unpack("<H", entries[: len(entries) // 2 * 2]):
            if entry >> 12 == _RELOCATION_DIR64:
                (value,) = struct.unpack("<Q", image.read(page + (entry & 0xFFF), 8, "a relocated address"))
                yield value - image.image_base
        rva += length
