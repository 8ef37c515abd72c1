"""Descriptions of drivers are read whole or refused with file, table and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.build import DriverSources, find_driver, load_descriptions
from harness.build.layout import build_directory, checkout_root, driver_source_root
from harness.errors import ConfigurationError, InputError


@pytest.fixture
def described(tmp_path):
    (tmp_path / "a.c").write_text("")

    def write(text):
        path = tmp_path / "drivers.toml"
        path.write_text(text)
        return path

    return write


def test_a_description_is_read_whole(described):
    path = described(
        '[one]\nsources = ["a.c"]\ninclude = ["."]\ndefines = ["X=1"]\nentry = "Start"\n'
        'integrity_check = false\nextra_exports = ["ExAllocatePool2"]\n'
    )

    assert load_descriptions(path) == {
        "one": DriverSources(
            *("one", path.parent, ("a.c",), (".",), ("X=1",), "Start"),
            integrity_check=False,
            extra_exports=("ExAllocatePool2",),
            label=path.parent.name,
        )
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[one", "not valid TOML"),
        ("", "no driver is described"),
        ("one = 1", r"one: expected a table"),
        ("[one]", r"no sources"),
        ('[one]\nsources = "a.c"', r"\[one\]: sources: expected a list of strings"),
        ("[one]\nsources = [1]", r"\[one\]: sources: expected a list of strings"),
        ('[one]\nsources = ["b.c"]', r"\[one\]: sources: there is no file 'b.c'"),
        ('[one]\nsources = ["a.c"]\nsource = []', r"\[one\]: unknown key 'source'; known keys: sources"),
        ('[one]\nsources = ["a.c"]\nentry = 1', r"\[one\]: entry: expected a str"),
        ('[one]\nsources = ["a.c"]\nintegrity_check = "yes"', r"integrity_check: expected a bool"),
        ('[one]\nsources = ["a.c"]\nentry = "a b"', "'a b' is not a C identifier"),
        ('[one]\nsources = ["a.c"]\nextra_exports = ["/x"]', "'/x' is not a C identifier"),
        ('[one]\nsources = ["a.c"]\ninclude = ["../x"]', "must be relative"),
        ('[one]\nsources = ["a.c"]\ninclude = ["/x"]', "must be relative"),
        ('[one]\nsources = ["a.c"]\ndefines = ["1X"]', "must be NAME or NAME=VALUE"),
        ('["o ne"]\nsources = ["a.c"]', "driver name 'o ne'"),
    ],
)
def test_a_mistake_is_named_with_its_file(described, text, complaint):
    path = described(text)

    with pytest.raises(InputError, match=complaint) as caught:
        load_descriptions(path)

    assert str(path) in str(caught.value)


def test_a_missing_description_is_the_users_mistake(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_descriptions(tmp_path / "absent.toml")


def test_the_only_driver_of_a_file_needs_no_name(described):
    path = described('[one]\nsources = ["a.c"]')

    assert find_driver(str(path)).name == find_driver(f"{path}:one").name == find_driver(str(path.parent)).name == "one"


def test_one_of_several_drivers_must_be_chosen(described):
    path = described('[one]\nsources = ["a.c"]\n[two]\nsources = ["a.c"]')

    assert find_driver(f"{path}:two").name == "two"
    with pytest.raises(ConfigurationError, match="choose one"):
        find_driver(str(path))
    with pytest.raises(ConfigurationError, match="choose one"):
        find_driver(f"{path}:three")


def test_a_folder_of_the_same_name_hides_no_bundled_driver_unless_it_describes_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "procnotify").mkdir()
    (tmp_path / "empty").mkdir()

    assert find_driver("procnotify").root == driver_source_root()
    with pytest.raises(InputError, match=r"empty: holds no drivers\.toml"):
        find_driver("empty")

    (tmp_path / "procnotify" / "a.c").write_text("")
    (tmp_path / "procnotify" / "drivers.toml").write_text('[mine]\nsources = ["a.c"]\n')
    assert find_driver("procnotify").name == "mine"


def test_an_unknown_driver_is_answered_with_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"known: .*procnotify"):
        find_driver("procnotfy")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=80) | st.binary(max_size=80))
def test_any_text_is_read_or_refused(tmp_path, text):
    path = tmp_path / "drivers.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))

    with pytest.raises(InputError):
        load_descriptions(path)


def test_a_checkout_builds_into_its_build_directory():
    assert build_directory({}) == checkout_root() / "build"
    assert driver_source_root() == checkout_root() / "driver"


def test_the_build_directory_can_be_chosen(tmp_path):
    assert build_directory({"NTPROOF_BUILD_DIR": str(tmp_path)}) == tmp_path.resolve()


def test_an_installed_package_builds_into_the_cache(monkeypatch):
    monkeypatch.setattr("harness.build.layout.checkout_root", lambda: None)

    assert build_directory({"XDG_CACHE_HOME": "/cache"}) == Path("/cache/ntproof")
    assert build_directory({}) == Path.home() / ".cache" / "ntproof"


def test_an_installed_package_carries_its_sources(monkeypatch, tmp_path):
    package = tmp_path / "harness"
    (package / "_driver").mkdir(parents=True)
    (package / "_driver" / "drivers.toml").write_text("")
    monkeypatch.setattr("harness.build.layout._PACKAGE", package)

    assert driver_source_root() == package / "_driver"
    assert checkout_root() is None


def test_an_installation_without_sources_is_reported_with_the_places_searched(monkeypatch, tmp_path):
    monkeypatch.setattr("harness.build.layout._PACKAGE", tmp_path / "harness")

    with pytest.raises(ConfigurationError, match=r"_driver.*reinstall"):
        driver_source_root()
