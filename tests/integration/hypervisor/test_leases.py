"""Slots between processes on a real hypervisor: one owner at a time, waiting, reclaim after a kill, heartbeat."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fixtures import tiny_linux
from vm.errors import MachineBroken
from vm.windows.hypervisor.connection import Connection
from vm.windows.hypervisor.domain_xml import Accelerator
from vm.windows.hypervisor.lease_domains import LibvirtRecordDomains
from vm.windows.hypervisor.lease_records import LeaseRecords, record_domain
from vm.windows.hypervisor.leases import LeaseLost, NoFreeSlot
from vm.windows.hypervisor.mark import Mark, Role, Term
from vm.windows.hypervisor.owners import current_owner
from vm.windows.hypervisor.slot_machine import Blueprint, SlotMachine
from vm.windows.hypervisor.workplace import open_workplace

ROOT = Path(__file__).resolve().parents[3]

HOLDER = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, os.environ["ROOT"])
from tests.fixtures import tiny_linux
from vm.windows.hypervisor.leasing import LeaseRequest, lease_domain
from vm.windows.images.manifest import Manifest
from vm.windows.images.store import Image
from tests.fixtures.tiny_image import manifest_of

folder = Path(sys.argv[1])
settle = lambda domain: tiny_linux.wait_until_reachable(domain.address_of)
request = LeaseRequest(
    image=Image(folder, manifest_of(folder)), content_key="tests", settle=settle, worker="holder", slots=1, waits=60
)
domain = lease_domain(os.environ["URI"], request, os.environ)
print(json.dumps({"name": domain.name}), flush=True)
sys.stdin.read()
domain.close()
"""


@contextlib.contextmanager
def holder(daemon, tiny, environment):
    """Another process that has the first slot's domain, until its input ends or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tiny.folder)],
        env={**os.environ, **environment, "ROOT": str(ROOT), "URI": daemon.uri},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            line = process.stdout.readline()
            assert line, "the holder ended"
            process.name = json.loads(line)["name"]
            yield process
        finally:
            process.kill()


def lease_mark(version=0):
    return Mark(
        role=Role.LEASE,
        created_by="tests",
        created=version,
        slot="contended-1",
        owner=current_owner("tests"),
        term=Term(heartbeat_ms=version, lifetime_ms=60_000),
    )


@pytest.fixture
def records(daemon):
    with Connection.open(daemon.uri) as connection:
        domains = LibvirtRecordDomains(connection)
        yield LeaseRecords(domains)
        for name in domains.names():
            if "contended" in name:
                domains.remove(name)


def test_a_record_is_written_read_and_replaced_on_a_real_hypervisor(records):
    assert records.read("contended-1") is None
    assert records.write("contended-1", None, lease_mark(1))
    first = records.read("contended-1")
    assert first.mark == lease_mark(1)

    assert records.write("contended-1", first, lease_mark(2))

    assert not records.write("contended-1", first, lease_mark(3)), "it changed since it was read"
    assert not records.write("contended-1", None, lease_mark(3))
    assert records.read("contended-1").mark == lease_mark(2)


def test_of_many_that_write_at_once_one_succeeds(daemon, records):
    assert records.write("contended-1", None, lease_mark(1))
    expected = records.read("contended-1")
    ready = threading.Barrier(8)

    def write(number):
        with Connection.open(daemon.uri) as connection:
            mine = LeaseRecords(LibvirtRecordDomains(connection))
            ready.wait(10)
            return mine.write("contended-1", expected, lease_mark(100 + number))

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))

    assert won.count(True) == 1
    assert records.read("contended-1").mark == lease_mark(100 + won.index(True))


@pytest.mark.usefixtures("nothing_left")
def test_two_workers_never_have_the_same_slot(lease):
    first, second = lease(worker="gw0"), lease(worker="gw1")

    assert first.name != second.name
    tiny_linux.ask(first.address_of(22), "echo first > /tmp/who")
    assert tiny_linux.ask(second.address_of(22), "cat /tmp/who 2>/dev/null") == ""


@pytest.mark.usefixtures("nothing_left")
def test_when_all_slots_are_taken_a_worker_waits_and_says_for_whom(lease):
    first = lease(worker="gw0", slots=1)
    told = []

    with pytest.raises(NoFreeSlot, match=r"tiny-1: held by .*, worker gw0.*waited 3 s"):
        lease(worker="gw1", slots=1, waits=3.0, progress=told.append)

    assert len(told) == 1
    assert "worker gw0" in told[0]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lease, worker="gw1", slots=1, waits=60.0)
        first.close()
        assert waiting.result(30).name == first.name


@pytest.mark.usefixtures("nothing_left")
def test_what_a_killed_process_had_is_cleared_away_and_taken(lease, daemon, tiny, environment):
    with holder(daemon, tiny, environment) as other:
        name = other.name
        with pytest.raises(NoFreeSlot, match="worker holder"):
            lease(slots=1, waits=0.0)
        os.kill(other.pid, signal.SIGKILL)
        other.wait(10)
        assert any(f"guest={name}" in line for line in daemon.processes().values()), "nobody ended it"

        start = time.monotonic()
        domain = lease(slots=1, waits=30.0)

        assert domain.name == name
        assert time.monotonic() - start < 20
        assert tiny_linux.ask(domain.address_of(22), "echo mine").strip() == "mine"
        assert sum(f"guest={name}" in line for line in daemon.processes().values()) == 1


@pytest.mark.usefixtures("nothing_left")
def test_a_slot_that_was_given_back_is_free_for_another_process(lease, daemon, tiny, environment):
    lease(slots=1).close()

    with holder(daemon, tiny, environment) as other:
        assert other.name == "tiny-1"
        other.stdin.close()
        assert other.wait(20) == 0


@pytest.mark.usefixtures("nothing_left")
def test_an_owner_whose_slot_was_taken_over_is_told_and_touches_it_no_more(lease, daemon):
    domain = lease(slots=1, heartbeat=0.2)
    called = threading.Event()
    domain.when_stopped(called.set)
    with Connection.open(daemon.uri) as connection:
        records = LeaseRecords(LibvirtRecordDomains(connection))
        # Somebody whose clock says that the time is over takes it; the heartbeat may come first, so more than once.
        for _ in range(50):
            expected = records.read("tiny-1")
            taken = Mark(
                role=Role.LEASE,
                created_by="tests",
                created=1,
                slot="tiny-1",
                owner=current_owner("usurper"),
                term=Term(heartbeat_ms=1, lifetime_ms=1),
            )
            if records.write("tiny-1", expected, taken):
                break

    assert called.wait(10)
    with pytest.raises(LeaseLost, match="another owner has taken it over"):
        domain.revert()
    with pytest.raises(LeaseLost):
        domain.state()
    domain.close()
    assert any(f"guest={domain.name}" in line for line in daemon.processes().values()), "it is no longer this owner's"
    lease(slots=1).close()


@pytest.mark.usefixtures("nothing_left")
def test_a_domain_that_was_given_up_says_so(lease):
    domain = lease()
    domain.close()
    domain.close()

    with pytest.raises(MachineBroken, match="was given up"):
        domain.revert()


@pytest.mark.usefixtures("nothing_left")
def test_a_domain_of_somebody_else_with_the_slot_s_name_is_not_touched(lease, host):
    foreign = host.defineXML(
        "<domain type='qemu'><name>tiny-1</name><memory>1024</memory><os><type arch='x86_64'>hvm</type></os></domain>"
    )
    try:
        with pytest.raises(MachineBroken, match="not of this project; rename it"):
            lease(slots=1, waits=0.0)
        assert host.lookupByName("tiny-1").UUIDString() == foreign.UUIDString()
    finally:
        foreign.undefine()


def test_a_domain_that_ends_while_it_is_looked_at_is_nobody_else_s(daemon, images, environment, tiny, monkeypatch):
    with open_workplace(daemon.uri, images, environment=environment) as place:
        mark = place.mark(Role.CLONE, image="tiny", slot="tiny-9")
        machine = SlotMachine(
            place.connection, place.events, place.folder, Blueprint(tiny, tiny.disk, "tiny-9", Accelerator.QEMU, mark)
        )
        ended = place.connection.define(record_domain("tiny-9", mark))
        ended.undefine()
        looks = [ended]
        find = place.connection.find
        monkeypatch.setattr(place.connection, "find", lambda name: looks.pop() if looks else find(name))

        machine.clear_away()

        assert not looks
        machine.remove()
