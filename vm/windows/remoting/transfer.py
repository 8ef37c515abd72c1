"""Files to and from a guest: only what changed is sent, nothing takes its name before its SHA-256 is the right one.

SFTP does the work where the guest offers it; else the guest module writes chunks. Either way the guest itself compares
the hash of what arrived and then moves the file to its place, so that a file is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from vm.errors import MachineConfigurationError, Win32Error
from vm.windows.remoting.deadline import Deadline
from vm.windows.remoting.errors import ConnectionFailed, ConnectionLost, GuestCommandFailed, NoSuchPath, TransferFailed
from vm.windows.remoting.session import GuestSession
from vm.windows.remoting.ssh import SftpConnection

logger = logging.getLogger(__name__)

CHUNK: Final = 2 * 1024 * 1024
"""Bytes in one command: PowerShell takes objects of at most 10 MB by default."""

UNFINISHED: Final = ".ntproof-part"
"""Ends the name of a file that is still being sent; what an interrupted transfer left is overwritten by the next."""

Connect = Callable[[Deadline], SftpConnection]


@dataclass(frozen=True)
class TransferReport:
    """What sending files came to.

    Attributes:
        sent: bytes that crossed the line, by guest path; unchanged files are not in it.
        unchanged: guest paths that had the right content already.
        method: ``sftp``, ``chunks``, or ``none`` where nothing was sent.
    """

    sent: Mapping[str, int]
    unchanged: tuple[str, ...]
    method: str

    @property
    def bytes_sent(self) -> int:
        """All bytes that crossed the line."""
        return sum(self.sent.values())


class GuestFiles:
    """Sends and fetches files.

    Args:
        session: connected; runs the guest's side of a transfer.
        connect: makes an SFTP connection, None where the guest has no SSH server.
    """

    def __init__(self, session: GuestSession, connect: Connect | None = None) -> None:
        self._session = session
        self._connect = connect

    def send(self, files: Mapping[str, Path], *, deadline: float = 120.0) -> TransferReport:
        """Make files of the guest equal to files of the host.

        Args:
            files: host files by guest path (DOS, with drive); missing folders are made.
            deadline: seconds for all of them.

        Raises:
            MachineConfigurationError: a host file cannot be read.
            TransferFailed: a file did not arrive unchanged or in time, or the guest refuses it; the message says which.
            IdentityChanged, CredentialsRefused and other RemotingErrors: see vm.windows.remoting.errors.
        """
        limit = Deadline(deadline)
        wanted = {path: _hash_of(source) for path, source in files.items()}
        states = self._session.call("Get-NtproofFileState", Path=list(wanted), deadline=limit.seconds) if wanted else []
        present = {str(state["Path"]): state["Sha256"] for state in states}
        changed = [path for path, digest in wanted.items() if present.get(path) != digest]
        unchanged = tuple(path for path in wanted if path not in changed)
        if not changed:
            return TransferReport({}, unchanged, "none")
        sftp = self._open_sftp(limit)
        try:
            sent = {}
            for path in changed:
                sent[path], sftp = self._send_one(path, files[path], wanted[path], sftp, limit)
        finally:
            if sftp is not None:
                sftp.close()
        return TransferReport(sent, unchanged, "chunks" if sftp is None else "sftp")

    def fetch(self, path: str, target: Path, *, deadline: float = 120.0) -> int:
        """Copy a guest's file to the host; the number of bytes.

        Raises:
            Win32Error: without SSH: ERROR_FILE_NOT_FOUND 2, ERROR_PATH_NOT_FOUND 3, ERROR_ACCESS_DENIED 5.
            NoSuchPath: over SFTP, where the file is not there.
            TransferFailed: what arrived is not what the guest has, or not in time; there is no room for it; or, over
                SFTP, the guest refuses it.
        """
        limit = Deadline(deadline)
        room = shutil.disk_usage(target.parent).free
        sftp = self._open_sftp(limit)
        unfinished = target.with_name(target.name + UNFINISHED)
        try:
            with unfinished.open("w+b") as file:
                if sftp is None:
                    self._read_chunks(path, file, limit, room)
                else:
                    with sftp:
                        sftp.read(path, file, limit, most=room)
                size = file.tell()
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            state = self._session.one("Get-NtproofFileState", Path=[path], deadline=_left(limit))
            if state["Sha256"] != digest:
                raise TransferFailed(f"{path} changed on its way", endpoint=str(self._session.endpoint))
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
        return size

    def _open_sftp(self, limit: Deadline) -> SftpConnection | None:
        if self._connect is None:
            return None
        try:
            return self._connect(limit)
        except ConnectionFailed as error:
            logger.warning("%s; files go through PowerShell Remoting, which is slower", error)
            return None

    def _send_one(
        self, path: str, source: Path, digest: str, sftp: SftpConnection | None, limit: Deadline
    ) -> tuple[int, SftpConnection | None]:
        """Send a file; its bytes, and the SFTP connection for the next one (None once it broke)."""
        unfinished = path + UNFINISHED
        size = None
        if sftp is not None:
            try:
                size = self._write(sftp, path, source, limit)
            except ConnectionLost as error:
                logger.warning("%s; files go through PowerShell Remoting, which is slower", error)
                sftp.close()
                sftp = None
        if size is None:
            with source.open("rb") as file:
                size = self._write_chunks(unfinished, file, limit)
        try:
            self._session.one(
                "Complete-NtproofFile", Path=unfinished, Destination=path, Sha256=digest, deadline=_left(limit)
            )
        except GuestCommandFailed as error:
            if error.failure != "HashMismatch":
                raise
            raise TransferFailed(f"{path} changed on its way: {error}", endpoint=error.endpoint) from error
        except Win32Error as error:
            raise TransferFailed(
                f"{path} arrived but cannot be put in its place: {error}", endpoint=str(self._session.endpoint)
            ) from error
        return size, sftp

    def _write(self, sftp: SftpConnection, path: str, source: Path, limit: Deadline) -> int:
        with source.open("rb") as file:
            try:
                return sftp.write(path + UNFINISHED, file, limit)
            except NoSuchPath:
                # Most folders are there, and looking first would cost each file a round trip.
                self._make_folder(path, limit)
                return sftp.write(path + UNFINISHED, file, limit)

    def _make_folder(self, path: str, limit: Deadline) -> None:
        """Make the folder of a file; raises TransferFailed where the guest refuses, as it does on a full disk."""
        try:
            self._session.call("New-NtproofDirectory", Path=path.rpartition("\\")[0] + "\\", deadline=_left(limit))
        except Win32Error as error:
            raise TransferFailed(
                f"the guest refuses the folder of {path}: {error}", endpoint=str(self._session.endpoint)
            ) from error

    def _write_chunks(self, path: str, file: BinaryIO, limit: Deadline) -> int:
        offset = 0
        while (chunk := file.read(CHUNK)) or not offset:
            self._check(path, limit)
            try:
                self._session.one("Write-NtproofFileChunk", Path=path, Offset=offset, Data=chunk, deadline=_left(limit))
            except Win32Error as error:
                raise TransferFailed(
                    f"the guest refuses {path}: {error}", endpoint=str(self._session.endpoint)
                ) from error
            offset += len(chunk)
            if not chunk:
                break
        return offset

    def _read_chunks(self, path: str, file: BinaryIO, limit: Deadline, most: int) -> None:
        while True:
            self._check(path, limit)
            row = self._session.one(
                "Read-NtproofFileChunk", Path=path, Offset=file.tell(), Count=CHUNK, deadline=_left(limit)
            )
            data = row["Data"]
            assert isinstance(data, bytes)
            if not data:
                return
            if file.tell() + len(data) > most:
                raise TransferFailed(
                    f"{path} has more than {most} bytes, which at most are taken", endpoint=str(self._session.endpoint)
                )
            file.write(data)

    def _check(self, path: str, limit: Deadline) -> None:
        if limit.passed:
            raise TransferFailed(
                f"{path} was not done within {limit.seconds:g} s", endpoint=str(self._session.endpoint)
            )


def _left(limit: Deadline) -> float:
    return max(limit.remaining(), 1.0)


def _hash_of(source: Path) -> str:
    try:
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MachineConfigurationError(f"{source} cannot be read: {error.strerror}") from error
