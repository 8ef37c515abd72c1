"""The medium beside the installation medium: answer file, set-up scripts, their data, and what else the guest needs.

It holds the passwords of the accounts that setup makes, so that only its owner may read it, and it is removed when the
image is made.
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Any, Final

from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.images import setup_data, unattend
from vm.windows.images.credentials import FILE_MODE, Credentials
from vm.windows.images.unattend_check import check
from vm.windows.profiles.profile import Profile

LABEL: Final = "NTPROOF"
GUEST_FOLDER: Final = "guest"
LONGEST_NAME: Final = 64
"""Characters of a file's name in the Joliet extension, which Windows reads."""
_PACKAGE_SIGNATURE: Final = bytes.fromhex("d0cf11e0a1b11ae1")
"""How a package of Windows Installer begins: it is a compound file ([MS-CFB] 2.2)."""
_INSTALL_HINT: Final = "install it with: pip install ntproof[windows]"


def answer_files(
    profile: Profile,
    credentials: Credentials,
    *,
    image_index: int,
    with_virtio: bool = False,
    openssh_package: Path | None = None,
    guest_module: Mapping[str, bytes] | None = None,
) -> dict[str, bytes]:
    """Content of the medium by path.

    Args:
        profile: what to install.
        credentials: accounts to make.
        image_index: number of the image in the installation medium.
        with_virtio: whether the virtio-win ISO is attached.
        openssh_package: the OpenSSH server's MSI, None where Windows brings the server.
        guest_module: files of a PowerShell module to install in the guest, by name; its manifest names the module.

    Raises:
        MachineConfigurationError: the answer file would not be accepted, or the package cannot be read.
    """
    answers = unattend.build_unattend(profile, credentials, image_index=image_index, with_virtio=with_virtio)
    wrong = check(answers)
    if wrong:
        raise MachineConfigurationError(f"profile {profile.name!r}: the answer file is wrong: {'; '.join(wrong)}")
    folder = unattend.SETUP_FOLDER
    found = {unattend.FILE_NAME: answers}
    found |= {f"{folder}/{path}": content for path, content in setup_scripts().items()}
    found |= {f"{folder}/{GUEST_FOLDER}/{name}": content for name, content in (guest_module or {}).items()}
    package = ""
    if openssh_package is not None:
        package = "openssh.msi"
        try:
            found[f"{folder}/{package}"] = openssh_package.read_bytes()
        except OSError as error:
            raise MachineConfigurationError(f"--openssh {openssh_package}: {error.strerror}; name its .msi") from error
    data = setup_data.setup_data(profile, openssh_package=package, guest_module=_module_name(guest_module or {}))
    found[f"{folder}/{setup_data.FILE_NAME}"] = json.dumps(data, indent=2, sort_keys=True).encode("utf-8")
    return found


def _module_name(files: Mapping[str, bytes]) -> str:
    """The module's name, which its manifest's file has; empty for no module."""
    return next((PurePosixPath(name).stem for name in files if name.endswith(".psd1")), "")


def shipped_guest_module() -> dict[str, bytes]:
    """Files of the module that remoting imports in a guest, byte for byte, by name; empty where it is not shipped."""
    folder = resources.files("vm.windows") / "remoting" / "guest"
    if not folder.is_dir():
        return {}
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}


def setup_scripts() -> dict[str, bytes]:
    """The set-up scripts by their path, with the line ends of Windows."""
    return dict(_scripts(resources.files("vm.windows.images") / "setup", ""))


def _scripts(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found += _scripts(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".ps1"):
            found.append((prefix + entry.name, b"\r\n".join(entry.read_bytes().splitlines()) + b"\r\n"))
    return found


def require_pycdlib() -> Any:
    """The module that writes and reads ISO images.

    Raises:
        MachineConfigurationError: it is not installed.
    """
    try:
        import pycdlib
    except ImportError as error:
        raise MachineConfigurationError(f"pycdlib is missing; {_INSTALL_HINT}") from error
    return pycdlib


def write_answer_media(target: Path, files: Mapping[str, bytes]) -> None:
    """Write an ISO image, readable by its owner only from the first moment on. It appears when it is complete.

    Args:
        target: the image.
        files: content by path with slashes.

    Raises:
        MachineConfigurationError: pycdlib is missing, or a name is too long or no name.
        MachineBroken: writing fails.
    """
    iso = require_pycdlib().PyCdlib()
    iso.new(interchange_level=3, joliet=3, vol_ident=LABEL)
    folders = {PurePosixPath("."): ""}
    for number, (name, content) in enumerate(sorted(files.items())):
        path = PurePosixPath(name)
        _check_path(path, name)
        for folder in reversed(path.parents[:-1]):
            if folder not in folders:
                folders[folder] = f"{folders[folder.parent]}/D{len(folders)}"
                iso.add_directory(folders[folder], joliet_path=f"/{folder}")
        # Names of ISO 9660 are eight capitals; Windows reads the Joliet ones.
        short = f"{folders[path.parent]}/F{number}.;1"
        iso.add_fp(io.BytesIO(content), len(content), short, joliet_path=f"/{path}")
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE)
        with open(descriptor, "w+b") as stream:  # noqa: PTH123 - Path.open takes no descriptor
            iso.write_fp(stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise MachineBroken(f"{target}: {error.strerror}; the answer medium was not written") from error
    finally:
        iso.close()


def _check_path(path: PurePosixPath, name: str) -> None:
    bad = path.is_absolute() or ".." in path.parts or not path.parts or str(path) != name
    if bad or any(len(part) > LONGEST_NAME or set(part) & set('*/:;?\\"<>|') for part in path.parts):
        raise MachineConfigurationError(f"{name!r} cannot be a file on the answer medium; give it another name")


def check_openssh_package(path: Path) -> None:
    """Check that a file can be the OpenSSH server's package, so that it is not the guest that refuses it, much later.

    Raises:
        MachineConfigurationError: it cannot be read, or it is no package of Windows Installer.
    """
    try:
        with path.open("rb") as stream:
            found = stream.read(len(_PACKAGE_SIGNATURE))
    except OSError as error:
        raise MachineConfigurationError(f"--openssh {path}: {error.strerror}; name its .msi") from error
    if found != _PACKAGE_SIGNATURE:
        raise MachineConfigurationError(
            f"--openssh {path}: no package of Windows Installer; give the OpenSSH-Win64 .msi of Win32-OpenSSH"
        )


def check_virtio_media(path: Path, profile: Profile) -> None:
    """Check that a virtio-win ISO has the drivers that a profile's machine cannot do without.

    Raises:
        MachineConfigurationError: it is no ISO, or a driver is missing.
    """
    iso = require_pycdlib().PyCdlib()
    from pycdlib.pycdlibexception import PyCdlibException

    try:
        iso.open(str(path))
        try:
            _require_drivers(iso, path, profile)
        finally:
            iso.close()
    except OSError as error:
        raise MachineConfigurationError(f"{path}: {error.strerror}; name the virtio-win ISO") from error
    except (PyCdlibException, struct.error, ValueError, IndexError) as error:
        # pycdlib checks not everything before it reads on in what is damaged.
        raise MachineConfigurationError(f"{path}: {error}; give the virtio-win ISO") from error


def _require_drivers(iso: Any, path: Path, profile: Profile) -> None:
    names = {"joliet_path": iso.has_joliet(), "rr_path": iso.has_rock_ridge()}
    kind = next((name for name, there in names.items() if there), None)
    if kind is None:
        raise MachineConfigurationError(f"{path}: it has no long names; give the virtio-win ISO")
    for driver in unattend.needed_virtio_drivers(profile):
        if not _has_driver(iso, kind, driver):
            raise MachineConfigurationError(
                f"{path}: no driver in {driver}; give a newer virtio-win ISO, or correct features.virtio_folder"
                f" of profile {profile.name!r}"
            )


def _has_driver(iso: Any, kind: str, driver: str) -> bool:
    from pycdlib.pycdlibexception import PyCdlibInvalidInput

    try:
        children = list(iso.list_children(**{kind: f"/{driver}"}))
    except PyCdlibInvalidInput:
        return False
    encoding = "utf-16-be" if kind == "joliet_path" else "utf-8"
    names = [
        (child.file_identifier() if kind == "joliet_path" else child.rock_ridge.name()).decode(encoding, "replace")
        for child in children
        if child is not None and not child.is_dir()
    ]
    return any(name.lower().split(";")[0].endswith(".inf") for name in names)
