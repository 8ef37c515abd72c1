from __future__ import annotations

import datetime
import struct
import uuid
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.guest import Guest
from vm.emulated.kernel import KernelOptions

EPOCH = datetime.datetime(1601, 1, 1, tzinfo=datetime.UTC)
MISMATCH = 0xC0000059
MAJOR, BUILD, MINOR = 2, 4, 1
EQUAL, GREATER, GREATER_EQUAL, LESS = 1, 2, 3, 4
relaxed = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def machine():
    guest = Guest(KernelOptions(build=17763))
    yield guest
    guest.close()


@pytest.fixture
def guest(machine):
    machine.reset()
    return machine


# Time


def ticks(moment):
    delta = moment - EPOCH
    return (delta.days * 86400 + delta.seconds) * 10_000_000 + delta.microseconds * 10


@relaxed
@given(moment=st.datetimes(min_value=EPOCH.replace(tzinfo=None), timezones=st.just(datetime.UTC)))
def test_a_time_has_the_fields_of_the_calendar(guest, moment):
    guest.reset()
    fields = guest.space(16)
    guest.call("RtlTimeToTimeFields", guest.bytes(struct.pack("<q", ticks(moment))), fields)
    assert struct.unpack("<8h", guest.mem.read(fields, 16)) == (
        moment.year,
        moment.month,
        moment.day,
        moment.hour,
        moment.minute,
        moment.second,
        moment.microsecond // 1000,
        moment.isoweekday() % 7,
    )
    back = guest.space(8)
    assert guest.flag("RtlTimeFieldsToTime", fields, back)
    assert guest.mem.u64(back) == ticks(moment.replace(microsecond=moment.microsecond // 1000 * 1000))


@relaxed
@given(time=st.integers(0, (1 << 63) - 1))
def test_every_time_comes_back_from_its_fields(guest, time):
    guest.reset()
    fields, back = guest.space(16), guest.space(8)
    guest.call("RtlTimeToTimeFields", guest.bytes(struct.pack("<q", time)), fields)
    in_range = struct.unpack("<h", guest.mem.read(fields, 2))[0] <= 30827
    assert guest.flag("RtlTimeFieldsToTime", fields, back) == in_range
    if in_range:
        assert guest.mem.u64(back) == time - time % 10_000


@pytest.mark.parametrize(
    "fields",
    [
        (2023, 2, 29, 0, 0, 0, 0, 0),
        (1900, 2, 29, 0, 0, 0, 0, 0),
        (2024, 13, 1, 0, 0, 0, 0, 0),
        (2024, 0, 1, 0, 0, 0, 0, 0),
        (2024, 1, 0, 0, 0, 0, 0, 0),
        (2024, 1, 1, 24, 0, 0, 0, 0),
        (2024, 1, 1, 0, 60, 0, 0, 0),
        (2024, 1, 1, 0, 0, 60, 0, 0),
        (2024, 1, 1, 0, 0, 0, 1000, 0),
        (1600, 12, 31, 0, 0, 0, 0, 0),
    ],
)
def test_fields_out_of_range_are_refused(guest, fields):
    assert not guest.flag("RtlTimeFieldsToTime", guest.bytes(struct.pack("<8h", *fields)), guest.space(8))


@pytest.mark.parametrize("year", [1970, 1980])
def test_seconds_count_from_their_year(guest, year):
    start = ticks(datetime.datetime(year, 1, 1, tzinfo=datetime.UTC))
    seconds, time = guest.space(4), guest.space(8)
    assert guest.flag(f"RtlTimeToSecondsSince{year}", guest.bytes(struct.pack("<q", start + 15_000_000)), seconds)
    assert guest.mem.u32(seconds) == 1
    guest.call(f"RtlSecondsSince{year}ToTime", 1, time)
    assert guest.mem.u64(time) == start + 10_000_000
    assert not guest.flag(f"RtlTimeToSecondsSince{year}", guest.bytes(struct.pack("<q", start - 1)), seconds)


# Version


def test_the_version_is_that_of_the_build(guest):
    information = guest.bytes(struct.pack("<I", 284) + b"\xee" * 280)
    assert guest.u32("RtlGetVersion", information) == 0
    assert struct.unpack("<IIII", guest.mem.read(information + 4, 16)) == (10, 0, 17763, 2)
    assert guest.mem.u8(information + 282) == 1
    small = guest.bytes(struct.pack("<I", 276) + b"\xee" * 280)
    guest.call("RtlGetVersion", small)
    assert guest.mem.read(small + 276, 8) == b"\xee" * 8


@pytest.mark.parametrize(
    ("kinds", "major", "minor", "build", "condition", "status"),
    [
        (MAJOR | MINOR, 10, 0, 0, GREATER_EQUAL, 0),
        (MAJOR | MINOR, 6, 3, 0, GREATER_EQUAL, 0),
        (MAJOR | MINOR, 11, 0, 0, GREATER_EQUAL, MISMATCH),
        (MAJOR | MINOR, 10, 1, 0, GREATER_EQUAL, MISMATCH),
        (MAJOR | MINOR, 10, 0, 0, GREATER, MISMATCH),
        (BUILD, 0, 0, 17763, EQUAL, 0),
        (BUILD, 0, 0, 17763, LESS, MISMATCH),
        (BUILD, 0, 0, 19041, LESS, 0),
        (0, 0, 0, 0, EQUAL, 0xC000000D),
    ],
)
def test_a_version_is_verified(guest, kinds, major, minor, build, condition, status):
    mask = 0
    for bit in (MINOR, MAJOR, BUILD):
        if kinds & bit:
            mask = guest.call("VerSetConditionMask", mask, bit, condition)
    information = guest.bytes(struct.pack("<IIII", 284, major, minor, build) + bytes(268))
    assert guest.u32("RtlVerifyVersionInfo", information, kinds, mask) == status


# Numbers and lookups


def test_random_numbers_depend_on_the_seed_alone(guest):
    def draw(seed):
        at = guest.bytes(struct.pack("<I", seed))
        return [guest.u32("RtlRandomEx", at) for _ in range(20)]

    assert draw(1) == draw(1) != draw(2)
    assert all(number < 0x7FFFFFFF for number in draw(3))
    assert len(set(draw(4))) == 20


def test_a_checksum_continues(guest):
    part = guest.u32("RtlComputeCrc32", 0, guest.bytes(b"12345"), 5)
    assert guest.u32("RtlComputeCrc32", part, guest.bytes(b"6789"), 4) == zlib.crc32(b"123456789")


def test_a_routine_is_found_by_its_name_alone(guest):
    found = guest.call("MmGetSystemRoutineAddress", guest.string("RtlCompareMemory"))
    data = guest.bytes(b"abcabd")
    assert guest.kernel.call(found, data, data + 3, 3) == 2
    assert guest.call("MmGetSystemRoutineAddress", guest.string("rtlcomparememory")) == 0
    assert guest.call("MmGetSystemRoutineAddress", guest.string("NoSuchRoutine")) == 0


def test_uuids_tell_the_time_and_differ(guest):
    made = []
    for _ in range(3):
        at = guest.space(16)
        assert guest.u32("ExUuidCreate", at) == 0
        made.append(uuid.UUID(bytes_le=guest.mem.read(at, 16)))
    assert len(set(made)) == 3
    assert {value.version for value in made} == {1}
    since_1582 = (EPOCH - datetime.datetime(1582, 10, 15, tzinfo=datetime.UTC)).days * 864_000_000_000
    assert made[-1].time - since_1582 == guest.kernel.clock.system_time()


def test_only_mapped_addresses_are_valid(guest):
    assert guest.flag("MmIsAddressValid", guest.space(8))
    for address in (0, 0xFFFF_A800_DEAD_0000, 0x8000_0000_0000_0000):
        assert not guest.flag("MmIsAddressValid", address)


def test_statuses_are_translated(guest):
    assert guest.u32("RtlNtStatusToDosError", 0xC0000022) == 5
