"""Reads the files that the signing options name, with one clear error where that fails."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import ConfigurationError

_LARGEST: Final = 1 << 20


@dataclass(frozen=True)
class NamedFile:
    """A file, and the option that names it."""

    path: Path
    option: str

    @property
    def place(self) -> str:
        """Both, for messages."""
        return f"{self.option}: {self.path}"

    def read(self) -> bytes:
        """Its content.

        Raises:
            ConfigurationError: it cannot be read, or is no such file by its size.
        """
        try:
            with self.path.open("rb") as file:
                data = file.read(_LARGEST + 1)
        except OSError as error:
            raise ConfigurationError(f"{self.place}: cannot be read: {error.strerror}; correct the path") from error
        if len(data) > _LARGEST:
            raise ConfigurationError(f"{self.place}: larger than any certificate or key; correct the path")
        return data

    @property
    def sha256(self) -> str:
        """The digest of its content in hexadecimal. Raises ConfigurationError as `read`."""
        return hashlib.sha256(self.read()).hexdigest()
