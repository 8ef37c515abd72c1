"""The project's folder on a hypervisor's host, as a storage pool: the same calls whether the host is this one or not.

libvirt makes, copies and removes the files there, so nothing is asked of this computer but the connection. The pool is
transient: what libvirt knows of it ends with libvirt, the files stay.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import uuid4

import libvirt

from vm.errors import MachineBroken
from vm.windows.hypervisor import xml_fields
from vm.windows.hypervisor.connection import Connection
from vm.windows.hypervisor.devices import ImageFormat
from vm.windows.hypervisor.libvirt_errors import NO_POOL, NO_VOLUME, code_of, words_of
from vm.windows.hypervisor.xml_fields import choice, file, part, text, whole
from vm.windows.remoting.deadline import Deadline

_LOG = logging.getLogger(__name__)

_BLOCK: Final = 1 << 20
_PREFIX: Final = "ntproof-"
"""Begins the names of pools of this project."""
_PRIVATE: Final = "0700"
_PASSABLE: Final = "0711"
_TRIES: Final = 5
_BUSY: Final = "asynchronous jobs running"
"""What libvirt says then; the error has no code of its own."""
_BUSY_SECONDS: Final = 60.0
_LOOKS_EVERY: Final = 0.02


@dataclass(frozen=True)
class PoolDefinition:
    """A storage pool that is a folder ("Storage pool and volume XML format", libvirt)."""

    kind: str = text("@type", default="dir")
    name: str = text("name")
    path: Path = file("target/path")
    mode: str = text("target/permissions/mode", default=_PRIVATE)


@dataclass(frozen=True)
class VolumeBacking:
    """What an overlay stands on."""

    path: Path = file("path")
    format: ImageFormat = choice("format@type", ImageFormat)


@dataclass(frozen=True)
class VolumeDefinition:
    """A file of a pool. `capacity` is in bytes, None for that of what it stands on."""

    name: str = text("name")
    capacity: int | None = whole("capacity", default=None)
    format: ImageFormat = choice("target/format@type", ImageFormat)
    mode: str = text("target/permissions/mode", default="0600")
    backing: VolumeBacking | None = part("backingStore", VolumeBacking, default=None)


@dataclass(frozen=True)
class _Overlay:
    """What any file of a pool stands on, None for one that stands alone or is no disk."""

    name: str = text("name")
    base: Path | None = file("backingStore/path", default=None)


class HostFolder:
    """A folder on the hypervisor's host. Names are those of files directly in it.

    Args:
        connection: to the hypervisor.
        path: the folder, absolute, on the hypervisor's host; made when it is not there, and left as it is otherwise.
        passable: whether other users may reach the files in a folder that is made, those that they can read, without
            listing them.

    Raises:
        MachineBroken: it cannot be made, or is no folder.
    """

    def __init__(self, connection: Connection, path: Path, *, passable: bool = False) -> None:
        self._connection = connection
        self.path = path
        self._mode = _PASSABLE if passable else _PRIVATE
        self._pool = self._found_or_made()

    def close(self) -> None:
        """Have libvirt forget a folder that nobody else uses. The files stay, and so does a pool of the user's own."""
        with self._doing("cannot be let go"):
            if str(self._pool.name()).startswith(_PREFIX):
                self._pool.destroy()

    def path_of(self, name: str) -> Path:
        """The path of a file on the hypervisor's host."""
        return self.path / name

    def names(self) -> tuple[str, ...]:
        """Names of all files, whoever wrote them."""
        with self._doing("cannot be listed"):
            self._refresh()
            # One call: listVolumes counts first and then takes so many, of which another process changes the number.
            return tuple(sorted(str(volume.name()) for volume in self._pool.listAllVolumes()))

    def bases(self) -> dict[str, Path]:
        """The overlays in the folder by name, each with the path of what it stands on."""
        with self._doing("cannot be listed"):
            self._refresh()
            described = [str(volume.XMLDesc(0)) for volume in self._pool.listAllVolumes()]
        found = (xml_fields.read(_Overlay, xml_fields.parse(xml, "storage volume")) for xml in described)
        return {one.name: one.base for one in found if one.base is not None}

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where it does not exist. They are not the capacity of a disk in it."""
        volume = self._current(name)
        if volume is None:
            return None
        with self._doing(f"{name} cannot be measured"):
            return int(volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])

    def free_mib(self) -> int:
        """Free space in MiB."""
        with self._doing("its free space is not told"):
            self._refresh()
            return int(self._pool.info()[3]) >> 20

    def create_disk(self, name: str, gibibytes: int) -> Path:
        """Make an empty disk, qcow2, in the place of an earlier one."""
        return self._create(VolumeDefinition(name=name, capacity=gibibytes << 30, format=ImageFormat.QCOW2))

    def create_overlay(self, name: str, backing: Path) -> Path:
        """Make an empty overlay on a qcow2 disk, in the place of an earlier one.

        Args:
            name: its name.
            backing: the disk, on the hypervisor's host.
        """
        below = VolumeBacking(path=backing, format=ImageFormat.QCOW2)
        # A capacity of zero stands for that of the disk below.
        return self._create(VolumeDefinition(name=name, capacity=0, format=ImageFormat.QCOW2, backing=below))

    def copy(self, source: str, name: str) -> Path:
        """Copy a file that is no disk within the folder, in the place of an earlier one."""
        self.remove(name)
        below = self._current(source)
        if below is None:
            raise MachineBroken(
                f"{self.path_of(source)}: it is gone, although it is needed; see who removes files there"
            )
        with self._doing(f"{source} cannot be copied"):
            definition = VolumeDefinition(name=name, capacity=0, format=ImageFormat.RAW)
            self._pool.createXMLFrom(_xml(definition, "volume"), below, 0)
        return self.path_of(name)

    def upload(self, source: Path, name: str) -> Path:
        """Send a file of this computer, in the place of an earlier one.

        Raises:
            MachineBroken: it cannot be read here, or not be written there.
        """
        try:
            with source.open("rb") as content:
                return self._send(content, source.stat().st_size, name)
        except OSError as error:
            raise MachineBroken(f"{source}: {error.strerror}; it cannot be sent to the hypervisor") from error

    def write(self, name: str, content: bytes) -> Path:
        """Make a small file, in the place of an earlier one."""
        return self._send(io.BytesIO(content), len(content), name)

    def download(self, name: str, target: Path, *, append: bool = False) -> None:
        """Fetch a file to this computer.

        Args:
            name: its name.
            target: the file here.
            append: whether what `target` has stays before it.

        Raises:
            MachineBroken: there is none, or it cannot be fetched.
        """
        volume = self._current(name)
        if volume is None:
            raise MachineBroken(f"{self.path_of(name)}: there is no such file on the hypervisor's host")
        try:
            with target.open("ab" if append else "wb") as sink:
                self._fetch(volume, name, sink, 0)
        except OSError as error:
            raise MachineBroken(f"{target}: {error.strerror}; free space, or choose another folder") from error

    def read(self, name: str, limit: int) -> bytes | None:
        """The content of a small file, None where there is none.

        Args:
            name: its name.
            limit: the most bytes that are read.
        """
        volume = self._current(name)
        if volume is None:
            return None
        sink = io.BytesIO()
        self._fetch(volume, name, sink, limit)
        return sink.getvalue()

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone is no error."""
        volume = self._volume(name)
        if volume is None:
            return
        with self._doing(f"{name} cannot be removed"):
            try:
                volume.delete(0)
            except libvirt.libvirtError:
                if self._current(name) is not None:
                    raise

    def _doing(self, failed: str) -> Any:
        return self._connection.doing(f"folder {self.path}: {failed}")

    def _found_or_made(self) -> Any:
        definition = _xml(PoolDefinition(name=f"{_PREFIX}{uuid4().hex[:12]}", path=self.path, mode=self._mode), "pool")
        with self._doing("cannot be used as a storage pool"):
            for attempt in range(_TRIES):
                if (pool := self._found()) is not None:
                    return pool
                try:
                    return _begun(lambda flags: self._connection.raw.storagePoolCreateXML(definition, flags))
                except libvirt.libvirtError:
                    # Another process may have made it between the look and the making.
                    if attempt + 1 == _TRIES:
                        raise
        raise AssertionError("unreachable")

    def _found(self) -> Any:
        for pool in self._connection.raw.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_DIR):
            try:
                found = xml_fields.read(PoolDefinition, xml_fields.parse(pool.XMLDesc(0), "storage pool"))
            except libvirt.libvirtError as error:
                if code_of(error) != NO_POOL:
                    raise
                continue
            if found.path == self.path:
                if not pool.isActive():
                    _begun(pool.create)
                return pool
        return None

    def _volume(self, name: str) -> Any:
        """The object of a file, None where there is none; the folder is looked at anew before that is said."""
        with self._doing(f"{name} cannot be looked up"):
            found = self._listed(name)
            if found is None:
                self._refresh()
                found = self._listed(name)
            return found

    def _current(self, name: str) -> Any:
        """Likewise as the file is now: QEMU may have written it, or somebody removed it, behind libvirt's back."""
        with self._doing(f"{name} cannot be looked up"):
            self._refresh()
            return self._listed(name)

    def _listed(self, name: str) -> Any:
        try:
            return self._pool.storageVolLookupByName(name)
        except libvirt.libvirtError as error:
            if code_of(error) != NO_VOLUME:
                raise
        return None

    def _refresh(self) -> None:
        """Have libvirt look at the folder. It refuses while it makes a file there, which takes some milliseconds."""
        deadline = Deadline(_BUSY_SECONDS)
        while True:
            try:
                self._pool.refresh(0)
            except libvirt.libvirtError as error:
                if _BUSY not in words_of(error) or deadline.passed:
                    raise
            else:
                return
            deadline.pause(_LOOKS_EVERY)

    def _create(self, definition: VolumeDefinition) -> Path:
        self.remove(definition.name)
        with self._doing(f"{definition.name} cannot be made"):
            self._pool.createXML(_xml(definition, "volume"), 0)
        return self.path_of(definition.name)

    def _send(self, content: BinaryIO, size: int, name: str) -> Path:
        path = self._create(VolumeDefinition(name=name, capacity=size, format=ImageFormat.RAW))
        volume = self._volume(name)
        with self._doing(f"{name} cannot be written"):
            stream = self._connection.raw.newStream()
            try:
                volume.upload(stream, 0, size, 0)
                stream.sendAll(lambda _stream, count, source: source.read(min(count, _BLOCK)), content)
                stream.finish()
            except libvirt.libvirtError:
                with suppress(libvirt.libvirtError):
                    volume.delete(0)
                raise
        return path

    def _fetch(self, volume: Any, name: str, sink: BinaryIO, limit: int) -> None:
        with self._doing(f"{name} cannot be read"):
            stream = self._connection.raw.newStream()
            volume.download(stream, 0, limit, 0)
            stream.recvAll(lambda _stream, data, target: target.write(data), sink)
            stream.finish()


def _begun(begin: Callable[[int], Any]) -> Any:
    """Begin with a pool. Its folder is made only where there is none: libvirt changes the mode of one that is there."""
    try:
        return begin(0)
    except libvirt.libvirtError:
        return begin(libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD)


def _xml(definition: PoolDefinition | VolumeDefinition, tag: str) -> str:
    return xml_fields.render(xml_fields.write(definition, tag))
