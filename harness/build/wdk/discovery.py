"""Which kits the files of a folder, a package or a disc image make, and what is missing of each.

Two layouts of libraries exist: ``Lib/VERSION/km/ARCHITECTURE`` of an installed kit and of the WDK packages, and
``km/ARCHITECTURE`` without a version, as the SDK packages have it with ``um/ARCHITECTURE``; the version is then that of
the headers or tools beside it. Headers always lie in ``Include/VERSION``. Letters of either case are the same.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final

from harness.build.wdk.contents import Contents
from harness.build.wdk.kit import ARCHITECTURES, HEADER_PARTS, Kit, fingerprint_of, state_of, version_key

_VERSION: Final = r"(?P<version>10\.0\.\d{4,6}\.\d+)"
_HEADER: Final = re.compile(rf"(?:.*/)?include/{_VERSION}/(?P<part>km/crt|km|shared)/(?P<file>.+\.h)\Z", re.IGNORECASE)
_LIBRARY: Final = re.compile(rf"(?:.*/)?lib/{_VERSION}/km/(?P<arch>\w+)/(?P<file>[^/]+\.lib)\Z", re.IGNORECASE)
_PLAIN_LIBRARY: Final = re.compile(r"(?P<root>(?:.*/)?)km/(?P<arch>\w+)/(?P<file>[^/]+\.lib)\Z", re.IGNORECASE)
_BESIDE: Final = re.compile(rf"(?P<root>(?:.*/)?)(?:include|bin|lib)/{_VERSION}/", re.IGNORECASE)
_NEEDED_HEADERS: Final[Mapping[str, tuple[str, ...]]] = {
    "km": ("wdm.h", "ntddk.h", "ntifs.h"),
    "km/crt": ("excpt.h", "string.h"),
    "shared": ("ntdef.h", "ntstatus.h", "sal.h", "driverspecs.h"),
}
_NEEDED_LIBRARIES: Final = ("ntoskrnl.lib", "bufferoverflowfastfailk.lib")
_WDK_PACKAGE: Final = "Microsoft.Windows.WDK.x64"
_SDK_PACKAGE: Final = "Microsoft.Windows.SDK.CPP"


@dataclass(frozen=True)
class File:
    """A header or library of a kit.

    Attributes:
        contents: what holds it.
        name: its name there.
        size: bytes.
    """

    contents: Contents
    name: PurePosixPath
    size: int


@dataclass
class Found:
    """One version of the kit, as far as it was found.

    Attributes:
        version: such as ``10.0.26100.0``.
        headers: files by part and by name below it, in lower case.
        libraries: files by architecture and name, in lower case.
    """

    version: str
    headers: dict[str, dict[str, File]] = field(default_factory=lambda: defaultdict(dict))
    libraries: dict[str, dict[str, File]] = field(default_factory=lambda: defaultdict(dict))

    @property
    def files(self) -> list[File]:
        """All of it."""
        groups = (*self.headers.values(), *self.libraries.values())
        return [file for group in groups for file in group.values()]

    @property
    def architectures(self) -> tuple[str, ...]:
        """For which drivers can be linked: all needed libraries are there, and none is empty."""
        return tuple(arch for arch in ARCHITECTURES if not _missing(_NEEDED_LIBRARIES, self.libraries.get(arch, {})))

    def problems(self) -> tuple[str, ...]:
        """Why no driver can be built with it, a sentence each; empty when one can."""
        found = []
        for part in HEADER_PARTS:
            missing = _missing(_NEEDED_HEADERS[part], self.headers.get(part, {}))
            if part not in self.headers:
                package = _SDK_PACKAGE if part == "shared" else _WDK_PACKAGE
                found.append(f"there are no headers Include/{self.version}/{part}: add the package {package}")
            elif missing:
                found.append(
                    f"Include/{self.version}/{part} lacks {', '.join(missing)} (absent or empty): unpacked in part; "
                    "unpack the package again"
                )
        if not self.architectures:
            found.append(self._library_problem())
        return tuple(found)

    def _library_problem(self) -> str:
        present = {arch: files for arch, files in self.libraries.items() if arch in ARCHITECTURES}
        if present:
            arch, files = next(iter(sorted(present.items(), reverse=True)))
            missing = ", ".join(_missing(_NEEDED_LIBRARIES, files))
            return f"the libraries km/{arch} lack {missing} (absent or empty): unpack the package again"
        if self.libraries:
            others = ", ".join(sorted(self.libraries))
            return f"its kernel-mode libraries are for {others} only: add the package {_WDK_PACKAGE}"
        return f"there are no kernel-mode libraries (km/x64): add the package {_WDK_PACKAGE}"


def discover(sources: Sequence[Contents]) -> list[Found]:
    """The kits that some sources hold together, the oldest first; incomplete ones too.

    Raises:
        InputError: a source is damaged.
    """
    kits: dict[str, Found] = {}
    homeless: list[tuple[str, str, File]] = []
    for source in sources:
        versions = _versions_beside(source.sizes)
        for name, size in source.sizes.items():
            text, file = str(name), File(source, name, size)
            if match := _HEADER.match(text):
                kit = kits.setdefault(match["version"], Found(match["version"]))
                kit.headers[match["part"].lower()].setdefault(match["file"].lower(), file)
            elif match := _LIBRARY.match(text):
                kit = kits.setdefault(match["version"], Found(match["version"]))
                kit.libraries[match["arch"].lower()].setdefault(match["file"].lower(), file)
            elif match := _PLAIN_LIBRARY.match(text):
                beside = versions.get(match["root"].lower(), set())
                if len(beside) == 1:
                    kit = kits.setdefault(min(beside), Found(min(beside)))
                    kit.libraries[match["arch"].lower()].setdefault(match["file"].lower(), file)
                else:
                    homeless.append((match["arch"].lower(), match["file"].lower(), file))
    if len(kits) == 1:
        # A package of libraries alone names no version; beside a single kit it can only be that one's.
        only = next(iter(kits.values()))
        for arch, library, file in homeless:
            only.libraries[arch].setdefault(library, file)
    return sorted(kits.values(), key=lambda kit: version_key(kit.version))


def as_kit(found: Found, origin: Sequence[Path], place: Mapping[File, Path], extracted: Path | None = None) -> Kit:
    """The index of a kit.

    Args:
        found: the kit.
        origin: the paths that the user named.
        place: where each file lies, for a compiler to read; files of a broken kit in an archive lie nowhere.
        extracted: the folder that archives were unpacked to.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    include = [
        folder for part in HEADER_PARTS if part in found.headers for folder in _folders(found.headers[part], place)
    ]
    libraries = {arch: tuple(_folders(found.libraries[arch], place)) for arch in found.architectures}
    kit = Kit(
        version=found.version,
        origin=tuple(origin),
        include=tuple(include),
        libraries=libraries,
        problems=found.problems(),
        extracted=extracted,
    )
    return replace(kit, fingerprint=fingerprint_of(kit.folders), state=state_of(kit.folders))


def _folders(files: Mapping[str, File], place: Mapping[File, Path]) -> list[Path]:
    """The folders that hold files known by their names below them, each once."""
    placed = sorted((place[file], len(PurePosixPath(name).parts)) for name, file in files.items() if file in place)
    return list(dict.fromkeys(path.parents[depth - 1] for path, depth in placed))


def _versions_beside(names: Iterable[PurePosixPath]) -> dict[str, set[str]]:
    """The versions that lie in each folder of the sources, for libraries that say none."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        if match := _BESIDE.match(str(name)):
            found[match["root"].lower()].add(match["version"])
    return found


def _missing(needed: Iterable[str], files: Mapping[str, File]) -> list[str]:
    return [name for name in needed if name not in files or files[name].size == 0]
