"""The installation medium: an ISO with the parts that Windows' own has, of which the set-up is the guest's own.

Its boot image with the key prompt never goes on, so that only a copy without the prompt can install anything. Its
install.wim has two images that differ in what they call themselves, as the editions of Windows do.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

from tests.fixtures.boot_programs import efi_program
from tests.fixtures.windows_media import Media, write_iso
from tests.integration.standin.guest_system import COMMAND_LINE

HOME, PRO = "Stand-in for Windows 11 Home", "Stand-in for Windows 11 Pro"
EDITIONS = {
    # Another build than the profile's: installed by mistake, it is found out by the first step of the set-up.
    HOME: {"build": 22631, "revision": 1, "edition": "Core"},
    PRO: {"build": 26100, "revision": 1742, "edition": "Professional"},
}
SECTOR = 512
_MARGIN = 4 << 20
"""Bytes for the file system itself and for small files."""


def boot_floppy(path, files, scratch):
    """A FAT file system with these files (content or a path, by path), as large as they need it."""
    sizes = [len(content) if isinstance(content, bytes) else content.stat().st_size for content in files.values()]
    sectors = -(-(sum(sizes) + _MARGIN) // (SECTOR * 32 * 16)) * 32 * 16
    path.unlink(missing_ok=True)
    _run("mformat", "-C", "-i", path, "-T", sectors, "-h", 16, "-s", 32, "::")
    made = set()
    for number, (name, content) in enumerate(files.items()):
        for folder in reversed(Path(name).parents[:-1]):
            if folder not in made:
                made.add(folder)
                _run("mmd", "-i", path, f"::/{folder}")
        source = content
        if isinstance(content, bytes):
            source = scratch / f"file-{number}"
            source.write_bytes(content)
        _run("mcopy", "-i", path, source, f"::/{name}")
    return path


def boot_files(loader, kernel, initrd):
    """What systemd-boot needs to start a kernel at once (systemd, "The Boot Loader Specification")."""
    entry = f"title Stand-in\nlinux /kernel\ninitrd /initrd\noptions {COMMAND_LINE}\n"
    return {
        "EFI/BOOT/BOOTX64.EFI": loader,
        "kernel": kernel,
        "initrd": initrd,
        "loader/loader.conf": b"timeout 0\neditor no\ndefault standin.conf\n",
        "loader/entries/standin.conf": entry.encode(),
    }


def write_medium(path, system):
    """Write the ISO for a system."""
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        scratch = Path(name)
        prompt = {"EFI/BOOT/BOOTX64.EFI": efi_program("Press any key to boot from CD or DVD....\n")}
        setup = boot_files(system.boot_loader, system.kernel, system.setup_initrd)
        files = {
            **Media.windows().files,
            "efi/microsoft/boot/efisys.bin": boot_floppy(scratch / "efisys.bin", prompt, scratch).read_bytes(),
            "efi/microsoft/boot/efisys_noprompt.bin": boot_floppy(
                scratch / "noprompt.bin", setup, scratch
            ).read_bytes(),
            "sources/install.wim": _image_file(scratch, system).read_bytes(),
        }
        partial = write_iso(path.with_suffix(".partial"), Media(files, uefi_sectors=1))
        partial.replace(path)
    return path


def _image_file(scratch, system):
    """An image for each edition; what is the same in both is in the file once."""
    target = scratch / "install.wim"
    for edition, identity in EDITIONS.items():
        content = scratch / identity["edition"]
        for name, source in boot_files(system.boot_loader, system.kernel, system.initrd).items():
            _place(content / "efi" / name, source)
        _place(content / "root.tar", system.root_archive)
        _place(content / "windows.json", json.dumps(identity).encode())
        properties = {
            "DISPLAYNAME": edition,
            "WINDOWS/ARCH": "9",
            "WINDOWS/EDITIONID": identity["edition"],
            "WINDOWS/LANGUAGES/LANGUAGE": "en-US",
            "WINDOWS/VERSION/BUILD": str(identity["build"]),
            "WINDOWS/VERSION/SPBUILD": str(identity["revision"]),
        }
        options = [part for key, value in properties.items() for part in ("--image-property", f"{key}={value}")]
        if target.exists():
            _run("wimlib-imagex", "append", content, target, edition, *options)
        else:
            _run("wimlib-imagex", "capture", content, target, edition, "--compress=none", *options)
    return target


def _place(path, source):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, bytes):
        path.write_bytes(source)
    else:
        os.link(source, path)


def _run(*command):
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
