"""Denying a creation (ntddk.h documentation: PS_CREATE_NOTIFY_INFO.CreationStatus).

Any negative status denies; the creator is told its translation; the process still exits, for every driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.abi import Match, Rule
from harness.conformance.acts import (
    APP,
    SERVICE,
    TOOL,
    attempt,
    come_and_go,
    launched,
    nt_name,
    run_to_exit,
    scenario,
    start,
)
from harness.notification import Create, Exit
from harness.scenario import Clone, ExitProcess, Launch, ProvideImage, ReadStatistics, SetRules
from vm.machine import ImageKind
from vm.ntstatus import STATUS_ACCESS_DENIED, STATUS_SUCCESS, to_win32
from vm.win32 import ERROR_ACCESS_DENIED

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.capture import Capture
    from harness.conformance.companion import Companion
    from harness.driver import ProcNotify
    from vm.machine import Machine

DENY_TOOL = SetRules((Rule(Match.SUFFIX, "tool.exe"),))

FAILURES = {
    "access-denied": 0xC0000022,
    "unsuccessful": 0xC0000001,
    "virus-infected": 0xC0000906,
    "policy": 0xC0000361,
    "object-name-not-found": 0xC0000034,
    "not-in-ntstatus-h": 0xC0DE0001,
    "customer-bit": 0xE0000001,
    "all-ones": 0xFFFFFFFF,
    "buffer-overflow-warning": 0x80000005,
    "least-warning": 0x80000000,
    "customer-warning": 0xA0000001,
}

NO_FAILURES = {
    "success": 0x00000000,
    "pending": 0x00000103,
    "greatest-success": 0x3FFFFFFF,
    "informational": 0x40000000,
    "dbg-terminate-process": 0x40010004,
    "greatest-informational": 0x7FFFFFFF,
}


@pytest.mark.parametrize("status", FAILURES.values(), ids=FAILURES.keys())
def test_every_failure_status_denies_with_its_translation(run_scenario: Callable[..., Capture], status: int) -> None:
    rules = SetRules((Rule(Match.SUFFIX, "tool.exe", status),))
    capture = run_scenario(scenario("status", rules, Launch("denied", TOOL, "tool"), ReadStatistics()))
    assert launched(capture, "denied").result.win32_error == to_win32(status)
    assert [item.status for item in capture.items if isinstance(item, Create | Exit)] == [status, status]


def test_a_denied_process_does_not_run(machine: Machine, driver: ProcNotify) -> None:
    driver.set_rules([Rule(Match.SUFFIX, "tool.exe")])
    result = attempt(machine, TOOL)
    assert not result.succeeded
    assert result.win32_error == ERROR_ACCESS_DENIED
    assert machine.running_processes() == {}


def test_a_denied_process_is_told_with_creation_and_exit(machine: Machine, driver: ProcNotify) -> None:
    driver.set_rules([Rule(Match.EXACT, nt_name(TOOL))])
    attempt(machine, TOOL, "tool /x")
    create, exit_ = driver.read_available()
    assert isinstance(create, Create)
    assert isinstance(exit_, Exit)
    assert (create.command_line, create.status) == ("tool /x", STATUS_ACCESS_DENIED)
    assert (exit_.pid, exit_.status) == (create.pid, STATUS_ACCESS_DENIED)


def test_a_denial_is_counted_once(machine: Machine, driver: ProcNotify) -> None:
    driver.set_rules([Rule(Match.SUFFIX, "tool.exe")])
    for _ in range(3):
        attempt(machine, TOOL)
    start(machine, APP)
    assert driver.statistics().denied == 3
    assert (driver.statistics().created, driver.statistics().exited) == (4, 3)


def test_what_no_rule_names_is_created(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(
        scenario(
            "others",
            DENY_TOOL,
            *come_and_go("before"),
            Launch("denied", TOOL, "tool"),
            *come_and_go("after"),
            ReadStatistics(),
        )
    )


def test_a_denial_holds_while_nobody_reads(machine: Machine, driver: ProcNotify) -> None:
    driver.set_rules([Rule(Match.SUFFIX, "tool.exe")])
    driver.close()
    assert [attempt(machine, TOOL).win32_error for _ in range(5)] == [ERROR_ACCESS_DENIED] * 5


def test_a_rule_set_that_is_taken_back_denies_no_more(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(
        scenario(
            "taken back",
            DENY_TOOL,
            Launch("denied", TOOL, "tool"),
            SetRules(()),
            *come_and_go("allowed", TOOL),
        )
    )


def test_a_process_that_runs_is_not_touched_by_a_new_rule(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(
        scenario(
            "running",
            Launch("running", TOOL, "tool"),
            DENY_TOOL,
            Launch("child", APP, "app", creator="running"),
            ExitProcess("child"),
            ExitProcess("running", 3),
        )
    )


@pytest.mark.parametrize(
    "options",
    [{"suspended": True}, {"two_step": True}, {"creator": "shell"}, {"parent": "shell"}],
    ids=min,
)
def test_a_denial_does_not_depend_on_how_the_process_is_made(
    run_scenario: Callable[..., Capture], options: dict[str, str | bool]
) -> None:
    capture = run_scenario(
        scenario(
            "how",
            Launch("shell", APP, "shell"),
            DENY_TOOL,
            Launch("denied", TOOL, "tool", **options),  # type: ignore[arg-type]
            ReadStatistics(),
        )
    )
    assert launched(capture, "denied").result.win32_error == ERROR_ACCESS_DENIED


def test_a_clone_is_denied_if_it_is_told(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(
        scenario(
            "clone",
            Launch("original", TOOL, "tool"),
            DENY_TOOL,
            Clone("clone", "original"),
            ExitProcess("original"),
        )
    )


def test_a_denial_comes_before_what_the_image_would_fail_with(run_scenario: Callable[..., Capture]) -> None:
    capture = run_scenario(
        scenario(
            "elevation", ProvideImage(TOOL, ImageKind.REQUIRES_ELEVATION), DENY_TOOL, Launch("denied", TOOL, "tool")
        )
    )
    assert launched(capture, "denied").result.win32_error == ERROR_ACCESS_DENIED


@pytest.mark.parametrize("status", FAILURES.values(), ids=FAILURES.keys())
def test_an_earlier_driver_that_denies_leaves_only_the_exit(
    bare_machine: Machine,
    install_companion: Callable[..., Companion],
    open_driver: Callable[..., ProcNotify],
    status: int,
) -> None:
    install_companion(bare_machine, DenySuffix="tool.exe", DenyStatus=status).start()
    bare_machine.start_driver(SERVICE)
    driver = open_driver(bare_machine)
    result = attempt(bare_machine, TOOL)
    assert result.win32_error == to_win32(status)
    (seen,) = driver.read_available()
    assert isinstance(seen, Exit)
    assert (seen.pid, seen.status) == (result.pid or seen.pid, status)
    statistics = driver.statistics()
    assert (statistics.created, statistics.exited, statistics.denied) == (0, 1, 0)


@pytest.mark.parametrize("status", NO_FAILURES.values(), ids=NO_FAILURES.keys())
def test_a_status_that_is_no_failure_does_not_deny(
    bare_machine: Machine,
    install_companion: Callable[..., Companion],
    open_driver: Callable[..., ProcNotify],
    status: int,
) -> None:
    companion = install_companion(bare_machine, DenySuffix="tool.exe", DenyStatus=status)
    companion.start()
    bare_machine.start_driver(SERVICE)
    driver = open_driver(bare_machine)
    pid = run_to_exit(bare_machine, TOOL, "tool", 5)
    create, exit_ = driver.read_available()
    assert isinstance(create, Create)
    assert isinstance(exit_, Exit)
    assert (create.pid, exit_.pid, exit_.status) == (pid, pid, 5)
    assert companion.query().denied == 1


def test_a_rule_denies_after_an_earlier_driver_set_a_status_that_does_not(
    bare_machine: Machine, install_companion: Callable[..., Companion], open_driver: Callable[..., ProcNotify]
) -> None:
    install_companion(bare_machine, DenySuffix="tool.exe", DenyStatus=0x40000000).start()
    bare_machine.start_driver(SERVICE)
    driver = open_driver(bare_machine)
    driver.set_rules([Rule(Match.SUFFIX, "tool.exe", 0xC0000906)])
    assert attempt(bare_machine, TOOL).win32_error == to_win32(0xC0000906)
    assert driver.statistics().denied == 1


def test_a_later_driver_is_not_told_of_a_creation_that_was_denied(
    machine: Machine, driver: ProcNotify, install_companion: Callable[..., Companion]
) -> None:
    companion = install_companion(machine)
    companion.start()
    driver.set_rules([Rule(Match.SUFFIX, "tool.exe")])
    attempt(machine, TOOL)
    run_to_exit(machine, APP)
    told = companion.query()
    assert (told.created, told.exited) == (1, 2)


def test_a_creation_that_is_allowed_keeps_its_status(machine: Machine, driver: ProcNotify) -> None:
    driver.set_rules([Rule(Match.SUFFIX, "tool.exe")])
    result = attempt(machine, APP)
    (seen,) = driver.read_available()
    assert isinstance(seen, Create)
    assert result.succeeded
    assert (seen.status, result.status) in {(STATUS_SUCCESS, STATUS_SUCCESS), (STATUS_SUCCESS, None)}


def test_denials_and_creations_in_turn_are_told_apart(run_scenario: Callable[..., Capture]) -> None:
    steps = [
        step
        for index in range(15)
        for step in (Launch(f"denied {index}", TOOL, f"{index}"), *come_and_go(f"allowed {index}", APP, f"{index}"))
    ]
    run_scenario(scenario("in turn", DENY_TOOL, *steps, ReadStatistics(), drain_each_step=False))
