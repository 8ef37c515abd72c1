"""What each kind of trouble becomes: a crash, a hang, or the machine's own failure, with its evidence."""

from __future__ import annotations

import datetime
import threading
import time
from datetime import UTC

import pytest

from tests.standin.requirements import require_remoting

require_remoting()

from tests.integration.machine.conftest import Misuse, with_access  # noqa: E402
from tests.standin.certificates import make_certificate  # noqa: E402
from tests.standin.commands import COMMANDS  # noqa: E402
from tests.standin.local_guest import DUMP, PASSWORD, dump_of  # noqa: E402
from tests.standin.ntguest import OPERATIONS  # noqa: E402
from tests.standin.sshd import StandInSsh, make_host_key  # noqa: E402
from vm.emulated.kernel import KernelOptions  # noqa: E402
from vm.errors import DriverHung, MachineBroken, MachineConfigurationError, MachineCrashed  # noqa: E402
from vm.machine import LaunchRequest, ServiceState  # noqa: E402
from vm.windows.agent.errors import AgentRefused  # noqa: E402
from vm.windows.hypervisor.crash import GuestPanic  # noqa: E402
from vm.windows.machine.access import Patience  # noqa: E402
from vm.windows.remoting.errors import IdentityChanged  # noqa: E402
from vm.windows.remoting.guest import CrashDump, Guest  # noqa: E402
from vm.windows.remoting.transfer import GuestFiles  # noqa: E402

APP = "C:\\ntproof\\app.exe"
FAST_FAIL, KERNEL_SECURITY_CHECK_FAILURE = 3, 0x139


def test_a_bugcheck_is_a_crash_with_its_code_and_what_was_kept(machine, guest, misuse, tmp_path):
    with pytest.raises(MachineCrashed) as crashed:
        misuse.run("FastFail", FAST_FAIL)

    report = crashed.value.report
    assert (report.code, report.name) == (KERNEL_SECURITY_CHECK_FAILURE, "KERNEL_SECURITY_CHECK_FAILURE")
    assert report.parameters[0] == FAST_FAIL
    assert report.activity == "DeviceIoControl on \\\\.\\Misuse"
    assert machine.crash is report
    kept = {path.name for path in report.artefacts}
    assert {"screen.ppm", "agent.txt", "MEMORY.DMP"} <= kept
    (folder,) = (tmp_path / "artefacts" / "machine").iterdir()
    assert {path.parent for path in report.artefacts} == {folder}
    assert '"op":"control"' in (folder / "agent.txt").read_text()


def test_a_call_that_waits_ends_at_once_when_the_guest_panics(machine, guest, misuse, patience):
    guest.windows.system.stop()
    panic = GuestPanic(0xD1, (1, 2, 0, 4), "GUEST_PANICKED")
    timer = threading.Timer(0.3, guest.domain.panics, [panic])
    timer.start()

    started = time.monotonic()
    with pytest.raises(MachineCrashed) as crashed:
        machine.system_time()

    # The call itself may wait twenty seconds.
    assert time.monotonic() - started < patience.call / 2
    assert crashed.value.report.parameters == (1, 2, 0, 4)


def test_a_remoting_command_that_waits_ends_at_once_when_the_guest_panics(make_machine, guest):
    machine = make_machine(guest, artefacts=None)
    machine.witness_mark()
    guest.remoting.freeze()
    threading.Timer(0.3, guest.domain.panics, [GuestPanic(0xD1, (1, 2, 0, 4), "GUEST_PANICKED")]).start()

    started = time.monotonic()
    with pytest.raises(MachineCrashed):
        machine.witness_mark()

    assert time.monotonic() - started < 10
    guest.remoting.thaw()


def test_a_panic_between_two_calls_is_found_before_the_next(machine, guest):
    guest.domain.panics(GuestPanic(0x50, (0, 0, 0, 0), "GUEST_PANICKED"))

    assert machine.crash.code == 0x50
    with pytest.raises(MachineCrashed):
        machine.system_time()


def test_a_panic_without_a_code_gets_it_from_the_dump_after_another_boot(machine, guest, misuse):
    guest.domain.tells_codes = False

    with pytest.raises(MachineCrashed) as crashed:
        misuse.run("FastFail", FAST_FAIL)

    assert crashed.value.report.code == KERNEL_SECURITY_CHECK_FAILURE
    assert "MEMORY.DMP" in " ".join(crashed.value.report.notes)
    assert "boot again" in guest.domain.asked
    assert "MEMORY.DMP" in {path.name for path in crashed.value.report.artefacts}


def test_a_dump_of_an_earlier_crash_is_not_kept_as_that_of_this_one(machine, guest, misuse):
    guest.windows.files.write(DUMP, dump_of(0x7E, (1, 2, 3, 4)))
    guest.windows.system.on_bugcheck = lambda report: guest.domain.panics(
        GuestPanic(report.code, report.parameters, "GUEST_PANICKED")
    )

    with pytest.raises(MachineCrashed) as crashed:
        misuse.run("FastFail", FAST_FAIL)

    assert crashed.value.report.code == KERNEL_SECURITY_CHECK_FAILURE
    assert {path.name for path in crashed.value.report.artefacts} == {"screen.ppm", "agent.txt"}


def test_a_dump_is_kept_in_its_folder_whatever_the_guest_calls_it(machine, guest, misuse, monkeypatch, tmp_path):
    there = "C:\\Windows\\x/../../../../outside.dmp"
    monkeypatch.setattr(Guest, "crash_dumps", lambda _guest: [CrashDump(there, 8192, datetime.datetime.now(UTC))])
    monkeypatch.setattr(Guest, "read_file", lambda _guest, _path, size: guest.windows.files.read(DUMP)[:size])
    fetch = GuestFiles.fetch
    monkeypatch.setattr(
        GuestFiles, "fetch", lambda files, _path, target, **how: fetch(files, DUMP, target, **how)
    )  # a guest that lies about the name has the file all the same

    with pytest.raises(MachineCrashed) as crashed:
        misuse.run("FastFail", FAST_FAIL)

    (folder,) = (tmp_path / "artefacts" / "machine").iterdir()
    assert folder / "MEMORY.DMP" in crashed.value.report.artefacts
    assert not list(tmp_path.rglob("outside*"))


def test_a_dump_that_is_none_leaves_the_crash_without_a_code(machine, guest, misuse):
    guest.domain.tells_codes = False
    guest.windows.system.on_bugcheck = lambda _report: (
        guest.windows.files.write("C:\\Windows\\MEMORY.DMP", b"not a dump" * 1000),
        guest.domain.panics(GuestPanic(None, (0, 0, 0, 0), "GUEST_PANICKED without parameters")),
    )

    with pytest.raises(MachineCrashed) as crashed:
        misuse.run("FastFail", FAST_FAIL)

    assert crashed.value.report.code == 0


def test_a_machine_without_a_folder_for_artefacts_tells_the_crash_all_the_same(make_machine, guest):
    machine = make_machine(guest, artefacts=None)

    with pytest.raises(MachineCrashed) as crashed:
        Misuse(machine, guest).run("FastFail", FAST_FAIL)

    assert crashed.value.report.artefacts == ()
    assert guest.domain.asked == []


def test_a_crashed_machine_says_so_until_it_is_put_back(machine, guest, misuse, driver_path):
    for _ in range(2):
        with pytest.raises(MachineCrashed):
            misuse.run("FastFail", FAST_FAIL)
    machine.reset()

    assert machine.crash is None
    machine.install_driver("procnotify", driver_path)
    machine.start_driver("procnotify")
    assert machine.driver_state("procnotify") is ServiceState.RUNNING


def test_a_driver_that_does_not_come_back_is_interrupted_and_told_as_a_hang(make_guest, make_machine, tmp_path):
    guest = make_guest(options=KernelOptions(block_budget=100_000))
    machine = make_machine(guest, patience=Patience(call=0.5, slack=0.5, request=0.1, panic=2, again=2, dump=30))
    misuse = Misuse(machine, guest)

    with pytest.raises(DriverHung, match="0x80 NMI_HARDWARE_FAILURE") as hung:
        misuse.start("LoopForEver")

    assert guest.domain.asked[:2] == ["NMI", "collect"]
    assert {"screen.ppm", "agent.txt", "MEMORY.DMP"} <= {path.name for path in hung.value.artefacts}
    assert all(path.parent.name.startswith("hang-") for path in hung.value.artefacts)
    with pytest.raises(DriverHung):
        machine.driver_state("misuse")
    machine.reset()
    assert machine.running_processes() == {}


def test_a_hang_that_no_nmi_ends_is_a_hang_too(make_guest, make_machine):
    guest = make_guest(options=KernelOptions(block_budget=100_000))
    guest.domain.heeds_nmi = False
    machine = make_machine(guest, patience=Patience(call=0.5, slack=0.5, request=0.1, panic=0.3, again=1))

    with pytest.raises(DriverHung, match="did not react to an NMI"):
        Misuse(machine, guest).start("LoopForEver")


def test_a_silent_guest_without_a_driver_is_the_machines_failure(make_machine, guest):
    machine = make_machine(guest, patience=Patience(call=0.3, slack=0.2, panic=0.3, again=0.5))
    guest.windows.system.stop()

    with pytest.raises(MachineBroken, match="no driver of the run is loaded") as broken:
        machine.system_time()

    assert not isinstance(broken.value, DriverHung)
    assert "NMI" not in guest.domain.asked


def test_a_call_that_the_agent_cannot_bring_back_from_the_driver_is_a_hang(machine, guest, misuse):
    with pytest.raises(DriverHung, match="neither returns nor completes"), machine.calling("stop service misuse"):
        raise AgentRefused("stuck", "", endpoint="local", operation="stop_service")

    assert guest.domain.asked[0] == "NMI"
    with pytest.raises(DriverHung):
        machine.system_time()


def does_not_end(_plan, request):
    """What ntguest.exe answers when a process that was told to end still runs at the deadline."""
    request.text("process")
    request.number("status", 0xFFFF_FFFF)
    request.seconds()
    request.complete()
    return {"win32_error": 0, "pid": 4, "exited": False, "exit_code": None}


@pytest.mark.parametrize("end", ["exit", "terminate"])
def test_a_process_that_a_driver_does_not_let_end_is_a_hang(machine, guest, misuse, monkeypatch, end):
    machine.provide_image(APP)
    pid = machine.launch(LaunchRequest(APP, "app")).pid
    monkeypatch.setitem(OPERATIONS, end, does_not_end)

    with pytest.raises(DriverHung, match="still runs after 20 s"):
        (machine.exit_process if end == "exit" else machine.terminate_process)(pid)


def test_a_process_that_does_not_end_without_a_driver_is_the_machines_failure(machine, monkeypatch):
    machine.provide_image(APP)
    pid = machine.launch(LaunchRequest(APP, "app")).pid
    monkeypatch.setitem(OPERATIONS, "terminate", does_not_end)

    with pytest.raises(MachineBroken, match="still runs after 20 s"):
        machine.terminate_process(pid)


def test_a_slow_command_of_a_guest_that_answers_is_no_hang_of_the_driver(machine, misuse, monkeypatch):
    def never(_windows, context, **_):
        context.stopping.wait()
        context.check()
        yield

    machine.witness_mark()
    monkeypatch.setitem(COMMANDS, "Get-NtproofAuditMark", never)

    with (
        pytest.raises(MachineBroken, match="did not end within 2 s; the guest answers") as caught,
        machine.calling("read the audit log"),
    ):
        machine.link.session().call("Get-NtproofAuditMark", Log="Security", deadline=2)

    assert not isinstance(caught.value, DriverHung)


def test_a_connection_that_breaks_is_the_machines_failure_and_not_a_hang(machine, guest, misuse):
    guest.ssh.cut()

    with pytest.raises(MachineBroken, match="agent is gone"):
        misuse.run("FastFail", FAST_FAIL)

    assert guest.domain.asked == []
    machine.reset()
    assert machine.system_time() > 0
    assert guest.domain.asked == ["revert"]


def test_a_guest_that_restarts_in_mid_call_is_the_machines_failure_and_not_a_hang(make_machine, guest):
    machine = make_machine(guest, patience=Patience(call=10, panic=1, again=20))
    Misuse(machine, guest)
    guest.windows.system.stop()

    def restart():
        old = guest.ssh
        old.stop()
        guest.windows.restart()
        guest.ssh = StandInSsh(guest.windows, password=PASSWORD, host_key=old.key, port=old.port)
        threading.Timer(2, guest.ssh.__enter__).start()

    threading.Timer(0.3, restart).start()
    with pytest.raises(MachineBroken, match="agent is gone"):
        machine.driver_state("misuse")

    assert guest.domain.asked == []


def test_a_guest_whose_ssh_server_alone_is_gone_does_not_hang(machine, guest, misuse):
    guest.ssh.stop()

    with pytest.raises(MachineBroken, match="agent is gone") as broken:
        machine.driver_state("misuse")

    assert not isinstance(broken.value, DriverHung)
    assert "NMI" not in guest.domain.asked


def test_a_panic_that_is_told_long_after_the_connection_broke_is_a_crash_and_no_hang(machine, guest, misuse):
    guest.ssh.stop()
    guest.remoting.stop()
    threading.Timer(1.5, guest.domain.panics, [GuestPanic(0xD1, (1, 2, 0, 4), "GUEST_PANICKED")]).start()

    with pytest.raises(MachineCrashed) as crashed:
        machine.driver_state("misuse")

    assert crashed.value.report.code == 0xD1
    assert "NMI" not in guest.domain.asked


def test_a_guest_that_is_cut_off_with_a_driver_loaded_hangs(machine, guest, misuse):
    guest.ssh.stop()
    guest.remoting.stop()

    with pytest.raises(DriverHung) as hung:
        machine.driver_state("misuse")

    (lines,) = [path for path in hung.value.artefacts if path.name == "agent.txt"]
    assert '"op":"start_service"' in lines.read_text()


def test_a_domain_that_goes_off_is_the_machines_failure(machine, guest, misuse):
    guest.domain.goes_off()

    with pytest.raises(MachineBroken, match="local-1 is off"):
        machine.driver_state("misuse")


def test_another_certificate_is_the_machines_failure_with_its_cause(make_machine, guest):
    machine = make_machine(guest, access=with_access(guest, certificate=make_certificate().fingerprint))

    with pytest.raises(MachineBroken, match="certificate is not the pinned one"):
        _ = machine.facts


def test_another_host_key_is_the_machines_failure_with_its_cause(make_machine, guest):
    other = f"ssh-ed25519 {make_host_key().get_base64()}"

    with pytest.raises(IdentityChanged, match="SSH host key is not the pinned one"):
        make_machine(guest, access=with_access(guest, host_key=other))
    assert guest.domain.asked == ["close"]


def test_a_restore_that_fails_once_is_tried_again(machine, guest):
    guest.domain.failing_reverts = 1
    machine.provide_image("C:\\ntproof\\app.exe")

    machine.reset(fresh=True)

    assert guest.domain.asked == ["revert", "revert"]


def test_a_restore_that_fails_twice_is_the_machines_failure_with_its_cause(machine, guest):
    guest.domain.failing_reverts = 2
    machine.provide_image("C:\\ntproof\\app.exe")

    with pytest.raises(MachineBroken, match="no space left on device"):
        machine.reset(fresh=True)
    with pytest.raises(MachineBroken, match="no space left on device"):
        machine.system_time()


def test_a_closed_machine_says_so_and_gives_its_domain_up_once(machine, guest):
    machine.close()
    machine.close()

    with pytest.raises(MachineConfigurationError, match="closed"):
        machine.system_time()
    assert guest.domain.asked == ["close"]
