"""The kits that this user has added: an index and an overlay for each version, in the user's configuration folder.

Below ``$XDG_CONFIG_HOME/ntproof/wdk`` lie ``VERSION.json``, the index, and ``VERSION.yaml``, the VFS overlay; below
``$XDG_CACHE_HOME/ntproof/wdk`` lies in ``VERSION/`` what was unpacked, where the user asked for that.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from harness.build.files import write_atomically
from harness.build.wdk.contents import Contents, contents_of
from harness.build.wdk.discovery import Found, as_kit, discover
from harness.build.wdk.extraction import extract
from harness.build.wdk.kit import Kit
from harness.build.wdk.overlay import overlay_of
from harness.errors import ConfigurationError, InputError

_FOLDER: Final = Path("ntproof", "wdk")


@dataclass(frozen=True)
class KitRegistry:
    """Where kits are remembered.

    Attributes:
        folder: of indexes and overlays.
        cache: of what was unpacked.
    """

    folder: Path
    cache: Path

    @classmethod
    def of_user(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The user's own, below XDG_CONFIG_HOME and XDG_CACHE_HOME."""
        config, cache = environment.get("XDG_CONFIG_HOME"), environment.get("XDG_CACHE_HOME")
        return cls(
            (Path(config) if config else Path.home() / ".config") / _FOLDER,
            (Path(cache) if cache else Path.home() / ".cache") / _FOLDER,
        )

    def kits(self) -> list[Kit]:
        """All kits, the oldest version first. Raises InputError when an index is damaged."""
        found = [self._read(path) for path in sorted(self.folder.glob("*.json"))] if self.folder.is_dir() else []
        return sorted(found, key=lambda kit: kit.sort_key)

    def overlay(self, kit: Kit) -> Path:
        """The overlay of a kit.

        Raises:
            ConfigurationError: it was deleted.
        """
        path = self.folder / f"{kit.version}.yaml"
        if not path.is_file():
            raise ConfigurationError(f"{path}: the overlay of kit {kit.version} is gone; add the kit again")
        return path

    def add(self, paths: Sequence[Path], *, unpack: bool = False) -> list[Kit]:
        """Index what some paths hold together; a version that was known is replaced.

        Args:
            paths: folders, packages, disc images.
            unpack: unpack archives into the user's cache, because a compiler cannot read inside them.

        Raises:
            ConfigurationError: there is no kit, none that is complete, or one that must be unpacked first; the message
                names the path and the remedy.
            InputError: an archive is damaged.
        """
        named = [path.expanduser().resolve() for path in paths]
        sources: list[Contents] = [contents for path in named for contents in contents_of(path)]
        found = discover(sources)
        where = ", ".join(str(path) for path in paths)
        if not found:
            raise ConfigurationError(
                f"{where}: there is no Windows kit: no folder Include/VERSION/km or Lib/VERSION/km; name an unpacked "
                "package Microsoft.Windows.WDK.x64 with Microsoft.Windows.SDK.CPP, an EWDK or a Windows Kits/10"
            )
        if all(kit.problems() for kit in found):
            raise ConfigurationError(
                "\n".join(f"{where}: kit {kit.version}: {problem}" for kit in found for problem in kit.problems())
            )
        if not unpack:
            for kit in found:
                self._require_in_place(kit, where)
        return [self._index(kit, named) for kit in found]

    def remove(self, version: str) -> Kit:
        """Forget a kit, and delete what was unpacked of it.

        Raises:
            ConfigurationError: there is none of this version.
        """
        kit = next((kit for kit in self.kits() if kit.version == version), None)
        if kit is None:
            known = ", ".join(kit.version for kit in self.kits()) or "none"
            raise ConfigurationError(f"there is no kit {version}; known: {known}")
        if kit.extracted is not None:
            shutil.rmtree(kit.extracted, ignore_errors=True)
        for suffix in (".json", ".yaml"):
            (self.folder / f"{version}{suffix}").unlink(missing_ok=True)
        return kit

    def _require_in_place(self, found: Found, where: str) -> None:
        archived = [file for file in found.files if not file.contents.in_place]
        if archived and not found.problems():
            size = sum(file.size for file in archived)
            raise ConfigurationError(
                f"{where}: kit {found.version}: a compiler cannot read inside an archive; repeat the command with "
                f"--extract to unpack {len(archived)} headers and libraries ({size / 1e6:.1f} MB) into "
                f"{self.cache / found.version}, or mount the disc image and add the mount"
            )

    def _index(self, found: Found, origin: Sequence[Path]) -> Kit:
        archived = [file for file in found.files if not file.contents.in_place]
        place = {file: file.contents.path / file.name for file in found.files if file.contents.in_place}
        extracted = None
        if archived and not found.problems():
            extracted = self.cache / found.version
            place |= extract(archived, extracted)
        kit = as_kit(found, origin, place, extracted)
        files = {".yaml": overlay_of(kit.include), ".json": json.dumps(kit.to_json(), indent=2) + "\n"}
        try:
            for suffix, text in files.items():
                write_atomically(self.folder / f"{kit.version}{suffix}", text.encode())
        except OSError as error:
            remedy = "set XDG_CONFIG_HOME to a folder that you may write to"
            raise ConfigurationError(f"{error.filename or self.folder}: {error.strerror}; {remedy}") from error
        return kit

    @staticmethod
    def _read(path: Path) -> Kit:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read: {error}; delete it and add the kit again") from error
        return Kit.from_json(document, path)
