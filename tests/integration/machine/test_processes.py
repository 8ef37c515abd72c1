"""Processes and devices of a Windows machine, and what Windows cannot be asked."""

from __future__ import annotations

import pytest

from tests.standin.requirements import require_remoting

require_remoting()

from vm import win32  # noqa: E402
from vm.errors import UnsupportedByMachine, Win32Error  # noqa: E402
from vm.machine import ImageKind, LaunchRequest  # noqa: E402

APP = "C:\\ntproof\\app.exe"
DEVICE = "\\\\.\\ProcNotify"


@pytest.fixture
def handle(machine, driver_path):
    machine.install_driver("procnotify", driver_path)
    machine.start_driver("procnotify")
    return machine.open_device(DEVICE)


def start(machine, **how):
    machine.provide_image(APP)
    result = machine.launch(LaunchRequest(APP, "app", **how))
    assert result.succeeded
    return result


def code_of(action, *arguments):
    with pytest.raises(Win32Error) as refused:
        action(*arguments)
    return refused.value.code


@pytest.mark.parametrize("text", ["", "x" * 32_767, "\ud800", "a\udfff\ud800b", "\U0001f40d", "\t\x01 \"'\\", "é"])
def test_command_lines_of_any_units_survive(machine, text):
    machine.provide_image(APP)
    result = machine.launch(LaunchRequest(APP, text))

    assert result.command_line == text


def test_parents_and_creators_are_told_apart(machine):
    parent, creator = start(machine).pid, start(machine).pid
    child = start(machine, parent=parent, creator=creator)
    other = start(machine, parent=machine.agent_pid)

    assert (child.parent_pid, child.creator_pid) == (parent, creator)
    assert (other.parent_pid, other.creator_pid) == (machine.agent_pid, machine.agent_pid)
    machine.exit_process(creator)
    assert code_of(lambda: start(machine, creator=creator)) == win32.ERROR_INVALID_PARAMETER
    assert code_of(lambda: start(machine, parent=creator)) == win32.ERROR_INVALID_PARAMETER


def test_processes_end_as_told_and_are_then_unknown(machine):
    first, second = start(machine).pid, start(machine, suspended=True).pid
    assert machine.running_processes() == {first: APP, second: APP}

    assert code_of(machine.exit_process, second) == win32.ERROR_INVALID_PARAMETER
    machine.resume(second)
    machine.exit_process(second, 0xC0000005)
    machine.terminate_process(first)

    assert machine.running_processes() == {}
    for end in (machine.exit_process, machine.terminate_process, machine.resume):
        assert code_of(end, first) == win32.ERROR_INVALID_PARAMETER


def test_a_process_that_ended_by_itself_is_noticed(machine, guest):
    pids = [start(machine).pid for _ in range(3)]
    for pid in pids:
        with guest.windows.system.using() as emulated:
            emulated.terminate_process(pid)

    assert code_of(machine.exit_process, pids[0]) == win32.ERROR_INVALID_PARAMETER
    assert code_of(machine.terminate_process, pids[1]) == win32.ERROR_INVALID_PARAMETER
    assert machine.running_processes() == {}


def test_an_image_that_is_not_there_was_not_told_to_anyone(machine):
    result = machine.launch(LaunchRequest("C:\\absent\\absent.exe", "absent"))

    assert (result.win32_error, result.notified, result.pid) == (win32.ERROR_PATH_NOT_FOUND, False, None)


def test_a_text_that_is_too_long_is_refused_as_windows_does(machine):
    machine.provide_image(APP)
    result = machine.launch(LaunchRequest(APP, "x" * 32_768))

    assert (result.win32_error, result.notified) == (206, False)


def test_a_program_that_asks_for_elevation_is_refused_to_a_standard_user(machine):
    machine.provide_image(APP, ImageKind.REQUIRES_ELEVATION)
    refused = machine.launch(LaunchRequest(APP, "app"))
    machine.provide_image(APP)
    allowed = machine.launch(LaunchRequest(APP, "app"))

    assert (refused.win32_error, refused.status, refused.pid) == (win32.ERROR_ELEVATION_REQUIRED, 0xC000042C, None)
    assert allowed.succeeded


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (lambda m: m.launch(LaunchRequest(APP, "x", two_step=True)), "NtCreateProcessEx"),
        (lambda m: m.launch(LaunchRequest(APP, "x", subsystem=True)), "Pico"),
        (lambda m: m.launch(LaunchRequest(APP, "a\0b")), "NUL"),
        (lambda m: m.clone(4), "RtlCloneUserProcess"),
        (lambda m: m.checkpoint(), "use reset"),
        (lambda m: m.restore(None), "use reset"),
        (lambda m: m.provide_image(APP, ImageKind.INVALID), "STATUS_INVALID_IMAGE_FORMAT"),
    ],
    ids=["two-step", "subsystem", "nul", "clone", "checkpoint", "restore", "invalid"],
)
def test_what_windows_cannot_be_asked_is_unsupported_with_its_reason(machine, ask, reason):
    with pytest.raises(UnsupportedByMachine, match=reason):
        ask(machine)
    assert machine.system_time() > 0, "the machine is as good as before"


def test_a_file_of_the_guests_own_is_never_replaced(machine, guest):
    guest.windows.files.write("C:\\Windows\\System32\\notepad.exe", b"MZ of Windows")

    with pytest.raises(UnsupportedByMachine, match="guest's own"):
        machine.provide_image("c:\\windows\\system32\\NOTEPAD.EXE")
    assert guest.windows.files.read("C:\\Windows\\System32\\notepad.exe") == b"MZ of Windows"


def test_a_path_that_the_guests_disk_does_not_take_is_unsupported(machine, guest):
    guest.windows.files.longest = 100

    with pytest.raises(UnsupportedByMachine, match="a path of 201 characters"):
        machine.provide_image("C:\\" + "d" * 194 + ".exe")
    assert machine.system_time() > 0


def test_a_program_of_the_guests_own_can_be_terminated_but_not_told_to_exit(machine, guest):
    guest.windows.files.write("C:\\Windows\\System32\\notepad.exe", b"MZ of Windows")
    pid = machine.launch(LaunchRequest("C:\\Windows\\System32\\notepad.exe", "notepad")).pid

    with pytest.raises(UnsupportedByMachine, match="takes no orders"):
        machine.exit_process(pid)
    machine.terminate_process(pid)


def test_requests_that_wait_are_answered_cancelled_or_left_pending(machine, handle):
    import struct

    from harness.abi import load_abi

    code = load_abi().integer("IOCTL_PROCNOTIFY_READ")
    first, second = (handle.start_control(code, b"", 4096) for _ in range(2))
    with pytest.raises(TimeoutError, match="pending after"):
        first.wait(0.1)
    second.cancel()
    assert (first.done, second.done) == (False, True)
    assert code_of(second.wait) == win32.ERROR_OPERATION_ABORTED
    pid = start(machine).pid
    assert first.done
    assert struct.pack("<I", pid) in first.wait()
    first.cancel()
    assert first.wait() == first.wait()


def test_a_synchronous_request_that_nothing_completes_is_cancelled_in_the_end(machine, handle):
    from harness.abi import load_abi

    with pytest.raises(TimeoutError, match="it was cancelled"):
        handle.control(load_abi().integer("IOCTL_PROCNOTIFY_READ"), b"", 4096)
    assert machine.system_time() > 0


def test_handles_are_duplicated_and_closed(machine, handle):
    second = handle.duplicate()
    handle.close()
    handle.close()
    assert code_of(handle.read, 1) == win32.ERROR_INVALID_HANDLE
    machine.stop_driver("procnotify")
    assert machine.driver_state("procnotify").value == "stop pending"
    second.close()
    assert machine.driver_state("procnotify").value == "stopped"


def test_a_handle_is_void_once_the_machine_was_put_back(machine, handle):
    machine.reset()

    assert code_of(handle.read, 1) == win32.ERROR_INVALID_HANDLE
    handle.close()


def test_a_buffer_that_the_agent_does_not_take_is_unsupported(machine, handle):
    with pytest.raises(UnsupportedByMachine, match="1048576"):
        handle.control(0x80006400, b"", 2 << 20)


def test_more_handles_than_the_agent_holds_are_unsupported_and_leave_the_machine_as_good_as_before(machine, handle):
    further = [handle.duplicate() for _ in range(63)]

    with pytest.raises(UnsupportedByMachine, match="one device more than 64"):
        handle.duplicate()
    with pytest.raises(UnsupportedByMachine, match="one device more than 64"):
        machine.open_device(DEVICE)
    further[0].close()
    handle.duplicate()
