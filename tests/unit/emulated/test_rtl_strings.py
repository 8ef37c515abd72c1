from __future__ import annotations

import struct
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.guest import Guest
from vm.emulated.faults import Bugcheck
from vm.emulated.rtl import upcase
from vm.emulated.rtl.strings import name_matches

SUCCESS, OVERFLOW, TOO_SMALL = 0, 0x80000005, 0xC0000023

units = st.text(st.characters(max_codepoint=0xFFFF), max_size=40)
letters = st.text("aAbBzZäÄßÿŸ.\\ıIμµ", max_size=12)
octets = st.binary(max_size=80)
relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def machine():
    guest = Guest()
    yield guest
    guest.close()


@pytest.fixture
def guest(machine):
    machine.reset()
    return machine


def sign(number):
    return (number > 0) - (number < 0)


def units_of(text):
    raw = text.encode("utf-16-le", "surrogatepass")
    return struct.unpack(f"<{len(raw) // 2}H", raw)


# Memory


@relaxed
@given(data=octets, source=st.integers(0, 40), target=st.integers(0, 40), size=st.integers(0, 80))
@pytest.mark.parametrize("name", ["memmove", "memcpy", "RtlCopyMemory", "RtlMoveMemory"])
def test_a_copy_is_right_whatever_the_overlap(guest, name, data, source, target, size):
    guest.reset()
    block = bytearray((data * 2 + bytes(range(130)))[:130])
    at = guest.bytes(bytes(block))
    guest.call(name, at + target, at + source, size)
    block[target : target + size] = bytes(block[source : source + size])
    assert guest.mem.read(at, len(block)) == block


@relaxed
@given(size=st.integers(0, 200), offset=st.integers(0, 9), value=st.integers(0, 255))
def test_a_fill_touches_exactly_its_range(guest, size, offset, value):
    guest.reset()
    at = guest.bytes(bytes(250))
    guest.call("memset", at + offset, value, size)
    assert guest.mem.read(at, 250) == bytes(offset) + bytes([value]) * size + bytes(250 - offset - size)


@relaxed
@given(first=octets, second=octets, common=octets)
def test_memory_is_compared_as_unsigned_bytes(guest, first, second, common):
    guest.reset()
    a, b = common + first, common + second
    size = min(len(a), len(b))
    at, bt = guest.bytes(a), guest.bytes(b)
    equal = next((index for index in range(size) if a[index] != b[index]), size)
    assert guest.call("RtlCompareMemory", at, bt, size) == equal
    assert guest.i32("memcmp", at, bt, size) == (a[:size] > b[:size]) - (a[:size] < b[:size])


def test_compare_memory_ulong_wants_alignment(guest):
    at = guest.bytes(struct.pack("<III", 7, 7, 8))
    assert guest.call("RtlCompareMemoryUlong", at, 12, 7) == 8
    assert guest.call("RtlCompareMemoryUlong", at + 1, 8, 7) == 0


# Counted strings


@relaxed
@given(first=units | letters, second=units | letters, insensitive=st.booleans())
def test_strings_are_compared_unit_by_unit(guest, first, second, insensitive):
    guest.reset()
    a, b = guest.string(first), guest.string(second)
    if insensitive:
        first, second = upcase.upcase(first), upcase.upcase(second)
    x, y = units_of(first), units_of(second)
    assert sign(guest.i32("RtlCompareUnicodeString", a, b, insensitive)) == (x > y) - (x < y)
    assert guest.flag("RtlEqualUnicodeString", a, b, insensitive) == (x == y)
    assert guest.flag("RtlPrefixUnicodeString", a, b, insensitive) == (y[: len(x)] == x)
    assert guest.flag("RtlSuffixUnicodeString", a, b, insensitive) == (len(x) <= len(y) and y[len(y) - len(x) :] == x)


@pytest.mark.parametrize(
    ("lower", "upper"), [("a", "A"), ("é", "É"), ("ÿ", "Ÿ"), ("ς", "Σ"), ("ß", "ß"), ("ı", "ı"), ("ſ", "ſ"), ("µ", "µ")]
)
def test_a_unit_has_the_upper_case_that_windows_gives_it(guest, lower, upper):
    assert guest.call("RtlUpcaseUnicodeChar", ord(lower)) & 0xFFFF == ord(upper)


def test_the_halves_of_a_pair_have_no_case(guest):
    deseret = "\U00010428"
    assert upcase.upcase(deseret) == deseret


@relaxed
@given(text=units, insensitive=st.booleans())
def test_the_hash_is_x65599(guest, text, insensitive):
    guest.reset()
    result = guest.space(4)
    assert guest.u32("RtlHashUnicodeString", guest.string(text), insensitive, 1, result) == SUCCESS
    expected = 0
    for unit in units_of(upcase.upcase(text) if insensitive else text):
        expected = (expected * 65599 + unit) & 0xFFFFFFFF
    assert guest.mem.u32(result) == expected


@pytest.mark.parametrize("name", ["RtlEqualUnicodeString", "RtlCompareUnicodeString", "RtlPrefixUnicodeString"])
def test_comparing_without_case_at_dispatch_level_stops_the_machine(name):
    guest = Guest()
    first, second = guest.string("a"), guest.string("A")
    guest.kernel.irql = 2
    guest.call(name, first, second, 0)
    with pytest.raises(Bugcheck) as crash:
        guest.call(name, first, second, 1)
    assert crash.value.code == 0xA
    assert crash.value.parameters[1] == 2
    guest.close()


def test_an_unknown_hash_is_refused(guest):
    assert guest.u32("RtlHashUnicodeString", guest.string("a"), 0, 2, guest.space(4)) == 0xC000000D


@pytest.mark.parametrize("length", [0, 1, 5, 32766])
def test_init_counts_in_bytes(guest, length):
    text = guest.wide("x" * length)
    string = guest.space(16)
    guest.call("RtlInitUnicodeString", string, text)
    assert (guest.mem.u16(string), guest.mem.u16(string + 2)) == (length * 2, length * 2 + 2)
    assert guest.mem.u64(string + 8) == text


def test_a_text_that_is_too_long_is_cut_or_refused(guest):
    text = guest.wide("x" * 40000)
    string = guest.space(16)
    guest.call("RtlInitUnicodeString", string, text)
    assert (guest.mem.u16(string), guest.mem.u16(string + 2)) == (0xFFFC, 0xFFFE)
    assert guest.u32("RtlInitUnicodeStringEx", string, text) == 0xC0000106


def test_no_text_is_an_empty_string(guest):
    string = guest.space(16)
    guest.call("RtlInitUnicodeString", string, 0)
    assert guest.mem.read(string, 4) + guest.mem.read(string + 8, 8) == bytes(12)


@relaxed
@given(text=units, room=st.integers(0, 60))
def test_a_copy_is_cut_to_its_room(guest, text, room):
    guest.reset()
    raw = text.encode("utf-16-le", "surrogatepass")
    target = guest.string("", maximum=room * 2)
    guest.call("RtlCopyUnicodeString", target, guest.string(text))
    kept = raw[: room * 2]
    buffer = guest.mem.u64(target + 8)
    assert guest.mem.u16(target) == len(kept)
    assert guest.mem.read(buffer, len(kept)) == kept
    behind = guest.mem.read(buffer + len(kept), 2)
    assert behind == (b"\0\0" if len(kept) + 2 <= room * 2 else b"\xcc\xcc")


@relaxed
@given(first=letters, second=letters, spare=st.integers(-3, 3))
def test_an_append_fits_or_leaves_everything_alone(guest, first, second, spare):
    guest.reset()
    room = max(len(first), len(first) + len(second) + spare) * 2
    target = guest.string(first, maximum=room)
    status = guest.u32("RtlAppendUnicodeToString", target, guest.wide(second))
    if (len(first) + len(second)) * 2 <= room:
        assert (status, guest.mem.unicode_string(target)) == (SUCCESS, first + second)
    else:
        assert (status, guest.mem.unicode_string(target)) == (TOO_SMALL, first)
    other = guest.string(first, maximum=room)
    assert guest.u32("RtlAppendUnicodeStringToString", other, guest.string(second)) == status
    assert guest.mem.unicode_string(other) == guest.mem.unicode_string(target)


@relaxed
@given(text=units)
def test_upcase_allocates_and_free_gives_back(guest, text):
    guest.reset()
    target = guest.space(16)
    assert guest.u32("RtlUpcaseUnicodeString", target, guest.string(text), 1) == SUCCESS
    assert guest.mem.unicode_string(target) == upcase.upcase(text)
    guest.call("RtlFreeUnicodeString", target)
    assert guest.mem.read(target, 4) == bytes(4)


def test_upcase_into_a_short_buffer_overflows(guest):
    assert guest.u32("RtlUpcaseUnicodeString", guest.string("", maximum=4), guest.string("abc"), 0) == OVERFLOW


@pytest.mark.parametrize(("flags", "maximum"), [(0, 6), (1, 8)])
def test_a_duplicate_is_terminated_when_asked(guest, flags, maximum):
    target = guest.space(16)
    assert guest.u32("RtlDuplicateUnicodeString", flags, guest.string("abc"), target) == SUCCESS
    assert (guest.mem.unicode_string(target), guest.mem.u16(target + 2)) == ("abc", maximum)
    guest.call("RtlFreeUnicodeString", target)


def test_a_duplicate_of_nothing_has_no_buffer(guest):
    target = guest.space(16)
    assert guest.u32("RtlDuplicateUnicodeString", 1, guest.string(""), target) == SUCCESS
    assert guest.mem.u64(target + 8) == 0
    assert guest.u32("RtlDuplicateUnicodeString", 2, guest.string(""), target) == 0xC000000D


# Code pages


@relaxed
@given(data=octets)
def test_ansi_bytes_survive_the_way_to_unicode_and_back(guest, data):
    guest.reset()
    wide, back = guest.space(16), guest.space(16)
    assert guest.u32("RtlAnsiStringToUnicodeString", wide, guest.ansi(data), 1) == SUCCESS
    assert guest.mem.u16(wide) == len(data) * 2
    assert guest.u32("RtlUnicodeStringToAnsiString", back, wide, 1) == SUCCESS
    assert guest.mem.read(guest.mem.u64(back + 8), guest.mem.u16(back) + 1) == data + b"\0"
    guest.call("RtlFreeUnicodeString", wide)
    guest.call("RtlFreeAnsiString", back)


def test_what_ansi_cannot_express_becomes_a_question_mark(guest):
    target = guest.ansi(b"", maximum=8)
    assert guest.u32("RtlUnicodeStringToAnsiString", target, guest.string("a€Ж"), 0) == SUCCESS
    assert guest.mem.read(guest.mem.u64(target + 8), 4) == b"a\x80?\0"


@relaxed
@given(text=st.text(max_size=30), room=st.integers(0, 40))
def test_utf8_output_never_ends_inside_a_character(guest, text, room):
    guest.reset()
    raw = text.encode("utf-16-le")
    target, size = guest.space(room), guest.space(4)
    status = guest.u32("RtlUnicodeToUTF8N", target, room, size, guest.bytes(raw), len(raw))
    written = guest.mem.read(target, guest.mem.u32(size))
    assert text.startswith(written.decode())
    assert status == (SUCCESS if written == text.encode() else TOO_SMALL)


def test_bad_utf8_is_replaced_and_reported(guest):
    target, size = guest.space(16), guest.space(4)
    assert guest.u32("RtlUTF8ToUnicodeN", target, 16, size, guest.bytes(b"a\xffb"), 3) == 0x107
    assert guest.mem.read(target, guest.mem.u32(size)).decode("utf-16-le") == "a\ufffdb"


# Numbers, GUIDs, wildcards


@relaxed
@given(value=st.integers(0, 0xFFFFFFFF), base=st.sampled_from([0, 2, 8, 10, 16]))
def test_a_number_comes_back_from_its_text(guest, value, base):
    guest.reset()
    text, result = guest.string("", maximum=70), guest.space(4)
    assert guest.u32("RtlIntegerToUnicodeString", value, base, text) == SUCCESS
    assert guest.mem.unicode_string(text) == format(value, {2: "b", 8: "o", 16: "X"}.get(base, "d"))
    assert guest.u32("RtlUnicodeStringToInteger", text, base or 10, result) == SUCCESS
    assert guest.mem.u32(result) == value


@pytest.mark.parametrize(
    ("text", "base", "value"),
    [
        ("0x1F", 0, 31),
        ("0b101", 0, 5),
        ("0o17", 0, 15),
        ("  -12x", 10, 0xFFFFFFF4),
        ("+7", 0, 7),
        ("", 0, 0),
        ("9", 8, 0),
    ],
)
def test_prefixes_and_signs_of_numbers_are_read(guest, text, base, value):
    result = guest.space(4)
    assert guest.u32("RtlUnicodeStringToInteger", guest.string(text), base, result) == SUCCESS
    assert guest.mem.u32(result) == value


def test_an_unknown_base_is_refused(guest):
    assert guest.u32("RtlUnicodeStringToInteger", guest.string("1"), 7, guest.space(4)) == 0xC000000D


@relaxed
@given(value=st.uuids())
def test_a_guid_comes_back_from_its_text(guest, value):
    guest.reset()
    text, back = guest.space(16), guest.space(16)
    assert guest.u32("RtlStringFromGUID", guest.bytes(value.bytes_le), text) == SUCCESS
    assert guest.mem.unicode_string(text) == "{" + str(value).upper() + "}"
    assert guest.u32("RtlGUIDFromString", text, back) == SUCCESS
    assert uuid.UUID(bytes_le=guest.mem.read(back, 16)) == value
    guest.call("RtlFreeUnicodeString", text)


@pytest.mark.parametrize("text", ["", "{}", str(uuid.UUID(int=5)), "{" + "0" * 36 + "}"])
def test_a_malformed_guid_is_refused(guest, text):
    assert guest.u32("RtlGUIDFromString", guest.string(text), guest.space(16)) == 0xC000000D


@pytest.mark.parametrize(
    ("expression", "name", "matches"),
    [
        ("*", "", True),
        ("*.EXE", "A.EXE", True),
        ("*.EXE", "A.EXEX", False),
        ("A?C", "ABC", True),
        ("A?C", "AC", False),
        ("<.TXT", "A.B.TXT", True),
        ("A>>", "A", True),
        ("A>B", "AXB", True),
        ('FOO"', "FOO", True),
        ('FOO"BAR', "FOO.BAR", True),
        ("*A*B*", "XXAYYBZZ", True),
        ("*A*B*", "BA", False),
    ],
)
def test_wildcards_match_as_documented(guest, expression, name, matches):
    assert name_matches(expression, name) is matches
    result = guest.flag("FsRtlIsNameInExpression", guest.string(expression), guest.string(name.lower()), 1, 0)
    assert result is matches


# C runtime

c_text = st.text("abAB./ ", max_size=10)


@relaxed
@given(first=c_text, second=c_text, count=st.integers(0, 12))
@pytest.mark.parametrize("family", ["narrow", "wide"])
def test_c_strings_behave_as_python_says(guest, family, first, second, count):
    guest.reset()
    narrow = family == "narrow"
    put = guest.text if narrow else guest.wide
    names = (
        "strlen strnlen strcmp strncmp _stricmp _strnicmp strstr strchr strrchr strspn"
        if narrow
        else "wcslen wcsnlen wcscmp wcsncmp _wcsicmp _wcsnicmp wcsstr wcschr wcsrchr wcsspn"
    ).split()
    length, length_n, compare, compare_n, fold, fold_n, find, find_one, find_last, span = names
    a, b = put(first), put(second)
    size = 1 if narrow else 2

    def place(address):
        return -1 if address == 0 else (address - a) // size

    assert guest.call(length, a) == len(first)
    assert guest.call(length_n, a, count) == min(len(first), count)
    assert sign(guest.i32(compare, a, b)) == (first > second) - (first < second)
    assert sign(guest.i32(compare_n, a, b, count)) == (first[:count] > second[:count]) - (
        first[:count] < second[:count]
    )
    x, y = first.lower(), second.lower()
    assert sign(guest.i32(fold, a, b)) == (x > y) - (x < y)
    assert sign(guest.i32(fold_n, a, b, count)) == (x[:count] > y[:count]) - (x[:count] < y[:count])
    assert place(guest.call(find, a, b)) == first.find(second)
    assert place(guest.call(find_one, a, ord("a"))) == first.find("a")
    assert place(guest.call(find_last, a, ord("a"))) == first.rfind("a")
    assert guest.call(span, a, b) == len(first) - len(first.lstrip(second) if second else first)


def test_copies_of_c_strings_pad_and_terminate(guest):
    target = guest.bytes(b"xx\0" + b"\xee" * 13)
    assert guest.call("strcat", target, guest.text("yz")) == target
    assert guest.mem.read(target, 6) == b"xxyz\0\xee"
    guest.call("strncpy", target, guest.text("ab"), 5)
    assert guest.mem.read(target, 6) == b"ab\0\0\0\xee"
    guest.call("strncpy", target, guest.text("abcdef"), 3)
    assert guest.mem.read(target, 4) == b"abc\0"
    guest.call("strncat", target, guest.text("12345"), 2)
    assert guest.mem.ascii(target) == "abc12"
