"""Finds and mounts the media in the guest's drives, which get their letters in the order of the drives."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

FIRST_LETTER = ord("D")
ANSWERS = "autounattend.xml"


@dataclass(frozen=True)
class Medium:
    letter: str
    folder: Path


def mount_media(below=Path("/media")):
    """Every medium that is in a drive, mounted for reading: as UDF, as Windows would, else as ISO 9660 with Joliet."""
    found = []
    for number, device in enumerate(sorted(Path("/sys/block").glob("sr*"))):
        letter = chr(FIRST_LETTER + number)
        # A drive gives much at once as quickly as little.
        (device / "queue" / "read_ahead_kb").write_text("1024")
        folder = below / letter
        folder.mkdir(parents=True, exist_ok=True)
        for kind in ("udf", "iso9660"):
            command = ["mount", "-t", kind, "-o", "ro", f"/dev/{device.name}", folder]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                found.append(Medium(letter, folder))
                break
    return found


def path_in(media, path):
    """The file of a DOS path with drive letter on the media, without regard to case; None where there is none."""
    letter, _, rest = path.partition(":\\")
    medium = next((one for one in media if one.letter == letter.upper()), None)
    if medium is None:
        return None
    place = medium.folder
    for name in rest.split("\\"):
        place = next((entry for entry in place.iterdir() if entry.name.lower() == name.lower()), None)
        if place is None:
            return None
    return place


def find_answers(media):
    """The answer file at the root of a medium; the first in the order of letters. None where there is none."""
    found = (path_in(media, f"{medium.letter}:\\{ANSWERS}") for medium in media)
    return next((path for path in found if path is not None), None)
