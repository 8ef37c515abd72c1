"""What MSBuild prints is read as findings, and in no time whatever it prints."""

from __future__ import annotations

import time
from pathlib import PureWindowsPath

import pytest

from harness.build.msbuild.output import findings
from harness.build.msbuild.sources import RemoteTree

ROOT = PureWindowsPath(r"C:\ntproof\build\d-00000000")
TREE = RemoteTree(ROOT, {}, ROOT / "d" / "d.vcxproj", ROOT / "out" / "0")
PROJECT = rf"[{ROOT}\d\d.vcxproj]"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (rf"{ROOT}\d\a.c(12,5): warning C28167: IRQL [1] {PROJECT}", "l/d/a.c:12:5: warning: IRQL [1] [C28167]"),
        (rf"  3>a.c(7): error C2065: 'x': undeclared {PROJECT}", "l/d/a.c:7: error: 'x': undeclared [C2065]"),
        ("a.c (7,1-9,2) : fatal error C1083: no file", "l/d/a.c:7:1: error: no file [C1083]"),
        ("LINK : fatal error LNK1120: 1 unresolved externals", "LINK: error: 1 unresolved externals [LNK1120]"),
        (
            "MSBUILD : error MSB1009: Project file does not exist.",
            "MSBUILD: error: Project file does not exist. [MSB1009]",
        ),
        ("ERROR(1205) in d.inf, line 4: Section missing", "l/d/d.inf:4: error: Section missing [infverif 1205]"),
    ],
)
def test_a_diagnostic_is_read_with_its_place(line, shown):
    (found,) = findings([line], TREE, "l")

    assert str(found) == shown


@pytest.mark.parametrize(
    "line",
    [
        " " * 20_000 + "x",
        "x : " + " " * 20_000 + "y",
        "a.c(1): error C1" + " " * 20_000 + "y",
        "a.c(1): error C1: " + " " * 20_000 + "y",
        "a.c(1): error C1: " + "[ " * 10_000,
        "a.c(1): error C1: [" + "." * 20_000,
        "a.c(1): " + "b " * 10_000,
    ],
)
def test_a_long_line_is_read_in_time_that_grows_with_its_length(line):
    started = time.process_time()

    assert len(findings([line], TREE, "l")) <= 1

    assert time.process_time() - started < 2
