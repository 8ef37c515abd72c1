"""Accounts of one image: random passwords, kept in a file that only its owner can read, and never printed."""

from __future__ import annotations

import json
import os
import secrets
import stat
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vm.errors import MachineConfigurationError
from vm.windows.profiles.profile import Family, Profile
from vm.windows.strict import part, read, text

FILE_NAME: Final = "credentials.json"
FILE_MODE: Final = 0o600
PASSWORD_LENGTH: Final = 24
# Windows asks for three of four kinds of character (Microsoft Learn, "Password must meet complexity requirements").
_KINDS: Final = (string.ascii_lowercase, string.ascii_uppercase, string.digits, "!#%+-.:=@_")


class Secret:
    """A text that shows itself only when it is asked to: not in messages, logs, tracebacks or representations."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text. Give it to what needs it and to nothing else."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"

    __str__ = __repr__

    def __format__(self, specification: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and secrets.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(Secret)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled: it would leave the process unseen")


@dataclass(frozen=True)
class Account:
    """A local account of the guest."""

    name: str
    password: Secret


@dataclass(frozen=True)
class Credentials:
    """The accounts of an image.

    Attributes:
        administrator: a member of the Administrators group, which the project uses.
        standard_user: a member of the Users group, for calls without privileges.
        builtin_administrator: password of the account that a server's setup insists on; it is disabled in the end.
            None for a client, where setup leaves that account disabled.
    """

    administrator: Account
    standard_user: Account
    builtin_administrator: Secret | None = None

    def secrets(self) -> tuple[Secret, ...]:
        """Every secret here."""
        more = () if self.builtin_administrator is None else (self.builtin_administrator,)
        return (self.administrator.password, self.standard_user.password, *more)


def new_password() -> Secret:
    """A random password with every kind of character that Windows counts."""
    alphabet = "".join(_KINDS)
    while True:
        drawn = "".join(secrets.choice(alphabet) for _ in range(PASSWORD_LENGTH))
        if all(any(character in kind for character in drawn) for kind in _KINDS):
            return Secret(drawn)


def new_credentials(profile: Profile) -> Credentials:
    """Random credentials for a new image of a profile."""
    return Credentials(
        Account(profile.answers.administrator, new_password()),
        Account(profile.answers.standard_user, new_password()),
        new_password() if profile.media.family is Family.SERVER else None,
    )


@dataclass(frozen=True)
class _StoredAccount:
    name: str = text(r"[^\x00-\x1f]{1,20}", "an account's name")
    password: str = text(r"[^\x00-\x1f]{8,127}", "a password")


@dataclass(frozen=True)
class _Stored:
    administrator: _StoredAccount = part(_StoredAccount)
    standard_user: _StoredAccount = part(_StoredAccount)
    builtin_administrator: str | None = text(r"[^\x00-\x1f]{8,127}", "a password", default=None)


def save(credentials: Credentials, folder: Path) -> Path:
    """Write credentials into a folder, readable by their owner only from the first moment on."""
    content: dict[str, object] = {
        role: {"name": account.name, "password": account.password.reveal()}
        for role, account in (
            ("administrator", credentials.administrator),
            ("standard_user", credentials.standard_user),
        )
    }
    if credentials.builtin_administrator is not None:
        content["builtin_administrator"] = credentials.builtin_administrator.reveal()
    path = folder / FILE_NAME
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE)
    with open(descriptor, "w", encoding="utf-8") as stream:  # noqa: PTH123 - Path.open takes no descriptor
        json.dump(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
    return path


def load(folder: Path) -> Credentials:
    """The credentials in a folder.

    Raises:
        MachineConfigurationError: the file is missing, others can read it, or it is malformed. No message quotes it.
    """
    path = folder / FILE_NAME
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise MachineConfigurationError(f"{path}: others can read it (mode {mode:o}); chmod 600 it or build anew")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MachineConfigurationError(f"{path}: {error.strerror}; build the image anew") from error
    except ValueError:
        # The cause would quote the content.
        raise MachineConfigurationError(f"{path}: not JSON; build the image anew") from None
    try:
        stored = read(_Stored, value, str(path))
    except MachineConfigurationError:
        raise MachineConfigurationError(f"{path}: not what was written there; build the image anew") from None
    return Credentials(
        Account(stored.administrator.name, Secret(stored.administrator.password)),
        Account(stored.standard_user.name, Secret(stored.standard_user.password)),
        None if stored.builtin_administrator is None else Secret(stored.builtin_administrator),
    )
