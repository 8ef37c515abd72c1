"""Driver Verifier's options are named, read, and turned into what Windows takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm.errors import MachineConfigurationError
from vm.verifier import LOW_RESOURCES, OPTIONS, VerifierSettings, parse_verifier

WINDOWS_10, SERVER_2022, WINDOWS_11, SERVER_2025 = 19045, 20348, 26100, 26100
NAMES = [option.name for option in OPTIONS]


def test_names_become_the_bits_of_microsofts_table():
    assert parse_verifier("special-pool,io").flags == 0x11
    assert parse_verifier("force-irql, pool-tracking ,misc").flags == 0x80A
    assert parse_verifier("code-integrity").flags == 0x2000000


def test_no_two_options_have_the_same_name_or_bit():
    assert len(set(NAMES)) == len(OPTIONS)
    assert all(option.flag.bit_count() == 1 for option in OPTIONS)
    assert len({option.flag for option in OPTIONS}) == len(OPTIONS)


def test_standard_is_what_verifier_standard_sets_on_windows():
    # 0x209BB is what `verifier /standard` sets (Microsoft Learn, "Driver Verifier Options", standard settings).
    assert parse_verifier("standard").flags == 0x209BB
    assert parse_verifier("standard,special-pool,low-resources").flags == 0x209BB


def test_low_resources_goes_by_faults_and_not_by_flags():
    plain, chosen = parse_verifier(LOW_RESOURCES), parse_verifier("io,low-resources=0.05,pool-tag=Tag1,seed=7")

    assert (plain.flags, plain.chances) == (0, 600)
    assert (chosen.flags, chosen.chances, chosen.pool_tag, chosen.seed) == (0x10, 500, "Tag1", 7)
    assert parse_verifier("io").chances is None


@pytest.mark.parametrize(
    ("text", "build", "names"),
    [
        ("special-pool,io,misc,low-resources", WINDOWS_10, ()),
        ("special-pool,io,misc,low-resources", SERVER_2022, ()),
        ("special-pool,low-resources,deadlock", WINDOWS_11, ("special-pool",)),
        ("irp-logging,force-pending,dma,mdl-stack", SERVER_2025, ("mdl-stack",)),
        ("ddi,power-delay,special-pool", WINDOWS_10, ("power-delay", "ddi")),
    ],
)
def test_what_a_build_takes_up_only_at_its_start_is_named(text, build, names):
    assert parse_verifier(text).needs_restart(build) == names


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "name is missing"),
        ("io,", "name is missing"),
        ("io,,misc", "name is missing"),
        ("specialpool", "did you mean special-pool"),
        ("IO", "choose from standard, special-pool"),
        ("io=1", "io takes no value"),
        ("standard=1", "standard takes no value"),
        ("io,io", "io is given twice"),
        ("low-resources,low-resources=0.1", "low-resources is given twice"),
        ("low-resources=", "expected a probability such as 0.06"),
        ("low-resources=often", "expected a probability such as 0.06"),
        ("low-resources=0", "expected a probability from 0.0001 to 1"),
        ("low-resources=1.01", "expected a probability from 0.0001 to 1"),
        ("low-resources=nan", "expected a probability from 0.0001 to 1"),
        ("low-resources=-0.1", "expected a probability from 0.0001 to 1"),
        ("low-resources,pool-tag", "pool-tag needs a value"),
        ("low-resources,pool-tag=", "four printable"),
        ("low-resources,pool-tag=Tags1", "four printable"),
        ("low-resources,pool-tag=\u00e9\u00e9\u00e9\u00e9", "four printable"),
        ("io,pool-tag=Tag1", "only together with low-resources"),
        ("io,seed=1", "only together with low-resources"),
        ("low-resources,seed", "seed needs a value"),
        ("low-resources,seed=", "expected an integer"),
        ("low-resources,seed=-1", "expected an integer"),
        ("low-resources,seed=18446744073709551616", "expected an integer"),
        ("low-resources,seed=1.0", "expected an integer"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_what_would_be_right(text, complaint):
    with pytest.raises(MachineConfigurationError, match=complaint) as told:
        parse_verifier(text)

    assert "\n" not in str(told.value)


TAG_CHARACTERS = st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=",")
SETTINGS = st.builds(
    lambda options, probability, tag, seed: (
        VerifierSettings(options | {LOW_RESOURCES}, probability, tag, seed)
        if tag or seed or not options
        else VerifierSettings(options)
    ),
    st.frozensets(st.sampled_from(NAMES)),
    st.floats(0.0001, 1),
    st.none() | st.text(TAG_CHARACTERS, min_size=4, max_size=4),
    st.integers(0, (1 << 64) - 1),
)  # fmt: skip


@given(SETTINGS)
def test_settings_in_words_are_read_as_the_same_settings(settings):
    assert parse_verifier(str(settings)) == settings


@given(st.text(st.sampled_from("abiolow-resources=,.0169 standardseed\ud800\n"), max_size=40))
def test_any_other_text_is_read_or_refused(text):
    try:
        read = parse_verifier(text)
    except MachineConfigurationError:
        return
    assert parse_verifier(str(read)) == read
