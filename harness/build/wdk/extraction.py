"""Unpacks the headers and libraries of a kit from an archive: only these, each where the layout of the kit has it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from harness.build.wdk.discovery import File
from harness.errors import ConfigurationError, InputError

_LARGEST: Final = 1 << 32
"""Bytes of all headers and libraries; those of the public kits have a few hundred megabytes."""


def extract(files: Sequence[File], target: Path) -> dict[File, Path]:
    """Unpack files into a folder that appears whole or not at all; one that was there is replaced.

    Raises:
        InputError: an archive is damaged, or holds more than any kit has.
        ConfigurationError: the folder cannot be written.
    """
    size = sum(file.size for file in files)
    if size > _LARGEST:
        where = ", ".join(dict.fromkeys(str(file.contents.path) for file in files))
        raise InputError(
            f"{where}: {size / 1e9:.1f} GB of headers and libraries are more than any kit has; do not use it"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=target.parent) as temporary:
            unpacked = Path(temporary) / target.name
            place: dict[File, Path] = {}
            ordered = sorted(files, key=lambda file: (str(file.contents.path), str(file.name)))
            for number, (_, group) in enumerate(groupby(ordered, key=lambda file: file.contents.path)):
                # Two packages may hold files of the same name, so each has a folder of its own.
                by_name = {file.name: file for file in group}
                contents = next(iter(by_name.values())).contents
                for name, content in contents.read(by_name):
                    path = unpacked / str(number) / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                    place[by_name[name]] = target / str(number) / name
            shutil.rmtree(target, ignore_errors=True)
            unpacked.replace(target)
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or target}: {error.strerror}; set XDG_CACHE_HOME to a folder with room that you may write"
        ) from error
    return place
