"""What the build of an image asks: a disk, a machine whose serial port is read to its end, a first start."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.fixtures import tiny_linux
from tests.fixtures.tiny_image import OVMF_VARIABLES, hardware
from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.hypervisor.installation import LibvirtHost, open_host
from vm.windows.images.hypervisor import Installation, Start
from vm.windows.profiles.profile import Firmware

pytestmark = pytest.mark.usefixtures("nothing_left")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def installer(daemon, images, environment):
    return LibvirtHost(daemon.uri, images, environment)


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.qcow2"
    shutil.copy(tiny_linux.disk(), path)
    return path


def installation(disk, **changes):
    plain = {
        "name": "tiny",
        "hardware": hardware(),
        "nested_virtualization": False,
        "disk": disk,
        "nvram": None,
        "media": (),
    }
    return Installation(**{**plain, **changes})


def read_until(machine, words, seconds=120.0):
    end, text = time.monotonic() + seconds, b""
    while words not in text:
        assert time.monotonic() < end, text
        block = machine.read_serial(1.0)
        assert block is not None, text
        text += block
    return text


def read_to_the_end(machine, seconds=60.0):
    end = time.monotonic() + seconds
    while machine.read_serial(1.0) is not None:
        assert time.monotonic() < end


def test_an_empty_disk_is_made_and_no_pool_stays(installer, tmp_path, host):
    installer.create_disk(tmp_path / "new.qcow2", 40)

    told = subprocess.check_output(["qemu-img", "info", tmp_path / "new.qcow2"], text=True)
    assert "virtual size: 40 GiB" in told
    assert not [pool.name() for pool in host.listAllStoragePools() if str(tmp_path) in pool.XMLDesc()]
    with pytest.raises(MachineBroken):
        installer.create_disk(Path("/proc/no-such-folder/new.qcow2"), 40)


def test_what_the_guest_writes_is_read_from_its_first_byte_until_it_is_off(installer, disk, host):
    with installer.run(installation(disk)) as machine:
        text = read_until(machine, tiny_linux.READY + b"\r\n")
        assert machine.screenshot().startswith(PNG)
        (domain,) = [one for one in host.listAllDomains() if one.name().startswith("ntproof-install-tiny-")]
        assert machine.read_serial(0.1) == b"", "nothing more comes, and it runs"
        domain.destroy()
        with pytest.raises(MachineBroken, match="it was destroyed"):
            read_to_the_end(machine)

    assert text.count(tiny_linux.READY) == 1


def test_a_guest_that_shuts_itself_down_has_said_all(installer, tmp_path):
    disk = tiny_linux.disk_that("poweroff -f")
    path = tmp_path / "off.qcow2"
    shutil.copy(disk, path)

    with installer.run(installation(path)) as machine:
        read_until(machine, tiny_linux.READY)
        read_to_the_end(machine)
        assert machine.read_serial(0.1) is None


def test_a_guest_that_crashes_is_told_at_once(installer, tmp_path):
    path = tmp_path / "crash.qcow2"
    shutil.copy(tiny_linux.disk_that("echo c > /proc/sysrq-trigger"), path)

    with installer.run(installation(path)) as machine, pytest.raises(MachineBroken, match="the guest crashed"):
        read_to_the_end(machine, 120.0)


def test_uefi_variables_are_made_from_the_firmware_s_own(installer, disk, tmp_path):
    nvram = tmp_path / "nvram.fd"

    with installer.run(installation(disk, hardware=hardware(firmware=Firmware.UEFI), nvram=nvram)) as machine:
        read_until(machine, tiny_linux.READY)

    assert nvram.stat().st_size == OVMF_VARIABLES.stat().st_size


def test_a_first_start_changes_nothing_of_the_image(installer, disk, environment):
    before = disk.read_bytes()
    disk.chmod(0o444)
    start = Start(name="tiny", hardware=hardware(), nested_virtualization=False, disk=disk, nvram=None)

    with installer.start(start) as machine:
        address = machine.remoting
        reached = type("Address", (), {"host": address[0], "port": address[1]})
        tiny_linux.wait_until_reachable(lambda _port: reached)
        machine.require_running()
        tiny_linux.tell(reached, "echo c > /proc/sysrq-trigger")
        with pytest.raises(MachineBroken, match="crashed at its first start"):
            require_running_for(machine, 10.0)

    assert disk.read_bytes() == before


def require_running_for(machine, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        machine.require_running()


def test_an_image_is_made_only_on_this_computer():
    with pytest.raises(MachineConfigurationError, match="give --connect a local hypervisor"):
        open_host("qemu+ssh://far.away/system")


def test_a_local_hypervisor_is_opened_and_tells_its_versions(daemon):
    assert set(open_host(daemon.uri).versions()) == {"libvirt", "qemu", "client"}
