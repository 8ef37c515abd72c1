"""Where the project keeps its files on a hypervisor's host, and how an image's disk gets there."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.hypervisor.connection import Connection
from vm.windows.hypervisor.file_marks import name_in, write_mark
from vm.windows.hypervisor.host_folder import HostFolder
from vm.windows.hypervisor.mark import Mark
from vm.windows.hypervisor.uri import HypervisorUri
from vm.windows.images.manifest import Manifest, StoredFile
from vm.windows.images.store import DISK, Image, ImageStore

VARIABLE: Final = "NTPROOF_HYPERVISOR_DIR"
SYSTEM: Final = Path("/var/lib/libvirt/images/ntproof")
"""Below libvirt's own folder for images, where security policies let QEMU work."""
SLOTS: Final = ".slots"
"""Folder of the image store in which a session's slots are."""

COPY_PREFIX: Final = "image."
"""Begins the names of copies; no image, and so no slot, has a dot in its name."""

_KIND: Final = "qcow2"
_DESCRIPTION: Final = "complete"
_DIGITS: Final = 16
_LONGEST: Final = 4096


def host_folder(uri: HypervisorUri, store: Path, environment: Mapping[str, str]) -> Path:
    """The project's folder on the hypervisor's host.

    Args:
        uri: the hypervisor.
        store: the folder of the image store here.
        environment: NTPROOF_HYPERVISOR_DIR names another one.

    Raises:
        MachineConfigurationError: none is known.
    """
    given = environment.get(VARIABLE)
    if given:
        if not Path(given).is_absolute():
            raise MachineConfigurationError(f"{VARIABLE}={given}: give an absolute path on the hypervisor's host")
        return Path(given)
    if not uri.is_session:
        return SYSTEM
    if not uri.is_local:
        raise MachineConfigurationError(
            f"{uri.text}: set {VARIABLE} to a folder on {uri.host} in which that user may write"
        )
    return store / SLOTS


def open_folder(connection: Connection, store: Path, environment: Mapping[str, str]) -> HostFolder:
    """Open it; arguments and errors as `host_folder`, and MachineBroken when it cannot be made."""
    uri = connection.uri
    # QEMU is another user where it is not this one's: it has to pass through, and may still not list.
    return HostFolder(connection, host_folder(uri, store, environment), passable=not uri.is_session)


def is_usable_in_place(uri: HypervisorUri, path: Path) -> bool:
    """Whether the user that runs QEMU can read a file of this computer where it is.

    Args:
        uri: the hypervisor.
        path: the file.
    """
    if not uri.is_local:
        return False
    if uri.is_session:
        return True
    try:
        folders = all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)
        return folders and bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def copies_of(store: ImageStore) -> Mapping[str, str | None] | None:
    """The copy of each image of a store by the image's name: its set of files, None where the image cannot be read.

    None as a whole where there is no store: it may be on a disk that is not mounted, or named only elsewhere.
    """
    if not store.root.is_dir():
        return None
    found: dict[str, str | None] = {}
    for name in store.names():
        try:
            stored = _stored_disk(store.open(name).manifest)
        except MachineConfigurationError:
            stored = None
        found[name] = None if stored is None else _copy_name(stored)
    return found


def _stored_disk(manifest: Manifest) -> StoredFile | None:
    return next((file for file in manifest.files if file.name == DISK), None)


def _copy_name(disk: StoredFile) -> str:
    return f"{COPY_PREFIX}{disk.sha256[:_DIGITS]}"


class ImageOnHost:
    """An image's disk on the hypervisor's host: the file itself where QEMU can read it, else a copy by its hash.

    Args:
        connection: to the hypervisor.
        folder: the project's folder there.
        image: the image.
    """

    def __init__(self, connection: Connection, folder: HostFolder, image: Image) -> None:
        self._in_place = is_usable_in_place(connection.uri, image.disk)
        self._folder = folder
        self._image = image
        stored = _stored_disk(image.manifest)
        if stored is None:
            raise MachineConfigurationError(f"image {image.manifest.name!r} has no {DISK}; build it anew")
        self._stored = stored
        self.copy_name = _copy_name(stored)
        """The copy's set of files, also the name of the lease under which it is made."""

    def find(self) -> Path | None:
        """The disk's path there, None where it has to be copied first.

        Raises:
            MachineBroken: the hypervisor failed.
        """
        if self._in_place:
            return self._image.disk.resolve()
        content = self._folder.read(name_in(self.copy_name, _DESCRIPTION), _LONGEST)
        disk = name_in(self.copy_name, _KIND)
        if content != self._description() or self._folder.size(disk) != self._stored.size:
            return None
        return self._folder.path_of(disk)

    def send(self, mark: Mark, tell: Callable[[str], None]) -> Path:
        """Copy it there. One does so at a time.

        Args:
            mark: the copy's mark.
            tell: is told what takes long.

        Raises:
            MachineBroken: it cannot be copied; with the space that is missing.
        """
        need, free = self._stored.size >> 20, self._folder.free_mib()
        if free < need:
            raise MachineBroken(
                f"image {self._image.manifest.name!r}: {need} MiB, {free} are free in {self._folder.path}; free space"
            )
        tell(f"image {self._image.manifest.name}: {need} MiB are copied to the hypervisor, once")
        write_mark(self._folder, self.copy_name, mark)
        path = self._folder.upload(self._image.disk, name_in(self.copy_name, _KIND))
        self._folder.write(name_in(self.copy_name, _DESCRIPTION), self._description())
        return path

    def _description(self) -> bytes:
        """Written last: without it the copy may be a part."""
        return (json.dumps({"sha256": self._stored.sha256, "bytes": self._stored.size}) + "\n").encode()
