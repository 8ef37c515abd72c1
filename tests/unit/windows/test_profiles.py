"""Tests of the profiles: what is shipped, what users add, and that each mistake is named with its remedy."""

from __future__ import annotations

import copy
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm.errors import MachineConfigurationError
from vm.windows import profiles
from vm.windows.profiles.profile import Profile, is_name

SHIPPED = ("server2022", "server2025", "win10-22h2", "win11-24h2")
PATHS = [
    (key, name)
    for key, value in profiles.load("win11").to_mapping().items()
    for name in (value if isinstance(value, dict) else [None])
]


def mapping(name="win11"):
    return copy.deepcopy(profiles.load(name).to_mapping())


def changed(*keys, value, name="win11"):
    found = mapping(name)
    table = found
    for key in keys[:-1]:
        table = table[key]
    table[keys[-1]] = value
    return found


def test_the_shipped_profiles_and_their_aliases_are_known():
    assert profiles.names() == tuple(sorted([*SHIPPED, "win10", "win11"]))
    assert profiles.load("win10") is not None
    assert profiles.load("win11") == profiles.load("win11-24h2")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_profile_survives_being_written_and_read(name):
    profile = profiles.load(name)

    assert Profile.from_mapping(profile.to_mapping(), "again") == profile


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_loads_test_signed_drivers(name):
    profile = profiles.load(name)

    assert profile.features.test_signing
    assert not profile.hardware.secure_boot


def test_an_unknown_profile_names_those_that_there_are():
    with pytest.raises(MachineConfigurationError, match=r"no profile 'win7'.*choose from server2022.*win11-24h2"):
        profiles.load("win7")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("hardware", "memory_mib"), 512, r"^f\.toml: hardware\.memory_mib: 512 is out of range; expected 2048"),
        (("hardware", "memory_mib"), True, "expected an integer"),
        (("hardware", "memory_mib"), "4096", "expected an integer .*found a text"),
        (("hardware", "firmware"), "efi", "'efi' is not known; choose from bios, uefi"),
        (("hardware", "enlightenments"), ["relaxed", "relaxed"], "relaxed is listed twice"),
        (("hardware", "enlightenments"), "relaxed", "expected a list"),
        (("hardware", "enlightenments"), [3], r"hardware\.enlightenments\.0: .*found an integer"),
        (("hardware",), 3, "hardware: expected a table, found an integer"),
        (("hardware", "colour"), "red", "unknown key 'colour'; known here: firmware, secure_boot"),
        (("features", "test_signing"), "yes", "expected true or false, found a text"),
        (("answers", "computer_name"), "123", "'123' does not fit; expected 2 to 15 letters"),
        (("answers", "computer_name"), "x" * 16, "does not fit"),
        (("answers", "administrator"), "Administrator", "a name that Windows keeps for itself"),
        (("answers", "administrator"), "NTPROOF-win11", "keeps for itself"),
        (("answers", "standard_user"), "NTPROOF-Admin", "name two accounts"),
        (("answers", "product_key"), "1234", "five groups"),
        (("hardware", "secure_boot"), True, r"features\.test_signing: Windows refuses test signing while Secure Boot"),
        (("hardware", "disk_gib"), 24, "out of range"),
        (("hardware", "memory_mib"), 40960, r"hardware\.disk_gib: 64 GiB do not hold .*give 102 or more"),
        (("aliases",), ["win11-24h2"], "is the profile's own name"),
        (("name",), "Win 11", "at most 40 small letters"),
    ],
)
def test_a_mistake_is_named_with_file_key_and_remedy(keys, value, message):
    with pytest.raises(MachineConfigurationError, match=message):
        Profile.from_mapping(changed(*keys, value=value), "f.toml")


def test_what_bios_cannot_do_is_refused():
    with pytest.raises(MachineConfigurationError, match=r"needs hardware\.firmware = uefi"):
        Profile.from_mapping(changed("features", "memory_integrity", value=True, name="win10"), "f.toml")
    signed = changed("features", "test_signing", value=False, name="win10")
    signed["hardware"]["secure_boot"] = True
    with pytest.raises(MachineConfigurationError, match="BIOS has no Secure Boot"):
        Profile.from_mapping(signed, "f.toml")


def test_a_required_key_that_is_left_out_is_named():
    without = mapping()
    del without["media"]["build"]

    with pytest.raises(MachineConfigurationError, match=r"f\.toml: media: 'build' is missing; add it"):
        Profile.from_mapping(without, "f.toml")


def profile_or_message(value):
    try:
        return Profile.from_mapping(value, "f.toml")
    except MachineConfigurationError as error:
        return str(error)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(path=st.sampled_from(PATHS), value=anything)
def test_any_value_at_any_key_is_taken_as_it_is_or_refused_with_its_key(path, value):
    key, name = path
    given_mapping = changed(*(part for part in path if part is not None), value=value)

    outcome = profile_or_message(given_mapping)

    if isinstance(outcome, str):
        assert outcome.startswith("f.toml: ")
    else:
        read = outcome.to_mapping()[key]
        assert (read if name is None else read[name]) == value


@given(st.text(max_size=60))
def test_a_name_is_never_a_path(text):
    if is_name(text):
        assert "/" not in text
        assert "." not in text
        assert text == text.strip().lower()


def write(folder, name, text):
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")


def profile_text(name="server2022"):
    from importlib import resources

    return (resources.files("vm.windows.profiles") / f"{name}.toml").read_text(encoding="utf-8")


def test_a_folder_adds_profiles_and_replaces_those_of_the_same_name(tmp_path):
    write(tmp_path, "lab", profile_text())
    write(tmp_path, "server2022", profile_text().replace("cpus = 2", "cpus = 3"))

    found = profiles.shipped().with_folder(tmp_path)

    assert found.load("lab").media.build == 20348
    assert found.load("server2022").hardware.cpus == 3
    assert found.load("win11").name == "win11-24h2"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a b", "", "the file's name is the profile's name"),
        ("lab", "x = ", "not TOML"),
        ("lab", 'name = "lab"\n', "leave the key out"),
        ("lab", "", "'description' is missing"),
        ("lab", profile_text("win11-24h2"), "alias 'win11' is taken by profile 'win11-24h2'"),
        ("lab", profile_text("win11-24h2").replace('"win11"', '"win11-24h2"'), "taken by profile 'win11-24h2'"),
    ],
)
def test_a_wrong_file_in_a_folder_is_named(tmp_path, name, text, message):
    write(tmp_path, name, text)

    with pytest.raises(MachineConfigurationError, match=message):
        profiles.shipped().with_folder(tmp_path)


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(MachineConfigurationError, match="none: No such file"):
        profiles.shipped().with_folder(tmp_path / "none")


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "lab.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(MachineConfigurationError, match=r"lab\.toml: not UTF-8"):
        profiles.shipped().with_folder(tmp_path)


TABLE = """
[tool.ntproof.profiles.big]
extends = "win11"
description = "More memory"
[tool.ntproof.profiles.big.hardware]
memory_mib = 8192
[tool.ntproof.profiles.bigger]
extends = "big"
hardware.cpus = 8
"""


def table(text):
    return tomllib.loads(text)["tool"]["ntproof"]["profiles"]


def test_a_table_can_extend_profiles_and_its_own_ones():
    found = profiles.shipped().with_table(table(TABLE), "pyproject.toml")

    assert found.load("big").hardware.memory_mib == 8192
    assert found.load("big").hardware.tpm
    assert found.load("big").aliases == ()
    assert found.load("bigger").hardware.cpus == 8
    assert found.load("bigger").hardware.memory_mib == 8192


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[tool.ntproof.profiles.big]\nextends = "none"', r"profiles\.big: extends: there is no profile 'none'"),
        ('[tool.ntproof.profiles."Big one"]\nextends = "win11"', "a profile's name is"),
        ("[tool.ntproof.profiles]\nbig = 3", r"profiles\.big: expected a table"),
        (TABLE.replace("8192", "1"), r"pyproject\.toml: tool\.ntproof\.profiles\.big: hardware\.memory_mib: 1 is out"),
    ],
)
def test_a_wrong_table_is_named(text, message):
    with pytest.raises(MachineConfigurationError, match=message):
        profiles.shipped().with_table(table(text), "pyproject.toml")


@pytest.mark.parametrize("key", ["aaaaa-BBBBB-CCCCC-DDDDD-EEEEE", "AAAAA-BBBBB-CCCCC-DDDDD-EEEEE ", 12345])
def test_a_product_key_that_does_not_fit_is_not_quoted(key):
    with pytest.raises(MachineConfigurationError, match=r"answers\.product_key: ") as refused:
        Profile.from_mapping(changed("answers", "product_key", value=key), "test")

    assert "BBBBB" not in str(refused.value)


@pytest.mark.parametrize(
    "zone",
    [
        "UTC",
        "UTC-11",
        "UTC+13",
        "W. Europe Standard Time",
        "Pacific Standard Time (Mexico)",
        "Pacific Standard Time_dstoff",
        "Mid-Atlantic Standard Time",
        "Russia Time Zone 10",
    ],
)
def test_time_zones_of_windows_are_taken(zone):
    assert Profile.from_mapping(changed("locale", "time_zone", value=zone), "test").locale.time_zone == zone


@pytest.mark.parametrize("zone", ["CET", "GMT", "Europe/Berlin", "utc", "UTC+1", "Standard Time", "Berlin", ""])
def test_a_time_zone_that_windows_does_not_know_is_refused_before_setup_stops_at_it(zone):
    with pytest.raises(MachineConfigurationError, match=r"locale\.time_zone: .*tzutil /l"):
        Profile.from_mapping(changed("locale", "time_zone", value=zone), "test")
