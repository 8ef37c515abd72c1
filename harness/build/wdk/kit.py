"""A kit as it is indexed: one version, the folders of its headers and import libraries, and what is wrong with it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from harness.build.files import digest_of, sha256_file
from harness.errors import ConfigurationError, InputError

ARCHITECTURES: Final = ("x64", "arm64")
"""What drivers can be built for, by the kit's folder names."""
HEADER_PARTS: Final = ("km", "km/crt", "shared")
"""The folders below Include/VERSION that a kernel driver's compiler searches, in this order."""
VERSION: Final = re.compile(r"10\.0\.\d{4,6}(\.\d+)?\Z")
_COMPILED: Final = (".h", ".inl", ".inc", ".lib")
_KEYS: Final = {"version", "origin", "include", "libraries", "fingerprint", "state", "problems", "extracted"}


@dataclass(frozen=True)
class Kit:
    """One version of the kit.

    Attributes:
        version: such as ``10.0.26100.0``.
        origin: the paths that were added and hold it.
        include: the folders of the headers, in the order in which they are searched.
        libraries: the folders of the kernel-mode import libraries by architecture; the usable ones only.
        fingerprint: of the files' names and content, see `fingerprint_of`; it does not change with where they are.
        state: of the files when they were indexed, see `state_of`.
        problems: why it cannot be used, a sentence each with its remedy; empty when it can.
        extracted: the folder in the user's cache that archives were unpacked to, None where all is read in place.
    """

    version: str
    origin: tuple[Path, ...]
    include: tuple[Path, ...]
    libraries: Mapping[str, tuple[Path, ...]]
    fingerprint: str = ""
    state: str = ""
    problems: tuple[str, ...] = ()
    extracted: Path | None = None

    @property
    def usable(self) -> bool:
        """Whether drivers can be built with it."""
        return not self.problems

    @property
    def sort_key(self) -> tuple[int, ...]:
        """Orders kits by version."""
        return version_key(self.version)

    def library(self, name: str, architecture: str) -> Path | None:
        """An import library by its name without regard to case, None where the kit has none."""
        for folder in self.libraries.get(architecture, ()):
            found = next((path for path in _listed(folder) if path.name.lower() == name.lower()), None)
            if found is not None:
                return found
        return None

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders that a compiler or linker reads."""
        return (*self.include, *(folder for folders in self.libraries.values() for folder in folders))

    def require_unchanged(self) -> None:
        """Hold the kit to be what was indexed.

        Raises:
            ConfigurationError: a folder is not there any more, as after an unmount, or a file is another.
        """
        gone = next((folder for folder in self.folders if not folder.is_dir()), None)
        if gone is not None:
            raise ConfigurationError(
                f"kit {self.version}: {gone} is gone; bring it back (mount the image again), or run "
                f"`ntproof wdk remove {self.version}` and add the kit where it is now"
            )
        if state_of(self.folders) != self.state:
            raise ConfigurationError(
                f"kit {self.version}: its files changed since it was added; run `ntproof wdk add` again with "
                f"{', '.join(str(path) for path in self.origin)}"
            )

    def to_json(self) -> dict[str, Any]:
        """As the registry stores it and commands print it."""
        return {
            "version": self.version,
            "origin": [str(path) for path in self.origin],
            "include": [str(path) for path in self.include],
            "libraries": {name: [str(path) for path in folders] for name, folders in self.libraries.items()},
            "fingerprint": self.fingerprint,
            "state": self.state,
            "problems": list(self.problems),
            "extracted": None if self.extracted is None else str(self.extracted),
        }

    @classmethod
    def from_json(cls, document: object, where: Path) -> Self:
        """Read what `to_json` gave. Raises InputError naming the file."""
        message = f"{where}: not an index of a kit; delete it and add the kit again with `ntproof wdk add`"
        if not isinstance(document, dict) or set(document) != _KEYS:
            raise InputError(message)
        if not VERSION.match(str(document["version"])):
            raise InputError(message)
        try:
            return cls(
                version=str(document["version"]),
                origin=_paths(document["origin"]),
                include=_paths(document["include"]),
                libraries={str(name): _paths(folders) for name, folders in document["libraries"].items()},
                fingerprint=str(document["fingerprint"]),
                state=str(document["state"]),
                problems=tuple(str(problem) for problem in document["problems"]),
                extracted=None if document["extracted"] is None else Path(document["extracted"]),
            )
        except (TypeError, ValueError, AttributeError):
            raise InputError(message) from None


def state_of(folders: Iterable[Path]) -> str:
    """A digest of names, sizes and times of all files in and below some folders."""
    found = set()
    for folder in folders:
        for directory, _, names in os.walk(folder):
            for name in names:
                path = Path(directory, name)
                with contextlib.suppress(OSError):
                    status = path.stat()
                    found.add(f"{path} {status.st_size} {status.st_mtime_ns}")
    return digest_of(*sorted(found))


def fingerprint_of(folders: Iterable[Path]) -> str:
    """A digest of names and content of the headers and libraries in and below some folders, in their order.

    Raises:
        ConfigurationError: one cannot be read.
    """
    parts = []
    for number, folder in enumerate(folders):
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in _COMPILED and path.is_file():
                parts += [str(number), path.relative_to(folder).as_posix(), _content(path)]
    return digest_of(*parts)


def _content(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; let your user read it") from error


def version_key(version: str) -> tuple[int, ...]:
    """The numbers of a version."""
    return tuple(int(part) for part in version.split("."))


def _paths(value: list[str]) -> tuple[Path, ...]:
    return tuple(Path(text) for text in value)


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
