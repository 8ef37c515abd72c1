"""The guest's set-up reads image files that wimlib wrote, to the last byte."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.standin.guest.wim_reader import WimFile, WrongImage
from tests.standin.requirements import require_program


@pytest.fixture
def install_wim(tmp_path):
    require_program("wimlib-imagex", "wimtools")
    content = tmp_path / "content"
    (content / "deep" / "er").mkdir(parents=True)
    (content / "root.tar").write_bytes(bytes(range(256)) * 9000)
    (content / "deep" / "er" / "file with a long name.txt").write_text("deep")
    (content / "empty").touch()
    path = tmp_path / "install.wim"
    for number, command in enumerate(("capture", "append"), 1):
        (content / "which").write_text(str(number))
        options = ["--compress=none"] if command == "capture" else []
        subprocess.run(
            ["wimlib-imagex", command, content, path, str(number), *options], check=True, capture_output=True
        )
    return path


def content_of(path, index):
    found = {}
    with path.open("rb") as stream:
        wim = WimFile(stream)
        for name, resource in wim.files(index).items():
            pieces = []
            wim.copy(resource, pieces.append)
            found[name] = b"".join(pieces)
    return found


def test_each_image_has_its_files(install_wim):
    for index in (1, 2):
        assert content_of(install_wim, index) == {
            "root.tar": bytes(range(256)) * 9000,
            "deep/er/file with a long name.txt": b"deep",
            "empty": b"",
            "which": str(index).encode(),
        }


def test_an_image_that_is_not_there_is_told(install_wim):
    with pytest.raises(WrongImage, match="no image 3: it has 2"):
        content_of(install_wim, 3)


def test_a_damaged_file_is_told(install_wim):
    data = bytearray(install_wim.read_bytes())
    data[data.index(bytes(range(256)) * 4) + 1000] ^= 1
    install_wim.write_bytes(data)

    with pytest.raises(WrongImage, match="another hash"):
        content_of(install_wim, 1)


def test_a_compressed_file_is_refused(install_wim, tmp_path):
    packed = tmp_path / "packed.wim"
    command = [shutil.which("wimlib-imagex"), "export", install_wim, "all", packed, "--compress=LZX"]
    subprocess.run(command, check=True, capture_output=True)

    with pytest.raises(WrongImage, match="compressed"):
        content_of(packed, 1)
