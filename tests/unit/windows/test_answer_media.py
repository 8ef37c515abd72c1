"""Tests of the answer medium: a guest finds its files by name, and nobody else may read it."""

from __future__ import annotations

import io
import json
import re
import stat
import tempfile
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pycdlib
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows import profiles
from vm.windows.images.answer_media import (
    LABEL,
    answer_files,
    check_virtio_media,
    setup_scripts,
    shipped_guest_module,
    write_answer_media,
)
from vm.windows.images.credentials import new_credentials
from vm.windows.images.setup_data import setup_data
from vm.windows.images.unattend import needed_virtio_drivers, virtio_drivers
from vm.windows.profiles.profile import DiskBus

MODULE = {"NtproofGuest.psm1": b"module\n", "NtproofGuest.psd1": b"manifest\n"}
WIN11 = profiles.load("win11")
SERVER = profiles.load("server2022")


def read_back(path):
    """Files of an ISO by their Joliet path."""
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    found = {}
    for folder, _, names in iso.walk(joliet_path="/"):
        for name in names:
            content = io.BytesIO()
            place = f"{folder.rstrip('/')}/{name}"
            iso.get_file_from_iso_fp(content, joliet_path=place)
            found[place.lstrip("/")] = content.getvalue()
    label = iso.pvd.volume_identifier.decode().strip()
    iso.close()
    return label, found


def test_the_guest_finds_answers_scripts_and_data(tmp_path):
    files = answer_files(WIN11, new_credentials(WIN11), image_index=6, guest_module=MODULE)
    write_answer_media(tmp_path / "answers.iso", files)

    label, found = read_back(tmp_path / "answers.iso")
    assert label == LABEL
    assert found == files
    assert {
        "autounattend.xml",
        "ntproof/setup.ps1",
        "ntproof/steps/90-seal.ps1",
        "ntproof/guest/NtproofGuest.psm1",
    } <= set(found)
    assert json.loads(found["ntproof/data.json"]) == setup_data(WIN11, guest_module="NtproofGuest")


def test_only_the_owner_may_read_it(tmp_path):
    write_answer_media(tmp_path / "answers.iso", {"a.txt": b"a"})

    assert stat.S_IMODE((tmp_path / "answers.iso").stat().st_mode) == 0o600


def test_an_older_medium_is_replaced(tmp_path):
    for content in (b"one", b"two"):
        write_answer_media(tmp_path / "answers.iso", {"a.txt": content})

    assert read_back(tmp_path / "answers.iso")[1] == {"a.txt": b"two"}
    assert [path.name for path in tmp_path.iterdir()] == ["answers.iso"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", "a" * 65, "a:b", "a//b", "", "a*b", "."])
def test_a_name_that_windows_does_not_take_is_refused(tmp_path, name):
    with pytest.raises(MachineConfigurationError, match="cannot be a file on the answer medium"):
        write_answer_media(tmp_path / "answers.iso", {name: b""})


def test_a_folder_that_is_missing_is_an_error_of_the_machine(tmp_path):
    with pytest.raises(MachineBroken, match="the answer medium was not written"):
        write_answer_media(tmp_path / "none" / "answers.iso", {"a.txt": b"a"})


def test_scripts_have_the_line_ends_of_windows():
    scripts = setup_scripts()

    assert {"setup.ps1", "common.ps1", "steps/10-system.ps1"} <= set(scripts)
    assert all(content.count(b"\n") == content.count(b"\r\n") > 3 for content in scripts.values())


def test_the_ssh_package_travels_with_the_scripts(tmp_path):
    package = tmp_path / "OpenSSH-Win64-v9.msi"
    package.write_bytes(b"msi")
    files = answer_files(WIN11, new_credentials(WIN11), image_index=1, openssh_package=package)

    assert files["ntproof/openssh.msi"] == b"msi"
    assert json.loads(files["ntproof/data.json"])["openssh_package"] == "openssh.msi"


def test_an_ssh_package_that_is_missing_is_named(tmp_path):
    with pytest.raises(MachineConfigurationError, match=r"--openssh .*none\.msi: No such file"):
        answer_files(WIN11, new_credentials(WIN11), image_index=1, openssh_package=tmp_path / "none.msi")


@pytest.mark.parametrize("profile", profiles.shipped().all(), ids=lambda profile: profile.name)
def test_no_secret_is_in_what_the_scripts_are_told(profile):
    credentials = new_credentials(profile)
    files = answer_files(profile, credentials, image_index=1)

    for secret in credentials.secrets():
        assert not [name for name, content in files.items() if secret.reveal().encode() in content]
        assert secret.reveal().encode("utf-16-le") not in b"".join(files.values())


def script_texts():
    folder = Path(str(resources.files("vm.windows.images") / "setup"))
    return [path.read_text(encoding="ascii") for path in folder.rglob("*.ps1")]


def test_scripts_read_exactly_the_data_that_they_are_told():
    """A value that no script reads is dead, and one that is missing fails only in the guest."""
    used = set(re.findall(r"\$[dD]ata\.(\w+(?:\.\w+)?)", "\n".join(script_texts())))
    told = set()
    for key, value in setup_data(WIN11).items():
        told |= {f"{key}.{below}" for below in value} if isinstance(value, dict) else {key}

    assert used == told


def virtio_iso(path, drivers, *, joliet=True):
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, **({"joliet": 3} if joliet else {"rock_ridge": "1.09"}))
    made = {}

    def names(parent, name, number):
        long = f"{parent[1]}/{name}"
        return (f"{parent[0]}/{number}", long)

    for driver in drivers:
        parent = ("", "")
        for part in driver.split("/"):
            key = (parent, part)
            if key not in made:
                made[key] = names(parent, part, f"D{len(made)}")
                kind = {"joliet_path": made[key][1]} if joliet else {"rr_name": part}
                iso.add_directory(made[key][0], **kind)
            parent = made[key]
        kind = {"joliet_path": f"{parent[1]}/driver.inf"} if joliet else {"rr_name": "driver.inf"}
        iso.add_fp(io.BytesIO(b"inf"), 3, f"{parent[0]}/DRIVER.INF;1", **kind)
    iso.write(str(path))
    iso.close()
    return path


def small_virtio_iso():
    with tempfile.TemporaryDirectory() as folder:
        return virtio_iso(Path(folder) / "virtio.iso", ["vioscsi/2k22/amd64"]).read_bytes()


SMALL_VIRTIO = small_virtio_iso()


# A file's version that is no number, which pycdlib tells in its own way.
@example([(SMALL_VIRTIO.index(b"DRIVER.INF;1") + len("DRIVER.INF;"), 0)])
@given(st.lists(st.tuples(st.integers(16 * 2048, len(SMALL_VIRTIO) - 1), st.integers(0, 255)), min_size=1, max_size=40))
def test_a_damaged_virtio_iso_is_a_mistake_and_no_traceback(changed):
    data = bytearray(SMALL_VIRTIO)
    for index, value in changed:
        data[index] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "virtio.iso"
        path.write_bytes(data)
        try:
            check_virtio_media(path, VIRTIO)
        except MachineConfigurationError as error:
            message = str(error)
        else:
            message = "taken"

    assert message == "taken" or "virtio.iso" in message


VIRTIO = replace(SERVER, hardware=replace(SERVER.hardware, disk_bus=DiskBus.VIRTIO_SCSI))


@pytest.mark.parametrize("joliet", [True, False])
def test_a_virtio_iso_with_the_drivers_is_taken(tmp_path, joliet):
    check_virtio_media(virtio_iso(tmp_path / "virtio.iso", virtio_drivers(VIRTIO), joliet=joliet), VIRTIO)


def test_a_driver_that_only_helps_may_be_missing(tmp_path):
    check_virtio_media(virtio_iso(tmp_path / "virtio.iso", needed_virtio_drivers(VIRTIO)), VIRTIO)


@pytest.mark.parametrize("joliet", [True, False])
def test_a_driver_that_is_missing_is_named(tmp_path, joliet):
    path = virtio_iso(tmp_path / "virtio.iso", ["fwcfg/2k22/amd64"], joliet=joliet)

    with pytest.raises(
        MachineConfigurationError, match=r"no driver in vioscsi/2k22/amd64; give a newer virtio-win ISO"
    ):
        check_virtio_media(path, VIRTIO)


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), (b"no iso", "give the virtio-win ISO")])
def test_what_is_no_virtio_iso_is_named(tmp_path, content, message):
    path = tmp_path / "virtio.iso"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(MachineConfigurationError, match=message):
        check_virtio_media(path, VIRTIO)


def test_an_iso_without_long_names_is_refused(tmp_path):
    iso = pycdlib.PyCdlib()
    iso.new()
    iso.write(str(tmp_path / "virtio.iso"))
    iso.close()

    with pytest.raises(MachineConfigurationError, match="it has no long names"):
        check_virtio_media(tmp_path / "virtio.iso", VIRTIO)


def test_the_module_that_remoting_imports_travels_byte_for_byte():
    """Remoting knows the module by a hash of its bytes."""
    module = shipped_guest_module()
    files = answer_files(WIN11, new_credentials(WIN11), image_index=1, guest_module=module)

    assert {f"ntproof/guest/{name}": content for name, content in module.items()}.items() <= files.items()
    assert json.loads(files["ntproof/data.json"])["guest_module"] == ("NtproofGuest" if module else "")
