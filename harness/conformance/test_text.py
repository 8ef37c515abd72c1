"""Texts come through to the last UTF-16 unit (ntddk.h documentation: PS_CREATE_NOTIFY_INFO; winternl: UNICODE_STRING).

Strings are counted, not terminated, and no unit is special: CreateProcess lets programs pass any of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.conformance.acts import APP, attempt, come_and_go, scenario
from harness.notification import Create, canonical_text
from harness.scenario import ReadStatistics

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.capture import Capture
    from harness.driver import ProcNotify
    from vm.machine import Machine

LONGEST = 32_767
"""Characters of the longest UNICODE_STRING: 65,534 bytes."""


def pattern(units: int) -> str:
    """A text in which every cut and every doubled piece shows."""
    return "".join(f"{index:07d} " for index in range(units // 8 + 1))[:units]


COMMAND_LINES: dict[str, str | None] = {
    "absent": None,
    "empty": "",
    "space": " ",
    "one-unit": "a",
    "two-units": "ab",
    "three-units": "abc",
    "four-units": "abcd",
    "trailing-space": "C:\\Windows\\system32\\svchost.exe -k netsvcs ",
    "double-space": "cmd.exe  /c  dir",
    "quoted": '"C:\\Program Files\\app.exe" "an argument"',
    "unbalanced-quote": '"C:\\Program Files\\app.exe',
    "nt-path": "\\??\\C:\\Windows\\system32\\conhost.exe 0xffffffff -ForceV1",
    "system-root": "\\SystemRoot\\System32\\smss.exe",
    "environment": "%SystemRoot%\\system32\\csrss.exe ObjectDirectory=\\Windows",
    "long-path": "\\\\?\\C:\\ntproof\\app.exe",
    "mixed-case": "APP.exe /Mixed /CASE",
    "tab-and-newline": "app\t/a\r\n/b",
    "latin": "app Ärger naïve",
    "combining": "app e\u0301 \u0323",
    "right-to-left": "app \u202eexe.txt",
    "emoji": "app \U0001f600\U0001f468\u200d\U0001f469",
    "high-surrogate": "app \ud83d end",
    "low-surrogate": "app \ude00 end",
    "reversed-pair": "\ude00\ud83d",
    "ends-in-high-surrogate": "app \ud800",
    "noncharacters": "app \uffff\ufffe\ufeff",
    "embedded-nul": "app\0hidden",
    "255-units": pattern(255),
    "256-units": pattern(256),
    "260-units": pattern(260),
    "1023-units": pattern(1023),
    "1024-units": pattern(1024),
    "1025-units": pattern(1025),
    "4097-units": pattern(4097),
    "8191-units": pattern(8191),
    "longest-but-one": pattern(LONGEST - 1),
    "longest": pattern(LONGEST),
}


@pytest.mark.parametrize("command_line", COMMAND_LINES.values(), ids=COMMAND_LINES.keys())
def test_a_command_line_comes_through_unchanged(run_scenario: Callable[..., Capture], command_line: str | None) -> None:
    run_scenario(scenario("command line", *come_and_go("process", APP, command_line)))


@pytest.mark.parametrize("command_line", [None, "", " "], ids=["absent", "empty", "space"])
def test_an_absent_command_line_is_not_an_empty_one(
    machine: Machine, driver: ProcNotify, command_line: str | None
) -> None:
    result = attempt(machine, APP, command_line)
    (seen,) = driver.read_available()
    assert isinstance(seen, Create)
    assert seen.command_line == result.command_line


@pytest.mark.parametrize("units", [LONGEST, LONGEST - 1, 16_384, 16_383])
def test_the_longest_texts_arrive_whole_and_together(machine: Machine, driver: ProcNotify, units: int) -> None:
    path = "\\\\?\\C:\\" + pattern(20_000).replace(" ", "\\") + "\\x.exe"
    result = attempt(machine, path, pattern(units))
    (seen,) = driver.read_available()
    assert isinstance(seen, Create)
    assert seen.command_line == pattern(units)
    assert seen.image_name == canonical_text(result.image_name or "")


@pytest.mark.parametrize("units", range(8))
def test_no_byte_of_padding_is_left_uninitialised(machine: Machine, driver: ProcNotify, units: int) -> None:
    """The decoder refuses a record with a byte of padding that is not zero; here padding takes every length."""
    image = f"C:\\ntproof\\{'i' * (units // 4)}.exe"
    result = attempt(machine, image, "\uffff" * units)
    (seen,) = driver.read_available()
    assert isinstance(seen, Create)
    assert (seen.pid, seen.command_line) == (result.pid, "\uffff" * units)


def test_texts_of_all_lengths_follow_each_other_unharmed(run_scenario: Callable[..., Capture]) -> None:
    lengths = [0, 1, 2, 3, 5, 31, 300, 4000, 32_767, 7]
    steps = [step for units in lengths for step in come_and_go(f"{units} units", APP, pattern(units))]
    run_scenario(scenario("all lengths", *steps, ReadStatistics(), drain_each_step=False))
