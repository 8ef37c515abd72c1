from __future__ import annotations

import pytest

from vm import ntstatus, status_headers, win32


def test_the_status_table_is_what_the_header_says():
    header = (status_headers.header_folder() / "ntstatus.h").read_text(encoding="utf-8")
    assert ntstatus.status_values() == status_headers.parse_ntstatus(header)


def test_the_error_table_is_what_the_header_says():
    header = (status_headers.header_folder() / "winerror.h").read_text(encoding="utf-8")
    assert win32.error_values() == status_headers.parse_winerror(header)


def test_every_status_constant_has_its_header_value():
    constants = {key: value for key, value in vars(ntstatus).items() if key.startswith("STATUS_")}
    assert len(constants) > 100
    assert constants.items() <= ntstatus.status_values().items()


def test_every_error_constant_has_its_header_value():
    constants = {key: value for key, value in vars(win32).items() if key.startswith("ERROR_")}
    assert len(constants) > 40
    assert constants.items() <= win32.error_values().items()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (0x00000000, 0),
        (0x00000103, 997),
        (0x80000003, 0x80000003),
        (0x80000005, 234),
        (0xC0000001, 31),
        (0xC0000005, 998),
        (0xC000000D, 87),
        (0xC0000010, 1),
        (0xC0000022, 5),
        (0xC0000023, 122),
        (0xC0000034, 2),
        (0xC0000035, 183),
        (0xC000003A, 3),
        (0xC000007A, 127),
        (0xC000007B, 193),
        (0xC000009A, 1450),
        (0xC00000BB, 50),
        (0xC0000120, 995),
        (0xC000036C, 1275),
        (0xC0000428, 577),
        (0xC000042C, 740),
    ],
)
def test_a_status_becomes_the_documented_error(status, error):
    assert ntstatus.to_win32(status) == error


def test_a_status_without_translation_becomes_317():
    assert ntstatus.to_win32(0xC0001234) == 317


def test_a_wrapped_win32_error_comes_back():
    assert (ntstatus.to_win32(0xC0070005), ntstatus.to_win32(0x80070002)) == (5, 2)


def test_a_customer_status_comes_back_unchanged():
    assert ntstatus.to_win32(0xE0001234) == 0xE0001234


def test_the_reserved_bit_is_ignored():
    assert ntstatus.to_win32(0xD0000022) == 5


def test_names_are_found_and_unknown_values_are_printed():
    assert ntstatus.name(0xC0000022) == "STATUS_ACCESS_DENIED"
    assert ntstatus.name(0xE0001234) == "NTSTATUS 0xE0001234"
    assert win32.error_name(5) == "ERROR_ACCESS_DENIED"
    assert win32.error_name(0) == "ERROR_SUCCESS"
    assert win32.error_name(64999) == "error 64999"
