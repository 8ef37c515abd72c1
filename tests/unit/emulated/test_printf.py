from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.guest import Guest
from tests.fixtures.guinea_pigs import build
from vm.emulated.faults import Bugcheck
from vm.emulated.loader.image import DriverImage
from vm.emulated.rtl.printf import render

FAILED = 0xFFFFFFFF
relaxed = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def machine():
    guest = Guest()
    guest.driver = guest.kernel.load_image(DriverImage.parse(build("tables")))
    yield guest
    guest.close()


@pytest.fixture
def guest(machine):
    machine.reset()
    machine.kernel.debug.take()
    return machine


def formatted(guest, template, *values, wide=False):
    return render(guest.mem, template, iter([value & (1 << 64) - 1 for value in values]), wide=wide).text


@relaxed
@given(
    flags=st.lists(st.sampled_from("-+ #0"), unique=True).map("".join),
    width=st.none() | st.integers(0, 30),
    precision=st.none() | st.integers(0, 25),
    size=st.sampled_from(["", "h", "hh", "l", "ll", "I64", "I32", "z"]),
    kind=st.sampled_from("diuxXo"),
    value=st.integers(-(1 << 63), (1 << 64) - 1),
)
def test_integers_come_out_as_in_python(guest, flags, width, precision, size, kind, value):
    bits = {"h": 16, "hh": 8, "ll": 64, "I64": 64, "z": 64}.get(size, 32)
    number = value & (1 << bits) - 1
    if kind in "di" and number >> (bits - 1):
        number -= 1 << bits
    point = "" if precision is None else f".{precision}"
    template = f"%{flags}{'' if width is None else width}{point}{size}{kind}"
    if (kind == "o" and "#" in flags) or (number == 0 and precision == 0):
        return  # Python writes 0o, and prints a zero that a precision of 0 hides
    python_flags = flags if kind in "di" else flags.replace("+", "").replace(" ", "")
    if precision is not None:
        python_flags = python_flags.replace("0", "")
    if number == 0:
        python_flags = python_flags.replace("#", "")
    if kind in "diu":
        python_flags = python_flags.replace("#", "")
    python = f"%{python_flags}{'' if width is None else width}{point}{kind}"
    assert formatted(guest, template, value) == python % number


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        ("%#o|%.0d|%5.0d|", (8, 0, 0), "010||     |"),
        ("%*d|%-*d|%*d", (5, 42, 5, 42, -5, 42), "   42|42   |42   "),
        ("%.*d", (3, 7), "007"),
        ("%.*d", (-1, 7), "7"),
        ("%p", (0xFFFF_A800_1234_5678,), "FFFFA80012345678"),
        ("%20p", (16,), "    0000000000000010"),
        ("100%% %y %f", (), "100% %y %f"),
        ("%c%C%wc%lc", (0x41, 0x416, 0x417, 0x418), "AЖЗИ"),
        ("%s|%10s|%.2s", (0, 0, 0), "(null)|    (null)|(n"),
        ("%wZ|%Z", (0, 0), "(null)|(null)"),
        ("%lld %llu %I64x", (-1, -1, -1), f"-1 {(1 << 64) - 1} ffffffffffffffff"),
        ("%ld %lu", (0xFFFF_FFFF, 0xFFFF_FFFF), "-1 4294967295"),
    ],
)
def test_a_template_gives_the_text(guest, template, values, text):
    assert formatted(guest, template, *values) == text


@pytest.mark.parametrize(
    ("specification", "wide", "narrow_argument"),
    [
        ("%s", False, True),
        ("%s", True, False),
        ("%S", False, False),
        ("%S", True, True),
        ("%hs", True, True),
        ("%ls", False, False),
        ("%ws", False, False),
        ("%hS", False, True),
    ],
)
def test_the_size_of_a_string_argument_depends_on_family_and_prefix(guest, specification, wide, narrow_argument):
    address = guest.text("abc") if narrow_argument else guest.wide("abc")
    assert formatted(guest, specification, address, wide=wide) == "abc"


def test_a_precision_bounds_what_is_read_of_a_string(guest):
    unterminated = guest.bytes(b"abcd")
    assert formatted(guest, "%.3s|%-6.2s|", unterminated, unterminated) == "abc|ab    |"


def test_counted_strings_are_read_to_their_length(guest):
    wide, narrow = guest.string("weiß\ud800"), guest.ansi(b"wei\xdf")
    assert formatted(guest, "%wZ|%Z|%.2wZ|%6Z|", wide, narrow, wide, narrow) == "weiß\ud800|weiß|we|  weiß|"


def test_printed_text_becomes_lines(guest):
    assert guest.u32("DbgPrint", guest.text("one %d\ntwo"), 1) == 0
    assert guest.u32("DbgPrintEx", 77, 3, guest.text(" %s\n"), guest.text("three")) == 0
    assert guest.kernel.debug.take() == ["one 1", "two three"]


def test_a_list_of_arguments_of_a_real_driver_is_printed(guest):
    name = guest.string("\\Device\\X")
    assert guest.kernel.call(guest.driver.export("PrintList"), name) & FAILED == 0
    assert guest.kernel.debug.take() == ["prefix: \\Device\\X -1 five 123456789abcdef"]


def test_output_ends_after_512_characters(guest):
    guest.call("DbgPrint", guest.text("%s\n"), guest.text("x" * 600))
    assert guest.kernel.debug.take() == ["x" * 512]


def test_unicode_at_raised_irql_leaves_a_warning(guest):
    name = guest.string("N")
    guest.kernel.irql = 2
    try:
        guest.call("DbgPrint", guest.text("%d\n"), 1)
        assert guest.kernel.debug.take() == ["1"]
        guest.call("DbgPrint", guest.text("%wZ\n"), name)
    finally:
        guest.kernel.irql = 0
    printed, warning = guest.kernel.debug.take()
    assert printed == "N"
    assert "verifier" in warning
    assert "IRQL 2" in warning


def test_a_bad_pointer_stops_the_machine():
    guest = Guest()
    with pytest.raises(Bugcheck) as crash:
        guest.call("DbgPrint", guest.text("%s"), 0xFFFF_A800_DEAD_0000)
    assert crash.value.code in (0x50, 0xCC, 0xCD, 0xD5, 0xD6)
    guest.close()


def test_a_breakpoint_without_debugger_stops_the_machine():
    guest = Guest()
    with pytest.raises(Bugcheck) as crash:
        guest.call("DbgBreakPoint")
    assert 0x80000003 in crash.value.parameters
    guest.close()


# The C runtime's functions


@pytest.mark.parametrize(("name", "unit"), [("_snprintf", 1), ("_snwprintf", 2)])
@pytest.mark.parametrize("room", [0, 3, 4, 5, 9])
def test_counted_output_terminates_only_with_room_to_spare(guest, name, unit, room):
    put = guest.text if unit == 1 else guest.wide
    buffer = guest.bytes(b"\xee" * 24)
    result = guest.u32(name, buffer, room, put("%d%d"), 12, 34)
    output = b"".join(bytes([c]) + bytes(unit - 1) for c in b"1234\0")[: room * unit]
    assert result == (4 if room >= 4 else FAILED)
    assert guest.mem.read(buffer, 24) == output + b"\xee" * (24 - len(output))


@pytest.mark.parametrize(
    ("size", "count", "result", "text"),
    [(5, 9, 4, b"1234\0"), (4, 9, FAILED, b"\0\xee\xee\xee"), (4, -1, FAILED, b"123\0"), (5, 2, FAILED, b"12\0\xee")],
)
def test_secure_output_never_leaves_an_unterminated_buffer(guest, size, count, result, text):
    buffer = guest.bytes(b"\xee" * 8)
    assert guest.u32("_snprintf_s", buffer, size, count, guest.text("%d"), 1234) == result
    assert guest.mem.read(buffer, len(text)) == text


def test_forms_with_a_list_read_it(guest):
    arguments = guest.bytes(struct.pack("<QQ", 7, guest.wide("seven")))
    buffer = guest.space(64)
    assert guest.u32("_vsnwprintf", buffer, 32, guest.wide("%d %s"), arguments) == 7
    assert guest.mem.wide(buffer) == "7 seven"
    assert guest.u32("vsprintf_s", buffer, 32, guest.text("%d %ws"), arguments) == 7
    assert guest.mem.ascii(buffer) == "7 seven"


@pytest.mark.parametrize(
    ("value", "radix", "text"), [(-12, 10, "-12"), (-1, 16, "ffffffff"), (0, 2, "0"), (35, 36, "z")]
)
def test_numbers_become_digits(guest, value, radix, text):
    buffer = guest.space(80)
    assert guest.call("_itow", value, buffer, radix) == buffer
    assert guest.mem.wide(buffer) == text
    assert guest.u32("_itoa_s", value, buffer, len(text), radix) == 34
    assert guest.u32("_itoa_s", value, buffer, len(text) + 1, radix) == 0
    assert guest.mem.ascii(buffer) == text
