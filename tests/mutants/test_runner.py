"""The runner of the mutants notices every way in which one can get away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.machines import find_driver_image
from tests.mutants.catalogue import load_mutants
from tests.mutants.judging import Outcome, run_suite
from tests.mutants.test_mutants import test_the_tests_named_for_a_mutant_fail_on_it as judge

MUTANT = next(mutant for mutant in load_mutants() if mutant.name == "exit-status-missing")
UNCONCERNED = "test_unload.py::test_a_stopped_driver_has_no_device[emulated]"


def complaint(mutant, tmp_path) -> str:
    with pytest.raises(pytest.fail.Exception) as caught:
        judge(mutant, tmp_path, None)
    return str(caught.value)


def test_a_mutant_whose_test_passes_has_survived(tmp_path):
    said = complaint(replace(MUTANT, killed_by=(*MUTANT.killed_by, UNCONCERNED)), tmp_path)
    assert f"{UNCONCERNED}: passed" in said
    assert MUTANT.defect in said
    assert f"{MUTANT.killed_by[0]}:" not in said


def test_a_test_that_does_not_exist_kills_nothing(tmp_path):
    said = complaint(replace(MUTANT, killed_by=("test_unload.py::test_of_nothing",)), tmp_path)
    assert "test_of_nothing: missing" in said
    assert "not found" in said


def test_a_patch_that_no_longer_applies_is_told(tmp_path):
    text = MUTANT.patch.read_text(encoding="utf-8").replace("ExitStatus", "LeaveStatus")
    patch = tmp_path / "old.patch"
    patch.write_text(text, encoding="utf-8")
    assert "old.patch cannot be built: the patch no longer applies" in complaint(replace(MUTANT, patch=patch), tmp_path)


def test_a_mutant_that_does_not_compile_is_told(tmp_path):
    text = MUTANT.patch.read_text(encoding="utf-8").replace("= STATUS_SUCCESS;", "= NO_SUCH_STATUS;")
    patch = tmp_path / "broken.patch"
    patch.write_text(text, encoding="utf-8")
    said = complaint(replace(MUTANT, name="not-compiling", patch=patch), tmp_path)
    assert "broken.patch cannot be built: driver/procnotify/notify.c" in said
    assert "NO_SUCH_STATUS" in said


def test_an_error_of_the_machine_kills_nothing(tmp_path):
    judgement = run_suite(find_driver_image(None).path, (UNCONCERNED,), tmp_path, "-p", "tests.mutants.broken_machine")
    assert judgement.outcomes == {UNCONCERNED: Outcome.BROKEN}
    assert "out of order" in judgement.output
