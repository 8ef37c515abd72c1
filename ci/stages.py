"""Runs the stages of `ci/test` one after the other and reports them all; a stage that fails stops no other stage.

Everything runs in the environment of the interpreter that runs this file. Test reports in JUnit's format and the
coverage data go to build/ci and build/coverage.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

ROOT: Final = Path(__file__).resolve().parent.parent
REPORTS: Final = ROOT / "build" / "ci"
COVERAGE: Final = ROOT / "build" / "coverage"
PROFILES: Final = ("documented", "observed")
WORKERS: Final = "2"
WDK: Final = ("-p", "tests.fixtures.kit_plugin", "--toolchain", "wdk")
"""Builds with the public WDK, for which the tests make a kit of their own."""

EXIT_NOTHING_SELECTED: Final = 5
"""pytest's exit status when it selected no test: fine where the caller's arguments select, a defect otherwise."""


@dataclass(frozen=True)
class Stage:
    """One check.

    Attributes:
        name: what the summary calls it.
        command: the program and its arguments.
        report: the JUnit file that a pytest run writes, None for other programs.
    """

    name: str
    command: tuple[str, ...]
    report: Path | None = None


@dataclass(frozen=True)
class Counts:
    """How the tests of one run, or of several, ended. A test whose set-up broke counts as failed."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)


@dataclass(frozen=True)
class Outcome:
    """What became of a stage."""

    stage: Stage
    passed: bool
    seconds: float
    counts: Counts | None


def stages(arguments: Sequence[str]) -> list[Stage]:
    """Every stage in order; `arguments` go to each run of pytest."""
    found = [
        Stage("ruff", _module("ruff", "check", ".")),
        Stage("mypy", _module("mypy")),
        _pytest("tests", ["-o", "testpaths=tests", "--ignore=tests/mutants", *arguments], measured=True),
    ]
    found += [
        _pytest(f"conformance-{profile}", ["--pyargs", "harness.conformance", "--profile", profile, *arguments])
        for profile in PROFILES
    ]
    found.append(_pytest("conformance-wdk", ["--pyargs", "harness.conformance", *WDK, *arguments]))
    found.append(_pytest("mutants", ["-o", "testpaths=tests/mutants", *arguments]))
    found.append(_pytest("mutants-wdk", ["-o", "testpaths=tests/mutants", *WDK, *arguments]))
    found.append(
        _on_standin(_pytest("conformance-standin", ["--pyargs", "harness.conformance", "--vm", "standin", *arguments]))
    )
    found.append(Stage("coverage", _module("coverage", "combine", "--quiet")))
    found.append(Stage("coverage-report", _module("coverage", "report")))
    return found


def run(found: Sequence[Stage], *, selecting: bool, execute: Callable[[Stage], int]) -> list[Outcome]:
    """Run the stages.

    Args:
        found: the stages, in order.
        selecting: the caller chose tests, so that a run may be left without any.
        execute: runs one stage and returns its exit status.
    """
    outcomes = []
    for stage in found:
        print(f"\n=== {stage.name}: {' '.join(stage.command[1:])}", flush=True)
        start = time.monotonic()
        status = execute(stage)
        seconds = time.monotonic() - start
        nothing = selecting and stage.report is not None and status == EXIT_NOTHING_SELECTED
        counts = None if stage.report is None else read_counts(stage.report)
        outcomes.append(Outcome(stage, status == 0 or nothing, seconds, counts))
    return outcomes


def read_counts(report: Path) -> Counts | None:
    """The counts of a JUnit report, None when pytest ended before it wrote one."""
    try:
        root = ElementTree.parse(report).getroot()  # noqa: S314 - written a moment ago by our own pytest
    except (OSError, ElementTree.ParseError):
        return None
    total = Counts()
    for suite in root.iter("testsuite"):
        failed = int(suite.get("failures", "0")) + int(suite.get("errors", "0"))
        skipped = int(suite.get("skipped", "0"))
        total += Counts(max(int(suite.get("tests", "0")) - failed - skipped, 0), failed, skipped)
    return total


def summary(outcomes: Sequence[Outcome]) -> str:
    """A line for each stage, and in the end the sum over all tests as `N passed, N failed`."""
    lines = [f"{'stage':24}{'result':8}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}"]
    total = Counts()
    for outcome in outcomes:
        counts = outcome.counts
        shown = ("", "", "") if counts is None else (counts.passed, counts.failed, counts.skipped)
        total += counts or Counts()
        word = "ok" if outcome.passed else "FAILED"
        lines.append(f"{outcome.stage.name:24}{word:8}{shown[0]:>8}{shown[1]:>8}{shown[2]:>9}{outcome.seconds:>9.1f}")
    lines += ["", f"{total.passed} passed, {total.failed} failed"]
    return "\n".join(lines)


def execute_here(stage: Stage, environment: Mapping[str, str] = os.environ) -> int:
    """Run a stage at the root of the checkout, its output going where ours goes."""
    if stage.report is not None:
        stage.report.unlink(missing_ok=True)
    return subprocess.run(stage.command, cwd=ROOT, env=dict(environment), check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Run everything; 0 when every stage passed, else 1."""
    shutil.rmtree(COVERAGE, ignore_errors=True)
    for folder in (REPORTS, COVERAGE):
        folder.mkdir(parents=True, exist_ok=True)
    outcomes = run(stages(arguments), selecting=bool(arguments), execute=execute_here)
    print(f"\n{summary(outcomes)}", flush=True)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def _module(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)


def _on_standin(stage: Stage) -> Stage:
    """The stage where the stand-in guest can be used; where it cannot, outside of CI, a line that says why."""
    return Stage(
        stage.name, (*_module("tests.integration.standin.run", "--where-possible"), *stage.command), stage.report
    )


def _pytest(name: str, arguments: Sequence[str], *, measured: bool = False) -> Stage:
    report = REPORTS / f"{name}.xml"
    runner = ("coverage", "run", "-m", "pytest") if measured else ("pytest",)
    # Some modules of the tests share a costly fixture (a wheel, an environment), which only one worker should make.
    # They are begun in the order in which they are collected, which tests/conftest.py has made a good one.
    spread = ("--dist", "loadscope", "--no-loadscope-reorder") if measured else ()
    return Stage(name, _module(*runner, "-n", WORKERS, *spread, f"--junit-xml={report}", *arguments), report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
