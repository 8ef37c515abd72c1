"""The control interface and how it holds off malformed requests (procnotify.h; "Defining I/O Control Codes").

Every length, count and offset comes from an untrusted caller, administrator or not.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from harness.abi import Match, Rule, load_abi
from harness.conformance.acts import APP, TOOL, attempt, refused, run_to_exit, start
from harness.notification import Exit
from vm.ntstatus import (
    STATUS_BUFFER_TOO_SMALL,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_PARAMETER,
    STATUS_REVISION_MISMATCH,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.driver import ProcNotify
    from vm.machine import Machine

ABI = load_abi()
GET_VERSION = ABI.integer("IOCTL_PROCNOTIFY_GET_VERSION")
SET_RULES = ABI.integer("IOCTL_PROCNOTIFY_SET_RULES")
GET_RULES = ABI.integer("IOCTL_PROCNOTIFY_GET_RULES")
GET_STATISTICS = ABI.integer("IOCTL_PROCNOTIFY_GET_STATISTICS")
READ = ABI.integer("IOCTL_PROCNOTIFY_READ")

OLD_RULES = (Rule(Match.SUFFIX, "tool.exe", 0xC0000906), Rule(Match.EXACT, "\\??\\C:\\x", 0xC0000022))


def test_the_version_is_that_of_the_header(driver: ProcNotify) -> None:
    version = driver.version()
    assert version.abi_version == ABI.integer("ABI_VERSION")
    assert version.maximum_rules == ABI.integer("MAXIMUM_RULES")
    promised = ABI.integer("CAPABILITY_DENY") | ABI.integer("CAPABILITY_GAPS")
    assert version.capabilities & promised == promised
    known = promised | ABI.integer("CAPABILITY_SUBSYSTEM_PROCESSES")
    assert version.capabilities & ~known == 0


def test_subsystem_processes_are_seen_if_and_only_if_the_capability_says_so(
    machine: Machine, driver: ProcNotify
) -> None:
    start(machine, "C:\\ntproof\\lxss\\bash", "bash", subsystem=True)
    capable = driver.version().capabilities & ABI.integer("CAPABILITY_SUBSYSTEM_PROCESSES") != 0
    assert driver.statistics().created == int(capable)


def test_the_statistics_of_a_fresh_driver_are_zero(driver: ProcNotify) -> None:
    statistics = driver.statistics()
    assert statistics.next_sequence == 1
    assert statistics.rules_size == ABI.rules_header_size
    counters = (statistics.created, statistics.exited, statistics.denied, statistics.queued, statistics.delivered)
    assert counters == (0, 0, 0, 0, 0)
    sizes = (statistics.dropped, statistics.high_water_bytes, statistics.queued_bytes, statistics.next_record_size)
    assert sizes == (0, 0, 0, 0)
    assert (statistics.rule_count, statistics.rules_generation) == (0, 0)


def test_statistics_count_what_happened(machine: Machine, driver: ProcNotify) -> None:
    driver.set_rules([Rule(Match.SUFFIX, "tool.exe")])
    for _ in range(3):
        run_to_exit(machine)
    start(machine)
    attempt(machine, TOOL)
    statistics = driver.statistics()
    assert (statistics.created, statistics.exited, statistics.denied) == (5, 4, 1)
    assert (statistics.queued, statistics.delivered, statistics.dropped, statistics.next_sequence) == (9, 0, 0, 10)


def test_the_size_of_the_next_record_is_told(machine: Machine, driver: ProcNotify) -> None:
    pid = start(machine, APP, "x" * 1234)
    create_size = driver.statistics().next_record_size
    assert create_size == driver.statistics().queued_bytes
    machine.exit_process(pid)
    driver.read(create_size)
    assert driver.statistics().next_record_size == 32 == driver.statistics().queued_bytes
    (seen,) = driver.read(32)
    assert isinstance(seen, Exit)


@pytest.mark.parametrize("code", [GET_VERSION, GET_STATISTICS, GET_RULES], ids=["version", "statistics", "rules"])
@pytest.mark.parametrize("extra", [1, 8, 4096])
def test_an_answer_is_no_longer_than_it_says(driver: ProcNotify, code: int, extra: int) -> None:
    size = {GET_VERSION: ABI.version_size, GET_STATISTICS: ABI.statistics_size, GET_RULES: ABI.rules_header_size}[code]
    assert len(driver.handle.control(code, b"", size + extra)) == size


@pytest.mark.parametrize("code", [GET_VERSION, GET_STATISTICS, GET_RULES], ids=["version", "statistics", "rules"])
@pytest.mark.parametrize("missing", [1, 8, None])
def test_an_output_too_short_for_the_answer_is_refused(driver: ProcNotify, code: int, missing: int | None) -> None:
    size = {GET_VERSION: ABI.version_size, GET_STATISTICS: ABI.statistics_size, GET_RULES: ABI.rules_header_size}[code]
    with refused(STATUS_BUFFER_TOO_SMALL):
        driver.handle.control(code, b"", 0 if missing is None else size - missing)


@pytest.mark.parametrize("code", [GET_VERSION, GET_STATISTICS, GET_RULES], ids=["version", "statistics", "rules"])
@pytest.mark.parametrize("length", [1, 8, 4096])
def test_input_where_there_is_none_is_refused(driver: ProcNotify, code: int, length: int) -> None:
    with refused(STATUS_INVALID_PARAMETER):
        driver.handle.control(code, b"\xff" * length, 4096)


@pytest.mark.parametrize("missing", [1, 8])
def test_rules_that_do_not_fit_the_output_are_not_told_in_part(driver: ProcNotify, missing: int) -> None:
    driver.set_rules(OLD_RULES)
    size = driver.statistics().rules_size
    with refused(STATUS_BUFFER_TOO_SMALL):
        driver.handle.control(GET_RULES, b"", size - missing)
    assert driver.abi.decode_rules(driver.handle.control(GET_RULES, b"", size)) == OLD_RULES


def test_setting_rules_answers_nothing(driver: ProcNotify) -> None:
    assert driver.handle.control(SET_RULES, ABI.encode_rules(OLD_RULES), 4096) == b""


UNKNOWN_CODES = {
    "next-function": READ + 4,
    "function-before": GET_VERSION - 4,
    "version-in-direct": GET_VERSION + 1,
    "version-out-direct": GET_VERSION + 2,
    "version-neither": GET_VERSION + 3,
    "read-buffered": READ - 2,
    "read-neither": READ + 1,
    "rules-neither": SET_RULES + 3,
    "version-any-access": GET_VERSION & ~0xC000,
    "rules-any-access": SET_RULES & ~0xC000,
    "disk-geometry": 0x00070000,  # IOCTL_DISK_GET_DRIVE_GEOMETRY, winioctl.h
    "zero": 0,
    "all-ones": 0xFFFFFFFF,
}


@pytest.mark.parametrize("code", UNKNOWN_CODES.values(), ids=UNKNOWN_CODES.keys())
def test_an_unknown_control_code_is_refused(driver: ProcNotify, code: int) -> None:
    with refused(STATUS_INVALID_DEVICE_REQUEST):
        driver.handle.control(code, bytes(64), 64)
    with refused(STATUS_INVALID_DEVICE_REQUEST):
        driver.handle.control(code)


def test_reading_and_writing_like_a_file_is_refused(driver: ProcNotify) -> None:
    with refused(STATUS_INVALID_DEVICE_REQUEST):
        driver.handle.read(4096)
    with refused(STATUS_INVALID_DEVICE_REQUEST):
        driver.handle.write(b"data")


BAD_READS = {
    "one-byte": b"\x01",
    "four-bytes": struct.pack("<I", 1),
    "seven-bytes": bytes(7),
    "nine-bytes": bytes(9),
    "sixteen-bytes": bytes(16),
    "unknown-flag": struct.pack("<II", 2, 0),
    "unknown-flag-beside-a-known": struct.pack("<II", 0x80000001, 0),
    "reserved": struct.pack("<II", 1, 1),
}


@pytest.mark.parametrize("request_bytes", BAD_READS.values(), ids=BAD_READS.keys())
def test_a_malformed_read_is_refused_and_takes_nothing(
    machine: Machine, driver: ProcNotify, request_bytes: bytes
) -> None:
    run_to_exit(machine)
    with refused(STATUS_INVALID_PARAMETER):
        driver.handle.control(READ, request_bytes, 4096)
    assert len(driver.read_available()) == 2


def test_a_malformed_read_does_not_make_a_consumer(machine: Machine, open_driver: Callable[..., ProcNotify]) -> None:
    first, second = open_driver(machine), open_driver(machine)
    with refused(STATUS_INVALID_PARAMETER):
        first.handle.control(READ, b"\x01", 4096)
    assert second.read() == []


def rules_bytes(
    *rules: bytes, version: int = 1, count: int | None = None, size: int | None = None, reserved: int = 0
) -> bytes:
    """A PROCNOTIFY_RULES with its rules; what is not given is right."""
    body = b"".join(rules)
    header = (version, len(rules) if count is None else count, 16 + len(body) if size is None else size, reserved)
    return struct.pack("<IIII", *header) + body


def rule_bytes(
    pattern: bytes = "x.exe".encode("utf-16-le"),
    *,
    size: int | None = None,
    match: int = 3,
    reserved: int = 0,
    status: int = 0xC0000022,
    length: int | None = None,
    padding: bytes | None = None,
) -> bytes:
    """A PROCNOTIFY_RULE with its pattern; what is not given is right."""
    filled = bytes(-len(pattern) % 8) if padding is None else padding
    whole = 16 + len(pattern) + len(filled)
    header = (whole if size is None else size, match, reserved, status, len(pattern) if length is None else length)
    return struct.pack("<IHHII", *header) + pattern + filled


GOOD = rule_bytes()

BAD_SETS = {
    "nothing": b"",
    "one-byte": b"\x01",
    "short-header": rules_bytes()[:15],
    "header-size-too-small": rules_bytes(GOOD, size=16),
    "header-size-too-large": rules_bytes(GOOD, size=16 + len(GOOD) + 8),
    "header-size-zero": rules_bytes(size=0),
    "header-size-all-ones": rules_bytes(GOOD, size=0xFFFFFFFF),
    "header-reserved": rules_bytes(GOOD, reserved=1),
    "count-too-small": rules_bytes(GOOD, GOOD, count=1),
    "count-zero-with-rules": rules_bytes(GOOD, count=0),
    "count-too-large": rules_bytes(GOOD, count=2),
    "count-over-the-limit": rules_bytes(GOOD, count=1025),
    "count-all-ones": rules_bytes(GOOD, count=0xFFFFFFFF),
    "trailing-byte": rules_bytes(GOOD, b"\0", count=1),
    "trailing-bytes": rules_bytes(GOOD, bytes(8), count=1),
    "truncated-rule-header": rules_bytes(GOOD[:12], count=1),
    "truncated-pattern": rules_bytes(GOOD[:-8], count=1),
    "rule-size-zero": rules_bytes(rule_bytes(size=0)),
    "rule-size-header-only": rules_bytes(rule_bytes(size=16)),
    "rule-size-not-padded": rules_bytes(rule_bytes(size=26)),
    "rule-size-too-large": rules_bytes(rule_bytes(size=40)),
    "rule-size-all-ones": rules_bytes(rule_bytes(size=0xFFFFFFFF)),
    "rule-size-wraps": rules_bytes(rule_bytes(size=0xFFFFFFF8)),
    "rule-size-with-extra-padding": rules_bytes(rule_bytes(padding=bytes(14))),
    "pattern-empty": rules_bytes(rule_bytes(b"")),
    "pattern-length-zero": rules_bytes(rule_bytes(length=0)),
    "pattern-length-odd": rules_bytes(rule_bytes(b"abc", padding=bytes(5))),
    "pattern-length-past-the-rule": rules_bytes(rule_bytes(length=26)),
    "pattern-length-all-ones": rules_bytes(rule_bytes(length=0xFFFFFFFF)),
    "pattern-length-wraps": rules_bytes(rule_bytes(length=0xFFFFFFF0)),
    "pattern-length-over-the-limit": rules_bytes(rule_bytes(b"p\0" * 32_768)),
    "match-zero": rules_bytes(rule_bytes(match=0)),
    "match-unknown": rules_bytes(rule_bytes(match=4)),
    "match-all-ones": rules_bytes(rule_bytes(match=0xFFFF)),
    "rule-reserved": rules_bytes(rule_bytes(reserved=1)),
    "status-success": rules_bytes(rule_bytes(status=1)),
    "status-pending": rules_bytes(rule_bytes(status=0x103)),
    "status-informational": rules_bytes(rule_bytes(status=0x40000000)),
    "status-greatest-informational": rules_bytes(rule_bytes(status=0x7FFFFFFF)),
    "padding-first-byte": rules_bytes(rule_bytes(padding=b"\1\0\0\0\0\0")),
    "padding-last-byte": rules_bytes(rule_bytes(padding=b"\0\0\0\0\0\1")),
    "second-rule-bad": rules_bytes(GOOD, rule_bytes(match=9), GOOD),
    "last-rule-bad": rules_bytes(GOOD, GOOD, rule_bytes(status=5)),
}


@pytest.mark.parametrize("data", BAD_SETS.values(), ids=BAD_SETS.keys())
def test_an_invalid_set_is_refused_whole_and_the_old_one_stays(
    machine: Machine, driver: ProcNotify, data: bytes
) -> None:
    driver.set_rules(OLD_RULES)
    before = driver.statistics()
    with refused(STATUS_INVALID_PARAMETER):
        driver.handle.control(SET_RULES, data)
    assert driver.statistics() == before
    assert driver.get_rules() == OLD_RULES
    assert not attempt(machine, TOOL).succeeded
    assert attempt(machine, "C:\\ntproof\\x.exe").succeeded


@pytest.mark.parametrize("version", [0, 2, 0xFFFFFFFF])
def test_a_set_of_another_revision_is_refused_as_such(driver: ProcNotify, version: int) -> None:
    driver.set_rules(OLD_RULES)
    with refused(STATUS_REVISION_MISMATCH):
        driver.handle.control(SET_RULES, rules_bytes(GOOD, version=version))
    assert driver.get_rules() == OLD_RULES


@pytest.mark.parametrize("cut", range(0, 16 + 2 * len(GOOD), 4))
def test_a_set_that_is_cut_off_anywhere_is_refused(driver: ProcNotify, cut: int) -> None:
    driver.set_rules(OLD_RULES)
    whole = rules_bytes(GOOD, GOOD)
    with refused(STATUS_INVALID_PARAMETER):
        driver.handle.control(SET_RULES, whole[:cut])
    if cut >= 16:
        claimed = whole[:8] + struct.pack("<I", cut) + whole[12:cut]
        with refused(STATUS_INVALID_PARAMETER):
            driver.handle.control(SET_RULES, claimed)
    assert driver.get_rules() == OLD_RULES


@pytest.mark.parametrize("units", range(1, 9))
def test_a_set_at_the_very_end_of_its_buffer_is_accepted(driver: ProcNotify, units: int) -> None:
    """Patterns of every length modulo the alignment: a read past the end meets a guard page."""
    rules = (Rule(Match.SUFFIX, "e" * units), Rule(Match.SUBTREE, "\\??\\C:\\" + "d" * units, 0x80000005))
    driver.handle.control(SET_RULES, ABI.encode_rules(rules))
    assert [(rule.match, rule.pattern) for rule in driver.get_rules()] == [(rule.match, rule.pattern) for rule in rules]


def test_many_handles_work_side_by_side(machine: Machine, open_driver: Callable[..., ProcNotify]) -> None:
    handles = [open_driver(machine) for _ in range(20)]
    run_to_exit(machine)
    assert {handle.statistics().created for handle in handles} == {1}
    for handle in handles[::2]:
        handle.close()
    assert {handle.statistics().exited for handle in handles[1::2]} == {1}
