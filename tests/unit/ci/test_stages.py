"""Tests of ci/stages.py: every stage runs, none hides another, and the last line counts every test."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def ci():
    specification = importlib.util.spec_from_file_location("ci_stages", ROOT / "ci" / "stages.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules[specification.name]


def report(path, *, tests, failures=0, errors=0, skipped=0):
    path.write_text(
        f'<testsuites><testsuite name="pytest" tests="{tests}" failures="{failures}" errors="{errors}" '
        f'skipped="{skipped}"/></testsuites>'
    )
    return path


def test_a_failing_stage_stops_no_later_stage(ci):
    started = []

    def execute(stage):
        started.append(stage.name)
        return 1

    outcomes = ci.run([ci.Stage("a", ("a",)), ci.Stage("b", ("b",))], selecting=False, execute=execute)

    assert started == ["a", "b"]
    assert [outcome.passed for outcome in outcomes] == [False, False]


def test_the_last_line_sums_the_tests_of_all_runs(ci, tmp_path):
    first = report(tmp_path / "1.xml", tests=10, failures=1, errors=2, skipped=3)
    second = report(tmp_path / "2.xml", tests=5)
    found = [ci.Stage("lint", ("x",)), ci.Stage("one", ("x",), first), ci.Stage("two", ("x",), second)]

    outcomes = ci.run(found, selecting=False, execute=lambda stage: 0)

    assert ci.summary(outcomes).splitlines()[-1] == "9 passed, 3 failed"


def test_a_run_that_wrote_no_report_has_no_counts(ci, tmp_path):
    assert ci.read_counts(tmp_path / "absent.xml") is None


def test_a_report_that_was_cut_short_has_no_counts(ci, tmp_path):
    cut = tmp_path / "cut.xml"
    cut.write_text('<testsuites><testsuite tests="3"')

    assert ci.read_counts(cut) is None


@pytest.mark.parametrize(("selecting", "passed"), [(True, True), (False, False)])
def test_a_run_without_tests_passes_only_when_the_caller_selected(ci, tmp_path, selecting, passed):
    stage = ci.Stage("tests", ("x",), tmp_path / "none.xml")

    (outcome,) = ci.run([stage], selecting=selecting, execute=lambda stage: ci.EXIT_NOTHING_SELECTED)

    assert outcome.passed is passed


def test_an_exit_status_of_five_from_another_program_is_a_failure(ci):
    (outcome,) = ci.run([ci.Stage("mypy", ("x",))], selecting=True, execute=lambda stage: ci.EXIT_NOTHING_SELECTED)

    assert not outcome.passed


def test_arguments_reach_every_run_of_pytest(ci):
    runs = [stage for stage in ci.stages(["-k", "denial"]) if stage.report is not None]

    assert len(runs) == 7
    assert all(stage.command[-2:] == ("-k", "denial") for stage in runs)


def test_the_suite_runs_under_both_profiles(ci):
    profiles = [
        stage.command[stage.command.index("--profile") + 1] for stage in ci.stages([]) if "--profile" in stage.command
    ]

    assert profiles == ["documented", "observed"]


def test_suite_and_mutants_run_on_what_a_kit_built_too(ci):
    through_a_kit = [stage.name for stage in ci.stages([]) if stage.command[-2:] == ("--toolchain", "wdk")]

    assert through_a_kit == ["conformance-wdk", "mutants-wdk"]


def test_an_old_report_is_not_taken_for_the_new_run(ci, tmp_path):
    stale = report(tmp_path / "stale.xml", tests=7)

    status = ci.execute_here(ci.Stage("tests", (sys.executable, "-c", "raise SystemExit(4)"), stale))

    assert status == 4
    assert ci.read_counts(stale) is None
