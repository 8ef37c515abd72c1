"""Patches apply where their lines are, all of them and once, and nowhere else."""

from __future__ import annotations

import difflib
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mutants.patching import PatchError, apply_patch, parse_patch

FILE = PurePosixPath("driver/a.c")
TEXT = "".join(f"line {number}\n" for number in range(1, 21))
PATCH = """\
--- a/driver/a.c
+++ b/driver/a.c
@@ -3,3 +3,3 @@ context
 line 3
-line 4
+line four
 line 5
@@ -10,2 +10,3 @@
 line 10
+line ten and a half
 line 11
"""


def changed(patch: str = PATCH, text: str = TEXT) -> str:
    return apply_patch(patch, {FILE: text})[FILE]


def test_a_patch_changes_what_it_names_and_nothing_else():
    assert changed() == TEXT.replace("line 4\n", "line four\n").replace("line 10\n", "line 10\nline ten and a half\n")


@pytest.mark.parametrize("before", ["", "one\n", "one\ntwo\n" * 40])
def test_a_patch_follows_lines_that_have_moved(before):
    assert changed(text=before + TEXT) == before + changed()


def test_what_comes_before_the_header_is_commentary():
    assert changed("diff --git a/driver/a.c b/driver/a.c\nindex 1..2\n" + PATCH) == changed()


def test_lines_that_are_gone_are_named():
    with pytest.raises(PatchError, match=r"what it changes at line 3 of driver/a\.c is found nowhere"):
        changed(text=TEXT.replace("line 5\n", "line V\n"))


def test_lines_that_are_in_two_places_are_refused():
    with pytest.raises(PatchError, match="found in 2 places, at lines 4, 24"):
        changed(text="moved\n" + TEXT + TEXT)


def test_a_patch_that_is_applied_already_no_longer_applies():
    with pytest.raises(PatchError, match="no longer applies"):
        changed(text=changed())


def test_a_file_that_is_gone_is_named():
    with pytest.raises(PatchError, match=r"there is no file driver/a.c"):
        apply_patch(PATCH, {})


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("", "no file header"),
        ("just text\n", "no file header"),
        ("--- a/driver/a.c\n", "expected a line that begins"),
        ("--- a/driver/a.c\n+++ b/driver/b.c\n@@ -1 +1 @@\n-a\n+b\n", "two names"),
        ("--- a/driver/a.c\n+++ b/driver/a.c\n", "no hunk"),
        ("--- a/driver/a.c\n+++ b/driver/a.c\n@@ what @@\n", "malformed hunk header"),
        ("--- a/driver/a.c\n+++ b/driver/a.c\n@@ -1,2 +1,1 @@\n-line 1\n", "ends too early"),
        ("--- a/driver/a.c\n+++ b/driver/a.c\n@@ -1,2 +1,1 @@\n-line 1\nrubbish\n", "ends too early"),
        ("--- a/driver/a.c\n+++ b/driver/a.c\n@@ -1,1 +1,1 @@\n-line 1\n-line 2\n+line\n", "counts"),
        ("--- /dev/null\n+++ b/driver/a.c\n@@ -0,0 +1 @@\n+new\n", "outside the tree"),
        ("--- a/../a.c\n+++ b/../a.c\n@@ -1 +1 @@\n-a\n+b\n", "outside the tree"),
    ],
)
def test_what_is_no_patch_is_refused(patch, message):
    with pytest.raises(PatchError, match=message):
        changed(patch)


@given(st.text())
def test_any_text_is_a_patch_or_is_refused(text):
    try:
        parse_patch(text)
    except PatchError:
        return


@given(st.lists(st.sampled_from("abcdef"), max_size=30), st.lists(st.sampled_from("abcdef"), max_size=30))
def test_a_difference_turns_one_text_into_the_other(old, new):
    before = ["first\n", *(f"{one}\n" for one in old)]
    after = ["first\n", *(f"{one}\n" for one in new)]
    patch = "".join(difflib.unified_diff(before, after, "a/driver/a.c", "b/driver/a.c"))
    if patch:
        assert changed(patch, "".join(before)) == "".join(after)
