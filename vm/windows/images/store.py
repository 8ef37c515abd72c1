"""The store of images: one folder each, sealed read-only, its credentials in a file of their own.

A sealed image is held by whoever runs machines on it, with a lock that ends with its holder, so that it is not removed
under them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.images import credentials, manifest
from vm.windows.images.credentials import Credentials
from vm.windows.images.manifest import Manifest, read_manifest
from vm.windows.images.media import Progress, sha256_of, silent
from vm.windows.profiles.profile import NAME_HINT, is_name

VARIABLE: Final = "NTPROOF_IMAGE_DIR"
BUILDS: Final = ".builds"
DISK: Final = "disk.qcow2"
NVRAM: Final = "nvram.fd"
ROOM_TO_INSTALL: Final = 20 * 10**9
"""Bytes that the disk of a fresh Windows takes, with what setup writes and removes again."""
SEALED_FILE: Final = 0o444
SEALED_FOLDER: Final = 0o555
PRIVATE_FOLDER: Final = 0o700
PRIVATE_FILE: Final = 0o600


@dataclass(frozen=True)
class Image:
    """A sealed image.

    Attributes:
        folder: where it is.
        manifest: what is known of it.
    """

    folder: Path
    manifest: Manifest

    @property
    def disk(self) -> Path:
        """The disk; every machine works on an overlay of it."""
        return self.folder / DISK

    @property
    def nvram(self) -> Path | None:
        """The firmware's variables, None for BIOS."""
        path = self.folder / NVRAM
        return path if any(file.name == NVRAM for file in self.manifest.files) else None

    def credentials(self) -> Credentials:
        """The accounts of the guest.

        Raises:
            MachineConfigurationError: the file is missing, damaged, or others can read it.
        """
        return credentials.load(self.folder)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the image from being removed; ends with this process at the latest.

        Raises:
            MachineBroken: it is being removed.
        """
        with _locked(self.folder / manifest.FILE_NAME, fcntl.LOCK_SH, f"image {self.manifest.name!r} is being removed"):
            yield


class ImageStore:
    """The images in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ImageStore:
        """The store that the environment names: NTPROOF_IMAGE_DIR, else the user's data folder (XDG Base Directory).

        Raises:
            MachineConfigurationError: neither is known.
        """
        given = environment.get(VARIABLE)
        if given:
            return cls(Path(given).absolute())
        data = environment.get("XDG_DATA_HOME", "")
        if not os.path.isabs(data):  # noqa: PTH117 - the specification says to ignore relative ones; "" is no Path
            home = environment.get("HOME")
            if not home:
                raise MachineConfigurationError(f"no folder for images: set {VARIABLE}, or HOME")
            data = f"{home}/.local/share"
        return cls(Path(data) / "ntproof" / "images")

    def names(self) -> tuple[str, ...]:
        """Names of the sealed images, also of those that are damaged."""
        try:
            return tuple(sorted(path.name for path in self.root.iterdir() if path.is_dir() and is_name(path.name)))
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise MachineConfigurationError(
                f"{self.root}: {error.strerror}; set {VARIABLE} to another folder"
            ) from error

    def unfinished(self) -> tuple[str, ...]:
        """Names of the builds that are not sealed yet."""
        try:
            return tuple(sorted(path.name for path in (self.root / BUILDS).iterdir() if is_name(path.name)))
        except OSError:
            return ()

    def open(self, name: str) -> Image:
        """A sealed image.

        Raises:
            MachineConfigurationError: there is none of that name, or its manifest is damaged.
        """
        _check_name(name)
        folder = self.root / name
        if not folder.is_dir():
            there = ", ".join(self.names()) or "none yet"
            raise MachineConfigurationError(
                f"there is no image {name!r} in {self.root} (there: {there}); make it with: ntproof image build"
            )
        found = read_manifest(folder / manifest.FILE_NAME)
        if found.name != name:
            raise MachineConfigurationError(f"{folder}: its manifest is of {found.name!r}; rename the folder back")
        return Image(folder, found)

    def verify(self, name: str, progress: Progress = silent) -> tuple[str, ...]:
        """What is wrong with an image: contents, modes, credentials. Empty when nothing is.

        Raises:
            MachineConfigurationError: there is no image of that name, or its manifest is damaged.
        """
        image = self.open(name)
        return tuple(_wrong(image, progress))

    def build_folder(self, name: str) -> Path:
        """The folder of an unfinished build, made if it is not there; nobody else may look into it.

        Raises:
            MachineConfigurationError: the name is none, or an image has it.
            MachineBroken: the folder cannot be made.
        """
        _check_name(name)
        if (self.root / name).exists():
            raise MachineConfigurationError(
                f"there is an image {name!r} already; remove it with: ntproof image remove {name}, or give --name"
            )
        folder = self.root / BUILDS / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(PRIVATE_FOLDER)
        except OSError as error:
            raise MachineBroken(
                f"{folder}: {error.strerror}; set {VARIABLE} to a folder that can be written"
            ) from error
        return folder

    @contextmanager
    def building(self, name: str) -> Iterator[Path]:
        """The folder of an unfinished build, which no other build of this name uses until the end of the context.

        Raises:
            MachineConfigurationError: as for `build_folder`.
            MachineBroken: likewise, or another process builds it.
        """
        with self._build_lock(name):
            yield self.build_folder(name)

    @contextmanager
    def _build_lock(self, name: str) -> Iterator[None]:
        _check_name(name)
        # Beside the build's folder, which is moved or removed under the lock. No image and no build has such a name.
        path = self.root / BUILDS / f"{name}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(PRIVATE_FILE)
        except OSError as error:
            raise MachineBroken(f"{path}: {error.strerror}; set {VARIABLE} to a folder that can be written") from error
        with _locked(path, fcntl.LOCK_EX, f"another process builds image {name!r}; wait for it or end it"):
            yield

    def admit(self, folder: Path, content: Manifest) -> Image:
        """Seal a finished folder and take it into the store, all or nothing.

        Args:
            folder: holds the files that the manifest names, and the credentials.
            content: the manifest.

        Raises:
            MachineConfigurationError: an image has that name already.
            MachineBroken: the folder cannot be sealed.
        """
        target = self.root / content.name
        try:
            manifest.save_manifest(content, folder)
            for file in (*(file.name for file in content.files), manifest.FILE_NAME):
                (folder / file).chmod(SEALED_FILE)
            # A folder that cannot be written cannot be moved either, so that it is closed afterwards.
            os.rename(folder, target)  # noqa: PTH104 - Path.rename would say the same; os.rename refuses a full target
            target.chmod(SEALED_FOLDER)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise MachineConfigurationError(f"there is an image {content.name!r} already; remove it") from error
            raise MachineBroken(f"{folder}: {error.strerror}; the image was not sealed") from error
        return Image(target, content)

    def remove(self, name: str) -> None:
        """Remove an image, also a damaged one.

        Raises:
            MachineConfigurationError: there is none of that name.
            MachineBroken: machines run on it, or it cannot be removed.
        """
        _check_name(name)
        folder = self.root / name
        if not folder.is_dir():
            raise MachineConfigurationError(f"there is no image {name!r} in {self.root}: {', '.join(self.names())}")
        path = folder / manifest.FILE_NAME
        busy = f"machines run on image {name!r}; end them first"
        if path.is_file():
            with _locked(path, fcntl.LOCK_EX, busy):
                self._remove_folder(folder)
        else:
            self._remove_folder(folder)

    def discard_build(self, name: str) -> None:
        """Remove an unfinished build.

        Raises:
            MachineConfigurationError: there is none of that name.
            MachineBroken: it cannot be removed, or a process builds it.
        """
        _check_name(name)
        if name not in self.unfinished():
            raise MachineConfigurationError(f"there is no unfinished build {name!r}: {', '.join(self.unfinished())}")
        with self._build_lock(name):
            self._remove_folder(self.root / BUILDS / name)

    @staticmethod
    def _remove_folder(folder: Path) -> None:
        try:
            folder.chmod(PRIVATE_FOLDER)
            shutil.rmtree(folder)
        except OSError as error:
            raise MachineBroken(f"{folder}: {error.strerror}; remove it by hand") from error


def _check_name(name: str) -> None:
    if not is_name(name):
        raise MachineConfigurationError(f"{name!r} is no name of an image: {NAME_HINT}")


def _wrong(image: Image, progress: Progress) -> Iterator[str]:
    mode = stat.S_IMODE(image.folder.stat().st_mode)
    if mode != SEALED_FOLDER:
        yield f"{image.folder}: mode {mode:o}, sealed it has {SEALED_FOLDER:o}"
    total, done = image.manifest.size, 0
    for file in image.manifest.files:
        path = image.folder / file.name
        try:
            status = path.stat()
        except OSError as error:
            yield f"{path}: {error.strerror}"
            continue
        if stat.S_IMODE(status.st_mode) & 0o222:
            yield f"{path}: can be written (mode {stat.S_IMODE(status.st_mode):o})"
        if status.st_size != file.size:
            yield f"{path}: {status.st_size} bytes, sealed it had {file.size}"
            continue
        if sha256_of(path, partial(_advance, progress, done, total)) != file.sha256:
            yield f"{path}: its content changed since it was sealed"
        done += file.size
    known = {file.name for file in image.manifest.files} | {manifest.FILE_NAME, credentials.FILE_NAME}
    yield from (f"{path}: does not belong to the image" for path in image.folder.iterdir() if path.name not in known)
    try:
        image.credentials()
    except MachineConfigurationError as error:
        yield str(error)


def _advance(progress: Progress, before: int, total: int, done: int, _of: int) -> None:
    progress(before + done, total)


@contextmanager
def _locked(path: Path, kind: int, busy: str) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise MachineBroken(f"{path}: {error.strerror}; {busy}") from error
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MachineBroken(busy) from error
        yield
    finally:
        os.close(descriptor)
