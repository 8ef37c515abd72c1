"""What is known of an image: where it is from, what was made, and what the guest said of itself."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vm.errors import MachineConfigurationError
from vm.windows.images.guest_report import GuestFacts
from vm.windows.profiles.profile import NAME_HINT, NAME_PATTERN, Profile
from vm.windows.strict import Place, part, parts, read, table, text, whole, write

FILE_NAME: Final = "manifest.json"
FORMAT: Final = "ntproof-image"
VERSION: Final = 1

_DIGEST: Final = r"[0-9a-f]{64}"
_DIGEST_HINT: Final = "64 hexadecimal digits"


@dataclass(frozen=True)
class StoredFile:
    """A file of the image that never changes again."""

    name: str = text(r"[a-z0-9][a-z0-9.-]{0,63}", "the name of a file")
    size: int = whole(0, 1 << 50, "bytes")
    sha256: str = text(_DIGEST, _DIGEST_HINT)


@dataclass(frozen=True)
class StageTime:
    """How long a stage of the build took, in milliseconds."""

    name: str = text(r"[a-z-]{1,40}", "a stage")
    milliseconds: int = whole(0, 1 << 40, "milliseconds")


@dataclass(frozen=True)
class Source:
    """What the image was installed from.

    Attributes:
        iso_sha256: hash of the Windows ISO.
        iso_image: name of the image in it.
        iso_index: its number.
        virtio_sha256: hash of the virtio-win ISO, None when none was given.
        openssh_sha256: hash of the OpenSSH package, likewise.
    """

    iso_sha256: str = text(_DIGEST, _DIGEST_HINT)
    iso_image: str = text(r"[^\x00-\x1f]{1,200}", "a name")
    iso_index: int = whole(1, 64, "image number")
    virtio_sha256: str | None = text(_DIGEST, _DIGEST_HINT, default=None)
    openssh_sha256: str | None = text(_DIGEST, _DIGEST_HINT, default=None)


@dataclass(frozen=True)
class Manifest:
    """The manifest of an image.

    Attributes:
        name: the image's name.
        created: when it was sealed, UTC, as ``2026-01-31T12:00:00Z``.
        profile: the profile as it was then, without its product key.
        source: what it was installed from.
        guest: what the guest said of itself at the end of its set-up.
        observed: what was seen of it at its first start afterwards, by name; empty when nobody looked.
        tools: versions of what made it, by name.
        files: its files.
        stages: the stages of the build.
    """

    format: str = text(FORMAT, FORMAT, default=FORMAT)
    version: int = whole(VERSION, VERSION, "format version", default=VERSION)
    name: str = text(NAME_PATTERN, NAME_HINT)
    created: str = text(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "a time such as 2026-01-31T12:00:00Z")
    profile: Profile = part(Profile)
    source: Source = part(Source)
    guest: GuestFacts = part(GuestFacts)
    observed: dict[str, str] = table()
    tools: dict[str, str] = table()
    files: tuple[StoredFile, ...] = parts(StoredFile)
    stages: tuple[StageTime, ...] = parts(StageTime)

    def to_json(self) -> str:
        """The content of the file."""
        return json.dumps(write(self), indent=2) + "\n"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def save_manifest(content: Manifest, folder: Path) -> Path:
    """Write the manifest of an image's folder; it appears when it is complete, also in the place of a read-only one.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / FILE_NAME
    unfinished = path.with_name(path.name + ".partial")
    with unfinished.open("w", encoding="utf-8") as stream:
        stream.write(content.to_json())
        stream.flush()
        os.fsync(stream.fileno())
    return unfinished.replace(path)


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file.

    Raises:
        MachineConfigurationError: it is missing or malformed; names the key.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MachineConfigurationError(f"{path}: {error.strerror}; the image is incomplete: remove it") from error
    except (ValueError, RecursionError) as error:
        raise MachineConfigurationError(f"{path}: not JSON; the image is damaged: remove it") from error
    if isinstance(value, dict) and value.get("version", VERSION) != VERSION:
        Place(str(path)).fail(
            f"format version {value['version']!r}; this ntproof reads {VERSION}: build the image anew"
        )
    return read(Manifest, value, str(path))
