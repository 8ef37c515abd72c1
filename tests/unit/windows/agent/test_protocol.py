"""Lines of the plan protocol survive any text, and nothing that is no answer passes for one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.notification import canonical_text
from vm.windows.agent.protocol import (
    Malformed,
    decode,
    encode,
    flag,
    integer,
    octets,
    optional_integer,
    optional_text,
)

TEXTS = st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF), max_size=60)
SURROGATES = st.text(st.characters(categories=["Cs"]), max_size=8)


@given(st.one_of(TEXTS, SURROGATES, st.builds(str.__add__, TEXTS, SURROGATES)))
def test_any_utf_16_text_crosses_as_one_line_of_ascii_and_comes_back_unchanged(text):
    line = encode("launch", 7, {"command_line": text})

    assert line.isascii()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    # A pair of surrogates is one character once it is back.
    assert decode(line)["command_line"] == canonical_text(text)


def test_a_command_line_of_the_greatest_length_fits_into_a_line():
    assert len(encode("launch", 1, {"command_line": "\ud800" * 32_767})) < 4 << 20


@given(st.binary(max_size=200))
def test_bytes_come_back_unchanged(data):
    assert octets(decode(encode("control", 1, {"input": data})), "input") == data


def test_members_that_are_none_are_left_out():
    assert decode(encode("open", 3, {"path": None, "read": False})) == {"op": "open", "id": 3, "read": False}


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"7", b"{", b'{"a":1,"a":2}', b'{"a":1.5}', b'{"a":1e3}', b'{"a":NaN}', b'{"a":[1]}', b'{"a":{}}',
     b"\xff", b'{"a":"\xff"}', b"[" * 100_000],
    ids=lambda line: repr(line[:12]),
)  # fmt: skip
def test_what_is_no_flat_object_is_refused(line):
    with pytest.raises(Malformed):
        decode(line)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_only_members_of_the_promised_kind_are_taken(value):
    members = {"m": value}
    for read, right in (
        (integer, type(value) is int and 0 <= value < 1 << 32),
        (optional_integer, value is None or (type(value) is int and 0 <= value < 1 << 32)),
        (flag, type(value) is bool),
        (optional_text, value is None or type(value) is str),
    ):
        if right:
            assert read(members, "m") == value
        else:
            with pytest.raises(Malformed, match="m should be"):
                read(members, "m")


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.booleans() | st.none() | st.text(max_size=20)))
def test_every_flat_object_is_read_as_json_says(members):
    assert decode(json.dumps(members).encode()) == json.loads(json.dumps(members))
