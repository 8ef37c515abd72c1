"""Timers and DPCs."""

from __future__ import annotations

import pytest

from tests.fixtures.misuse import DEVICE, crash

MS = 10_000
SECOND = 1000 * MS


def test_a_dpc_runs_at_dispatch_level_with_its_arguments(misuse):
    assert misuse.run("QueueDpc", 0, 7) == 0x101
    assert misuse.cells(4, 7) == (1, 2, 7, 42)


def test_a_dpc_queued_at_dispatch_level_runs_when_irql_falls_and_only_once(misuse):
    assert misuse.run("QueueDpc", 2, 7, 1) == 0x001
    assert misuse.cells(4, 7) == (1, 2, 7, 42)


def test_a_timer_runs_its_dpc_when_its_time_has_come(misuse):
    misuse.run("ArmTimer", SECOND, 0, 9)
    misuse.wait(0.5)
    assert misuse.cell(4) == 0
    misuse.wait(0.6)
    assert misuse.cells(4, 6) == (1, 2, 9)
    misuse.wait(10)
    assert misuse.cell(4) == 1


def test_a_periodic_timer_runs_until_it_is_cancelled(misuse):
    misuse.run("ArmTimer", SECOND, 500, 9)
    misuse.wait(3.2)
    assert misuse.cell(4) == 5
    assert misuse.run("CancelTimer") == 1
    misuse.wait(3)
    assert misuse.cell(4) == 5
    assert misuse.run("CancelTimer") == 0


def test_a_thread_can_wait_for_a_timer(misuse):
    misuse.run("ArmTimer", 2 * SECOND, 0, 9)
    before = misuse.machine.system_time()
    assert misuse.run("WaitForTimer") == 0
    assert misuse.machine.system_time() - before >= 2 * SECOND - 10 * MS


def test_a_dpc_may_cancel_another_timer_that_is_due_at_the_same_time(misuse):
    misuse.run("ArmTwoTimers", SECOND)
    misuse.wait(2)
    assert misuse.cells(4, 6) == (1, 2, 1)


def test_a_dpc_wakes_a_thread(misuse):
    misuse.run("StartCounter", 1)
    misuse.run("ArmTimer", SECOND, 0, 2)
    misuse.wait(2)
    assert misuse.cell(0) == 1


def test_a_timer_set_for_now_expires_at_once(misuse):
    misuse.run("ArmTimer", 0, 0, 9)
    assert misuse.run("WaitForTimer") == 0


def test_an_armed_timer_in_freed_memory_is_found_at_free(misuse):
    report = misuse.crash("TimerInPool", 1)
    assert (report.code, report.parameters[0]) == (0xC7, 0)
    assert report.parameters[3] - report.parameters[2] == 0x40


def test_an_armed_timer_in_the_image_is_found_at_unload(misuse):
    misuse.run("ArmTimer", SECOND, 0, 9)
    report = crash(misuse.stop)
    assert (report.code, report.parameters[0]) == (0xC7, 0)
    assert report.parameters[2] == misuse.loaded.base


@pytest.mark.parametrize(
    ("context", "code", "kind"),
    [(3, 0xC4, 0x31), (4, 0xC7, 4), (5, 0xC8, 2 << 8 | 2)],
    ids=["lowers IRQL", "enters a region", "writes cr8"],
)
def test_a_dpc_that_changes_the_processors_state_stops_the_machine(misuse, context, code, kind):
    report = misuse.crash("QueueDpc", 0, context)
    assert (report.code, report.parameters[0]) == (code, kind)
    if code == 0xC4:
        assert report.parameters == (0x31, 2, 0, 1)


def test_an_armed_timer_initialised_again_stops_the_machine(misuse):
    misuse.run("ArmTimer", SECOND, 0, 9)
    report = misuse.crash("ArmTimer", SECOND, 0, 9)
    assert (report.code, report.parameters[0]) == (0xC7, 0)


def test_a_timer_that_crashes_while_a_program_enters_the_kernel_is_a_crash_like_any_other(misuse):
    report = misuse.crash("CrashLater", 10)
    assert (report.code, report.activity) == (0xE2, f"wait for DeviceIoControl on {DEVICE}")
