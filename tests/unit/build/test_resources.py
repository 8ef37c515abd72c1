"""The version resource of a description is in the image, whatever built it, and a wrong one is told with its place."""

from __future__ import annotations

import pefile
import pytest

from harness.build import DriverSources, build_driver
from harness.build.description import load_descriptions
from harness.build.driver_build import build_unsigned
from harness.build.llvm_mingw import LlvmMingw
from harness.errors import BuildError, ConfigurationError, InputError

ENTRY = """\
#include <ntddk.h>
DRIVER_INITIALIZE DriverEntry;
NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    UNREFERENCED_PARAMETER(DriverObject);
    UNREFERENCED_PARAMETER(RegistryPath);
    return STATUS_SUCCESS;
}
"""
RESOURCE = (
    '1 VERSIONINFO\nFILEVERSION 1,2,3,4\nFILETYPE 0x3L\nBEGIN\n    BLOCK "VarFileInfo"\n    BEGIN\n    END\nEND\n'
)


@pytest.fixture
def driver(tmp_path) -> DriverSources:
    (tmp_path / "entry.c").write_text(ENTRY)
    (tmp_path / "versioned.rc").write_text(RESOURCE)
    return DriverSources("versioned", tmp_path, ("entry.c",), resource="versioned.rc")


def version_of(image) -> tuple[int, ...]:
    (fixed,) = pefile.PE(str(image)).VS_FIXEDFILEINFO
    return tuple(part for pair in (fixed.FileVersionMS, fixed.FileVersionLS) for part in (pair >> 16, pair & 0xFFFF))


def test_the_version_is_in_the_image(driver, tmp_path):
    assert version_of(build_unsigned(driver, LlvmMingw(), tmp_path / "out").image) == (1, 2, 3, 4)


def test_an_edited_resource_is_linked_again(driver, build_root):
    first = build_driver(driver, build_root=build_root)
    assert not build_driver(driver, build_root=build_root).rebuilt
    (driver.root / "versioned.rc").write_text(RESOURCE.replace("1,2,3,4", "1,2,3,5"))

    second = build_driver(driver, build_root=build_root)

    assert second.rebuilt
    assert (version_of(first.image), version_of(second.image)) == ((1, 2, 3, 4), (1, 2, 3, 5))


def test_a_resource_that_does_not_compile_is_told_with_its_place(driver, tmp_path):
    (driver.root / "versioned.rc").write_text("1 VERSIONINFO\nFILEVERSION nonsense\n")

    with pytest.raises(BuildError, match=r"^driver/versioned\.rc:2:\d+: error: "):
        build_unsigned(driver, LlvmMingw(), tmp_path / "out")


def test_a_missing_resource_is_told(driver, tmp_path):
    (driver.root / "versioned.rc").unlink()

    with pytest.raises(ConfigurationError, match=r"there is no source 'versioned\.rc'"):
        build_unsigned(driver, LlvmMingw(), tmp_path / "out")


@pytest.mark.parametrize("key", ["resource", "project"])
def test_a_description_that_names_a_missing_file_is_told_with_the_key(tmp_path, key):
    (tmp_path / "entry.c").write_text(ENTRY)
    (tmp_path / "drivers.toml").write_text(f'[one]\nsources = ["entry.c"]\n{key} = "absent"\n')

    with pytest.raises(InputError, match=rf"\[one\]: {key}: there is no file 'absent' under"):
        load_descriptions(tmp_path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside.rc"])
def test_a_resource_outside_the_tree_is_refused(tmp_path, path):
    with pytest.raises(ConfigurationError, match="must be relative to"):
        DriverSources("one", tmp_path, ("entry.c",), resource=path)
