"""Tests of the store: sealed, verified, held while in use, and every mistake is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.windows.test_image_build import Workshop
from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.images.store import DISK, ImageStore

NAME = "win11-24h2"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def images(tmp_path):
    made = Workshop(tmp_path)
    made.build()
    return made.images


def unseal(images, name):
    path = images.root / NAME / name
    path.parent.chmod(0o755)
    path.chmod(0o644)
    return path


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"NTPROOF_IMAGE_DIR": "/images", "HOME": "/h"}, "/images"),
        ({"XDG_DATA_HOME": "/data", "HOME": "/h"}, "/data/ntproof/images"),
        ({"XDG_DATA_HOME": "relative", "HOME": "/h"}, "/h/.local/share/ntproof/images"),
        ({"NTPROOF_IMAGE_DIR": "", "HOME": "/h"}, "/h/.local/share/ntproof/images"),
    ],
)
def test_the_environment_names_the_store(environment, expected):
    assert ImageStore.from_environment(environment).root == Path(expected)


def test_a_store_without_a_home_is_an_error():
    with pytest.raises(MachineConfigurationError, match="set NTPROOF_IMAGE_DIR, or HOME"):
        ImageStore.from_environment({})


def test_an_empty_store_has_no_images(tmp_path):
    store = ImageStore(tmp_path / "none")

    assert store.names() == ()
    assert store.unfinished() == ()
    with pytest.raises(MachineConfigurationError, match=r"no image 'win11' in .*\(there: none yet\); make it with"):
        store.open("win11")


def test_a_store_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(MachineConfigurationError, match="Not a directory; set NTPROOF_IMAGE_DIR"):
        ImageStore(tmp_path / "file").names()


@pytest.mark.parametrize("name", ["..", "../x", "", "A", "a/b", ".builds"])
@pytest.mark.parametrize("method", ["open", "verify", "remove", "build_folder", "discard_build"])
def test_a_name_is_never_a_path(tmp_path, method, name):
    with pytest.raises(MachineConfigurationError, match="is no name of an image"):
        getattr(ImageStore(tmp_path), method)(name)


def test_a_sealed_image_is_read_only(images):
    folder = images.root / NAME
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}

    assert folder.stat().st_mode & 0o777 == 0o555
    assert modes.pop("credentials.json") == 0o600
    assert set(modes.values()) == {0o444}


def test_a_manifest_that_was_closed_already_is_replaced_and_not_written(tmp_path, monkeypatch):
    """As when sealing was interrupted between its parts: an ordinary user cannot write to what is read-only."""
    workshop = Workshop(tmp_path)

    class Stopped(BaseException):
        pass

    def stop(source, target):
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", stop)
        with pytest.raises(Stopped):
            workshop.build()
    closed = tmp_path / "images" / ".builds" / NAME / "manifest.json"
    assert closed.stat().st_mode & 0o777 == 0o444
    (tmp_path / "other-name").hardlink_to(closed)
    workshop.build()

    assert (tmp_path / "other-name").stat().st_nlink == 1
    assert workshop.images.verify(NAME) == ()


def test_a_changed_byte_is_found(images):
    with unseal(images, DISK).open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"!")

    found = images.verify(NAME)
    assert [line for line in found if "disk.qcow2: its content changed since it was sealed" in line]
    assert [line for line in found if "can be written (mode 644)" in line]
    assert [line for line in found if "mode 755, sealed it has 555" in line]


def test_every_other_damage_is_found(images):
    unseal(images, DISK).write_bytes(b"short")
    unseal(images, "nvram.fd").unlink()
    (images.root / NAME / "stranger").write_text("x")
    (images.root / NAME / "credentials.json").chmod(0o644)

    found = "\n".join(images.verify(NAME))
    assert "5 bytes, sealed it had" in found
    assert "nvram.fd: No such file" in found
    assert "stranger: does not belong to the image" in found
    assert "others can read it" in found


def test_progress_goes_to_the_end_of_all_files(images):
    told = []
    images.verify(NAME, lambda done, total: told.append((done, total)))

    assert told[-1] == (images.open(NAME).manifest.size,) * 2
    assert told == sorted(told)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.update(version=2), "format version 2; this ntproof reads 1"),
        (lambda value: value.update(name="other"), "its manifest is of 'other'"),
        (lambda value: value.pop("guest"), "'guest' is missing"),
        (lambda value: value["files"][0].update(name="../x"), r"files\.0\.name"),
        (lambda value: value["files"][0].update(size=-1), r"files\.0\.size"),
        (lambda value: value["profile"]["hardware"].update(cpus=0), r"profile\.hardware\.cpus"),
        (lambda value: value["observed"].update(a=1), r"observed\.a: expected a text"),
    ],
)
def test_a_damaged_manifest_is_named_with_its_key(images, change, message):
    path = unseal(images, "manifest.json")
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))

    with pytest.raises(MachineConfigurationError, match=message):
        images.open(NAME)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_manifest_that_is_none_is_named(images, content):
    unseal(images, "manifest.json").write_text(content)

    with pytest.raises(MachineConfigurationError, match=r"manifest\.json"):
        images.open(NAME)


def test_an_image_is_removed_also_when_it_is_damaged(images):
    unseal(images, "manifest.json").unlink()
    images.remove(NAME)

    assert images.names() == ()
    with pytest.raises(MachineConfigurationError, match="there is no image"):
        images.remove(NAME)


def test_an_image_in_use_is_not_removed(images):
    image = images.open(NAME)
    with image.hold(), pytest.raises(MachineBroken, match="machines run on image 'win11-24h2'; end them first"):
        images.remove(NAME)
    images.remove(NAME)


def test_a_hold_ends_with_the_process_that_has_it(images):
    source = (
        "import sys, pathlib; from vm.windows.images.store import ImageStore\n"
        "with ImageStore(pathlib.Path(sys.argv[1])).open(sys.argv[2]).hold():\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", source, str(images.root), NAME]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(MachineBroken, match="end them first"):
            images.remove(NAME)
        holder.kill()
        holder.wait()
    images.remove(NAME)


def test_an_unfinished_build_is_discarded(tmp_path):
    store = ImageStore(tmp_path)
    (store.build_folder("win11") / "answers.iso").write_bytes(b"secret")
    store.discard_build("win11")

    assert store.unfinished() == ()
    with pytest.raises(MachineConfigurationError, match="there is no unfinished build 'win11'"):
        store.discard_build("win11")


def test_a_build_that_runs_is_neither_discarded_nor_begun_again(tmp_path):
    store = ImageStore(tmp_path)
    with store.building("win11") as folder:
        (folder / "disk.qcow2").write_bytes(b"Windows")
        with pytest.raises(MachineBroken, match="another process builds image 'win11'; wait for it or end it"):
            store.discard_build("win11")
        with pytest.raises(MachineBroken, match="another process builds image 'win11'"), store.building("win11"):
            pass
        assert (folder / "disk.qcow2").exists()
        assert store.unfinished() == ("win11",)

    store.discard_build("win11")
    assert store.unfinished() == ()


def test_nobody_else_looks_into_a_build(tmp_path):
    assert ImageStore(tmp_path).build_folder("win11").stat().st_mode & 0o777 == 0o700


def test_a_store_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(MachineBroken, match="set NTPROOF_IMAGE_DIR to a folder that can be written"):
        ImageStore(tmp_path / "file").build_folder("win11")
