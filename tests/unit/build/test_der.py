"""DER values are written as X.690 demands and read back within their bounds."""

from __future__ import annotations

import time

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from harness.build import der


@given(st.integers(min_value=0, max_value=1 << 4000), st.integers(min_value=0, max_value=1 << 4000))
def test_integers_and_lengths_are_written_as_another_encoder_writes_them(first, second):
    ours = der.sequence(der.integer(first), der.integer(second))

    assert ours == encode_dss_signature(first, second)
    assert decode_dss_signature(ours) == (first, second)


@pytest.mark.parametrize(
    ("number", "content"), [(0, "00"), (127, "7f"), (128, "0080"), (-1, "ff"), (-128, "80"), (-129, "ff7f")]
)
def test_integers_take_the_fewest_octets(number, content):
    assert der.read(der.integer(number))[0].content.hex() == content


def test_an_object_identifier_is_written_in_base_128():
    assert der.object_identifier("1.2.840.113549.1.7.2").hex() == "06092a864886f70d010702"


def test_a_set_is_ordered_by_encoding():
    one, two = der.integer(2), der.integer(1)

    assert der.read(der.set_of(one, two))[0].content == two + one


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    try:
        value, rest = der.read(data)
    except der.DerError:
        return
    assert value.encoding + rest == data


@pytest.mark.parametrize("data", ["", "30", "3003", "300102ff", "3080", "308500000000", "30850000000000", "0482"])
def test_truncated_and_indefinite_values_are_refused(data):
    with pytest.raises(der.DerError):
        der.read(bytes.fromhex(data))[0].children()


def test_many_values_are_read_without_copying_what_is_left_for_each():
    started = time.process_time()

    values = der.Value(der.SEQUENCE, b"\x05\x00" * (1 << 14), b"").children()
    with pytest.raises(der.DerError, match="more than 16384 values in one"):
        der.Value(der.SEQUENCE, b"\x05\x00" * (1 << 23), b"").children()

    assert len(values) == 1 << 14
    assert time.process_time() - started < 8, "a tenth of a second here; with copies a minute"


def test_an_object_identifier_longer_than_any_is_refused_before_it_is_computed():
    with pytest.raises(der.DerError, match="of 65 bytes, longer than any"):
        der.dotted(der.Value(der.OBJECT_IDENTIFIER, b"\xff" * 64 + b"\x01", b""))
