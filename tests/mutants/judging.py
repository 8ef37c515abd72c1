"""Runs conformance tests on a prebuilt driver and tells how each of them ended.

The runs come from a server process that has imported pytest, the suite's harness and the emulated machine already; each
is a fork of it. A run that takes a moment then costs a moment, and a mutant that brings its run down brings down
nothing else.
"""

from __future__ import annotations

import enum
import multiprocessing
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree

import pytest

from tests.mutants.catalogue import ROOT, SUITE

if TYPE_CHECKING:
    from collections.abc import Iterable

PRELOADED: Final = (
    "pytest",
    "harness.plugin",
    "harness.driver",
    "harness.machines",
    "harness.station",
    "harness.pytest_reports",
    "harness.pytest_run",
    "harness.runner",
    "harness.build.pe",
    "vm.registry",
    "vm.emulated.machine",
)
"""What every run imports."""
LONGEST_RUN: Final = 300.0
"""Seconds after which a run is given up; the emulated machine ends a driver that hangs long before."""


class Outcome(enum.Enum):
    """How a test ended."""

    PASSED = "passed"
    FAILED = "failed"
    BROKEN = "broken"
    """An error of the machine or the test, which says nothing about the driver."""
    SKIPPED = "skipped"
    MISSING = "missing"
    """It did not run."""


@dataclass(frozen=True)
class Judgement:
    """How a run ended.

    Attributes:
        status: pytest's exit status; negative when a signal ended the run, None when it took too long.
        outcomes: by the node ids that were asked for, or of all tests when none was.
        output: what the run printed.
    """

    status: int | None
    outcomes: dict[str, Outcome]
    output: str


def run_suite(driver: Path, tests: Iterable[str], scratch: Path, *options: str) -> Judgement:
    """Run tests of the conformance suite on the emulated machine.

    Args:
        driver: the built image.
        tests: node ids relative to the suite; none for the whole suite.
        scratch: an empty directory for the run's own files.
        options: further options of pytest.
    """
    wanted = tuple(tests)
    report, output = scratch / "report.xml", scratch / "output.txt"
    arguments = ["-p", "no:cacheprovider", "-p", "harness.plugin", "-q", "-ra", "--tb=short", f"--junit-xml={report}"]
    # What was imported before pytest began cannot be rewritten, and need not be: it holds no test.
    arguments += ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
    arguments += ["--vm=emulated", f"--driver={driver}", f"--basetemp={scratch / 'temporary'}"]
    arguments += [f"--artefacts={scratch / 'artefacts'}", *options]
    arguments += [f"{SUITE}/{test}" for test in wanted] or [SUITE]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *PRELOADED])
    process = context.Process(target=_run, args=(arguments, str(output)))
    process.start()
    process.join(LONGEST_RUN)
    if process.is_alive():
        process.kill()
        process.join()
        status = None
    else:
        status = process.exitcode
    process.close()
    found = _read(report)
    outcomes = {test: found.get(test, Outcome.MISSING) for test in wanted} if wanted else found
    printed = output.read_text(encoding="utf-8", errors="replace") if output.is_file() else ""
    return Judgement(status, outcomes, printed)


def _run(arguments: list[str], output: str) -> None:
    """The body of a forked run."""
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    # xdist marks its workers so; the run is a pytest of its own, and needs no plugin but ours.
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    with Path(output).open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(int(pytest.main(arguments)))


def _read(report: Path) -> dict[str, Outcome]:
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return {}
    outcomes: dict[str, Outcome] = {}
    for case in cases:
        test = f"{case.get('classname', '').rpartition('.')[2]}.py::{case.get('name')}"
        kinds = {child.tag for child in case}
        # A failure in the test and an error in its tear-down are two entries.
        outcomes[test] = max(_outcome(kinds), outcomes.get(test, Outcome.PASSED), key=_weight)
    return outcomes


def _outcome(kinds: set[str]) -> Outcome:
    if "error" in kinds:
        return Outcome.BROKEN
    if "failure" in kinds:
        return Outcome.FAILED
    return Outcome.SKIPPED if "skipped" in kinds else Outcome.PASSED


def _weight(outcome: Outcome) -> int:
    return [Outcome.PASSED, Outcome.SKIPPED, Outcome.BROKEN, Outcome.FAILED].index(outcome)
