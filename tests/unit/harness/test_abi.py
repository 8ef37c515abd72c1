from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.abi import Abi, AbiViolation, Match, Rule, load_abi
from harness.errors import HarnessError
from harness.notification import Create, Exit, Gap
from tests.unit.harness.strategies import NAME, notifications

CREATE = Create(7, 5, 8, 4, 4, 12, 0xC0000022, "\\??\\C:\\x.exe", "a\ud800", True, False)
EXIT = Exit(8, 6, 8, 0x80000001)
GAP = Gap(9, 7, 3)
DENYING = st.integers(0x80000000, 0xFFFFFFFF) | st.just(0)


@given(notifications())
def test_what_is_encoded_decodes_to_the_same_notifications(found):
    abi = load_abi()

    assert abi.decode_notifications(b"".join(map(abi.encode_notification, found))) == found


@given(st.lists(st.builds(Rule, st.sampled_from(Match), NAME, DENYING), max_size=5).map(tuple))
def test_rules_survive_the_way_to_the_driver_and_back(rules):
    abi = load_abi()

    assert abi.decode_rules(abi.encode_rules(rules)) == rules


@given(st.binary(max_size=300))
def test_arbitrary_output_never_fails_in_another_way_than_a_violation(data):
    abi = load_abi()
    for decode in (abi.decode_notifications, abi.decode_rules, abi.decode_statistics, abi.decode_version):
        offset = 0
        try:
            decode(data)
        except AbiViolation as violation:
            offset = violation.offset
        assert 0 <= offset <= len(data)


@given(notifications().filter(bool), st.data())
def test_a_damaged_buffer_is_a_violation_or_decodes_to_exactly_its_bytes(found, data):
    abi = load_abi()
    buffer = bytearray(b"".join(map(abi.encode_notification, found)))
    buffer[data.draw(st.integers(0, len(buffer) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decoded = abi.decode_notifications(bytes(buffer))
    except AbiViolation:
        return
    # No byte may pass unseen: what was decoded must encode to what was read.
    assert b"".join(map(abi.encode_notification, decoded)) == bytes(buffer)


def damaged(record: bytes, offset: int, form: str, value: int) -> bytes:
    data = bytearray(record)
    struct.pack_into(form, data, offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("notification", "at", "form", "value", "offset", "what"),
    [
        (CREATE, 0, "<I", 57, 0, "Size 57"),
        (CREATE, 0, "<I", 0, 0, "Size 0"),
        (CREATE, 0, "<I", 1 << 20, 0, "Size 1048576"),
        (CREATE, 0, "<I", 32, 0, "under 56"),
        (CREATE, 4, "<H", 9, 4, "Type 9"),
        (CREATE, 6, "<H", 0x1D, 6, "unknown bits"),
        (CREATE, 6, "<H", 0x9, 44, "ImageNameLength 24 without its flag"),
        (CREATE, 6, "<H", 0x5, 48, "CommandLineLength 4 without its flag"),
        (CREATE, 8, "<Q", 0, 8, "Sequence 0"),
        (CREATE, 44, "<I", 25, 44, "odd"),
        (CREATE, 44, "<I", 1 << 20, 44, "texts of"),
        (CREATE, 52, "<I", 1, 52, "Reserved is 0x1"),
        (CREATE, 86, "<H", 1, 84, "padding is not zero"),
        (EXIT, 6, "<H", 1, 6, "Flags 0x1 of an exit"),
        (EXIT, 0, "<I", 24, 0, "Size 24 of an exit"),
        (GAP, 6, "<H", 1, 6, "Flags 0x1 of a gap"),
        (GAP, 24, "<Q", 0, 24, "Count of a gap record is zero"),
        (GAP, 0, "<I", 24, 0, "Size 24 of a gap"),
    ],
)
def test_a_violation_names_its_place(notification, at, form, value, offset, what):
    abi = load_abi()
    record = damaged(abi.encode_notification(notification), at, form, value)

    with pytest.raises(AbiViolation, match=what) as caught:
        abi.decode_notifications(record)

    assert caught.value.offset == offset


def test_a_number_that_goes_back_is_a_violation_at_the_second_record():
    abi = load_abi()
    data = abi.encode_notification(GAP) + abi.encode_notification(replace(EXIT, sequence=11))

    with pytest.raises(AbiViolation, match="Sequence 11 follows 11") as caught:
        abi.decode_notifications(data)

    assert caught.value.offset == 40


def test_left_over_bytes_are_a_violation():
    abi = load_abi()

    with pytest.raises(AbiViolation, match="8 bytes are left"):
        abi.decode_notifications(abi.encode_notification(EXIT) + bytes(8))


@pytest.mark.parametrize(
    ("at", "form", "value", "what"),
    [
        (0, "<I", 2, "AbiVersion 2"),
        (4, "<I", 2, "header does not fit"),
        (4, "<I", 0, "follow the last rule"),
        (4, "<I", 5000, "over PROCNOTIFY_MAXIMUM_RULES"),
        (8, "<I", 3, "Size 3"),
        (12, "<I", 3, "Reserved"),
        (16, "<I", 48, "for a pattern of"),
        (20, "<H", 4, "Match 4"),
        (22, "<H", 1, "Reserved"),
        (24, "<I", 1, "neither a failure nor 0"),
        (28, "<I", 3, "odd"),
        (28, "<I", 0, "zero"),
        (38, "<H", 3, "padding"),
    ],
)
def test_a_damaged_rule_set_is_a_violation(at, form, value, what):
    abi = load_abi()

    with pytest.raises(AbiViolation, match=what):
        abi.decode_rules(damaged(abi.encode_rules([Rule(Match.EXACT, "abc")]), at, form, value))


def test_the_constants_are_those_of_the_header():
    abi = load_abi()

    assert abi.text("WIN32_NAME") == "\\\\.\\ProcNotify"
    assert abi.integer("IOCTL_PROCNOTIFY_READ") == 0x80006012
    assert (abi.version_size, abi.statistics_size, abi.rules_header_size) == (16, 88, 16)
    assert abi.maximum_record_size == 56 + 2 * 65534 + 4


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ("", "does not declare PROCNOTIFY_RULES"),
        ("typedef struct _X { uint8_t a; uint32_t b; } PROCNOTIFY_RULES;", "hidden padding"),
        ("typedef struct _X { wchar a; } PROCNOTIFY_RULES;", "unsupported type"),
    ],
)
def test_a_header_that_cannot_serve_is_refused_with_the_reason(header, what):
    with pytest.raises(HarnessError, match=what):
        Abi(header)


def test_a_missing_header_is_named(tmp_path):
    with pytest.raises(HarnessError, match=r"nothing\.h"):
        load_abi(tmp_path / "nothing.h")
