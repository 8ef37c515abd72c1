"""Code analysis finds what it must in a driver's sources, and nothing in those of this project."""

from __future__ import annotations

import pytest

from harness.build import DriverSources, find_driver
from harness.build.wdk.analysis import analyse
from harness.errors import BuildError

SOURCE = """\
#include <ntifs.h>
#include "notes.h"

DRIVER_INITIALIZE DriverEntry;

/* _Nor_this_: comments and texts hold no annotation. */
static const char *PnText(void) { return "_Nor_that_"; }

static ULONG PnLength(_In_opt_ PUNICODE_STRING Text)
{
    if (Text == NULL) {
        return Text->Length;
    }
    return Text->Length;
}

_Our_annotation_(1)
_IRQL_requires_(PASSIVE_LEVEL)
NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    UNREFERENCED_PARAMETER(DriverObject);
    return PnText()[0] == (CHAR)PnLength(RegistryPath) ? STATUS_SUCCESS : STATUS_UNSUCCESSFUL;
}
"""
HEADER = "#define _Our_annotation_(x)\n"


@pytest.fixture
def driver(tmp_path) -> DriverSources:
    (tmp_path / "entry.c").write_text(SOURCE)
    (tmp_path / "notes.h").write_text(HEADER)
    return DriverSources("noted", tmp_path, ("entry.c",))


def test_the_analyser_finds_a_null_pointer_that_is_followed(wdk, driver):
    found = [finding for finding in analyse(driver, wdk) if finding.check.startswith("core")]

    assert [str(finding).partition(" (")[0] for finding in found] == [
        "driver/entry.c:12:16: warning: Access to field 'Length' results in a dereference of a null pointer"
    ]
    assert found[0].check == "core.NullDereference"


def test_an_annotation_that_only_the_driver_defines_is_told(wdk, driver):
    found = [finding for finding in analyse(driver, wdk) if finding.check == "sal-annotation"]

    (finding,) = found
    assert str(finding) == (
        f"driver/entry.c:17: warning: _Our_annotation_ is no annotation of kit {wdk.kit.version}: "
        "only driver/notes.h defines it, so code analysis ignores it [sal-annotation]"
    )


def test_nothing_is_found_in_the_projects_own_drivers(wdk):
    assert analyse(find_driver("companion"), wdk) == []
    assert analyse(find_driver("procnotify"), wdk) == []


def test_sources_that_do_not_compile_are_told_as_a_build_tells_them(wdk, driver):
    source = driver.root / "entry.c"
    source.write_text(SOURCE.replace("STATUS_UNSUCCESSFUL", "STATUS_NOWHERE"))

    with pytest.raises(BuildError, match=r"^driver/entry\.c:22:\d+: error: use of undeclared identifier"):
        analyse(driver, wdk)


def test_a_finding_is_shown_with_as_much_of_its_place_as_is_known(wdk, driver):
    finding = analyse(driver, wdk)[0]

    assert finding.to_json()["path"] == "driver/entry.c"
    assert set(finding.to_json()) == {"path", "line", "column", "level", "check", "message"}
