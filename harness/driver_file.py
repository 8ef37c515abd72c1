"""The driver's file as the user names it: looked at before anything is done with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness.errors import ConfigurationError


def check_driver_file(path: Path) -> Path:
    """The path itself, of a file that can be read.

    Raises:
        ConfigurationError: there is no such file, it is a directory or a device, or it cannot be read.
    """
    advice = "leave --driver out to build the one in driver/"
    try:
        if path.is_dir():
            raise ConfigurationError(f"--driver {path}: a directory; name a .sys file, or {advice}")
        if not path.is_file():
            raise ConfigurationError(f"--driver {path}: no such file; {advice}")
        with path.open("rb"):
            return path
    except OSError as error:
        raise ConfigurationError(f"--driver {path}: {error.strerror}; {advice}") from None


def sha256_of(path: Path) -> str:
    """The hash of a file of any size, in hexadecimal. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
