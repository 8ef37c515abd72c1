"""Tests of the artefacts' folders: one for each test, with a name that leads nowhere else."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from harness.artefacts import Artefacts, folder_name


@given(st.text(max_size=300))
def test_no_test_gets_a_folder_elsewhere(test):
    name = folder_name(test)

    assert re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name)
    assert name not in {".", ".."}
    assert len(name) > 8


@given(st.text(max_size=100), st.text(max_size=100))
def test_two_tests_never_share_one(first, second):
    assert (folder_name(first) == folder_name(second)) is (first == second)


def test_a_name_tells_its_test():
    assert folder_name("harness/conformance/test_denial.py::TestIt::test_one[win11-a b]").startswith(
        "test_denial.py.TestIt.test_one-win11-a-b."
    )


def test_nothing_is_made_before_there_is_something_to_keep(tmp_path):
    kept = Artefacts(tmp_path / "root")
    kept.begin("test_a.py::test_it")

    assert kept.kept() == ()
    assert not kept.root.exists()


def test_what_the_machine_keeps_and_the_report_are_in_one_folder(tmp_path):
    kept = Artefacts(tmp_path)
    kept.begin("test_a.py::test_it")

    assert kept.write_report("text").parent == tmp_path / kept.occasion()
