"""A hypervisor's disk that is full: told as the machine's failure with its cause, and nothing half-made is left."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest

from tests.fixtures import tiny_linux
from tests.fixtures.tiny_image import make_image
from vm.errors import MachineBroken
from vm.windows.hypervisor.connection import Connection
from vm.windows.hypervisor.host_folder import HostFolder
from vm.windows.hypervisor.leasing import lease_domain
from vm.windows.hypervisor.reset import Strategy
from vm.windows.profiles.profile import DiskBus

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")


@pytest.fixture
def small(tmp_path):
    """Makes a folder of so many MiB, which is full when they are written."""
    mounted = []

    def make(mebibytes):
        folder = tmp_path / f"small-{mebibytes}"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", folder], check=True)
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def small_daemon(small, tmp_path_factory, request):
    """A daemon that was started after the mount: an earlier one does not see it."""
    from tests.fixtures import libvirtd as daemons

    folder = small(request.param)
    with daemons.private_libvirtd(tmp_path_factory.mktemp("libvirtd")) as started:
        yield started, folder


@pytest.mark.parametrize("small_daemon", [40], indirect=True)
def test_a_memory_that_does_not_fit_is_not_saved_and_leaves_nothing(small_daemon, environment, request_for):
    daemon, folder = small_daemon

    with pytest.raises(MachineBroken, match=r"cannot be saved|No space|no space"):
        lease_domain(
            daemon.uri,
            request_for(strategy=Strategy.GOLDEN_SAVE),
            {**environment, "NTPROOF_HYPERVISOR_DIR": str(folder)},
        )

    assert list(folder.iterdir()) == []
    assert daemon.processes() == {}


@pytest.mark.parametrize("small_daemon", [40], indirect=True)
def test_where_there_is_no_room_for_a_memory_another_way_is_taken(small_daemon, environment, request_for):
    daemon, folder = small_daemon

    domain = lease_domain(daemon.uri, request_for(), {**environment, "NTPROOF_HYPERVISOR_DIR": str(folder)})

    assert "MiB free" in domain.details["reset"]
    domain.close()


@pytest.fixture
def with_disk(images):
    """An image whose guest sees its disk: its kernel has no driver for the usual one."""
    return make_image(images, "tiny-scsi", disk_bus=DiskBus.VIRTIO_SCSI)


@pytest.mark.parametrize("small_daemon", [24], indirect=True)
def test_a_guest_whose_disk_filled_the_host_is_stopped_and_that_is_told(
    small_daemon, environment, request_for, with_disk
):
    daemon, folder = small_daemon
    domain = lease_domain(
        daemon.uri,
        request_for(image=with_disk, strategy=Strategy.COLD_BOOT),
        {**environment, "NTPROOF_HYPERVISOR_DIR": str(folder)},
    )
    called = threading.Event()
    domain.when_stopped(called.set)

    tiny_linux.tell(domain.address_of(22), "dd if=/dev/zero bs=1M count=64 | tr '\\0' x > /dev/sda; sync")

    assert called.wait(60)
    with pytest.raises(MachineBroken, match=r"its disk failed \(sda: no space left\); see the space"):
        domain.state()
    assert domain.panic() is None
    domain.close()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("small_daemon", [8], indirect=True)
def test_a_file_that_does_not_fit_is_told_with_what_to_do_and_not_left_in_part(small_daemon):
    daemon, folder = small_daemon
    with Connection.open(daemon.uri) as connection:
        host_folder = HostFolder(connection, folder)

        with pytest.raises(MachineBroken, match="free space on the hypervisor's disk"):
            host_folder.write("too.big", b"\1" * (16 << 20))

        assert host_folder.names() == ()
        host_folder.write("small.enough", b"\1" * 1000)
