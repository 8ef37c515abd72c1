"""Tests of `ntproof vm` on a real libvirt: what is there is told, what nobody owns is removed, and nothing else is."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time

import pytest

from harness import cli
from harness.commands.vm import slot_row
from harness.exit_codes import ExitCode
from tests.fixtures import libvirtd as daemons
from vm.windows.hypervisor.lease_records import record_domain, record_name
from vm.windows.hypervisor.mark import Mark, Owner, Role, Term
from vm.windows.hypervisor.owners import LocalProcesses

CLONE = "win11-24h2-1"


def require(met, remedy):
    """Without what these tests need they skip with what to install, and fail in CI."""
    if not met:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"missing: {remedy}")


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    missing = [f"apt-get install {' '.join(packages)}"] if (packages := daemons.missing_packages()) else []
    if importlib.util.find_spec("libvirt") is None:
        missing.append("pip install libvirt-python")
    require(not missing, "; ".join(missing))
    with daemons.private_libvirtd(tmp_path_factory.mktemp("libvirtd")) as started:
        yield started.uri


@pytest.fixture
def hypervisor(uri, tmp_path, monkeypatch):
    from vm.windows.hypervisor.connection import Connection

    monkeypatch.setenv("NTPROOF_IMAGE_DIR", str(tmp_path / "images"))
    monkeypatch.setenv("NTPROOF_HYPERVISOR_DIR", str(tmp_path / "slots"))
    monkeypatch.chdir(tmp_path)
    with Connection.open(uri) as connection:
        yield connection
        for domain in connection.domains():
            domain.undefine()


def mark(role: Role, owner: Owner, *, released: bool = False, slot: str | None = CLONE) -> Mark:
    term = Term(heartbeat_ms=time.time_ns() // 1_000_000, lifetime_ms=60_000, released=released)
    return Mark(
        role=role,
        created_by="ntproof test",
        created=int(time.time()),
        image="win11-24h2",
        slot=slot,
        owner=owner,
        term=term if role is Role.LEASE else None,
    )


def me() -> Owner:
    return LocalProcesses().owner(os.getpid(), "tester", "gw0")


def gone() -> Owner:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    owner = LocalProcesses().owner(ended.pid, "tester", "gw1")
    ended.wait()
    return owner


def put(connection, name: str, its: Mark) -> None:
    connection.define(record_domain(name, its))


def names(connection) -> set[str]:
    return {domain.name for domain in connection.domains()}


def vm(*arguments: str, uri: str) -> int:
    return cli.main(["vm", *arguments, "--connect", uri])


def test_a_hypervisor_that_nobody_used_has_no_slots(hypervisor, uri, capsys):
    assert vm("list", uri=uri) == ExitCode.PASSED
    assert capsys.readouterr().out == "no slots: no machine was made on this hypervisor yet\n"


def test_slots_are_listed_with_who_has_them(hypervisor, uri, capsys):
    put(hypervisor, record_name(CLONE, 1), mark(Role.LEASE, me()))
    put(hypervisor, CLONE, mark(Role.CLONE, me()))

    assert vm("list", uri=uri) == ExitCode.PASSED
    slot, clone = capsys.readouterr().out.splitlines()
    assert slot.startswith(f"{CLONE}  held  tester@")
    assert f"process {os.getpid()}, worker gw0" in slot
    assert clone.split() == ["domain", "clone", CLONE]


def test_the_json_form_has_stable_keys(hypervisor, uri, capsys):
    put(hypervisor, record_name(CLONE, 1), mark(Role.LEASE, me(), released=True))

    assert vm("list", "--json", uri=uri) == ExitCode.PASSED
    document = json.loads(capsys.readouterr().out)
    (slot,) = document["slots"]
    assert list(slot) == ["slot", "lease", "reason", "owner", "heartbeat_age_s", "domain", "golden_bytes"]
    assert (slot["slot"], slot["lease"], slot["domain"], slot["golden_bytes"]) == (CLONE, "free", None, 0)
    assert 0 <= slot["heartbeat_age_s"] < 60
    assert [row["role"] for row in document["resources"]] == ["lease"]


def test_what_nobody_owns_is_removed_and_nothing_else(hypervisor, uri, capsys):
    owner = gone()
    put(hypervisor, record_name(CLONE, 1), mark(Role.LEASE, owner))
    put(hypervisor, CLONE, mark(Role.CLONE, owner))
    put(hypervisor, "win11-24h2-2", mark(Role.PROBE, me(), slot=None))
    before = names(hypervisor)

    assert vm("gc", "--dry-run", uri=uri) == ExitCode.PASSED
    foretold = capsys.readouterr().out
    assert f"would remove domain {CLONE}: slot {CLONE} is no longer held by tester@" in foretold
    assert "left domain win11-24h2-2: tester@" in foretold
    assert names(hypervisor) == before

    assert vm("gc", uri=uri) == ExitCode.PASSED
    told = capsys.readouterr().out
    assert f"removed domain {CLONE}: " in told
    assert "removed 1, left " in told
    assert CLONE not in names(hypervisor)
    assert "win11-24h2-2" in names(hypervisor)

    assert vm("gc", "--json", uri=uri) == ExitCode.PASSED
    assert [row for row in json.loads(capsys.readouterr().out) if row["remove"]] == []


def test_a_domain_of_somebody_else_is_counted_and_stays(hypervisor, uri, capsys):
    hypervisor.raw.defineXML(
        "<domain type='qemu'><name>theirs</name><memory unit='MiB'>1</memory><os><type>hvm</type></os></domain>"
    )

    assert vm("gc", uri=uri) == ExitCode.PASSED
    assert capsys.readouterr().out == "removed 0, left 0, and 1 of others\n"
    assert "theirs" in names(hypervisor)


def test_the_doctor_reaches_it_and_runs_the_probe(hypervisor, uri, capsys):
    assert cli.main(["doctor", "--json", "--connect", uri]) == ExitCode.PASSED

    needs = {need["name"]: need for need in json.loads(capsys.readouterr().out)["needs"]}
    assert needs["hypervisor"]["met"]
    assert "libvirt " in needs["hypervisor"]["found"]
    assert needs["accelerator"]["found"].startswith(("KVM: the probe ran in", "TCG, slow: "))
    assert hypervisor.find("ntproof-probe") is None


@pytest.mark.parametrize("command", ["list", "gc"])
def test_a_hypervisor_that_is_not_there_is_a_mistake_of_the_user(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NTPROOF_IMAGE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    require(importlib.util.find_spec("libvirt") is not None, "pip install libvirt-python")

    assert vm(command, uri=f"qemu:///system?socket={tmp_path}/none") == ExitCode.USER_ERROR
    assert "start libvirt" in capsys.readouterr().err


def test_a_slot_without_an_owner_says_why():
    from vm.windows.hypervisor.inventory import Inventory, Slot
    from vm.windows.hypervisor.leases import Judgement, Standing

    slot = Slot("a-1", Judgement(Standing.FOREIGN, "a domain of this name carries no lease"), None, "running", 5)
    row = slot_row(slot, Inventory((slot,), (), {"a-1": None}), time.time())

    assert (row["owner"], row["heartbeat_age_s"], row["domain"]) == (None, None, "running")
