"""The check of routine types finds an unload routine that returns a value, however it is hidden, and nothing else."""

from __future__ import annotations

import shutil

import pytest

from harness.build import DriverSources, build_driver
from harness.build.pe import load
from harness.build.routine_types import _dwarf, check_routine_types
from harness.errors import ImageError

RIGHT = (
    "DRIVER_UNLOAD Unload;\n"
    "VOID NTAPI Unload(PDRIVER_OBJECT DriverObject)\n"
    "{ UNREFERENCED_PARAMETER(DriverObject); Count--; }\n"
)
LOCAL = (
    "static NTSTATUS NTAPI Unload(PDRIVER_OBJECT DriverObject)\n"
    "{ UNREFERENCED_PARAMETER(DriverObject); return --Count; }\n"
)
WRONG = f"NTSTATUS NTAPI Unload(PDRIVER_OBJECT);\n{LOCAL.removeprefix('static ')}"
ASSIGNED = "    DriverObject->DriverUnload = (PDRIVER_UNLOAD)(PVOID)Unload;\n"
TABLE = "static PVOID const volatile Routines[] = {(PVOID)DriverEntry, (PVOID)Unload};\n"
FROM_TABLE = "    DriverObject->DriverUnload = (PDRIVER_UNLOAD)Routines[1];\n"
FUNCTION = (
    "static DECLSPEC_NOINLINE NTSTATUS Prepare(PDRIVER_OBJECT DriverObject)\n{ return DriverObject->Size + Count++; }\n"
)
CALLED = "    Count += Prepare(DriverObject);\n    Count -= Prepare(DriverObject);\n"


@pytest.fixture
def build(tmp_path, build_root):
    def make(declarations: str, statements: str):
        tree = tmp_path / "driver"
        tree.mkdir()
        text = (
            "#include <ntddk.h>\n\nDRIVER_INITIALIZE DriverEntry;\nstatic volatile LONG Count;\n"
            f"{declarations}\n"
            "NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)\n{\n"
            f"    UNREFERENCED_PARAMETER(RegistryPath);\n{statements}    return STATUS_SUCCESS;\n}}\n"
        )
        (tree / "entry.c").write_text(text)
        return build_driver(DriverSources("typed", tree, ("entry.c",)), build_root=build_root)

    return make


@pytest.mark.parametrize("routine", [WRONG, LOCAL], ids=["external", "static"])
def test_an_unload_routine_with_a_result_is_found_behind_its_cast(build, routine):
    (finding,) = check_routine_types(build(routine, ASSIGNED).image)
    assert finding.check == "unload-type"
    assert "Unload returns a value" in finding.message


def test_an_unload_routine_with_a_result_is_found_in_a_table(build):
    (finding,) = check_routine_types(build(WRONG + TABLE, FROM_TABLE).image)
    assert finding.check == "unload-type"


def test_a_void_unload_routine_is_right(build):
    assert check_routine_types(build(RIGHT, ASSIGNED).image) == []


def test_a_function_that_is_called_may_return_what_it_likes(build):
    assert check_routine_types(build(RIGHT + FUNCTION, ASSIGNED + CALLED).image) == []


def test_an_image_without_debug_information_is_refused_as_such(build, tmp_path):
    built = build(WRONG, ASSIGNED)
    alone = tmp_path / "alone.sys"
    shutil.copy(built.image, alone)
    with pytest.raises(ImageError, match="no DWARF"):
        check_routine_types(alone)


def test_damaged_debug_information_is_refused_as_such(build, tmp_path):
    built = build(WRONG, ASSIGNED)
    alone = tmp_path / "alone.sys"
    shutil.copy(built.image, alone)
    data = bytearray(built.debug_image.read_bytes())
    section = next(one for one in load(built.debug_image).sections if one.name == ".debug_info")
    data[section.raw_offset : section.raw_offset + section.raw_size] = b"\xff" * section.raw_size
    (tmp_path / "alone.sys.dwarf").write_bytes(data)
    with pytest.raises(ImageError):
        check_routine_types(alone)


def test_a_type_that_is_another_name_of_itself_is_refused_as_such(build, tmp_path):
    built = build(WRONG, ASSIGNED)
    image = load(built.debug_image)
    section = next(one for one in image.sections if one.name == ".debug_info")
    data = bytearray(image.data)
    for unit in _dwarf(image).iter_CUs():
        for die in unit.iter_DIEs():
            if die.tag == "DW_TAG_typedef" and die.attributes["DW_AT_name"].value == b"PDRIVER_OBJECT":
                place = section.raw_offset + die.attributes["DW_AT_type"].offset
                data[place : place + 4] = (die.offset - unit.cu_offset).to_bytes(4, "little")
    (tmp_path / "alone.sys.dwarf").write_bytes(data)
    with pytest.raises(ImageError, match="a type is another name of itself"):
        check_routine_types(tmp_path / "alone.sys")
