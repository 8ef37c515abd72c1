"""Where files are on a hypervisor's host: one folder by the URI, and an image's disk in place or as one copy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures import tiny_linux
from tests.fixtures.tiny_image import make_image
from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.hypervisor.mark import Role
from vm.windows.hypervisor.placement import ImageOnHost, host_folder, is_usable_in_place
from vm.windows.hypervisor.uri import HypervisorUri
from vm.windows.hypervisor.workplace import open_workplace

STORE = Path("/images")


@pytest.mark.parametrize(
    ("uri", "environment", "folder"),
    [
        ("qemu:///session", {}, "/images/.slots"),
        ("qemu:///system", {}, "/var/lib/libvirt/images/ntproof"),
        ("qemu+ssh://host/system", {}, "/var/lib/libvirt/images/ntproof"),
        ("qemu+ssh://host/session", {"NTPROOF_HYPERVISOR_DIR": "/data/ntproof"}, "/data/ntproof"),
        ("qemu:///session", {"NTPROOF_HYPERVISOR_DIR": "/data/ntproof"}, "/data/ntproof"),
    ],
)
def test_each_hypervisor_has_one_folder(uri, environment, folder):
    assert host_folder(HypervisorUri.parse(uri), STORE, environment) == Path(folder)


@pytest.mark.parametrize(
    ("uri", "environment", "words"),
    [
        ("qemu+ssh://host/session", {}, "set NTPROOF_HYPERVISOR_DIR to a folder on host"),
        ("qemu:///system", {"NTPROOF_HYPERVISOR_DIR": "relative"}, "give an absolute path"),
    ],
)
def test_a_folder_that_nobody_knows_is_asked_for(uri, environment, words):
    with pytest.raises(MachineConfigurationError) as refused:
        host_folder(HypervisorUri.parse(uri), STORE, environment)

    assert words in str(refused.value)


def test_a_disk_is_used_in_place_only_where_qemu_can_read_it(images, tmp_path):
    disk = images / "some.qcow2"
    disk.touch(mode=0o444)
    system, session = HypervisorUri.parse("qemu:///system"), HypervisorUri.parse("qemu:///session")

    assert is_usable_in_place(system, disk)
    disk.chmod(0o440)
    assert not is_usable_in_place(system, disk), "only its owner reads it"
    assert is_usable_in_place(session, disk), "QEMU is this user"
    assert not is_usable_in_place(HypervisorUri.parse("qemu+ssh://localhost/system"), disk)
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "some.qcow2").touch(mode=0o444)
    assert not is_usable_in_place(system, hidden / "some.qcow2"), "nobody else passes its folder"
    assert not is_usable_in_place(system, images / "none.qcow2")
    disk.unlink()


@pytest.fixture
def place(daemon, images, environment, tmp_path):
    environment = {**environment, "NTPROOF_HYPERVISOR_DIR": str(tmp_path / "folder")}
    with open_workplace(daemon.uri, images, environment=environment) as opened:
        yield opened


@pytest.fixture
def hidden_image(tmp_path):
    """An image that the user of a system hypervisor's QEMU could not read."""
    image = make_image(tmp_path / "images")
    yield image
    image.folder.chmod(0o700)


def test_a_copy_is_complete_or_none(place, hidden_image, tmp_path):
    on_host = ImageOnHost(place.connection, place.folder, hidden_image)
    assert on_host.find() is None
    told = []

    sent = on_host.send(place.mark(Role.GOLDEN, image="tiny"), told.append)

    assert on_host.find() == sent
    assert sent.read_bytes() == hidden_image.disk.read_bytes()
    assert len(told) == 1
    whole = sent.read_bytes()
    sent.write_bytes(whole[:-1])
    assert on_host.find() is None, "it was cut short"
    sent.unlink()
    assert on_host.find() is None, "somebody removed it"
    sent.write_bytes(whole)
    assert on_host.find() == sent
    (sent.parent / f"{on_host.copy_name}.complete").unlink()
    assert on_host.find() is None, "what was interrupted is none"


def test_an_image_that_does_not_fit_says_how_much_it_needs(place, hidden_image):
    manifest = hidden_image.manifest
    huge = replace(hidden_image, manifest=replace(manifest, files=(replace(manifest.files[0], size=1 << 50),)))

    with pytest.raises(MachineBroken, match=r"1073741824 MiB, \d+ are free in .*; free space"):
        ImageOnHost(place.connection, place.folder, huge).send(place.mark(Role.GOLDEN), lambda _line: None)


@pytest.mark.usefixtures("nothing_left")
def test_several_workers_copy_an_image_once(lease, hidden_image, environment, tmp_path):
    told = []
    with ThreadPoolExecutor(2) as pool:
        domains = list(
            pool.map(
                lambda number: lease(image=hidden_image, worker=f"gw{number}", progress=told.append, waits=200.0),
                range(2),
            )
        )

    assert sum("are copied to the hypervisor" in line for line in told) == 1
    assert all(tiny_linux.ask(domain.address_of(22), "echo here").strip() == "here" for domain in domains)
