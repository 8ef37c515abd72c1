"""The driver's rule sets: matching against a plain model, validation, replacement under the feet of a lookup."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

EXACT, SUBTREE, SUFFIX = 1, 2, 3
INVALID_PARAMETER, REVISION_MISMATCH, NO_MEMORY, BUFFER_TOO_SMALL = 0xC000000D, 0xC0000059, 0xC000009A, 0xC0000023
ACCESS_DENIED = 0xC0000022
HOOK = ctypes.CFUNCTYPE(None)

RuleTuple = tuple[int, str, int]


def utf16(text: str) -> bytes:
    """UTF-16LE with lone surrogates let through."""
    return text.encode("utf-16-le", "surrogatepass")


def encode_rule(match: int, pattern: str, status: int) -> bytes:
    """A PROCNOTIFY_RULE."""
    raw = utf16(pattern)
    size = (16 + len(raw) + 7) // 8 * 8
    return (struct.pack("<IHHII", size, match, 0, status, len(raw)) + raw).ljust(size, b"\0")


def encode(rules: list[RuleTuple]) -> bytes:
    """A PROCNOTIFY_RULES with its rules."""
    body = b"".join(encode_rule(*rule) for rule in rules)
    return struct.pack("<IIII", 1, len(rules), 16 + len(body), 0) + body


class Rules:
    """The driver's rules in a library."""

    def __init__(self, core: ctypes.CDLL) -> None:
        self.core = core
        self.handle = ctypes.c_void_p(core.shim_rules_new())

    def replace(self, data: bytes) -> int:
        return self.core.shim_rules_replace(self.handle, data, len(data)) & 0xFFFFFFFF

    def query(self, length: int = 1 << 20) -> tuple[int, bytes]:
        buffer = ctypes.create_string_buffer(length + 8)
        written = ctypes.c_uint32(0xFFFFFFFF)
        status = self.core.shim_rules_query(self.handle, buffer, length, ctypes.byref(written)) & 0xFFFFFFFF
        return status, buffer.raw[: written.value]

    def match(self, name: str) -> int:
        raw = utf16(name)
        return self.core.shim_rules_match(self.handle, raw, len(raw)) & 0xFFFFFFFF

    def statistics(self) -> tuple[int, int, int]:
        """Count, size and generation."""
        raw = ctypes.create_string_buffer(88)
        self.core.shim_rules_statistics(self.handle, raw)
        return struct.unpack_from("<III", raw.raw, 76)


@contextmanager
def rules(core: ctypes.CDLL) -> Iterator[Rules]:
    """Rules that are given up afterwards, without a leak."""
    live = ctypes.c_int.in_dll(core, "shim_live_blocks")
    before = live.value
    made = Rules(core)
    try:
        yield made
    finally:
        core.shim_rules_delete(made.handle)
    assert live.value == before


def fold(text: str) -> str:
    """Upcase unit by unit as the library's table does."""
    return "".join(map(_fold_unit, text))


def _fold_unit(unit: str) -> str:
    if unit == "\xff":
        return "\u0178"
    folds = "a" <= unit <= "z" or ("\xe0" <= unit <= "\xfe" and unit != "\xf7")
    return chr(ord(unit) - 0x20) if folds else unit


def expected(rule_list: list[RuleTuple], name: str) -> int:
    """The first rule that matches, as the public header words it."""
    name = fold(name)
    for match, pattern, status in rule_list:
        pattern = fold(pattern)  # noqa: PLW2901 - the pattern is only ever compared folded
        if match == EXACT:
            hit = name == pattern
        elif match == SUBTREE:
            hit = name.startswith(pattern.removesuffix("\\") + "\\")
        else:
            hit = name == pattern or name.endswith("\\" + pattern)
        if hit:
            return status or ACCESS_DENIED
    return 0


alphabet = st.sampled_from("aAbB\\\\\xe9\xc9\xff\u0178\ud800")
words = st.text(alphabet, min_size=1, max_size=6)
rule = st.tuples(st.sampled_from([EXACT, SUBTREE, SUFFIX]), words, st.integers(0x80000000, 0xFFFFFFFF) | st.just(0))


@settings(max_examples=600, deadline=None)
@given(rule_list=st.lists(rule, max_size=40), names=st.lists(st.text(alphabet, max_size=12), min_size=1, max_size=20))
def test_the_first_rule_that_matches_decides(core: ctypes.CDLL, rule_list: list[RuleTuple], names: list[str]) -> None:
    with rules(core) as tested:
        assert tested.replace(encode(rule_list)) == 0
        for name in [*names, *(pattern for _, pattern, _ in rule_list)]:
            assert tested.match(name) == expected(rule_list, name)
        assert tested.query() == (0, encode(rule_list))
        assert tested.statistics() == (len(rule_list), len(encode(rule_list)), 1)


@settings(max_examples=600, deadline=None)
@given(rule_list=st.lists(rule, min_size=1, max_size=4), data=st.data())
def test_a_damaged_set_is_refused_whole_or_is_what_it_says(
    core: ctypes.CDLL, rule_list: list[RuleTuple], data: st.DataObject
) -> None:
    raw = bytearray(encode(rule_list))
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] = data.draw(st.integers(0, 255))
    damaged = bytes(raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))])
    old = encode([(EXACT, "old", 0)])
    with rules(core) as tested:
        assert tested.replace(old) == 0
        status = tested.replace(damaged)
        assert status in {0, INVALID_PARAMETER, REVISION_MISMATCH}
        assert tested.query() == (0, old if status else damaged)
        assert tested.statistics()[2] == (1 if status else 2)


def header(*, version: int = 1, count: int = 1, size: int = 40, reserved: int = 0) -> bytes:
    return struct.pack("<IIII", version, count, size, reserved)


def one(
    *,
    size: int = 24,
    match: int = EXACT,
    reserved: int = 0,
    status: int = 0,
    length: int = 4,
    rest: bytes = b"a\0b\0\0\0\0\0",
) -> bytes:
    """A rule of 24 bytes: two units and padding."""
    return struct.pack("<IHHII", size, match, reserved, status, length) + rest


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(header() + one(), 0, id="valid"),
        pytest.param(b"", INVALID_PARAMETER, id="empty"),
        pytest.param(header()[:15], INVALID_PARAMETER, id="short header"),
        pytest.param(header(version=2) + one(), REVISION_MISMATCH, id="another version"),
        pytest.param(header(count=0) + one(), INVALID_PARAMETER, id="count too small"),
        pytest.param(header(count=2) + one(), INVALID_PARAMETER, id="count too large"),
        pytest.param(header(count=0xFFFFFFFF) + one(), INVALID_PARAMETER, id="huge count"),
        pytest.param(header(size=39) + one(), INVALID_PARAMETER, id="size too small"),
        pytest.param(header(size=48) + one(), INVALID_PARAMETER, id="size too large"),
        pytest.param(header(reserved=1) + one(), INVALID_PARAMETER, id="reserved field of the set"),
        pytest.param(header() + one(size=16), INVALID_PARAMETER, id="rule shorter than its pattern"),
        pytest.param(header(size=48) + one(size=32) + bytes(8), INVALID_PARAMETER, id="rule longer than its pattern"),
        pytest.param(header() + one(size=0), INVALID_PARAMETER, id="rule of no size"),
        pytest.param(header() + one(size=0xFFFFFFF8), INVALID_PARAMETER, id="rule of huge size"),
        pytest.param(header() + one(match=0), INVALID_PARAMETER, id="kind zero"),
        pytest.param(header() + one(match=4), INVALID_PARAMETER, id="unknown kind"),
        pytest.param(header() + one(reserved=1), INVALID_PARAMETER, id="reserved field of a rule"),
        pytest.param(header() + one(status=1), INVALID_PARAMETER, id="success status"),
        pytest.param(header() + one(status=0x40000000), INVALID_PARAMETER, id="informational status"),
        pytest.param(header() + one(status=0x80000005), 0, id="warning status"),
        pytest.param(header() + one(length=0), INVALID_PARAMETER, id="empty pattern"),
        pytest.param(header() + one(length=3), INVALID_PARAMETER, id="odd pattern"),
        pytest.param(header() + one(length=65536), INVALID_PARAMETER, id="pattern too long"),
        pytest.param(header() + one(length=0xFFFFFFFE), INVALID_PARAMETER, id="pattern of huge length"),
        pytest.param(header() + one(rest=b"a\0b\0\0\0\0\1"), INVALID_PARAMETER, id="padding"),
        pytest.param(header(size=32) + one()[:16], INVALID_PARAMETER, id="pattern cut off"),
        pytest.param(header(size=24) + one()[:8], INVALID_PARAMETER, id="rule header cut off"),
    ],
)
def test_a_set_is_held_against_the_header(core: ctypes.CDLL, data: bytes, status: int) -> None:
    with rules(core) as tested:
        assert tested.replace(data) == status


@pytest.mark.parametrize(("count", "status"), [(1024, 0), (1025, INVALID_PARAMETER)])
def test_the_number_of_rules_is_limited(core: ctypes.CDLL, count: int, status: int) -> None:
    with rules(core) as tested:
        assert tested.replace(encode([(SUFFIX, f"tool{n}.exe", 0xC0000001 + n) for n in range(count)])) == status
        assert tested.match("C:\\x\\TOOL77.exe") == (0 if status else 0xC0000001 + 77)


def test_the_longest_pattern_matches(core: ctypes.CDLL) -> None:
    with rules(core) as tested:
        assert tested.replace(encode([(EXACT, "x" * 32767, 0)])) == 0
        assert tested.match("X" * 32767) == ACCESS_DENIED
        assert tested.match("X" * 32766) == 0


def test_an_empty_set_removes_all_rules(core: ctypes.CDLL) -> None:
    with rules(core) as tested:
        assert tested.query() == (0, encode([]))
        assert tested.replace(encode([(EXACT, "a", 0)])) == 0
        assert tested.replace(encode([])) == 0
        assert tested.match("a") == 0
        assert tested.query() == (0, encode([]))
        assert tested.statistics() == (0, 16, 2)


def test_a_buffer_too_small_for_the_set_gets_nothing(core: ctypes.CDLL) -> None:
    with rules(core) as tested:
        assert tested.replace(encode([(EXACT, "ab", 0)])) == 0
        assert tested.query(39) == (BUFFER_TOO_SMALL, b"")
        assert tested.query(40) == (0, encode([(EXACT, "ab", 0)]))


@pytest.mark.parametrize("allocations", [0, 1])
def test_short_memory_leaves_the_old_set_in_force(core: ctypes.CDLL, allocations: int) -> None:
    budget = ctypes.c_int.in_dll(core, "shim_allocations_until_failure")
    with rules(core) as tested:
        assert tested.replace(encode([(EXACT, "old", 0)])) == 0
        budget.value = allocations
        try:
            assert tested.replace(encode([(EXACT, "new", 0)])) == NO_MEMORY
        finally:
            budget.value = -1
        assert tested.match("OLD") == ACCESS_DENIED
        assert tested.match("new") == 0
        assert tested.statistics()[2] == 1


def test_a_set_replaced_during_a_lookup_serves_that_lookup_and_is_freed_after_it(core: ctypes.CDLL) -> None:
    live = ctypes.c_int.in_dll(core, "shim_live_blocks")
    slot = ctypes.c_void_p.in_dll(core, "shim_upcase_hook")
    seen: list[int] = []
    with rules(core) as tested:
        assert tested.replace(encode([(EXACT, "\xe9x", 0xC0000101)])) == 0
        one_set = live.value

        def replace() -> None:
            slot.value = None
            tested.replace(encode([(EXACT, "\xe9x", 0xC0000202)]))
            tested.replace(encode([(EXACT, "\xe9x", 0xC0000303)]))
            seen.append(live.value)

        hook = HOOK(replace)
        slot.value = ctypes.cast(hook, ctypes.c_void_p).value
        assert tested.match("\xc9X") == 0xC0000101
        assert seen == [one_set * 2], "the set in use and the newest one, not the one in between"
        assert live.value == one_set
        assert tested.match("\xc9X") == 0xC0000303


def test_no_lock_is_held_while_a_name_is_looked_up(core: ctypes.CDLL) -> None:
    slot = ctypes.c_void_p.in_dll(core, "shim_upcase_hook")
    held: list[int] = []
    with rules(core) as tested:
        assert tested.replace(encode([(SUFFIX, "\xe9", 0)])) == 0

        def look() -> None:
            held.extend(ctypes.c_int.in_dll(core, name).value for name in ("shim_spin_locks_held", "shim_mutexes_held"))

        hook = HOOK(look)
        slot.value = ctypes.cast(hook, ctypes.c_void_p).value
        try:
            tested.match("\\\xc9")
        finally:
            slot.value = None
    assert held
    assert not any(held)
