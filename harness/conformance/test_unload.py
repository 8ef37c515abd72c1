"""Stopping the driver (wdm.h documentation: DRIVER_UNLOAD; PsSetCreateProcessNotifyRoutineEx, Remove).

Every test of the suite ends with an unload that must leave nothing; these look at what stopping is about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.abi import Match, Rule
from harness.conformance.acts import (
    APP,
    DEVICE,
    SERVICE,
    TOOL,
    attempt,
    come_and_go,
    fails,
    run_to_exit,
    scenario,
    start,
)
from harness.notification import Create, Exit
from harness.scenario import ExitProcess, Launch, ReadRules, ReadStatistics, SetRules, StartDriver, StopDriver
from vm.machine import ServiceState
from vm.win32 import ERROR_FILE_NOT_FOUND

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.capture import Capture
    from harness.driver import ProcNotify
    from vm.machine import Machine


def test_a_stopped_driver_has_no_device(machine: Machine) -> None:
    machine.stop_driver(SERVICE)
    assert machine.driver_state(SERVICE) is ServiceState.STOPPED
    with fails(ERROR_FILE_NOT_FOUND):
        machine.open_device(DEVICE)


def test_processes_come_and_go_after_the_driver_has_stopped(machine: Machine) -> None:
    pid = start(machine)
    machine.stop_driver(SERVICE)
    machine.exit_process(pid)
    for _ in range(5):
        run_to_exit(machine)
    assert machine.crash is None


def test_the_driver_starts_and_stops_fifty_times(machine: Machine, open_driver: Callable[..., ProcNotify]) -> None:
    for _ in range(50):
        machine.stop_driver(SERVICE)
        machine.start_driver(SERVICE)
        pid = run_to_exit(machine)
        with open_driver(machine) as driver:
            driver.set_rules([Rule(Match.SUFFIX, "tool.exe")])
            data = driver.handle.control(
                driver.abi.integer("IOCTL_PROCNOTIFY_READ"), driver.abi.encode_read(no_wait=True), 4096
            )
        seen = driver.abi.decode_notifications(data)
        assert [(type(one), one.sequence, getattr(one, "pid", None)) for one in seen] == [
            (Create, 1, pid),
            (Exit, 2, pid),
        ]


@pytest.mark.parametrize("rules", [1, 3, 1024])
def test_rules_in_force_go_with_the_driver(
    machine: Machine, open_driver: Callable[..., ProcNotify], rules: int
) -> None:
    with open_driver(machine) as driver:
        driver.set_rules(Rule(Match.SUFFIX, f"{index}.exe") for index in range(rules - 1))
        driver.set_rules(
            [*(Rule(Match.SUFFIX, f"{index}.exe") for index in range(rules - 1)), Rule(Match.SUFFIX, "tool.exe")]
        )
    machine.stop_driver(SERVICE)
    assert attempt(machine, TOOL).succeeded
    machine.start_driver(SERVICE)
    assert attempt(machine, TOOL).succeeded
    assert open_driver(machine).get_rules() == ()


def test_records_that_nobody_read_go_with_the_driver(machine: Machine, open_driver: Callable[..., ProcNotify]) -> None:
    for _ in range(20):
        run_to_exit(machine)
    machine.stop_driver(SERVICE)
    machine.start_driver(SERVICE)
    driver = open_driver(machine)
    assert driver.read_available() == []
    assert driver.statistics().created == 0


@pytest.mark.driver_parameters(QueueBytes=0x40000)
def test_a_driver_with_a_full_queue_stops(machine: Machine, driver: ProcNotify) -> None:
    for _ in range(6):
        start(machine, APP, "L" * 32_767)
    assert driver.statistics().dropped == 3


def test_a_driver_that_has_denied_stops(machine: Machine, driver: ProcNotify) -> None:
    driver.set_rules([Rule(Match.SUFFIX, "tool.exe"), Rule(Match.SUBTREE, "\\??\\D:"), Rule(Match.EXACT, "x")])
    for _ in range(3):
        attempt(machine, TOOL)
    assert driver.statistics().denied == 3


def test_a_driver_whose_rules_were_replaced_many_times_stops(machine: Machine, driver: ProcNotify) -> None:
    for index in range(60):
        driver.set_rules(Rule(Match.SUFFIX, f"{index}-{other}.exe") for other in range(index % 5))
        attempt(machine, APP)
    assert driver.statistics().rules_generation == 60


def test_an_open_handle_keeps_the_driver_until_it_is_closed(
    machine: Machine, open_driver: Callable[..., ProcNotify]
) -> None:
    driver = open_driver(machine)
    machine.stop_driver(SERVICE)
    assert machine.driver_state(SERVICE) is ServiceState.STOP_PENDING
    driver.close()
    assert machine.driver_state(SERVICE) is ServiceState.STOPPED
    run_to_exit(machine)


def test_exits_after_a_restart_are_those_of_processes_the_new_load_never_saw(
    run_scenario: Callable[..., Capture],
) -> None:
    run_scenario(
        scenario(
            "restart",
            StartDriver(),
            Launch("one", APP, "one"),
            StopDriver(),
            Launch("two", TOOL, "two"),
            StartDriver(),
            ExitProcess("one", 1),
            ExitProcess("two", 2),
            *come_and_go("three"),
            ReadStatistics(),
        )
    )


def test_each_load_begins_without_the_rules_of_the_last(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(
        scenario(
            "rules and restart",
            StartDriver(),
            SetRules((Rule(Match.SUFFIX, "tool.exe"),)),
            Launch("denied", TOOL, "tool"),
            StopDriver(),
            StartDriver(),
            ReadRules(),
            *come_and_go("allowed", TOOL),
        )
    )
