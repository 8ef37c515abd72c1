"""Chooses who signs: what ``[tool.ntproof.signing]`` of the user's pyproject.toml says, else a test certificate."""

from __future__ import annotations

from pathlib import Path

from harness.build.signing.external_command import ExternalCommand
from harness.build.signing.files import NamedFile
from harness.build.signing.generated import ensure_identity
from harness.build.signing.hardware_token import HardwareToken
from harness.build.signing.passphrase import Passphrase
from harness.build.signing.pem_files import PemFiles
from harness.build.signing.pkcs12_file import Pkcs12File
from harness.build.signing.settings import (
    CommandSettings,
    Common,
    PemSettings,
    Pkcs11Settings,
    Pkcs12Settings,
    read_settings,
)
from harness.build.signing.signer import KeySigner, KeySource, Signer
from harness.build.signing.timestamp_client import TimestampAuthority
from harness.project import ProjectTable, project_table

TABLE = "signing"


def configured_signer(directory: Path, start: Path | None = None) -> Signer:
    """Who signs for the project that the current folder belongs to.

    Args:
        directory: where the test certificate is kept if it is the one that signs.
        start: the folder where the search for the pyproject.toml begins; the current one by default.

    Raises:
        InputError: the table is malformed.
        ConfigurationError: the test certificate cannot be kept.
    """
    table = project_table(TABLE, start)
    if table is None:
        return KeySigner(ensure_identity(directory))
    settings = read_settings(table)
    if isinstance(settings, CommandSettings):
        return _command(settings, table)
    return KeySigner(_key(settings, table, directory), _authority(settings, table))


def _key(settings: Common, table: ProjectTable, directory: Path) -> KeySource:
    match settings:
        case PemSettings():
            return PemFiles(
                _file(table, "certificate", settings.certificate),
                _file(table, "key", settings.key),
                _passphrase(table, "passphrase", settings.passphrase),
            )
        case Pkcs12Settings():
            return Pkcs12File(
                _file(table, "file", settings.file), _passphrase(table, "passphrase", settings.passphrase)
            )
        case Pkcs11Settings():
            return HardwareToken(
                module=_file(table, "module", settings.module),
                token=settings.token,
                key=settings.key,
                certificate=_file(table, "certificate", settings.certificate),
                pin=Passphrase(settings.pin, f"{table.source}.pin"),
            )
        case _:
            return ensure_identity(directory)


def _command(settings: CommandSettings, table: ProjectTable) -> Signer:
    return ExternalCommand(
        command=settings.command,
        certificate=_file(table, "certificate", settings.certificate),
        deadline=settings.deadline,
        page_hashes=settings.page_hashes,
        timestamp=settings.timestamp,
        option=f"{table.source}.command",
    )


def _authority(settings: Common, table: ProjectTable) -> TimestampAuthority | None:
    if settings.timestamp is None:
        return None
    roots = settings.timestamp_roots
    return TimestampAuthority(
        url=settings.timestamp,
        deadline=settings.timestamp_deadline,
        roots=None if roots is None else _file(table, "timestamp_roots", roots),
        option=f"{table.source}.timestamp",
    )


def _file(table: ProjectTable, key: str, value: str) -> NamedFile:
    return NamedFile(table.path(value), f"{table.source}.{key}")


def _passphrase(table: ProjectTable, key: str, where: str | None) -> Passphrase | None:
    return None if where is None else Passphrase(where, f"{table.source}.{key}")
