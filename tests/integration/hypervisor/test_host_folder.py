"""The folder on the hypervisor's host: files are made, copied, fetched and removed by libvirt, by several at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fixtures import tiny_linux
from vm.errors import MachineBroken
from vm.windows.hypervisor.connection import Connection
from vm.windows.hypervisor.file_marks import remove_set
from vm.windows.hypervisor.host_folder import HostFolder


@pytest.fixture
def connection(daemon):
    with Connection.open(daemon.uri) as opened:
        yield opened


@pytest.fixture
def folder(connection, tmp_path):
    opened = HostFolder(connection, tmp_path / "made" / "below")
    yield opened
    opened.close()


def test_a_folder_is_made_and_found_again_without_a_second_pool(connection, folder):
    pools = len(connection.raw.listAllStoragePools())

    again = HostFolder(connection, folder.path)

    assert folder.path.is_dir()
    assert len(connection.raw.listAllStoragePools()) == pools
    assert again.names() == ()


def test_a_folder_that_is_there_keeps_its_permissions(connection, tmp_path):
    tmp_path.chmod(0o2775)

    HostFolder(connection, tmp_path).close()

    assert tmp_path.stat().st_mode & 0o7777 == 0o2775


def test_a_pool_of_somebody_else_is_used_and_stays(connection, tmp_path):
    theirs = connection.raw.storagePoolCreateXML(
        f"<pool type='dir'><name>theirs</name><target><path>{tmp_path}</path></target></pool>", 0
    )
    try:
        folder = HostFolder(connection, tmp_path)
        folder.write("a.file", b"x")
        folder.close()

        assert theirs.isActive()
    finally:
        theirs.destroy()


@pytest.mark.parametrize("content", [b"", b"a", bytes(range(256)) * 8193])
def test_a_file_comes_back_as_it_was_written(folder, tmp_path, content):
    folder.write("a.file", content)

    folder.download("a.file", tmp_path / "fetched")

    assert (folder.path / "a.file").read_bytes() == content
    assert (tmp_path / "fetched").read_bytes() == content
    assert folder.read("a.file", 1 << 30) == content
    assert folder.size("a.file") == len(content)


def test_no_more_is_read_than_was_asked_for(folder):
    folder.write("long.file", b"x" * 10_000)

    assert folder.read("long.file", 100) == b"x" * 100


def test_a_file_takes_the_place_of_an_earlier_one(folder):
    folder.write("a.file", b"long before")
    folder.write("a.file", b"now")

    assert folder.read("a.file", 100) == b"now"


def test_what_is_gone_is_no_error_to_remove_and_nothing_to_read(folder):
    folder.remove("never.there")

    assert folder.read("never.there", 10) is None
    assert folder.size("never.there") is None
    with pytest.raises(MachineBroken, match=r"never\.there: there is no such file"):
        folder.download("never.there", folder.path / "x")
    with pytest.raises(MachineBroken, match=r"never\.there: it is gone"):
        folder.copy("never.there", "copy")


def test_a_file_that_somebody_else_wrote_is_seen(folder):
    (folder.path / "by.qemu").write_bytes(b"saved")

    assert folder.names() == ("by.qemu",)
    assert folder.read("by.qemu", 100) == b"saved"
    folder.remove("by.qemu")
    assert not (folder.path / "by.qemu").exists()


def test_a_file_that_somebody_else_removed_is_none(folder):
    for name in ("a.file", "b.file", "c.file"):
        folder.write(name, b"x")
        (folder.path / name).unlink()

    assert folder.read("a.file", 10) is None
    assert folder.size("b.file") is None
    folder.remove("c.file")
    assert folder.names() == ()


def test_a_set_goes_with_what_its_serial_log_was_before_it_grew_too_long(folder):
    for name in ("a-1.run.serial", "a-1.run.serial.0", "a-1.run.serial.2", "a-1.run.mark", "a-1.0123456789.save"):
        folder.write(name, b"x")

    remove_set(folder, "a-1.run", folder.names())

    assert folder.names() == ("a-1.0123456789.save",)


def test_an_overlay_stands_on_its_disk_and_has_its_size(folder):
    import json
    import subprocess

    overlay = folder.create_overlay("over.qcow2", tiny_linux.disk())

    told = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", overlay]))
    below = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", tiny_linux.disk()]))
    assert folder.size("over.qcow2") == overlay.stat().st_size < told["virtual-size"]
    assert told["full-backing-filename"] == str(tiny_linux.disk())
    assert told["backing-filename-format"] == "qcow2"
    assert told["virtual-size"] == below["virtual-size"]


@pytest.mark.parametrize("name", ["../escaped", "a/b", ".."])
def test_a_name_leads_nowhere_else(folder, name):
    with pytest.raises(MachineBroken):
        folder.write(name, b"x")

    assert not (folder.path.parent / "escaped").exists()


def test_several_work_in_one_folder_at_once(daemon, folder):
    def work(number):
        with Connection.open(daemon.uri) as own:
            mine = HostFolder(own, folder.path)
            for turn in range(10):
                mine.create_overlay(f"{number}.qcow2", tiny_linux.disk())
                mine.write(f"{number}.file", str(turn).encode())
                mine.copy(f"{number}.file", f"{number}.copy")
                assert f"{number}.copy" in mine.names()
                assert mine.read(f"{number}.copy", 10) == str(turn).encode()
            for kind in ("qcow2", "file", "copy"):
                mine.remove(f"{number}.{kind}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))

    assert folder.names() == ()


def test_a_folder_that_cannot_be_made_is_told_with_its_path(connection, tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(MachineBroken, match="file/below"):
        HostFolder(connection, Path(tmp_path / "file" / "below"))
