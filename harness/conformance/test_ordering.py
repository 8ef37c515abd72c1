"""Order and numbering of notifications (procnotify.h: PROCNOTIFY_RECORD), and when they are due.

The routine runs in the creating call and in the exiting process, so what it reports is there when the call returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.abi import Match, Rule
from harness.conformance.acts import APP, SERVICE, TOOL, attempt, run_to_exit, start
from harness.notification import Create, Exit

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.driver import ProcNotify
    from vm.machine import Machine


def test_the_first_notification_has_number_one(machine: Machine, driver: ProcNotify) -> None:
    start(machine)
    (seen,) = driver.read_available()
    assert seen.sequence == 1


def test_numbers_count_creations_and_exits_alike(machine: Machine, driver: ProcNotify) -> None:
    for _ in range(5):
        run_to_exit(machine)
    assert [seen.sequence for seen in driver.read_available()] == list(range(1, 11))


def test_numbers_go_on_over_reads(machine: Machine, driver: ProcNotify) -> None:
    numbers = []
    for _ in range(5):
        run_to_exit(machine)
        numbers.append([seen.sequence for seen in driver.read_available()])
    assert numbers == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]


def test_numbers_begin_anew_with_each_load(machine: Machine, open_driver: Callable[..., ProcNotify]) -> None:
    run_to_exit(machine)
    machine.stop_driver(SERVICE)
    machine.start_driver(SERVICE)
    start(machine)
    assert [seen.sequence for seen in open_driver(machine).read_available()] == [1]


def test_the_next_number_is_told_before_it_is_given(machine: Machine, driver: ProcNotify) -> None:
    run_to_exit(machine)
    promised = driver.statistics().next_sequence
    driver.read_available()
    start(machine)
    (seen,) = driver.read_available()
    assert seen.sequence == promised == 3


def test_a_creation_is_told_when_its_call_returns(machine: Machine, driver: ProcNotify) -> None:
    for _ in range(3):
        pid = start(machine)
        (seen,) = driver.read_available()
        assert isinstance(seen, Create)
        assert seen.pid == pid


def test_an_exit_is_told_when_the_process_is_gone(machine: Machine, driver: ProcNotify) -> None:
    pid = start(machine)
    driver.read_available()
    machine.terminate_process(pid, 9)
    (seen,) = driver.read_available()
    assert isinstance(seen, Exit)
    assert (seen.pid, seen.status) == (pid, 9)


def test_a_denied_creation_is_told_when_its_call_returns(machine: Machine, driver: ProcNotify) -> None:
    driver.set_rules([Rule(Match.SUFFIX, "tool.exe")])
    attempt(machine, TOOL)
    assert isinstance(driver.read_available()[0], Create)


def test_creation_comes_before_exit_for_every_process(machine: Machine, driver: ProcNotify) -> None:
    running = [start(machine, command_line=f"{index}") for index in range(8)]
    for pid in (*running[4:], *running[:4]):
        machine.exit_process(pid)
    seen = driver.read_available()
    kinds = {pid: [type(one) for one in seen if getattr(one, "pid", None) == pid] for pid in running}
    assert kinds == {pid: [Create, Exit] for pid in running}


def test_notifications_are_in_the_order_of_what_happened(machine: Machine, driver: ProcNotify) -> None:
    first = start(machine, APP, "first")
    second = start(machine, TOOL, "second")
    machine.exit_process(first)
    third = start(machine, APP, "third")
    machine.exit_process(third)
    machine.exit_process(second)
    told = [(type(seen), getattr(seen, "pid", None)) for seen in driver.read_available()]
    assert told == [(Create, first), (Create, second), (Exit, first), (Create, third), (Exit, third), (Exit, second)]


def test_times_do_not_go_back_within_one_processor(machine: Machine, driver: ProcNotify) -> None:
    for _ in range(10):
        run_to_exit(machine)
    times = [seen.time for seen in driver.read_available() if seen.time is not None]
    assert len(times) == 20
    assert times == sorted(times)


@pytest.mark.parametrize("size", [240, 1000, 5000])
def test_the_size_of_a_read_does_not_change_the_order(machine: Machine, driver: ProcNotify, size: int) -> None:
    for index in range(20):
        run_to_exit(machine, command_line=f"{index}")
    seen = driver.read_available(size)
    assert [one.sequence for one in seen] == list(range(1, 41))
    assert [one.command_line for one in seen if isinstance(one, Create)] == [f"{index}" for index in range(20)]
