"""The manifest of mutants is read strictly."""

from __future__ import annotations

import pytest

from tests.mutants.catalogue import load_mutants

ENTRY = '[[mutant]]\nname = "{0}"\npatch = "01-{0}.patch"\ndefect = "It is wrong."\nkilled_by = ["test_a.py::test_b"]\n'


def load(tmp_path, text):
    manifest = tmp_path / "mutants.toml"
    manifest.write_text(text)
    return load_mutants(manifest)


def test_an_entry_names_patch_defect_and_tests(tmp_path):
    (mutant,) = load(tmp_path, ENTRY.format("one"))
    assert (mutant.name, mutant.defect, mutant.killed_by) == ("one", "It is wrong.", ("test_a.py::test_b",))
    assert mutant.patch == tmp_path / "patches" / "01-one.patch"
    assert mutant.driver == "procnotify"


def test_another_driver_needs_no_patch(tmp_path):
    (mutant,) = load(tmp_path, ENTRY.format("one").replace('patch = "01-one.patch"', 'driver = "mission"'))
    assert (mutant.patch, mutant.driver) == (None, "mission")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTRY.format("one") * 2, "two mutants are named 'one'"),
        (ENTRY.format("one") + 'oops = "x"\n', "mutant one: unknown key 'oops'"),
        (ENTRY.format("one").replace('defect = "It is wrong."', ""), "mutant one: no defect"),
        (ENTRY.format("one").replace('"test_a.py::test_b"', ""), "mutant one: name at least one test"),
        (ENTRY.format("one").replace('patch = "01-one.patch"', ""), "mutant one: either a patch"),
        (ENTRY.format("one") + 'driver = "mission"\n', "mutant one: either a patch"),
    ],
)
def test_a_malformed_entry_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, text)
