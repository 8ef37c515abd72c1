"""A machine is undone step by step where that is enough, and put back where it is not; nothing is left either way."""

from __future__ import annotations

import pytest

from tests.standin.requirements import require_remoting

require_remoting()

from tests.standin.ntguest import OPERATIONS  # noqa: E402
from tests.standin.plan_lines import Failed  # noqa: E402
from tests.standin.system import Stopped  # noqa: E402
from vm import win32  # noqa: E402
from vm.errors import DriverHung, MachineBroken, MachineCrashed, Win32Error  # noqa: E402
from vm.machine import Account, ImageKind, LaunchRequest, ServiceState  # noqa: E402
from vm.windows.hypervisor.crash import GuestPanic  # noqa: E402

APP = "C:\\ntproof\\app.exe"
NOTEPAD = "C:\\Windows\\System32\\notepad.exe"
DEVICE = "\\\\.\\ProcNotify"


def use(machine, driver_path):
    """Everything that unloading undoes."""
    machine.install_driver("procnotify", driver_path)
    machine.start_driver("procnotify")
    handle = machine.open_device(DEVICE)
    machine.provide_image(APP)
    machine.provide_image("C:\\ntproof\\asks.exe", ImageKind.REQUIRES_ELEVATION)
    for suspended in (False, True):
        assert machine.launch(LaunchRequest(APP, "app", suspended=suspended)).succeeded
    return handle


def assert_clean(machine, guest):
    assert machine.running_processes() == {}
    with pytest.raises(Win32Error) as gone:
        machine.driver_state("procnotify")
    assert gone.value.code == win32.ERROR_SERVICE_DOES_NOT_EXIST
    assert guest.windows.files.get(APP) is None
    assert guest.windows.provided == set()


def test_what_unloading_undoes_is_undone_without_a_revert_and_in_one_round_trip(machine, guest, driver_path):
    handle = use(machine, driver_path)
    from harness.abi import load_abi

    handle.start_control(load_abi().integer("IOCTL_PROCNOTIFY_READ"), b"", 4096)
    with pytest.raises(Win32Error):
        machine.open_device(DEVICE, account=Account.STANDARD_USER)
    before, calls = machine.round_trips, guest.windows.system.calls
    machine.reset()

    assert guest.domain.asked == []
    assert machine.round_trips - before <= 1
    assert calls < guest.windows.system.calls
    assert_clean(machine, guest)


def starts_another(guest, pid):
    """A program of the guest's own, started by a process without anybody's knowing; its pid."""
    guest.windows.files.write(NOTEPAD, b"MZ of Windows")
    system = guest.windows.system
    with system.using() as emulated:
        return system.launch(emulated, LaunchRequest(NOTEPAD, "notepad", creator=pid), elevated=True).pid


def running_in(guest):
    with guest.windows.system.using() as emulated:
        return set(emulated.running_processes())


def test_what_a_launched_program_started_ends_too_whether_the_program_still_runs_or_not(machine, guest):
    machine.provide_image(APP)
    ended, alive = (machine.launch(LaunchRequest(APP, "app")).pid for _ in range(2))
    starts_another(guest, starts_another(guest, ended))
    starts_another(guest, alive)
    machine.exit_process(ended)
    machine.reset()

    assert running_in(guest) == set()
    assert guest.domain.asked == []
    assert machine.running_processes() == {}


@pytest.mark.parametrize("account", Account)
@pytest.mark.parametrize("answer", [{"win32_error": 0, "remaining": 1}, {"win32_error": 8, "remaining": 0}])
def test_a_process_that_may_run_on_makes_the_machine_be_put_back(machine, guest, monkeypatch, account, answer):
    def leaves_some(plan, request):
        return answer if plan._account is account else terminate_all(plan, request)

    machine.provide_image(APP)
    machine.link.agent(Account.STANDARD_USER)
    terminate_all = OPERATIONS["terminate_all"]
    monkeypatch.setitem(OPERATIONS, "terminate_all", leaves_some)
    machine.reset()

    assert guest.domain.asked == ["revert"]


def test_an_untouched_machine_is_left_alone_even_when_a_fresh_one_is_asked_for(machine, guest):
    before = machine.round_trips
    machine.reset(fresh=True)

    assert (machine.round_trips, guest.domain.asked) == (before, [])


def test_a_fresh_machine_is_put_back_after_any_use(machine, guest, driver_path):
    use(machine, driver_path)
    machine.reset(fresh=True)

    assert guest.domain.asked == ["revert"]
    assert_clean(machine, guest)


def test_a_driver_that_cannot_be_unloaded_makes_the_machine_be_put_back(machine, guest, driver_path):
    use(machine, driver_path)
    with guest.windows.system.using() as emulated:
        # Another program's handle keeps the driver.
        emulated.open_device(DEVICE)
    machine.reset()

    assert guest.domain.asked == ["revert"]
    assert_clean(machine, guest)


def test_a_driver_whose_service_was_deleted_while_it_ran_is_unloaded_all_the_same(machine, guest, driver_path):
    use(machine, driver_path)
    machine.delete_driver("procnotify")
    machine.reset()

    assert guest.domain.asked == []
    assert_clean(machine, guest)
    machine.install_driver("procnotify", driver_path)
    assert machine.driver_state("procnotify") is ServiceState.STOPPED


def test_a_driver_that_stays_loaded_after_its_service_was_deleted_makes_the_machine_be_put_back(
    machine, guest, driver_path
):
    use(machine, driver_path)
    with guest.windows.system.using() as emulated:
        emulated.open_device(DEVICE)
    machine.stop_driver("procnotify")
    machine.delete_driver("procnotify")
    machine.reset()

    assert guest.domain.asked == ["revert"]
    assert_clean(machine, guest)


def test_a_service_of_the_guests_own_that_was_touched_makes_the_machine_be_put_back(machine, guest, driver_path):
    machine.install_driver("procnotify", driver_path)
    with guest.windows.system.using() as emulated:
        guest.windows.system.create_service(emulated, "theirs", "C:\\Windows\\theirs.sys")
    machine.delete_driver("theirs")
    machine.reset()

    assert guest.domain.asked == ["revert"]


def test_a_file_that_cannot_be_removed_makes_the_machine_be_put_back(machine, guest):
    machine.provide_image(APP)
    with guest.windows.system.using() as emulated:
        emulated.provide_image(APP)
        emulated.launch(LaunchRequest(APP, "by somebody else"))
    machine.reset()

    assert guest.domain.asked == ["revert"]


def test_what_a_standard_user_holds_is_undone_before_the_driver_is_stopped(machine, guest, misuse):
    machine.open_device("\\\\.\\Misuse", account=Account.STANDARD_USER)
    machine.reset()

    assert guest.domain.asked == []


def test_a_crash_while_a_run_is_undone_is_told(machine, guest, driver_path, monkeypatch):
    def crash(*_):
        guest.domain.panics(GuestPanic(0xCE, (1, 2, 3, 4), "GUEST_PANICKED"))
        raise Stopped

    use(machine, driver_path)
    monkeypatch.setitem(OPERATIONS, "stop_service", crash)
    with pytest.raises(MachineCrashed) as crashed:
        machine.reset()
    monkeypatch.undo()

    assert (crashed.value.report.code, crashed.value.report.activity) == (0xCE, "undo what the run left")
    machine.reset()
    assert guest.domain.asked[-1] == "revert"
    assert_clean(machine, guest)


def test_an_unload_routine_that_does_not_return_while_a_run_is_undone_is_a_hang(
    machine, guest, driver_path, monkeypatch
):
    def hang(_plan, request):
        request.text("service")
        raise Failed("stuck", win32_error=1460)

    use(machine, driver_path)
    monkeypatch.setitem(OPERATIONS, "stop_service", hang)
    with pytest.raises(DriverHung, match="neither returns nor completes"):
        machine.reset()
    monkeypatch.undo()

    assert guest.domain.asked[0] == "NMI"
    machine.reset()
    assert guest.domain.asked[-1] == "revert"
    assert_clean(machine, guest)


def test_a_crash_after_the_last_call_is_told_once_and_then_the_machine_is_put_back(machine, guest, driver_path):
    machine.install_driver("procnotify", driver_path)
    guest.domain.panics(GuestPanic(0xCE, (1, 2, 3, 4), "GUEST_PANICKED"))

    with pytest.raises(MachineCrashed) as crashed:
        machine.reset()

    assert crashed.value.report.code == 0xCE
    machine.reset()
    assert guest.domain.asked[-1] == "revert"
    assert_clean(machine, guest)


def test_a_machine_that_could_not_be_put_back_is_so_before_it_is_used_again(machine, guest):
    machine.provide_image(APP)
    guest.domain.failing_reverts = 2
    with pytest.raises(MachineBroken):
        machine.reset(fresh=True)

    machine.reset()

    assert guest.domain.asked == ["revert"] * 3
    assert machine.system_time() > 0


def test_a_connection_that_broke_makes_the_machine_be_put_back(machine, guest, driver_path):
    use(machine, driver_path)
    guest.ssh.cut()
    machine.reset()

    assert guest.domain.asked == ["revert"]
    assert_clean(machine, guest)


def test_a_machine_can_be_reset_over_and_over(machine, guest, driver_path):
    for _ in range(20):
        use(machine, driver_path)
        machine.reset()

    assert guest.domain.asked == []
    assert_clean(machine, guest)


def test_an_image_is_provided_once_however_often_it_is_asked_for(machine):
    machine.provide_image(APP)
    before = machine.round_trips
    for path in (APP, APP.upper(), "\\\\?\\" + APP):
        machine.provide_image(path)

    assert machine.round_trips == before
