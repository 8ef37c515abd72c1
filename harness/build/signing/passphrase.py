"""Passphrases and PINs: read from where the user keeps them, when they are needed, and shown nowhere."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from harness.errors import ConfigurationError

PATTERN: Final = r"fd:\d{1,4}|env:[A-Za-z_][A-Za-z0-9_]*|keyring:[^/\s]+/[^/\s]+"
HINT: Final = "fd:NUMBER, env:VARIABLE or keyring:SERVICE/USER"
_LONGEST: Final = 4096


@dataclass(frozen=True)
class Secret:
    """A text that its own representation does not show."""

    _text: str = field(repr=False)

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __str__(self) -> str:
        return "(not shown)"


@dataclass(frozen=True)
class Passphrase:
    """Where a passphrase is.

    Attributes:
        where: ``fd:NUMBER``, ``env:VARIABLE`` or ``keyring:SERVICE/USER``.
        option: the option that says so, for messages.
    """

    where: str
    option: str

    def read(self) -> Secret:
        """The passphrase.

        Raises:
            ConfigurationError: it is not there, empty, or the keyring package is not installed.
        """
        found = self._found()
        if not found.reveal():
            raise ConfigurationError(
                f"{self.option}: what {self.where} gives is empty; set it, or leave the option out where none is needed"
            )
        return found

    def _found(self) -> Secret:
        kind, _, rest = self.where.partition(":")
        if kind == "fd":
            return self._from_descriptor(int(rest))
        if kind == "env":
            return self._from_environment(rest)
        return self._from_keyring(*rest.split("/"))

    def _from_descriptor(self, number: int) -> Secret:
        try:
            return _descriptor_content(number)
        except OSError as error:
            raise ConfigurationError(
                f"{self.option}: file descriptor {number} cannot be read: {error.strerror}; open it in the shell "
                f"({number}<FILE). Worker processes of pytest-xdist do not inherit it: use env: or keyring: there"
            ) from None

    def _from_environment(self, name: str) -> Secret:
        value = os.environ.get(name)
        if value is None:
            raise ConfigurationError(f"{self.option}: the environment variable {name} is not set; set it")
        return Secret(value)

    def _from_keyring(self, service: str, user: str) -> Secret:
        try:
            import keyring
            from keyring.errors import KeyringError
        except ImportError:
            raise ConfigurationError(
                f"{self.option}: the keyring package is not installed; pip install keyring"
            ) from None
        try:
            value = keyring.get_password(service, user)
        except KeyringError as error:
            # Only the kind of error is told: what a backend says is not known to be free of secrets.
            raise ConfigurationError(
                f"{self.option}: the keyring cannot be read ({type(error).__name__}); unlock it, or use env: or fd:"
            ) from None
        if value is None:
            raise ConfigurationError(
                f"{self.option}: the keyring has no password of user {user} for service {service}; store it with "
                f"keyring set {service} {user}"
            )
        return Secret(value)


@lru_cache(maxsize=8)
def _descriptor_content(number: int) -> Secret:
    """The first line behind a descriptor. Remembered, since a pipe gives it only once. Raises OSError."""
    data = b""
    while b"\n" not in data and len(data) < _LONGEST:
        part = os.read(number, _LONGEST)
        if not part:
            break
        data += part
    return Secret(re.split(rb"\r?\n", data, maxsplit=1)[0].decode("utf-8", "surrogateescape"))
