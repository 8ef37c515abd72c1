"""Connections: what is wrong with one is told with its remedy, and the loss of one is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.hypervisor.connection import Connection
from vm.windows.hypervisor.domain_events import DomainEvents, DomainWatch
from vm.windows.hypervisor.domain_xml import Accelerator
from vm.windows.hypervisor.uri import HypervisorUri, chosen_uri

TEST = "test:///default"


def test_a_connection_tells_versions(daemon):
    with Connection.open(daemon.uri) as connection:
        versions = connection.versions()

        assert set(versions) == {"libvirt", "qemu", "client"}
        assert versions["libvirt"] == ".".join(map(str, connection.version()))
        assert connection.offers(Accelerator.QEMU)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("nonsense", "no libvirt URI"),
        ("qemu+ssh://user:secret@host/system", "carries no password"),
        ("qemu+ssh://user:secret@host:port/system", "carries no password"),
        ("qemu+ssh://user:secret@host/nowhere", "carries no password"),
        ("xen+ssh://user:secret@host/system", "carries no password"),
        ("qemu://[broken", "no libvirt URI"),
        ("qemu:///nowhere", "give --connect a URI"),
        ("unknown:///system", "give --connect a URI"),
        ("qemu:///system?socket=/nonexistent/socket", "start libvirt"),
        ("qemu+ssh://127.0.0.1:1/system?no_tty=1&no_verify=1", "check that this works: virsh --connect"),
        ("qemu+tls://127.0.0.1:1/system", "check that this works: virsh --connect"),
    ],
)
def test_a_uri_that_leads_nowhere_is_the_user_s_to_correct(uri, words):
    with pytest.raises(MachineConfigurationError) as refused:
        Connection.open(uri)

    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has a session")
def test_root_is_told_to_use_the_system_s_hypervisor():
    with pytest.raises(MachineConfigurationError, match=r"qemu:///system"):
        Connection.open("qemu:///session")


def test_a_connection_that_is_closed_twice_is_closed(daemon):
    connection = Connection.open(daemon.uri)
    connection.close()
    connection.close()


def test_libvirt_prints_nothing_of_its_own():
    script = (
        "from vm.windows.hypervisor.connection import Connection\n"
        "from vm.errors import MachineError\n"
        "try:\n"
        "    Connection.open('qemu:///system?socket=/nonexistent/socket')\n"
        "except MachineError as error:\n"
        "    print('told')\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("told\n", "")


@pytest.mark.parametrize(
    ("given", "environment", "chosen"),
    [
        ("qemu:///system", {"LIBVIRT_DEFAULT_URI": TEST}, "qemu:///system"),
        (None, {"LIBVIRT_DEFAULT_URI": TEST}, TEST),
        (None, {"LIBVIRT_DEFAULT_URI": ""}, "qemu:///session"),
        (None, {}, "qemu:///session"),
    ],
)
def test_the_uri_is_the_given_one_else_the_environment_s_else_the_user_s_session(given, environment, chosen):
    assert chosen_uri(given, environment) == chosen


def test_a_uri_is_taken_apart():
    uri = HypervisorUri.parse("qemu+ssh://me@host.example:2222/session?keyfile=/keys/a%20b&no_tty=1")

    assert (uri.driver, uri.transport, uri.user, uri.host, uri.port) == ("qemu", "ssh", "me", "host.example", 2222)
    assert uri.parameters == {"keyfile": "/keys/a b", "no_tty": "1"}
    assert uri.is_session
    assert not uri.is_local
    assert HypervisorUri.parse("qemu+unix:///system").is_local
    assert not HypervisorUri.parse("qemu+tls:///system").is_local


@pytest.fixture
def test_driver():
    """Libvirt's own test driver: domains in memory, with real events."""
    with Connection.open(TEST) as connection:
        events = DomainEvents(connection)
        yield connection, events
        events.close()


def test_the_end_of_a_domain_is_told_with_its_reason(test_driver):
    connection, events = test_driver
    watch = events.watch("test")
    called = threading.Event()
    watch.when_stopped(called.set)
    domain = connection.find("test")
    try:
        domain.destroy()

        assert watch.wait_for_end(10)
        assert called.is_set()
        assert watch.ended == "it was destroyed"
        domain.destroy()
    finally:
        domain.start()
    watch.begin()
    assert watch.ended is None


def test_a_callback_that_was_taken_back_does_not_come_any_more_and_not_late_either():
    watch, entered, leave, taken_back = DomainWatch(), threading.Event(), threading.Event(), threading.Event()

    def slow():
        entered.set()
        assert leave.wait(10)
        assert not taken_back.is_set(), "the next life of the domain may have begun"

    watch.when_stopped(slow)
    event = threading.Thread(target=watch.stopped, args=("it was destroyed",))
    event.start()
    assert entered.wait(10)
    taker = threading.Thread(target=lambda: (watch.when_stopped(None), taken_back.set()))
    taker.start()

    assert not taken_back.wait(0.2)
    leave.set()
    event.join(10)
    assert taken_back.wait(10)
    taker.join(10)


def test_a_domain_that_is_not_there_is_none_and_one_without_a_mark_has_none(test_driver):
    connection, _ = test_driver

    assert connection.find("no such domain") is None
    assert connection.find("test").mark() is None
    assert not connection.is_qemu


def test_the_events_of_other_domains_concern_no_watch(test_driver):
    connection, events = test_driver
    watch = events.watch("another")
    domain = connection.find("test")
    try:
        domain.destroy()
        assert not watch.wait_for_end(0.3)
    finally:
        domain.start()


def test_what_the_test_driver_cannot_do_is_refused_and_not_broken(test_driver):
    from vm.windows.hypervisor.libvirt_errors import OperationRefused

    connection, _ = test_driver

    with pytest.raises(OperationRefused, match="cannot do that with this machine"):
        connection.find("test").monitor("info status")


def test_a_failure_of_libvirt_carries_its_words_and_a_remedy(test_driver):
    connection, _ = test_driver

    with pytest.raises(MachineBroken, match=r"saved memory cannot be read: .*/nonexistent.*log"):
        connection.saved_domain("/nonexistent")


def test_a_saved_memory_of_another_machine_is_the_machine_s_failure(test_driver, tmp_path):
    connection, _ = test_driver
    saved = str(tmp_path / "saved")
    connection.find("test").save(saved)
    try:
        with pytest.raises(MachineBroken, match="saved: the saved memory is of no machine of this project"):
            connection.saved_domain(saved)
    finally:
        connection.raw.restore(saved)
