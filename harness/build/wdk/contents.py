"""What may hold a kit, by the names of its files: a folder, a NuGet package, a disc image. Names are never trusted."""

from __future__ import annotations

import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Protocol

from harness.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from vm.windows.images.udf import Entry, UdfReader

PACKAGE_SUFFIX: Final = ".nupkg"
DISC_SUFFIX: Final = ".iso"
_MOST_FILES: Final = 1_000_000
_DEEPEST: Final = 40
_DAMAGED_PACKAGE: Final = (
    *(zipfile.BadZipFile, zlib.error, struct.error, lzma.LZMAError),
    *(EOFError, NotImplementedError, OSError, RuntimeError, ValueError, IndexError, KeyError),
)
"""What zipfile raises of archives that are cut, garbled, encrypted or compressed in unknown ways."""
_LARGEST_FILE: Final = 1 << 30
"""Bytes; the largest import library of a public kit is a few megabytes."""


class Contents(Protocol):
    """Files by name."""

    @property
    def path(self) -> Path:
        """What was named by the user, or lies in a folder that was."""

    @property
    def in_place(self) -> bool:
        """Whether a compiler can read the files where they are."""

    @property
    def sizes(self) -> Mapping[PurePosixPath, int]:
        """Bytes by name, relative to `path`. Raises InputError for an archive that is damaged or hostile."""

    def read(self, names: Iterable[PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
        """The content of some files, one after the other. Raises InputError."""


def contents_of(path: Path) -> list[Contents]:
    """What a path holds: itself, or the packages in a folder of packages.

    Raises:
        ConfigurationError: there is no such path, or it is neither folder, package nor disc image.
        InputError: it is damaged.
    """
    if path.is_dir():
        packages = sorted(entry for entry in path.iterdir() if entry.suffix.lower() == PACKAGE_SUFFIX)
        folder = Folder(path)
        return [folder, *(Package(package) for package in packages)] if folder.sizes else [*map(Package, packages)]
    if not path.is_file():
        advice = "name an unpacked package, a .nupkg, an .iso or a kit"
        raise ConfigurationError(f"{path}: no such file or folder; {advice}")
    if path.suffix.lower() == PACKAGE_SUFFIX:
        return [Package(path)]
    if path.suffix.lower() == DISC_SUFFIX:
        return [Disc(path)]
    message = f"{path}: neither a folder nor a {PACKAGE_SUFFIX} nor an {DISC_SUFFIX}; see docs/how-to/wdk.md"
    raise ConfigurationError(message)


class Folder:
    """A folder: unpacked packages, a mounted disc, an installed kit."""

    in_place = True

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def sizes(self) -> Mapping[PurePosixPath, int]:
        """See `Contents.sizes`. Of interest here are headers, libraries, and tools for the version in their path."""

        def unreadable(error: OSError) -> None:
            raise ConfigurationError(f"{error.filename}: {error.strerror}; let your user read it") from error

        found: dict[PurePosixPath, int] = {}
        for directory, _, names in os.walk(self.path, onerror=unreadable):
            folder = PurePosixPath(Path(directory).relative_to(self.path).as_posix())
            for name in names:
                if name.lower().endswith((".h", ".lib", ".exe")):
                    found[folder / name] = _size(Path(directory, name))
        return found

    def read(self, names: Iterable[PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
        """See `Contents.read`."""
        return ((name, (self.path / name).read_bytes()) for name in names)


class Package:
    """A NuGet package, which is a ZIP archive."""

    in_place = False

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def sizes(self) -> Mapping[PurePosixPath, int]:
        """See `Contents.sizes`."""
        return {name: entry.file_size for name, entry in self._entries.items()}

    @cached_property
    def _entries(self) -> dict[PurePosixPath, zipfile.ZipInfo]:
        # Several entries may come to one name; what is read is then the one whose size was told.
        with self._open() as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > _MOST_FILES:
                raise InputError(f"{self.path}: {len(entries)} files are more than any kit has")
            return {checked_name(self.path, entry.filename): entry for entry in entries}

    def read(self, names: Iterable[PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
        """See `Contents.read`."""
        with self._open() as archive:
            for name in names:
                entry = self._entries[name]
                _require_sane(self.path, name, entry.file_size)
                yield name, archive.read(entry)

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except _DAMAGED_PACKAGE as error:
            raise InputError(f"{self.path}: damaged package: {error}; download it again") from error


class Disc:
    """A disc image with a UDF file system, as the Enterprise WDK comes."""

    in_place = False

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def sizes(self) -> Mapping[PurePosixPath, int]:
        """See `Contents.sizes`."""
        return {name: entry.size for name, entry in self._entries.items()}

    @cached_property
    def _entries(self) -> dict[PurePosixPath, Entry]:
        with self._open() as reader:
            return dict(self._walk(reader))

    def read(self, names: Iterable[PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
        """See `Contents.read`."""
        with self._open() as reader:
            for name in names:
                _require_sane(self.path, name, self.sizes[name])
                yield name, reader.read(self._entries[name])

    @contextmanager
    def _open(self) -> Iterator[UdfReader]:
        from vm.windows.images.udf import UdfError, UdfReader

        try:
            with self.path.open("rb") as stream:
                yield UdfReader(stream)
        except (UdfError, OSError, struct.error, ValueError, IndexError) as error:
            raise InputError(f"{self.path}: not a disc image that can be read: {error}; download it again") from error

    def _walk(self, reader: UdfReader) -> Iterator[tuple[PurePosixPath, Entry]]:
        waiting = [(PurePosixPath(), reader.root)]
        seen = {reader.root.extents}
        count = 0
        while waiting:
            folder, entry = waiting.pop()
            for child in reader.entries(entry):
                count += 1
                name = checked_name(self.path, str(folder / child.name))
                if count > _MOST_FILES or len(name.parts) > _DEEPEST:
                    raise InputError(f"{self.path}: more files, or deeper folders, than any kit has; at {name}")
                if child.is_folder:
                    if child.extents and child.extents in seen:
                        raise InputError(
                            f"{self.path}: the folder {name} is another one's as well; do not use this file"
                        )
                    seen.add(child.extents)
                    waiting.append((name, child))
                else:
                    yield name, child


def checked_name(archive: Path, name: str) -> PurePosixPath:
    """A name inside an archive, relative to it. NuGet stores names as URI references (Open Packaging Conventions).

    Raises:
        InputError: it leads out of the archive, or no file can have it.
    """
    from urllib.parse import unquote

    path = PurePosixPath(unquote(name))
    if path.is_absolute() or ".." in path.parts or any(character in str(path) for character in "\\:\0"):
        raise InputError(f"{archive}: the name {name!r} leads out of the archive; do not use this file")
    return path


def _require_sane(archive: Path, name: PurePosixPath, size: int) -> None:
    if size > _LARGEST_FILE:
        raise InputError(f"{archive}: {name} has {size} bytes, more than any file of a kit; do not use this file")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
