"""What an exit notification says (wdm.h documentation: PCREATE_PROCESS_NOTIFY_ROUTINE_EX, CreateInfo NULL)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.conformance.acts import APP, TOOL, come_and_go, run_to_exit, scenario, start
from harness.notification import Create, Exit, Gap
from harness.scenario import ExitProcess, Launch, Preexisting, ReadStatistics, StartDriver, StopDriver, Terminate

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.capture import Capture
    from harness.driver import ProcNotify
    from harness.notification import Notification
    from vm.machine import Machine

STATUSES = {
    "success": 0,
    "one": 1,
    "dbg-terminate-process": 0x40010004,
    "warning": 0x80000003,
    "access-violation": 0xC0000005,
    "elevation-required": 0xC000042C,
    "hresult": 0x80070002,
    "all-ones": 0xFFFFFFFF,
}


@pytest.mark.parametrize("status", STATUSES.values(), ids=STATUSES.keys())
def test_an_exit_tells_the_status_of_the_process(run_scenario: Callable[..., Capture], status: int) -> None:
    capture = run_scenario(scenario("exit status", *come_and_go("process", status=status)))
    assert [item.status for item in capture.items if isinstance(item, Exit)] == [status]


def test_a_terminated_process_exits_with_the_status_it_was_given(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(scenario("terminate", Launch("process", APP, "app"), Terminate("process", 0xDEAD)))


def test_an_exit_is_told_before_the_process_is_gone_and_after_its_creation(
    machine: Machine, driver: ProcNotify
) -> None:
    pid = start(machine)
    created_by = machine.system_time()
    machine.exit_process(pid, 5)
    create, exit_ = driver.read_available()
    assert isinstance(create, Create)
    assert isinstance(exit_, Exit)
    assert (create.pid, exit_.pid, exit_.status) == (pid, pid, 5)
    assert create.time is not None
    assert exit_.time is not None
    assert create.time <= created_by <= exit_.time <= machine.system_time()


def test_exits_of_processes_older_than_the_driver_are_told(run_scenario: Callable[..., Capture]) -> None:
    capture = run_scenario(
        scenario(
            "older",
            ExitProcess("one", 3),
            *come_and_go("young"),
            Terminate("two", 4),
            ReadStatistics(),
            processes=(Preexisting("one", APP, "one"), Preexisting("two", TOOL, "two")),
        )
    )
    assert [item.status for item in capture.items if isinstance(item, Exit)] == [3, 0, 4]


def test_processes_that_outlive_the_driver_have_no_exit(run_scenario: Callable[..., Capture]) -> None:
    capture = run_scenario(
        scenario("outlived", StartDriver(), Launch("process", APP, "app"), StopDriver(), ExitProcess("process"))
    )
    assert not [item for item in capture.items if isinstance(item, Exit)]


def test_a_parent_that_exits_takes_no_child_with_it(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(
        scenario(
            "parent first",
            Launch("parent", APP, "parent"),
            Launch("child", TOOL, "child", creator="parent"),
            ExitProcess("parent", 1),
            ExitProcess("child", 2),
        )
    )


def test_exits_come_in_the_order_in_which_processes_end(run_scenario: Callable[..., Capture]) -> None:
    labels = [f"process {index}" for index in range(12)]
    ends = labels[1::2] + labels[0::2]
    run_scenario(
        scenario(
            "ends",
            *(Launch(label, APP, label) for label in labels),
            *(ExitProcess(label, index) for index, label in enumerate(ends)),
        )
    )


def test_a_pid_that_is_used_again_is_another_process(machine: Machine, driver: ProcNotify) -> None:
    pids: list[int] = []
    told: list[Notification] = []
    while len(pids) == len(set(pids)):
        assert len(pids) < 4000, "no pid was used again"
        pids.append(run_to_exit(machine, command_line=f"run {len(pids)}"))
        told += driver.read_available()
    reused = [one for one in told if not isinstance(one, Gap) and one.pid == pids[-1]]
    assert [type(one) for one in reused] == [Create, Exit, Create, Exit]
    assert [one.command_line for one in reused if isinstance(one, Create)] == [
        f"run {index}" for index, pid in enumerate(pids) if pid == pids[-1]
    ]


def test_an_exit_is_told_once_for_each_of_many_processes(run_scenario: Callable[..., Capture]) -> None:
    steps = [step for index in range(40) for step in come_and_go(f"process {index}", status=index)]
    run_scenario(scenario("many", *steps, ReadStatistics(), drain_each_step=False))
