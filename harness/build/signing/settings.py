"""What ``[tool.ntproof.signing]`` may say: one data class for each source of a signature, read strictly and once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from harness.build.signing import passphrase
from harness.build.signing.external_command import FILE, INPUT, OUTPUT, PLACEHOLDERS, TIMESTAMP
from harness.build.signing.timestamp_client import URL_HINT, URL_PATTERN
from harness.errors import InputError
from harness.project import ProjectTable
from vm.errors import MachineConfigurationError
from vm.windows import strict

_NOT_EMPTY: Final = r"[^\0]+"
_PATH_HINT: Final = "a path, relative to the file that holds it"


class Source(Enum):
    """Where a signature comes from."""

    GENERATED = "generated"
    """A test certificate that is made once for the build directory."""
    PEM = "pem"
    """A certificate file and a private key file."""
    PKCS12 = "pkcs12"
    """A PKCS#12 file (.pfx, .p12)."""
    PKCS11 = "pkcs11"
    """A token with a PKCS#11 module."""
    COMMAND = "command"
    """A command that signs."""


@dataclass(frozen=True)
class Common:
    """What every source has.

    Attributes:
        source: where the signature comes from.
        timestamp: the time stamp server (RFC 3161) to ask; without one the signature records no time and is the same
            each time.
        timestamp_roots: certificates in PEM that the server's own must come from; without them whoever answers is
            believed.
        timestamp_deadline: how long the server may take.
    """

    source: Source = strict.choice(Source, default=Source.GENERATED)
    timestamp: str | None = strict.text(URL_PATTERN, URL_HINT, default=None, quoted=False)
    timestamp_roots: str | None = strict.text(_NOT_EMPTY, _PATH_HINT, default=None)
    timestamp_deadline: int = strict.whole(1, 600, "seconds", default=30)


@dataclass(frozen=True)
class GeneratedSettings(Common):
    """The test certificate of the build directory: nothing to set up."""


@dataclass(frozen=True)
class PemSettings(Common):
    """A certificate and a private key in two files.

    Attributes:
        certificate: the signer's certificate, and behind it those of its issuers.
        key: the private key.
        passphrase: where the key's passphrase is; left out for a key that is not encrypted.
    """

    certificate: str = strict.text(_NOT_EMPTY, _PATH_HINT)
    key: str = strict.text(_NOT_EMPTY, _PATH_HINT)
    passphrase: str | None = strict.text(passphrase.PATTERN, passphrase.HINT, default=None, quoted=False)


@dataclass(frozen=True)
class Pkcs12Settings(Common):
    """Certificate and private key in one file.

    Attributes:
        file: the PKCS#12 file.
        passphrase: where its passphrase is; left out for a file without one.
    """

    file: str = strict.text(_NOT_EMPTY, _PATH_HINT)
    passphrase: str | None = strict.text(passphrase.PATTERN, passphrase.HINT, default=None, quoted=False)


@dataclass(frozen=True)
class Pkcs11Settings(Common):
    """A private key in a token.

    Attributes:
        module: the PKCS#11 library of the token's maker.
        token: the token's label.
        key: the private key's label.
        certificate: the certificate of the key in a file, and behind it those of its issuers.
        pin: where the user's PIN is.
    """

    module: str = strict.text(_NOT_EMPTY, _PATH_HINT)
    token: str = strict.text(r"[^\0]{1,32}", "a label of at most 32 characters")
    key: str = strict.text(_NOT_EMPTY, "the label of a private key")
    certificate: str = strict.text(_NOT_EMPTY, _PATH_HINT)
    pin: str = strict.text(passphrase.PATTERN, passphrase.HINT, quoted=False)


@dataclass(frozen=True)
class CommandSettings(Common):
    """A command that signs a file.

    Attributes:
        command: program and arguments, run without a shell. The argument `{file}` stands for the file that is to be
            signed where it is; or `{input}` and `{output}` for the unsigned and the signed file; `{timestamp}` for the
            time stamp server. A placeholder is an argument of its own.
        certificate: the certificate that the command signs with.
        deadline: how long the command may take.
        page_hashes: whether its signature must have page hashes.
    """

    command: tuple[str, ...] = strict.arguments()
    certificate: str = strict.text(_NOT_EMPTY, _PATH_HINT)
    deadline: int = strict.whole(1, 3600, "seconds", default=120)
    page_hashes: bool = strict.flag(default=True)


Settings = GeneratedSettings | PemSettings | Pkcs12Settings | Pkcs11Settings | CommandSettings
KINDS: Final[Mapping[Source, type[Settings]]] = {
    Source.GENERATED: GeneratedSettings,
    Source.PEM: PemSettings,
    Source.PKCS12: Pkcs12Settings,
    Source.PKCS11: Pkcs11Settings,
    Source.COMMAND: CommandSettings,
}


def read_settings(table: ProjectTable) -> Settings:
    """What a table says.

    Raises:
        InputError: a key is unknown or missing, or a value does not fit; the message names file, key and remedy.
    """
    given = table.values.get("source", Source.GENERATED.value)
    names = [source.value for source in Source]
    if given not in names:
        raise InputError(f"{table.source}.source: {given!r} is not known; choose from {', '.join(names)}")
    try:
        settings = strict.read(KINDS[Source(given)], table.values, table.source)
    except MachineConfigurationError as error:
        raise InputError(str(error)) from None
    if settings.timestamp is None and settings.timestamp_roots is not None:
        raise InputError(f"{table.source}.timestamp_roots: has no use without timestamp; name the server, or remove it")
    if isinstance(settings, CommandSettings):
        _check_command(settings, table.source)
    return settings


def _check_command(settings: CommandSettings, source: str) -> None:
    command = settings.command
    place = f"{source}.command"
    if not command or command[0] in PLACEHOLDERS:
        raise InputError(f"{place}: names no program; begin with it")
    for argument in command:
        if "\0" in argument:
            raise InputError(f"{place}: an argument holds the character 0, which no program can be given; remove it")
        inside = next((name for name in PLACEHOLDERS if name in argument and name != argument), None)
        if inside is not None:
            raise InputError(f"{place}: {inside} is part of a longer argument; make it an argument of its own")
    files = {name: command.count(name) for name in (FILE, INPUT, OUTPUT)}
    if files not in ({FILE: 1, INPUT: 0, OUTPUT: 0}, {FILE: 0, INPUT: 1, OUTPUT: 1}):
        raise InputError(f"{place}: give either {FILE} once, or {INPUT} and {OUTPUT} once each")
    if (settings.timestamp is None) == (TIMESTAMP in command):
        raise InputError(
            f"{place}: {TIMESTAMP} and the option timestamp go together; the command makes the time stamp, so give "
            "both or neither"
        )
    if settings.timestamp_roots is not None:
        raise InputError(f"{source}.timestamp_roots: has no use with a command, which makes the time stamp itself")
