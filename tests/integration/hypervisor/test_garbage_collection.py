"""A collection removes exactly what is orphaned: beside it stand things of others, and things that are in use."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures import tiny_linux
from tests.integration.hypervisor.test_leases import holder
from vm.windows.hypervisor.collection import collect, inventory
from vm.windows.hypervisor.file_marks import write_mark
from vm.windows.hypervisor.garbage import Kind
from vm.windows.hypervisor.leases import Standing
from vm.windows.hypervisor.mark import Role
from vm.windows.hypervisor.workplace import open_workplace
from vm.windows.images.store import ImageStore


@pytest.fixture
def store(images):
    return ImageStore(images)


@pytest.fixture
def folder(environment):
    return Path(environment["NTPROOF_HYPERVISOR_DIR"])


@pytest.fixture
def place(daemon, images, environment):
    with open_workplace(daemon.uri, images, environment=environment) as opened:
        yield opened


def removed(findings):
    return {(finding.resource.kind, Path(finding.resource.name).name) for finding in findings if finding.remove}


@pytest.mark.usefixtures("nothing_left")
def test_only_what_a_killed_process_left_is_removed(daemon, store, environment, folder, lease, tiny, host, place):
    (folder / "somebody.else").write_text("without a mark")
    foreign = host.defineXML(
        "<domain type='qemu'><name>foreign</name><memory>1024</memory><os><type arch='x86_64'>hvm</type></os></domain>"
    )
    other_user = replace(place.mark(Role.GOLDEN, image="theirs"), owner=replace(place.owner, user="somebody"))
    write_mark(place.folder, "theirs-1.0123", other_user)
    gone_image = place.mark(Role.GOLDEN, image="removed-image")
    write_mark(place.folder, "removed-image-1.0123", replace(gone_image, owner=replace(place.owner, pid=1 << 22)))
    try:
        with holder(daemon, tiny, environment) as other:
            mine = lease(worker="gw1")
            assert (other.name, mine.name) == ("tiny-1", "tiny-2")
            assert removed(collect(daemon.uri, store, environment=environment)) == {
                (Kind.FILE, "removed-image-1.0123.mark")
            }
            os.kill(other.pid, signal.SIGKILL)
            other.wait(10)

            expected = {
                (Kind.DOMAIN, "tiny-1"),
                (Kind.FILE, "tiny-1.run.mark"),
                (Kind.FILE, "tiny-1.run.qcow2"),
                (Kind.FILE, "tiny-1.run.serial"),
            }
            before = {path.name for path in folder.iterdir()}
            assert removed(collect(daemon.uri, store, dry_run=True, environment=environment)) == expected
            assert {path.name for path in folder.iterdir()} == before, "a dry run changes nothing"

            assert removed(collect(daemon.uri, store, environment=environment)) == expected

            left = {path.name for path in folder.iterdir()}
            assert before - left == {name for kind, name in expected if kind is Kind.FILE}
            assert tiny_linux.ask(mine.address_of(22), "echo untouched").strip() == "untouched"
            assert removed(collect(daemon.uri, store, environment=environment)) == set()
        assert host.lookupByName("foreign").UUIDString() == foreign.UUIDString()
        assert "somebody.else" in left
        assert "theirs-1.0123.mark" in left
    finally:
        foreign.undefine()
        (folder / "somebody.else").unlink()
        (folder / "theirs-1.0123.mark").unlink()


@pytest.mark.usefixtures("nothing_left")
def test_the_inventory_names_each_slot_with_its_owner_and_state(daemon, store, environment, lease):
    domain = lease(worker="gw7")

    found = {slot.name: slot for slot in inventory(daemon.uri, store, environment).slots}

    assert found["tiny-1"].judgement.standing is Standing.HELD
    assert found["tiny-1"].owner.worker == "gw7"
    assert found["tiny-1"].state == "running"
    assert found["tiny-1"].golden_bytes > 1 << 20
    domain.close()
    found = {slot.name: slot for slot in inventory(daemon.uri, store, environment).slots}
    assert found["tiny-1"].judgement.standing is Standing.FREE
    assert found["tiny-1"].state is None
