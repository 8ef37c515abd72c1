"""What is put into a guest once, before anything is saved of it: the programs that act there."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path
from typing import Final

from vm.errors import MachineConfigurationError
from vm.registry import GuestProgramFiles

FOLDER: Final = "C:\\ntproof"
NTGUEST: Final = f"{FOLDER}\\ntguest.exe"
CHILD: Final = f"{FOLDER}\\child.exe"
ELEVATION_MANIFEST: Final = f"{FOLDER}\\elevated.manifest"
"""Beside an executable, under its name and ``.manifest``, it makes the executable ask for elevation: Microsoft Learn,
"Application manifests". An executable without a manifest of its own is read so."""
MANIFEST_SUFFIX: Final = ".manifest"
_MANIFEST_FILE: Final = "elevated.manifest"


def guest_files(programs: GuestProgramFiles) -> dict[str, Path]:
    """The host's files by their path in the guest."""
    folder = resources.files(__package__)
    manifest = folder / _MANIFEST_FILE
    assert isinstance(manifest, Path)
    return {NTGUEST: programs.ntguest, CHILD: programs.child, ELEVATION_MANIFEST: manifest}


def content_key(files: dict[str, Path]) -> str:
    """A hash of all contents with their paths: a saved guest that holds these files is worth keeping.

    Raises:
        MachineConfigurationError: a file cannot be read.
    """
    total = hashlib.sha256()
    for path, source in sorted(files.items()):
        try:
            content = source.read_bytes()
        except OSError as error:
            raise MachineConfigurationError(f"{source} cannot be read: {error.strerror}") from error
        total.update(path.encode() + b"\0" + hashlib.sha256(content).digest())
    return total.hexdigest()
