"""Crashes as the hypervisor tells of them become reports with code, name and parameters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm.windows.hypervisor.crash import GuestPanic, best_of, crash_report, parse_event, parse_log

U64 = st.integers(0, (1 << 64) - 1)
LOG = """\
2026-01-02 03:04:05.678+0000: starting up libvirt version: 9.0.0
char device redirected to /dev/pts/1 (label charserial0)
2026-01-02 03:05:05.678+0000: panic hyper-v: arg1='0xd1', arg2='0x10', arg3='0x2', arg4='0x0', arg5='0xfffff80312345678'
2026-01-02 03:05:06.678+0000: shutting down, reason=crashed
"""


def event(*arguments, kind="hyper-v"):
    info = {"type": kind, **{f"arg{number}": value for number, value in enumerate(arguments, 1)}}
    return json.dumps({"action": "pause", "info": info})


def test_an_event_with_the_crash_registers_gives_the_bugcheck():
    panic = parse_event(event(0xD1, 0x10, 2, 0, 0xFFFFF80312345678))

    report = crash_report(panic, activity="create callback", artefacts=(Path("memory.dmp"),))

    assert (report.code, report.name) == (0xD1, "DRIVER_IRQL_NOT_LESS_OR_EQUAL")
    assert report.parameters == (0x10, 2, 0, 0xFFFFF80312345678)
    assert (report.activity, report.artefacts) == ("create callback", (Path("memory.dmp"),))
    assert report.summary().startswith(
        "bugcheck 0xD1 DRIVER_IRQL_NOT_LESS_OR_EQUAL (0x10, 0x2, 0x0, 0xFFFFF80312345678)"
    )


def test_the_log_gives_the_same():
    panic = parse_log(LOG)

    assert panic == GuestPanic(0xD1, (0x10, 2, 0, 0xFFFFF80312345678), "domain log")


def test_the_last_panic_of_a_log_counts():
    again = LOG + LOG.replace("0xd1", "0x1234")

    assert parse_log(again).code == 0x1234


@pytest.mark.parametrize(
    "text",
    [
        "",
        "panic s390: core='0'",
        "panic hyper-v: arg1='0xd1'",
        LOG.replace("0x10", "0x" + "1" * 17),
        LOG.replace("arg5", "arg6"),
    ],
)
def test_a_log_without_a_whole_panic_tells_of_none(text):
    assert parse_log(text) is None


@pytest.mark.parametrize(
    "details",
    [
        None,
        "",
        "{",
        "[" * 100_000,
        "[]",
        "{}",
        '{"info": 1}',
        '{"action": "pause"}',
        event(1, 2, 3, 4),
        event(1, 2, 3, 4, -1),
        event(1, 2, 3, 4, 1 << 64),
        event(1, 2, 3, 4, "5"),
        event(1, 2, 3, 4, True),
        event(1, 2, 3, 4, 5, kind="s390"),
    ],
)
def test_an_event_without_parameters_is_a_crash_of_unknown_code(details):
    report = crash_report(parse_event(details))

    assert (report.code, report.name) == (0, "UNKNOWN_BUGCHECK")
    assert "dump" in report.reason


@given(st.tuples(U64, U64, U64, U64, U64))
def test_event_and_log_agree_on_every_panic(arguments):
    line = "x: panic hyper-v: " + ", ".join(f"arg{number}='{value:#x}'" for number, value in enumerate(arguments, 1))

    told, logged = parse_event(event(*arguments)), parse_log(line)

    assert (told.code, told.parameters) == (logged.code, logged.parameters)
    assert told.parameters == arguments[1:]


@given(st.text())
def test_no_event_or_log_breaks_the_parser(text):
    assert parse_event(text).code is None
    assert parse_log(text) is None


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0x1000007E, "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED_M"),
        (0xE2, "MANUALLY_INITIATED_CRASH"),
        (0xABCDE, "BUGCHECK_0xABCDE"),
        (0x100ABCDE, "BUGCHECK_0x100ABCDE"),
    ],
)
def test_a_code_has_the_name_of_bugcodes_h(code, name):
    assert crash_report(GuestPanic(code, (0, 0, 0, 0), "test")).name == name


def test_what_the_first_parameter_means_is_said():
    assert "CORRUPT_LIST_ENTRY" in crash_report(GuestPanic(0x139, (3, 0, 0, 0), "test")).reason


KNOWN, UNKNOWN = GuestPanic(1, (0, 0, 0, 0), "a"), GuestPanic(None, (0, 0, 0, 0), "b")


@pytest.mark.parametrize(
    ("told", "logged", "best"),
    [
        (KNOWN, UNKNOWN, KNOWN),
        (UNKNOWN, KNOWN, KNOWN),
        (UNKNOWN, None, UNKNOWN),
        (None, KNOWN, KNOWN),
        (None, None, None),
    ],
)
def test_whichever_knows_the_code_is_taken(told, logged, best):
    assert best_of(told, logged) is best
