"""Media and image files that other tools wrote are read here as those tools mean them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.windows_media import Media
from vm.windows.images.media import copy_without_prompt, key_prompt_patches, list_images
from vm.windows.images.udf import UdfReader
from vm.windows.images.wim import AMD64, read_images
from vm.windows.profiles.profile import Firmware


def tool(name: str, package: str) -> str:
    """A program; a build server must have it."""
    found = shutil.which(name)
    if found is None:
        message = f"{name} is missing: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def install_wim(tmp_path):
    """An image file that wimlib wrote, with the properties of a Windows image."""
    wimlib = tool("wimlib-imagex", "wimtools")
    content = tmp_path / "content"
    content.mkdir()
    (content / "ntoskrnl.txt").write_text("x" * 100_000)
    path = tmp_path / "install.wim"
    run(wimlib, "capture", content, path, "Windows 11 Home", "--compress=LZX", "--image-property", "WINDOWS/ARCH=9")
    properties = {
        "DISPLAYNAME": "Windows 11 Pro",
        "WINDOWS/ARCH": "9",
        "WINDOWS/EDITIONID": "Professional",
        "WINDOWS/LANGUAGES/LANGUAGE": "en-US",
        "WINDOWS/VERSION/BUILD": "26100",
        "WINDOWS/VERSION/SPBUILD": "1742",
    }
    options = [part for key, value in properties.items() for part in ("--image-property", f"{key}={value}")]
    run(wimlib, "append", content, path, "Windows 11 Pro", *options)
    return path


@pytest.fixture
def iso(tmp_path, install_wim):
    """A bridge of ISO 9660 and UDF 1.02 that genisoimage wrote: the UDF revision of Microsoft's own media."""
    genisoimage = tool("genisoimage", "genisoimage")
    folder = tmp_path / "medium"
    for name, content in Media.windows().files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    shutil.copy(install_wim, folder / "sources" / "install.wim")
    path = tmp_path / "windows.iso"
    bios = ["-b", "boot/etfsboot.com", "-no-emul-boot", "-boot-load-size", "8"]
    run(genisoimage, "-quiet", "-udf", "-iso-level", "3", "-o", path, *bios, folder)
    return path


def test_wimlib_and_this_reader_agree_on_the_images(install_wim):
    data = install_wim.read_bytes()
    first, second = read_images(len(data), lambda start, length: data[start : start + length])

    assert (first.index, first.name, first.display_name, first.build) == (1, "Windows 11 Home", "Windows 11 Home", 0)
    assert (second.index, second.name, second.display_name) == (2, "Windows 11 Pro", "Windows 11 Pro")
    assert (second.architecture, second.edition, second.build, second.revision) == (AMD64, "Professional", 26100, 1742)
    assert second.languages == ("en-US",)


def test_a_medium_of_genisoimage_is_read_to_the_last_byte(iso, tmp_path):
    with iso.open("rb") as stream:
        reader = UdfReader(stream)
        for path in (tmp_path / "medium").rglob("*"):
            entry = reader.find(str(path.relative_to(tmp_path / "medium")))
            assert entry is not None
            if path.is_file():
                assert reader.read(entry) == path.read_bytes()
    assert [image.name for image in list_images(iso)] == ["Windows 11 Home", "Windows 11 Pro"]


def test_the_copy_for_bios_differs_in_one_record_of_a_directory(iso, tmp_path):
    copy = tmp_path / "copy.iso"
    copy_without_prompt(iso, copy, Firmware.BIOS)

    ((offset, record),) = key_prompt_patches(iso, Firmware.BIOS)
    expected = bytearray(iso.read_bytes())
    expected[offset : offset + len(record)] = record
    assert copy.read_bytes() == bytes(expected)
    listing = Path(copy)
    with listing.open("rb") as stream:
        names = {entry.name for entry in UdfReader(stream).entries(UdfReader(stream).find("boot"))}
    assert names == {"bootfix.off", "etfsboot.com"}
