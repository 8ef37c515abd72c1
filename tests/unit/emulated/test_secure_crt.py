from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.guest import Guest
from tests.fixtures.guinea_pigs import build
from vm.emulated.loader.image import DriverImage

EINVAL, ERANGE, STRUNCATE = 22, 34, 80
relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def machine():
    guest = Guest()
    guest.driver = guest.kernel.load_image(DriverImage.parse(build("tables")))
    yield guest
    guest.close()


@pytest.fixture
def guest(machine):
    machine.reset()
    return machine


@pytest.mark.parametrize(
    ("name", "before", "source", "count", "result", "after"),
    [
        ("strcpy_s", b"\xee", b"abc", None, 0, b"abc\0"),
        ("strcpy_s", b"\xee", b"abcdefgh", None, ERANGE, b"\0"),
        ("strcat_s", b"ab\0", b"cd", None, 0, b"abcd\0"),
        ("strcat_s", b"abcdefg\0", b"h", None, ERANGE, b"\0"),
        ("strcat_s", b"abcdefgh", b"h", None, EINVAL, b"\0"),
        ("strncpy_s", b"\xee", b"abcdef", 2, 0, b"ab\0"),
        ("strncpy_s", b"\xee", b"abcdefghij", -1, STRUNCATE, b"abcdefg\0"),
        ("strncpy_s", b"\xee", b"abcdefghij", 8, ERANGE, b"\0"),
        ("strncat_s", b"ab\0", b"cdefghij", -1, STRUNCATE, b"abcdefg\0"),
        ("strncat_s", b"ab\0", b"cdefghij", 1, 0, b"abc\0"),
    ],
)
def test_a_bounded_string_stays_terminated_within_its_eight_bytes(guest, name, before, source, count, result, after):
    target = guest.bytes(before + b"\xee" * (16 - len(before)))
    extra = () if count is None else (count,)
    assert guest.u32(name, target, 8, guest.text(source.decode()), *extra) == result
    assert guest.mem.read(target, len(after)) == after
    assert guest.mem.read(target + 8, 8) == b"\xee" * 8


def test_wide_strings_are_bounded_in_units(guest):
    target = guest.bytes(b"\xee" * 16)
    assert guest.u32("wcscpy_s", target, 4, guest.wide("abc")) == 0
    assert guest.mem.wide(target) == "abc"
    assert guest.u32("wcscat_s", target, 4, guest.wide("d")) == ERANGE
    assert guest.mem.wide(target) == ""


def test_a_copy_beyond_its_room_clears_or_leaves_the_target(guest):
    target, source = guest.bytes(b"\xee" * 8), guest.bytes(b"12345678")
    assert guest.u32("memmove_s", target, 4, source, 5) == ERANGE
    assert guest.mem.read(target, 8) == b"\xee" * 8
    assert guest.u32("memcpy_s", target, 4, source, 5) == ERANGE
    assert guest.mem.read(target, 8) == bytes(4) + b"\xee" * 4
    assert guest.u32("memcpy_s", target, 4, source, 4) == 0
    assert guest.mem.read(target, 8) == b"1234" + b"\xee" * 4


@relaxed
@given(numbers=st.lists(st.integers(0, 20), max_size=40), wanted=st.integers(0, 20))
def test_sorting_and_searching_with_the_drivers_order(guest, numbers, wanted):
    guest.reset()
    compare = guest.driver.export("Order")
    base = guest.bytes(struct.pack(f"<{len(numbers)}I", *numbers))
    guest.call("qsort", base, len(numbers), 4, compare)
    assert struct.unpack(f"<{len(numbers)}I", guest.mem.read(base, 4 * len(numbers))) == tuple(sorted(numbers))
    found = guest.call("bsearch", guest.bytes(struct.pack("<I", wanted)), base, len(numbers), 4, compare)
    assert (found != 0) == (wanted in numbers)
    assert found == 0 or guest.mem.u32(found) == wanted
