"""A guest that crashes or hangs, and a hypervisor that fails: each is told for what it is, with its evidence."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import threading
import time
import weakref
from pathlib import Path

import pytest

from tests.fixtures import libvirtd as daemons
from tests.fixtures import tiny_linux
from vm.errors import MachineBroken
from vm.windows.leased_domain import DomainState

PANIC = "echo c > /proc/sysrq-trigger"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def called():
    """A callback for `when_stopped`, as an event."""
    return threading.Event()


def qemu_of(daemon, name):
    (pid,) = [pid for pid, line in daemon.processes().items() if f"guest={name}" in line]
    return pid


@pytest.mark.usefixtures("nothing_left")
def test_a_panic_is_seen_and_ends_what_waits(lease, called):
    domain = lease()
    domain.when_stopped(called.set)
    assert domain.wait_for_panic(0.1) is None

    tiny_linux.tell(domain.address_of(22), PANIC)

    assert domain.wait_for_panic(10) is not None
    assert called.wait(1)
    assert domain.state() is DomainState.CRASHED
    assert domain.panic().code is None, "pvpanic tells no more than that"


@pytest.mark.usefixtures("nothing_left")
def test_a_callback_that_comes_late_is_called_at_once_and_one_taken_back_never(lease, called):
    domain = lease()
    other = threading.Event()
    domain.when_stopped(other.set)
    domain.when_stopped(None)
    tiny_linux.tell(domain.address_of(22), PANIC)
    assert domain.wait_for_panic(10) is not None

    domain.when_stopped(called.set)

    assert called.is_set()
    assert not other.is_set()


@pytest.mark.usefixtures("nothing_left")
def test_screen_memory_and_serial_log_of_a_crash_are_collected(lease, tmp_path):
    domain = lease()
    tiny_linux.tell(domain.address_of(22), f"echo the last words > /dev/ttyS0; {PANIC}")
    assert domain.wait_for_panic(10) is not None

    found = {path.name: path.read_bytes() for path in domain.collect(tmp_path)}

    assert set(found) == {"screen.png", "serial.log", "memory.kdump"}
    assert found["screen.png"].startswith(PNG)
    assert b"the last words" in found["serial.log"]
    assert b"sysrq triggered crash" in found["serial.log"]
    assert found["memory.kdump"].startswith((b"KDUMP", b"makedumpfile"))
    assert domain.state() is DomainState.CRASHED, "looking changes nothing"


@pytest.mark.usefixtures("nothing_left")
def test_a_serial_log_that_rolled_over_just_before_a_crash_is_collected_whole(lease, environment, tmp_path):
    domain = lease()
    current = Path(environment["NTPROOF_HYPERVISOR_DIR"]) / f"{domain.name}.run.serial"
    # As virtlogd does, which these tests' daemon does without.
    current.with_name(f"{current.name}.0").write_bytes(b"what led there\n")
    said = current.read_bytes()

    domain.collect(tmp_path)

    assert (tmp_path / "serial.log").read_bytes().startswith(b"what led there\n" + said)


@pytest.mark.usefixtures("nothing_left")
def test_a_memory_for_which_there_is_no_room_here_is_not_fetched_in_part(lease, tmp_path, caplog, monkeypatch):
    domain = lease()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage._replace(free=255 << 20))

    found = domain.collect(tmp_path)

    assert {path.name for path in found} == {"screen.png", "serial.log"}
    assert f"no memory dump: 255 MiB free in {tmp_path}, 256 needed" in caplog.text


@pytest.mark.usefixtures("nothing_left")
def test_evidence_that_cannot_be_had_hides_nothing_else(lease, tmp_path, caplog):
    domain = lease()
    domain._machine.handle.destroy()

    found = domain.collect(tmp_path)

    assert [path.name for path in found] == ["serial.log"]
    assert "gives no picture" in caplog.text
    assert "no memory dump" in caplog.text


@pytest.mark.usefixtures("nothing_left")
def test_a_crashed_guest_boots_again_from_its_disk_and_is_reached(lease):
    domain = lease()
    tiny_linux.tell(domain.address_of(22), PANIC)
    assert domain.wait_for_panic(10) is not None

    domain.boot_again()

    tiny_linux.wait_until_reachable(domain.address_of)
    assert domain.state() is DomainState.RUNNING
    assert domain.panic() is None


@pytest.mark.usefixtures("nothing_left")
def test_a_crashed_guest_ends_its_panic_before_it_boots_again(lease, tmp_path):
    """QEMU stops it as soon as it tells, which is before Linux' last words and may be before Windows' dump."""
    domain = lease()
    tiny_linux.tell(domain.address_of(22), PANIC)
    assert domain.wait_for_panic(10) is not None
    (before, after) = (tmp_path / "before", tmp_path / "after")
    for folder in (before, after):
        folder.mkdir()
    domain.collect(before)

    domain.boot_again()

    domain.collect(after)
    assert b"end Kernel panic" not in (before / "serial.log").read_bytes()
    assert b"end Kernel panic" in (after / "serial.log").read_bytes()


@pytest.mark.usefixtures("nothing_left")
def test_a_hanging_guest_is_interrupted_by_an_nmi(lease):
    """As Windows does, this guest is told to crash at an NMI."""
    domain = lease()
    tiny_linux.ask(domain.address_of(22), "echo 1 > /proc/sys/kernel/unknown_nmi_panic")

    domain.inject_nmi()

    assert domain.wait_for_panic(10) is not None


@pytest.mark.usefixtures("nothing_left")
def test_a_qemu_that_is_killed_leaves_a_domain_that_is_off_and_comes_back(lease, daemon, called):
    domain = lease()
    domain.when_stopped(called.set)

    os.kill(qemu_of(daemon, domain.name), signal.SIGKILL)

    assert called.wait(10)
    assert domain.state() is DomainState.OFF
    assert domain.panic() is None
    assert "killed" in domain.details["ended"]
    with pytest.raises(MachineBroken, match=r"does not|cannot|is off"):
        domain.address_of(22)
    domain.revert()
    assert domain.state() is DomainState.RUNNING
    assert "ended" not in domain.details
    tiny_linux.wait_until_reachable(domain.address_of)


@pytest.mark.usefixtures("nothing_left")
def test_a_qemu_that_does_not_answer_is_ended_and_comes_back(lease, daemon, monkeypatch, tmp_path):
    from vm.windows.hypervisor import domain_handle

    monkeypatch.setattr(domain_handle, "ANSWERS_WITHIN", 1.0)
    domain = lease()

    os.kill(qemu_of(daemon, domain.name), signal.SIGSTOP)

    with pytest.raises(MachineBroken, match="takes no NMI: QEMU did not answer within 1 s and was ended"):
        domain.inject_nmi()
    assert domain.state() is DomainState.OFF
    assert [path.name for path in domain.collect(tmp_path)] == ["serial.log"]
    domain.revert()
    tiny_linux.wait_until_reachable(domain.address_of)


@pytest.fixture
def own_daemon(tmp_path):
    """A daemon for one test, which may kill it."""
    with daemons.private_libvirtd(tmp_path / "libvirtd") as started:
        yield started


def test_a_libvirt_that_is_killed_is_told_as_the_machine_s_failure(own_daemon, lease, called, environment, tmp_path):
    environment = {**environment, "NTPROOF_HYPERVISOR_DIR": str(tmp_path / "folder")}
    from vm.windows.hypervisor.connection import Connection
    from vm.windows.hypervisor.domain_events import DomainEvents

    with Connection.open(own_daemon.uri) as connection:
        events = DomainEvents(connection)
        watch = events.watch("any")
        watch.when_stopped(called.set)

        own_daemon.kill()

        assert called.wait(10)
        assert events.watch("begun later").wait_for_end(0)
        with pytest.raises(MachineBroken, match=r"libvirt ended|the connection broke"):
            connection.require_alive()
        with pytest.raises(MachineBroken, match="start it again"):
            connection.domains()


def test_a_libvirt_that_does_not_answer_is_not_waited_for_without_end(own_daemon):
    from vm.windows.hypervisor.connection import Connection

    os.kill(own_daemon.pid, signal.SIGSTOP)
    try:
        with pytest.raises(MachineBroken, match=r"no answer within 0\.5 s; see whether .* version"):
            Connection.open(own_daemon.uri, within=0.5)
    finally:
        os.kill(own_daemon.pid, signal.SIGCONT)

    end = time.monotonic() + 10
    while any(thread.name.startswith("opens ") for thread in threading.enumerate()) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(thread.name.startswith("opens ") for thread in threading.enumerate())


def test_a_connection_that_was_lost_is_freed_with_all_that_watched_it(own_daemon):
    from vm.windows.hypervisor.connection import Connection
    from vm.windows.hypervisor.domain_events import DomainEvents

    def use():
        with Connection.open(own_daemon.uri) as connection, contextlib.closing(DomainEvents(connection)) as events:
            watch = events.watch("any")
            own_daemon.kill()
            assert watch.wait_for_end(10)
            return weakref.ref(connection), weakref.ref(events), weakref.ref(connection.raw)

    kept = use()

    # The thread of the events still holds it for a moment.
    end = time.monotonic() + 10
    while any(reference() is not None for reference in kept) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.02)
    assert [reference() for reference in kept] == [None] * 3


def test_a_domain_whose_libvirt_was_killed_is_cleared_away_by_the_next_lease(
    own_daemon, environment, request_for, tmp_path
):
    from vm.windows.hypervisor.leasing import lease_domain

    environment = {**environment, "NTPROOF_HYPERVISOR_DIR": str(tmp_path / "folder")}
    domain = lease_domain(own_daemon.uri, request_for(), environment)
    own_daemon.kill()

    for call in (domain.state, domain.revert, domain.panic, lambda: domain.wait_for_panic(5)):
        with pytest.raises(MachineBroken, match="start it again"):
            call()
    with pytest.raises(MachineBroken):
        domain.close()

    own_daemon.restart()
    assert len([line for line in own_daemon.processes().values() if "guest=tiny-1" in line]) == 1

    again = lease_domain(own_daemon.uri, request_for(worker="again", slots=1), environment)
    tiny_linux.wait_until_reachable(again.address_of)
    assert len([line for line in own_daemon.processes().values() if "guest=tiny-1" in line]) == 1
    again.close()
    end = time.monotonic() + 10
    while (left := own_daemon.processes()) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left
    assert {path.name.rpartition(".")[2] for path in (tmp_path / "folder").iterdir()} == {
        "golden",
        "mark",
        "qcow2",
        "save",
    }
    assert Path(environment["NTPROOF_HYPERVISOR_DIR"]).is_dir()
