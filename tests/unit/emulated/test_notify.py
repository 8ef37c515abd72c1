"""Process notify routines: registration, what a routine sees, denial, and what it must not do."""

from __future__ import annotations

import pytest

from tests.fixtures import misuse as fixture
from tests.fixtures.misuse import CMD, Misuse, crash, options
from vm.emulated.machine import EmulatedMachine
from vm.errors import DriverHung, Win32Error
from vm.machine import ImageKind

LEGACY, EX, EX2 = 0, 1, 2
REMOVE = 1
INVALID_PARAMETER, ACCESS_DENIED, NOT_FOUND = 0xC000000D, 0xC0000022, 0xC000007A
NO_COMMAND_LINE = (1 << 64) - 1
SECOND = 10_000_000


def text_size(text):
    return len(text.encode("utf-16-le", "surrogatepass"))


# Registration


@pytest.mark.parametrize("api", [LEGACY, EX, EX2])
def test_a_routine_is_registered_and_removed_once(misuse, api):
    assert misuse.run("Register", api) == 0
    assert misuse.run("Register", api, REMOVE) == 0
    assert misuse.run("Register", api, REMOVE) == NOT_FOUND


@pytest.mark.parametrize(("made", "removed"), [(EX, EX2), (EX2, EX), (EX, LEGACY), (LEGACY, EX)])
def test_a_registration_is_removed_only_through_the_api_that_made_it(misuse, made, removed):
    misuse.run("Register", made)
    assert misuse.run("Register", removed, REMOVE) == NOT_FOUND
    assert misuse.run("Register", made, REMOVE) == 0


def test_ex2_knows_one_type_and_decides_it_first(misuse):
    assert misuse.run("Register", EX2, 0, 1) == INVALID_PARAMETER
    assert misuse.run("Register", EX2, REMOVE, 1) == INVALID_PARAMETER


@pytest.mark.parametrize(("profile", "again"), [("documented", INVALID_PARAMETER), ("observed", 0)])
def test_registering_twice_follows_the_profile(profile, again):
    misuse = Misuse(options(profile=profile))
    misuse.hook("OnCreate", "Record")
    assert misuse.run("Register", EX) == 0
    assert misuse.run("Register", EX) == again
    misuse.launch()
    assert misuse.cell(0) == (1 if again else 2)
    assert misuse.run("Register", EX, REMOVE) == 0
    assert misuse.run("Register", EX, REMOVE) == (NOT_FOUND if again else 0)
    misuse.machine.close()


def test_there_are_64_slots_for_all_three_flavours(misuse):
    results = [misuse.run("Register", index % 3) for index in range(64)]
    assert results == [0] * 64
    assert misuse.run("Register", LEGACY) == INVALID_PARAMETER
    assert misuse.run("Register", EX, REMOVE) == 0
    assert misuse.run("Register", EX2) == 0


@pytest.mark.parametrize(("api", "status"), [(EX, ACCESS_DENIED), (EX2, ACCESS_DENIED), (LEGACY, 0)])
def test_only_the_legacy_api_takes_a_routine_of_an_image_without_integrity_check(api, status):
    misuse = Misuse(variant="unforced")
    assert misuse.run("Register", api) == status
    misuse.machine.close()


@pytest.mark.parametrize(
    ("profile", "api", "status"),
    [("observed", LEGACY, ACCESS_DENIED), ("documented", LEGACY, 0), ("observed", EX, ACCESS_DENIED),
     ("documented", EX, ACCESS_DENIED)],
)  # fmt: skip
def test_a_routine_outside_every_module_is_refused_as_the_profile_says(profile, api, status):
    misuse = Misuse(options(profile=profile))
    block = misuse.run("Allocate", 64)
    assert misuse.run("RegisterAddress", api, block) == status
    misuse.machine.close()


# What a routine sees


def test_the_create_call_tells_who_and_what(misuse):
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "Record")
    result = misuse.launch(CMD, "cmd /c dir")
    agent = misuse.machine.agent_pid
    image = "\\??\\" + CMD
    assert misuse.cells(0, 5) == (1, result.pid, agent, result.creator_tid, result.pid, 1)
    assert misuse.cells(7, 14) == (
        agent, agent, result.creator_tid, 1, text_size("cmd /c dir"), text_size(image), text_size(CMD[2:]), 0x48,
    )  # fmt: skip


def test_the_exit_call_runs_in_the_process_that_ends_with_its_status(misuse):
    misuse.run("Register", EX)
    result = misuse.launch()
    misuse.hook("OnExit", "Record")
    misuse.machine.exit_process(result.pid, 0x1234)
    assert misuse.cells(0, 7) == (1, result.pid, result.pid, result.tid, result.pid, 1, 0, 0x1234)


def test_the_legacy_routine_gets_parent_process_and_direction(misuse):
    misuse.run("Register", LEGACY)
    misuse.hook("OnLegacy", "RecordLegacy")
    first = misuse.launch()
    second = misuse.launch(parent=first.pid)
    agent = misuse.machine.agent_pid
    assert misuse.cells(0, 3) == (2, first.pid, second.pid, agent)
    misuse.machine.exit_process(second.pid)
    assert misuse.cells(4, 7) == (1, first.pid, second.pid, second.pid)


def test_parent_and_creator_differ_when_a_process_is_re_parented(misuse):
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "Record")
    parent, creator = misuse.launch(), misuse.launch()
    result = misuse.launch(parent=parent.pid, creator=creator.pid)
    assert misuse.cells(7, 9) == (parent.pid, creator.pid, creator.tid)
    assert misuse.cells(2, 3) == (creator.pid, creator.tid)
    assert (result.parent_pid, result.creator_pid) == (parent.pid, creator.pid)


@pytest.mark.parametrize("how", ["two_step", "clone"])
def test_creation_in_two_steps_and_clones_have_no_command_line_and_only_a_partial_name(misuse, how):
    misuse.run("Register", EX)
    original = misuse.launch()
    misuse.hook("OnCreate", "Record")
    result = misuse.launch(two_step=True) if how == "two_step" else misuse.machine.clone(original.pid)
    assert misuse.cells(10, 13) == (0, NO_COMMAND_LINE, text_size(CMD[2:]), text_size(CMD[2:]))
    assert result.command_line is None


def test_an_empty_command_line_is_not_an_absent_one(misuse):
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "Record")
    misuse.launch(CMD, "")
    assert misuse.cell(11) == 0
    misuse.launch(CMD, None)
    assert misuse.cell(11) == NO_COMMAND_LINE


@pytest.mark.parametrize(("api", "calls"), [(LEGACY, 0), (EX, 0), (EX2, 1)])
def test_subsystem_processes_reach_ex2_alone(misuse, api, calls):
    misuse.run("Register", api)
    misuse.hook("OnCreate", "Record")
    misuse.hook("OnLegacy", "RecordLegacy")
    result = misuse.launch(subsystem=True)
    assert misuse.cell(0) == calls
    if calls:
        assert misuse.cell(10) & 2
    misuse.machine.exit_process(result.pid)
    assert misuse.cell(4 if api == LEGACY else 0) == calls


def test_text_of_the_longest_kind_arrives_whole(misuse):
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "Record")
    misuse.launch(CMD, "x" * 32767)
    assert misuse.cell(11) == 65534


def test_a_longer_command_line_is_refused_before_anybody_is_told(misuse):
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "Record")
    result = misuse.launch(CMD, "x" * 32768)
    assert (result.win32_error, result.notified, result.pid) == (206, False, None)
    assert misuse.cell(0) == 0


def test_reading_past_the_end_of_a_string_faults(misuse):
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "OverRead")
    report = crash(misuse.launch)
    assert report.code == 0x50
    assert report.frames[0].function == "OverRead"
    assert f"launch {CMD}" in report.activity
    assert "process notify routine misuse!NotifyEx" in report.activity


def test_what_a_routine_keeps_is_garbage_afterwards(misuse):
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "KeepInfo")
    misuse.launch()
    info, text = misuse.cells(0, 1)
    assert misuse.run("Read64", info) == 0xDDDD_DDDD_DDDD_DDDD
    assert misuse.run("Read64", text) == 0xDDDD_DDDD_DDDD_DDDD
    assert misuse.crash("Read64", misuse.run("Read64", info)).code == 0x1E


# Denial


@pytest.mark.parametrize(("status", "denies"), [(0xC0000022, True), (0xC0000001, True), (0x80000005, True),
                                                (0, False), (0x103, False), (0x40000000, False)])  # fmt: skip
def test_errors_and_warnings_deny_and_nothing_else_does(misuse, status, denies):
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "Deny")
    misuse.hook("OnExit", "Record")
    misuse.set_cell(15, status)
    result = misuse.launch()
    assert (result.status or 0, result.succeeded) == ((status, False) if denies else (0, True))
    # The exit call of the denied process carries the denying status.
    assert (misuse.cells(0, 1), misuse.cell(7)) == (((2, result.pid), status) if denies else ((1, 0), 0))


def test_after_a_denial_later_routines_get_no_create_call_but_the_exit_call(misuse):
    misuse.run("Register", EX)
    misuse.run("Register", LEGACY)
    misuse.hook("OnCreate", "Deny")
    misuse.hook("OnLegacy", "RecordLegacy")
    misuse.set_cell(15, ACCESS_DENIED)
    result = misuse.launch()
    assert result.win32_error == 5
    assert misuse.cells(4, 6) == (1, misuse.machine.agent_pid, result.pid)


@pytest.mark.parametrize(
    ("kind", "error", "status"),
    [(ImageKind.REQUIRES_ELEVATION, 740, 0xC000042C), (ImageKind.INVALID, 193, 0xC000007B)],
)
def test_a_creation_that_fails_later_is_notified_and_exits_with_its_status(misuse, kind, error, status):
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "Record")
    misuse.hook("OnExit", "Record")
    misuse.machine.provide_image("C:\\X\\setup.exe", kind)
    result = misuse.launch("C:\\X\\setup.exe")
    assert (result.win32_error, result.status) == (error, status)
    assert (misuse.cell(0), misuse.cell(7)) == (2, status)


# What a routine does to others and itself


def test_a_routine_that_removes_itself_never_returns(misuse):
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "RemoveInside")
    with pytest.raises(DriverHung, match="removes its process notify routine from inside") as caught:
        misuse.launch()
    assert "misuse!RemoveInside (drivers/misuse/notify.c:" in str(caught.value)


def test_a_routine_removed_by_an_earlier_one_is_not_called(misuse):
    misuse.run("Register", LEGACY)
    misuse.run("Register", EX)
    misuse.hook("OnLegacy", "RemoveOther")
    misuse.hook("OnCreate", "Record")
    misuse.launch()
    assert misuse.cell(0) == 0


def test_removing_waits_until_a_running_routine_has_returned(misuse):
    misuse.run("InitialiseEvents", 1)
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "WaitInside")
    misuse.set_cell(14, SECOND)
    misuse.run("RunInThread", "RemoveLater", SECOND // 2)
    misuse.launch()
    # The routine timed out first; only then did the thread come back from the removal.
    assert misuse.cells(12, 13) == (0x102, 0)


def test_a_routine_may_wait_with_a_timeout(misuse):
    misuse.run("InitialiseEvents", 1)
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "WaitInside")
    misuse.set_cell(14, SECOND)
    before = misuse.machine.system_time()
    assert misuse.launch().succeeded
    assert misuse.cell(0) == 0x102
    assert misuse.machine.system_time() - before >= SECOND


def test_a_routine_that_waits_for_ever_is_hung_and_says_where(misuse):
    misuse.run("InitialiseEvents", 1)
    misuse.run("Register", EX)
    misuse.hook("OnCreate", "WaitInside")
    with pytest.raises(DriverHung, match="synchronization event") as caught:
        misuse.launch()
    assert "in the process notify routine misuse!NotifyEx" in str(caught.value)


# Life cycle


@pytest.mark.parametrize("what", ["create", "exit"])
def test_a_driver_unloaded_with_its_routine_registered_crashes_the_next_create_or_exit(misuse, what):
    running = misuse.launch()
    misuse.run("Register", EX)
    routine = misuse.address("NotifyEx")
    misuse.stop()
    report = crash(lambda: misuse.launch() if what == "create" else misuse.machine.exit_process(running.pid))
    assert (report.code, report.parameters[0]) == (0xCE, routine)
    assert "misuse was unloaded" in report.reason


def test_an_entry_point_that_registers_and_fails_crashes_the_next_create():
    machine = EmulatedMachine()
    machine.install_driver("entry_fails", fixture.image("entry_fails"))
    with pytest.raises(Win32Error) as caught:
        machine.start_driver("entry_fails")
    assert caught.value.code == 1450
    misuse = Misuse.__new__(Misuse)
    misuse.machine = machine
    report = crash(misuse.launch)
    assert report.code == 0xCE
    assert "entry_fails was unloaded" in report.reason
    machine.close()


# Threads and images


def test_threads_are_told_in_the_creators_thread_and_their_end_in_their_own(misuse):
    assert misuse.run("RegisterThread", 0) == 0
    result = misuse.launch()
    assert misuse.cells(0, 3) == (1, result.pid, result.tid, result.creator_tid)
    misuse.machine.exit_process(result.pid)
    assert misuse.cells(4, 7) == (1, result.pid, result.tid, result.tid)
    assert misuse.run("RegisterThread", REMOVE) == 0
    assert misuse.run("RegisterThread", REMOVE) == NOT_FOUND
    misuse.launch()
    assert misuse.cell(0) == 1


def test_system_threads_are_told_and_denied_processes_are_not(misuse):
    misuse.run("RegisterThread", 0)
    misuse.run("RunInThread", "Nothing")
    assert misuse.cells(0, 1) == (1, 4)
    assert misuse.cells(4, 5) == (1, 4)
    misuse.run("Register", EX)
    misuse.hook("OnExit", "Nothing")
    misuse.run("RegisterThread", REMOVE)


def test_the_image_of_a_program_is_told_in_its_first_thread_when_it_begins_to_run(misuse):
    assert misuse.run("RegisterImage", 0) == 0
    result = misuse.launch(suspended=True)
    assert misuse.cell(0) == 0
    misuse.machine.resume(result.pid)
    misuse.machine.resume(result.pid)
    name = "\\Device\\HarddiskVolume2" + CMD[2:]
    assert misuse.cells(0, 2) == (1, result.pid, text_size(name))
    assert misuse.cell(3) >> 47 == 0
    assert (misuse.cell(5) & 0x7FF, misuse.cell(6), misuse.cell(7)) == (0x403, result.pid, 0x38)
    assert chr(misuse.cell(8)) == "D"
    assert misuse.cells(9, 10) == (text_size(CMD[2:]), ord("W"))


def test_the_image_of_a_driver_is_told_with_its_place(misuse):
    misuse.run("RegisterImage", 0)
    misuse.machine.install_driver("other", fixture.image("entry_fails"))
    base = misuse.kernel.state.next_base
    with pytest.raises(Win32Error):
        misuse.machine.start_driver("other")
    assert misuse.cells(0, 3) == (1, 0, text_size("\\??\\C:\\Windows\\System32\\drivers\\entry_fails.sys"), base)
    assert misuse.cells(5, 6) == (0x503, 4)
    assert misuse.cells(9, 10) == (text_size("\\Windows\\System32\\drivers\\entry_fails.sys"), ord("W"))


def test_an_image_routine_that_stays_registered_crashes_the_next_program(misuse):
    misuse.run("RegisterImage", 0)
    misuse.stop()
    assert crash(misuse.launch).code == 0xCE
