"""System threads, waits, and what becomes of a program's call that waits in the driver."""

from __future__ import annotations

import pytest

from tests.fixtures.misuse import DEVICE, crash
from vm.emulated.machine import EmulatedMachine
from vm.errors import DriverHung, Win32Error
from vm.machine import Account

SECOND = 10_000_000
TIMEOUT = 0x102
INVALID_PARAMETER = 0xC000000D


def test_a_thread_is_woken_each_time_by_the_event_of_an_ioctl_until_it_ends(misuse):
    assert misuse.run("StartCounter", 1) == 0
    assert misuse.cell(0) == 0
    for count in (1, 2, 3):
        misuse.run("SetEvent", 0)
        assert misuse.cell(0) == count
    assert misuse.cell(3) == 4
    assert misuse.run("StopThread") == 4


def test_a_thread_that_returns_ends_as_one_that_terminates_itself(misuse):
    misuse.run("StartCounter", 0)
    assert misuse.run("StopThread") == 1


def test_a_thread_can_be_waited_for_while_the_driver_unloads(misuse):
    misuse.run("StartCounter", 1)
    misuse.hook("OnUnload", "StopThread")
    misuse.stop()
    assert misuse.kernel.images == []


def test_a_thread_that_outlives_its_driver_crashes_the_machine_when_it_wakes(misuse):
    misuse.run("RunInThread", "Delay", SECOND)
    report = crash(lambda: (misuse.stop(), misuse.launch(), misuse.wait(2)))
    assert report.code == 0xCE


def test_a_call_that_waits_for_a_later_call_is_pending_until_then(misuse):
    misuse.run("InitialiseEvents", 1)
    waiting = misuse.start("WaitForEvent", 0)
    assert not waiting.done
    with pytest.raises(TimeoutError):
        waiting.wait(1.0)
    misuse.run("SetEvent", 0)
    assert waiting.done
    assert int.from_bytes(waiting.wait(), "little") == 0


def test_several_calls_wait_at_once_each_with_its_own_stack(misuse):
    misuse.run("InitialiseEvents", 1)
    waiting = [misuse.start("WaitWithPattern", index, 0x1111 * (index + 1)) for index in range(3)]
    assert [request.done for request in waiting] == [False] * 3
    for index in (1, 2, 0):
        misuse.run("SetEvent", index)
        assert waiting[index].done
    assert [int.from_bytes(request.wait(), "little") for request in waiting] == [0, 0, 0]


def test_threads_and_calls_that_wait_in_turn_keep_their_stacks_apart(misuse):
    misuse.run("InitialiseEvents", 1)
    misuse.run("RunInThread", "WaitWithPattern", 0, 0xAAAA)
    first = misuse.start("WaitWithPattern", 1, 0xBBBB)
    misuse.launch()
    second = misuse.start("WaitWithPattern", 2, 0xCCCC)
    misuse.run("SetEvent", 1)
    misuse.run("SetEvent", 0)
    misuse.run("SetEvent", 2)
    assert misuse.cell(11) == 1
    assert [int.from_bytes(request.wait(), "little") for request in (first, second)] == [0, 0]


def test_while_a_call_waits_the_program_goes_on_with_another_thread(misuse):
    first = misuse.launch()
    misuse.run("InitialiseEvents", 1)
    waiting = misuse.start("WaitForEvent", 0)
    second = misuse.launch()
    misuse.run("SetEvent", 0)
    assert waiting.done
    third = misuse.launch()
    assert first.creator_tid == third.creator_tid != second.creator_tid
    assert {first.creator_pid, second.creator_pid, third.creator_pid} == {misuse.machine.agent_pid}


def test_a_wait_that_nothing_can_end_is_a_hang_that_names_what_is_waited_for(misuse):
    misuse.run("InitialiseEvents", 0)
    misuse.hook("OnUnload", "WaitForEvent")
    misuse.handle.close()
    with pytest.raises(DriverHung, match=r"notification event 0x.*nothing in the machine") as caught:
        misuse.machine.stop_driver("misuse")
    assert "!WaitForEvent (drivers/misuse/sync.c:" in str(caught.value)


def test_a_timeout_passes_in_the_machines_time(misuse):
    misuse.run("InitialiseEvents", 1)
    before = misuse.machine.system_time()
    assert misuse.run("WaitForEvent", 0, 5 * SECOND) == TIMEOUT
    assert 5 * SECOND <= misuse.machine.system_time() - before < 6 * SECOND


def test_a_wait_for_a_signalled_event_takes_no_time_and_resets_only_a_synchronization_event(misuse):
    for kind, again in ((0, 0), (1, TIMEOUT)):
        misuse.run("InitialiseEvents", kind)
        misuse.run("SetEvent", 0)
        assert misuse.run("WaitForEvent", 0, 1) == 0
        assert misuse.run("WaitForEvent", 0, 1) == again


def test_an_event_that_is_set_and_reset_at_once_still_wakes_who_waits(misuse):
    misuse.run("InitialiseEvents", 0)
    waiting = misuse.start("WaitForEvent", 0)
    misuse.run("SetAndReset", 0)
    assert waiting.done
    assert misuse.run("WaitForEvent", 0, 1) == TIMEOUT


def test_a_pulse_wakes_who_waits_and_leaves_the_event_clear(misuse):
    misuse.run("InitialiseEvents", 0)
    waiting = misuse.start("WaitForEvent", 0)
    misuse.run("PulseEvent", 0)
    assert waiting.done
    assert misuse.run("WaitForEvent", 0, 1) == TIMEOUT


def test_a_synchronization_event_wakes_one_thread_per_signal(misuse):
    misuse.run("InitialiseEvents", 1)
    waiting = [misuse.start("WaitForEvent", 0) for _ in range(3)]
    misuse.run("SetEvent", 0)
    assert [request.done for request in waiting] == [True, False, False]
    misuse.run("SetEvent", 0)
    misuse.run("SetEvent", 0)
    assert all(request.done for request in waiting)
    assert misuse.run("WaitForEvent", 0, 1) == TIMEOUT


def test_waiting_for_any_object_says_which_and_for_all_needs_all(misuse):
    misuse.run("InitialiseEvents", 1)
    misuse.run("SetEvent", 2)
    assert misuse.run("WaitForEvents", 0, SECOND, 4) == 2
    misuse.run("SetEvent", 0)
    assert misuse.run("WaitForEvents", 1, SECOND, 2) == TIMEOUT
    misuse.run("SetEvent", 1)
    assert misuse.run("WaitForEvents", 1, SECOND, 2) == 0
    assert misuse.run("WaitForEvents", 0, SECOND, 2) == TIMEOUT


def test_a_delay_lasts_as_long_as_it_should(misuse):
    assert misuse.run("Delay", 3 * SECOND) == 3 * SECOND


@pytest.mark.parametrize(
    ("irql", "poll", "kind"), [(2, 0, 0x121), (2, 2, 0x122), (3, 0, 0x120)], ids=["for ever", "with timeout", "above"]
)
def test_waiting_at_raised_irql_stops_the_machine(misuse, irql, poll, kind):
    misuse.run("InitialiseEvents", 1)
    report = misuse.crash("WaitAt", irql, poll)
    assert (report.code, report.parameters[0]) == (0xC4, kind)
    assert report.parameters[2] == misuse.address("Events")


def test_polling_an_event_is_allowed_at_dispatch_level(misuse):
    misuse.run("InitialiseEvents", 1)
    assert misuse.run("WaitAt", 2, 1) == TIMEOUT


def test_waiting_for_what_is_no_object_stops_the_machine(misuse):
    report = misuse.crash("WaitForGarbage")
    assert (report.code, report.parameters[0]) == (0xC4, 0xE1)


def test_an_event_freed_while_a_thread_waits_for_it_stops_the_machine(misuse):
    event = misuse.run("StartEventInPool")
    report = crash(lambda: (misuse.run("Free", event), misuse.launch()))
    assert (report.code, report.parameters[0]) == (0xCC, event + 4)
    assert "'Test'" in report.notes[0]


@pytest.mark.parametrize(("function", "argument"), [("EnterRegion", 0), ("RaiseTo", 2), ("Mutexes", 2)])
def test_a_thread_that_ends_with_apcs_disabled_or_irql_raised_stops_the_machine(misuse, function, argument):
    report = crash(lambda: misuse.run("RunInThread", function, argument))
    assert report.code == 0x20
    assert (report.parameters[1] != 0) == (function != "RaiseTo")
    assert report.parameters[2] == (2 if function == "RaiseTo" else 0)


def test_a_crash_in_a_thread_names_the_thread_routine(misuse):
    report = crash(lambda: misuse.run("RunInThread", "Read8", 0xFFFF_9000_0000_0000))
    assert report.code == 0x50
    assert [frame.function for frame in report.frames][:2] == ["Read8", "Runs"]


def test_a_process_that_exits_wakes_a_thread_that_its_exit_callback_signals(misuse):
    misuse.run("StartCounter", 1)
    misuse.run("Register", 1)
    misuse.hook("OnExit", "WakeInside")
    for _ in range(3):
        misuse.machine.exit_process(misuse.launch().pid)
    assert misuse.cell(0) == 3


def test_threads_that_keep_each_other_busy_without_end_are_a_hang(misuse):
    misuse.run("InitialiseEvents", 1)
    misuse.run("RunInThread", "PingPong", 0, 1)
    with pytest.raises(DriverHung, match="busy without end"):
        misuse.run("RunInThread", "PingPong", 1, 0)


def test_a_work_item_runs_at_passive_level_after_the_call_that_queued_it(misuse):
    assert misuse.run("QueueWork", 77) == 0
    assert misuse.cells(4, 6) == (1, 0, 77)


def test_every_machine_has_its_own_threads():
    first, second = EmulatedMachine(), EmulatedMachine()
    assert first.agent_pid == second.agent_pid
    first.close()
    second.close()


def test_a_call_that_waits_at_apc_level_does_not_raise_irql_for_the_calls_after_it(misuse):
    misuse.run("InitialiseEvents", 1)
    waiting = misuse.start("WaitAtApcLevel", 0)
    assert misuse.kernel.irql == 0
    misuse.run("SetEvent", 0)
    assert int.from_bytes(waiting.wait(), "little") == 1
    assert misuse.kernel.irql == 0


def test_a_call_that_waits_stays_the_call_of_who_made_it(misuse):
    misuse.run("InitialiseEvents", 1)
    administrator, misuse.handle = misuse.handle, misuse.machine.open_device(DEVICE, account=Account.STANDARD_USER)
    waiting = misuse.start("WaitThenAskWhoCalls", 0)
    misuse.handle = administrator
    misuse.run("SetEvent", 0)
    assert int.from_bytes(waiting.wait(), "little") == 0
    misuse.run("SetEvent", 0)
    assert misuse.run("WaitThenAskWhoCalls", 0) == 1


def test_a_programs_thread_cannot_end_itself_as_a_system_thread_does(misuse):
    misuse.run("InitialiseEvents", 1)
    misuse.run("SetEvent", 0)
    assert misuse.run("WaitThenTerminateThread", 0) == INVALID_PARAMETER
    waiting = misuse.start("WaitThenTerminateThread", 0)
    misuse.run("SetEvent", 0)
    assert int.from_bytes(waiting.wait(), "little") == INVALID_PARAMETER


def test_an_open_that_a_timer_completes_takes_the_machines_time(misuse):
    misuse.hook("OnOpen", "OpenLater")
    before = misuse.machine.system_time()
    misuse.machine.open_device(DEVICE).close()
    assert SECOND <= misuse.machine.system_time() - before < 2 * SECOND


def test_an_open_that_nothing_completes_is_a_hang_that_names_the_request(misuse):
    misuse.hook("OnOpen", "OpenNever")
    with pytest.raises(DriverHung, match=r"IRP_MJ_CREATE.*nothing in the machine"):
        misuse.machine.open_device(DEVICE)


def test_work_that_a_refused_call_queued_has_run_when_the_program_goes_on(misuse):
    misuse.hook("OnOpen", "RefuseAndQueueWork")
    with pytest.raises(Win32Error):
        misuse.machine.open_device(DEVICE)
    assert misuse.cell(3) == 1
