"""Real firmware starts the copied media: OVMF from the image without a prompt, SeaBIOS as before."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.boot_programs import QEMU_EXIT, bios_boot_code, efi_program
from tests.fixtures.windows_media import Media, write_iso
from vm.windows.images.media import copy_without_prompt, list_images
from vm.windows.profiles.profile import Firmware

BOOTS_WITHIN = 120
"""Seconds; emulated firmware takes some, a busy computer a multiple."""
OVMF = Path("/usr/share/OVMF/OVMF_CODE.fd")


def needed(found, what, package):
    """A build server must have it."""
    if not found:
        message = f"{what} is missing: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="module")
def qemu():
    return needed(shutil.which("qemu-system-x86_64"), "qemu-system-x86_64", "qemu-system-x86")


def boot_floppy(path, line):
    """A FAT image as Microsoft's efisys.bin is one, with a program at the place of the boot loader."""
    program = path.with_suffix(".efi")
    program.write_bytes(efi_program(line))
    mformat = needed(shutil.which("mformat"), "mformat", "mtools")
    for command in (
        [mformat, "-C", "-f", "1440", "-i", path, "::"],
        ["mmd", "-i", path, "::/EFI", "::/EFI/BOOT"],
        ["mcopy", "-i", path, program, "::/EFI/BOOT/BOOTX64.EFI"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return path.read_bytes()


@pytest.fixture(scope="module")
def iso(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    files = {
        **Media.windows().files,
        "boot/etfsboot.com": bios_boot_code("started by BIOS\n"),
        "efi/microsoft/boot/efisys.bin": boot_floppy(folder / "efisys.bin", "started with a prompt\n"),
        "efi/microsoft/boot/efisys_noprompt.bin": boot_floppy(folder / "noprompt.bin", "started without a prompt\n"),
    }
    return write_iso(folder / "windows.iso", Media(files))


def start(qemu, medium, *options):
    """What a machine writes to its serial port when it starts from a medium."""
    command = [qemu, "-accel", "tcg", "-m", "256", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]
    command += ["-drive", f"file={medium},media=cdrom,readonly=on", "-boot", "d"]
    command += ["-device", f"isa-debug-exit,iobase={QEMU_EXIT:#x},iosize=1", *options]
    done = subprocess.run(command, capture_output=True, timeout=BOOTS_WITHIN, check=False)
    return done.stdout.decode("latin-1")


def test_ovmf_starts_the_copy_without_a_prompt(qemu, iso, tmp_path):
    firmware = [
        "-machine",
        "q35",
        "-drive",
        f"if=pflash,format=raw,readonly=on,file={needed(OVMF.exists() and OVMF, 'OVMF', 'ovmf')}",
    ]
    copy = tmp_path / "copy.iso"
    copy_without_prompt(iso, copy, Firmware.UEFI)

    assert "started with a prompt" in start(qemu, iso, *firmware)
    assert "started without a prompt" in start(qemu, copy, *firmware)


def test_seabios_starts_the_copy(qemu, iso, tmp_path):
    copy = tmp_path / "copy.iso"
    copy_without_prompt(iso, copy, Firmware.BIOS)

    assert "started by BIOS" in start(qemu, copy)
    assert list_images(copy) == list_images(iso)
