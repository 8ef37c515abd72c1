"""A collection removes exactly what is orphaned: beside it stand things of others, and things that are in use."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures import tiny_linux
from tests.fixtures.tiny_image import make_image
from tests.integration.hypervisor.test_leases import holder
from vm.windows.hypervisor.collection import _removed, collect, inventory
from vm.windows.hypervisor.file_marks import write_mark
from vm.windows.hypervisor.garbage import Finding, Kind, Resource
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


def test_the_copy_of_an_earlier_build_is_removed_once_no_disk_stands_on_it(daemon, environment, tmp_path):
    make_image(tmp_path / "store", "rebuilt", memory_mib=2048)
    store, host_folder = ImageStore(tmp_path / "store"), tmp_path / "host"
    environment = {**environment, "NTPROOF_HYPERVISOR_DIR": str(host_folder)}
    with open_workplace(daemon.uri, store.root, environment=environment) as place:
        gone = replace(place.owner, pid=1 << 22)
        write_mark(place.folder, "image.0123", replace(place.mark(Role.GOLDEN, image="rebuilt"), owner=gone))
        copy = place.folder.create_disk("image.0123.qcow2", 1)
        place.folder.write("image.0123.complete", b"{}")
        theirs = place.folder.create_overlay("theirs.qcow2", copy)

        would = collect(daemon.uri, store, environment=environment, dry_run=True)
        kept = collect(daemon.uri, store, environment=environment)

        assert removed(would) == removed(kept) == set()
        assert {one.reason for one in kept if "image.0123" in one.resource.name} == {"a machine's disk stands on it"}
        place.folder.remove(theirs.name)
        collect(daemon.uri, store, environment=environment)
        assert not list(host_folder.iterdir())
    (store.root / "rebuilt").chmod(0o700)


def test_a_store_that_is_not_there_says_nothing_of_its_images(daemon, environment, tmp_path):
    store = ImageStore(tmp_path / "not mounted")
    environment = {**environment, "NTPROOF_HYPERVISOR_DIR": str(tmp_path / "host")}
    with open_workplace(daemon.uri, store.root, environment=environment) as place:
        gone = replace(place.owner, pid=1 << 22)
        write_mark(place.folder, "a-1.0123", replace(place.mark(Role.GOLDEN, image="a", slot="a-1"), owner=gone))

        assert removed(collect(daemon.uri, store, environment=environment)) == set()
        store.root.mkdir()
        assert removed(collect(daemon.uri, store, environment=environment)) == {(Kind.FILE, "a-1.0123.mark")}


def test_a_domain_that_took_an_orphan_s_name_meanwhile_stays(daemon, place, host):
    gone = replace(place.mark(Role.PROBE), owner=replace(place.owner, pid=1 << 22))
    orphan = Finding(Resource(Kind.DOMAIN, "ntproof-probe-x", gone.to_xml()), remove=True, reason="gone")
    theirs = host.defineXML(
        "<domain type='qemu'><name>ntproof-probe-x</name><memory>1024</memory>"
        "<os><type arch='x86_64'>hvm</type></os></domain>"
    )
    try:
        (found,) = _removed(place, [orphan])

        assert (found.remove, found.reason) == (False, "it is another one by now")
        assert theirs.isPersistent()
    finally:
        theirs.undefine()


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
