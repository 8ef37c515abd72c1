"""Processes: ids, references, and the ground truth of creations."""

from __future__ import annotations

import pytest

from tests.fixtures.misuse import CMD, crash
from vm.errors import Win32Error

EX = 1
STILL_ACTIVE = 0x103


def test_ids_are_multiples_of_four_and_processes_and_threads_share_them(misuse):
    results = [misuse.launch() for _ in range(5)]
    ids = [number for result in results for number in (result.pid, result.tid)]
    assert all(number % 4 == 0 for number in ids)
    assert len(set(ids)) == 10


def test_a_pid_is_used_again_once_its_process_is_gone(misuse):
    first = misuse.launch()
    misuse.machine.exit_process(first.pid)
    second = misuse.launch()
    assert {second.pid, second.tid} == {first.pid, first.tid}


def test_a_driver_that_keeps_a_reference_delays_the_reuse_of_the_pid(misuse):
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "HoldProcess")
    first = misuse.launch()
    misuse.hook("OnCreate", None)
    process = misuse.cell(0)
    misuse.machine.exit_process(first.pid)
    for _ in range(4):
        result = misuse.launch()
        assert first.pid not in (result.pid, result.tid)
        misuse.machine.exit_process(result.pid)
    misuse.run("DropProcess", process)
    later = [misuse.launch() for _ in range(2)]
    assert first.pid in {number for result in later for number in (result.pid, result.tid)}


def test_a_process_dereferenced_too_often_stops_the_machine(misuse):
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "HoldProcess")
    misuse.launch()
    process = misuse.cell(0)
    misuse.run("DropProcess", process)
    report = misuse.crash("DropProcess", process)
    assert (report.code, report.parameters[1]) == (0x18, process)


def test_a_missing_image_is_not_notified(misuse):
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "Record")
    for image, error in (("C:\\Windows\\nothing.exe", 2), ("C:\\Nowhere\\x.exe", 3)):
        result = misuse.launch(image)
        assert (result.win32_error, result.notified, result.pid) == (error, False, None)
    assert misuse.cell(0) == 0


def test_a_suspended_process_can_be_killed_but_does_not_exit_by_itself(misuse):
    result = misuse.launch(suspended=True)
    with pytest.raises(Win32Error) as caught:
        misuse.machine.exit_process(result.pid)
    assert caught.value.code == 87
    misuse.machine.terminate_process(result.pid, 5)
    with pytest.raises(Win32Error):
        misuse.machine.terminate_process(result.pid)


def test_running_processes_are_those_that_were_launched_and_have_not_ended(misuse):
    first, second = misuse.launch(), misuse.launch()
    misuse.machine.exit_process(first.pid)
    assert misuse.machine.running_processes() == {second.pid: "\\??\\" + CMD}


def test_a_creator_or_parent_that_is_gone_is_refused(misuse):
    gone = misuse.launch()
    misuse.machine.exit_process(gone.pid)
    for how in ({"creator": gone.pid}, {"parent": gone.pid}):
        with pytest.raises(Win32Error) as caught:
            misuse.launch(**how)
        assert caught.value.code == 87


def test_exits_and_creates_are_reported_in_the_process_they_belong_to_even_when_nested_in_threads(misuse):
    misuse.run("Register", EX)
    misuse.hook("OnExit", "Record")
    first = misuse.launch()
    misuse.machine.terminate_process(first.pid, 9)
    assert (misuse.cell(2), misuse.cell(7)) == (first.pid, 9)
    assert misuse.run("Nothing", 1) == 1
    report = crash(lambda: misuse.run("BugCheck", 1))
    assert report.code == 1


def test_the_handles_of_a_process_are_closed_when_it_ends(misuse):
    misuse.run("Register", EX)
    creator = misuse.launch()
    misuse.hook("OnCreate", "KeepHandle")
    child = misuse.launch(creator=creator.pid)
    misuse.hook("OnCreate", None)
    assert misuse.cell(0) == 0
    assert misuse.cell(1) != 0
    misuse.machine.exit_process(child.pid)
    assert child.pid not in {misuse.launch().pid, misuse.launch().pid}
    misuse.machine.exit_process(creator.pid)
    assert {misuse.launch().pid for _ in range(2)} & {creator.pid, child.pid}
    handles = [table for pid, table in misuse.kernel.ob.state.tables.items() if pid and pid != misuse.machine.agent_pid]
    assert handles == []


def test_a_handle_to_itself_does_not_keep_a_process_for_ever(misuse):
    misuse.run("Register", EX)
    creator = misuse.launch()
    misuse.set_cell(15, creator.pid)
    misuse.hook("OnCreate", "KeepHandle")
    misuse.launch(creator=creator.pid)
    misuse.hook("OnCreate", None)
    misuse.machine.exit_process(creator.pid)
    assert creator.pid not in misuse.kernel.ps.state.processes


def test_a_process_that_ends_with_the_status_of_a_running_one_has_ended(misuse):
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "HoldProcess")
    result = misuse.launch()
    misuse.hook("OnCreate", None)
    misuse.machine.exit_process(result.pid, STILL_ACTIVE)
    with pytest.raises(Win32Error) as caught:
        misuse.launch(parent=result.pid)
    assert caught.value.code == 87


def test_a_driver_that_ends_a_process_in_its_create_callback_lets_the_creation_succeed_and_the_process_end(misuse):
    misuse.run("Register", EX)
    misuse.set_cell(14, 77)
    misuse.hook("OnCreate", "TerminateByPid")
    misuse.hook("OnExit", "CountExits")
    result = misuse.launch()
    assert (result.win32_error, misuse.cell(0), misuse.cell(1)) == (0, 0, 1)
    assert misuse.cells(4, 6) == (1, result.pid, 77)
    assert misuse.machine.running_processes() == {}
    misuse.hook("OnCreate", None)
    assert misuse.launch().succeeded


def test_a_driver_that_ends_the_creator_in_a_create_callback_ends_it_when_it_leaves_the_kernel(misuse):
    misuse.run("Register", EX)
    creator = misuse.launch()
    misuse.set_cell(14, 78)
    misuse.hook("OnCreate", "TerminateCurrent")
    misuse.hook("OnExit", "CountExits")
    result = misuse.launch(creator=creator.pid)
    assert result.succeeded
    assert misuse.cells(0, 1) == (0, creator.pid)
    assert misuse.cells(4, 6) == (1, creator.pid, 78)
    assert list(misuse.machine.running_processes()) == [result.pid]


def test_a_driver_that_ends_a_process_at_another_time_ends_it_at_once(misuse):
    result = misuse.launch()
    misuse.run("Register", EX)
    misuse.hook("OnExit", "CountExits")
    misuse.run("TerminateByPid", 0, result.pid)
    assert misuse.cells(4, 5) == (1, result.pid)
    assert misuse.machine.running_processes() == {}
    with pytest.raises(Win32Error):
        misuse.machine.terminate_process(result.pid)


@pytest.mark.parametrize("whose", ["system", "agent"])
def test_a_driver_that_ends_a_process_which_windows_needs_stops_the_machine(misuse, whose):
    pid = {"system": 4, "agent": misuse.machine.agent_pid}[whose]
    report = misuse.crash("TerminateByPid", 0, pid)
    assert (report.code, report.name) == (0xEF, "CRITICAL_PROCESS_DIED")


def test_a_thread_attached_to_a_process_that_is_gone_stops_the_machine_when_it_asks(misuse):
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "HoldProcess")
    result = misuse.launch()
    process = misuse.cell(0)
    assert misuse.run("Attach", process) == misuse.run("AskWhoRuns") == result.pid
    misuse.machine.exit_process(result.pid)
    misuse.run("DropProcess", process)
    assert misuse.crash("AskWhoRuns").code == 0x18
