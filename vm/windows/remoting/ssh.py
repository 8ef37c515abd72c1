"""SSH to a guest's OpenSSH server: the host key is pinned; programs run over it, and files as fast as the link allows.

Nothing of the user's own SSH set-up takes part: no known_hosts, no agent, no key files, no configuration.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Self

import paramiko
from cryptography.exceptions import InvalidTag

from vm.errors import MachineConfigurationError
from vm.windows.remoting.deadline import Deadline
from vm.windows.remoting.endpoint import Credentials
from vm.windows.remoting.errors import (
    ConnectionFailed,
    ConnectionLost,
    CredentialsRefused,
    IdentityChanged,
    NoSuchPath,
    TransferFailed,
)

logger = logging.getLogger(__name__)

CHUNK: Final = 256 * 1024
"""Bytes handed to paramiko at a time, and so how often the deadline is looked at."""

_LIBRARY_LOG: Final = f"{__name__}.library"

_UNREADABLE: Final = (ValueError, LookupError, TypeError, AttributeError, struct.error, InvalidTag)
"""What the library fails with where the other side does not speak SSH or SFTP as it should."""

CONNECT_SECONDS: Final = 10.0
"""How long connection, key exchange and login may take together at most."""


@dataclass(frozen=True)
class SshEndpoint:
    """An SSH server.

    Attributes:
        host: name or address.
        port: TCP port.
        host_key: its public key as in a .pub file, ``ssh-ed25519 AAAA...``; anything after that is ignored.
        key_type: the first word of it.
        key: the key itself, as it goes over the wire.

    Raises:
        MachineConfigurationError: the host key is none.
    """

    host: str
    port: int
    host_key: str
    key_type: str = field(init=False)
    key: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            key_type, encoded = self.host_key.split()[:2]
            key = base64.b64decode(encoded, validate=True)
        except (ValueError, binascii.Error) as error:
            raise MachineConfigurationError(
                f"{self}: {self.host_key!r:.60} is no SSH host key; give type and key as in a .pub file"
            ) from error
        object.__setattr__(self, "key_type", key_type)
        object.__setattr__(self, "key", key)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class SshConnection:
    """A logged-in connection: files and programs go over it side by side; a context manager.

    Args:
        endpoint: where, and with which host key.
        credentials: of a user of the guest.
        deadline: by when the login must be done.

    Raises:
        ConnectionFailed: nobody listens, or it is no SSH server.
        IdentityChanged: another host key; nothing was sent.
        CredentialsRefused: the login failed.
    """

    def __init__(self, endpoint: SshEndpoint, credentials: Credentials, deadline: Deadline) -> None:
        self.endpoint = endpoint
        seconds = max(min(CONNECT_SECONDS, deadline.remaining()), 0.1)
        try:
            self._socket = socket.create_connection((endpoint.host, endpoint.port), seconds)
        except OSError as error:
            raise ConnectionFailed(f"no SSH connection ({error})", endpoint=str(endpoint)) from error
        # Answers of a few hundred bytes must not wait for one another.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = paramiko.Transport(self._socket)
        self._transport.set_log_channel(_LIBRARY_LOG)
        try:
            self._log_in(credentials, seconds)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """False once the connection is known to be gone."""
        return bool(self._transport.is_active())

    def open_files(self) -> paramiko.SFTPClient:
        """A channel for files. Raises ConnectionFailed where the server offers none."""
        with self._opening("no SFTP"):
            sftp = paramiko.SFTPClient.from_transport(self._transport)
        assert sftp is not None
        return sftp

    def run(self, program: str) -> paramiko.Channel:
        """Start a program, its standard input and output at the two ends of a channel.

        Args:
            program: path of the program; the guest's shell takes it as a whole command, so it holds nothing that a
                shell would read otherwise.

        Raises:
            ConnectionFailed: the server refuses, or the connection is gone.
        """
        with self._opening(f"{program} cannot be started over SSH"):
            channel = self._transport.open_session()
            channel.exec_command(program)
        return channel

    def abort(self) -> None:
        """Break the connection, from any thread and without waiting: every call on it ends at once."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; closing twice does nothing."""
        self._transport.close()

    @contextmanager
    def _opening(self, problem: str) -> Iterator[None]:
        try:
            yield
        except (paramiko.SSHException, EOFError, OSError, *_UNREADABLE) as error:
            raise ConnectionFailed(
                f"{problem} ({error or type(error).__name__})", endpoint=str(self.endpoint)
            ) from error

    def _log_in(self, credentials: Credentials, seconds: float) -> None:
        transport, place = self._transport, str(self.endpoint)
        transport.banner_timeout = transport.auth_timeout = transport.channel_timeout = seconds
        offered = transport.get_security_options()
        wanted = _SIGNATURES.get(self.endpoint.key_type, (self.endpoint.key_type,))
        # A server has keys of several kinds and shows the one that is asked for.
        offered.key_types = [kind for kind in wanted if kind in offered.key_types]
        limit = Deadline(seconds)
        try:
            transport.start_client(timeout=seconds)
            seen = transport.get_remote_server_key().asbytes()
            if not hmac.compare_digest(seen, self.endpoint.key):
                raise self._identity_changed(seen)
            limit = Deadline(seconds)
            transport.auth_password(credentials.username, credentials.password, fallback=False)
        except paramiko.ssh_exception.IncompatiblePeer as error:
            raise self._identity_changed(None) from error
        except paramiko.AuthenticationException as error:
            # The library says so too of a server that is gone, or answers too late.
            if limit.passed:
                raise ConnectionFailed(f"no answer to the SSH login within {seconds:.3g} s", endpoint=place) from error
            if not transport.is_active():
                raise ConnectionFailed(f"SSH broke during the login ({error})", endpoint=place) from error
            raise CredentialsRefused(
                f"the guest refuses these credentials for SSH ({error})", endpoint=place
            ) from error
        except (paramiko.SSHException, EOFError, OSError, *_UNREADABLE) as error:
            raise ConnectionFailed(f"no SSH login ({error or type(error).__name__})", endpoint=place) from error

    def _identity_changed(self, seen: bytes | None) -> IdentityChanged:
        shown = None if seen is None else fingerprint(seen)
        return IdentityChanged(
            "SSH host key", expected=fingerprint(self.endpoint.key), seen=shown, endpoint=str(self.endpoint)
        )


class SftpConnection:
    """Files over an SSH connection; a context manager.

    Args:
        connection: logged in as a user who may write where files are sent.
        owned: whether the connection is closed with this.

    Raises:
        ConnectionFailed: the server offers no SFTP.
    """

    def __init__(self, connection: SshConnection, *, owned: bool = False) -> None:
        self._connection = connection
        self._owned = owned
        self._endpoint = connection.endpoint
        try:
            self._sftp = connection.open_files()
        except BaseException:
            if owned:
                connection.close()
            raise

    @classmethod
    def connect(cls, endpoint: SshEndpoint, credentials: Credentials, deadline: Deadline) -> Self:
        """Files over a connection of their own. Arguments and errors as of SshConnection."""
        return cls(SshConnection(endpoint, credentials, deadline), owned=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, path: str, source: BinaryIO, deadline: Deadline) -> int:
        """Write a file anew; the number of bytes.

        Args:
            path: a DOS path with drive.
            source: read to its end.
            deadline: by when it must be done.

        Raises:
            NoSuchPath: its folder is not there.
            TransferFailed: the guest refuses, or the deadline passed.
            ConnectionLost: the connection broke.
        """
        written = 0
        with self._translated(path, deadline), self._sftp.file(remote_path(path), "wb") as file:
            file.set_pipelined(True)
            while chunk := source.read(CHUNK):
                self._limit(deadline)
                file.write(chunk)
                written += len(chunk)
            self._limit(deadline)
        return written

    def read(self, path: str, target: BinaryIO, deadline: Deadline, *, most: int) -> int:
        """Read a whole file of at most `most` bytes; the number of bytes. Raises as `write`."""
        read = 0
        with self._translated(path, deadline), self._sftp.file(remote_path(path), "rb") as file:
            self._limit(deadline)
            size = file.stat().st_size or 0
            if size > most:
                # Before anything is asked for by that size, which is only what the guest says.
                raise TransferFailed(f"{path} has {size} bytes, {most} at most are taken", endpoint=str(self._endpoint))
            file.prefetch(size)
            while chunk := file.read(CHUNK):
                self._limit(deadline)
                target.write(chunk)
                read += len(chunk)
        if read < size:
            raise TransferFailed(f"{path} ended after {read} of {size} bytes", endpoint=str(self._endpoint))
        return read

    def close(self) -> None:
        """Close the files' channel, and the connection where it is this one's own; closing twice does nothing."""
        # A connection that broke cannot be told that the channel ends.
        with suppress(paramiko.SSHException, EOFError, OSError):
            self._sftp.close()
        if self._owned:
            self._connection.close()

    def _limit(self, deadline: Deadline) -> None:
        if deadline.passed:
            raise TimeoutError
        channel = self._sftp.get_channel()
        assert channel is not None
        channel.settimeout(max(deadline.remaining(), 0.1))

    @contextmanager
    def _translated(self, path: str, deadline: Deadline) -> Iterator[None]:
        place = str(self._endpoint)
        try:
            yield
        except TimeoutError as error:
            raise TransferFailed(f"{path} was not done within {deadline.seconds:g} s", endpoint=place) from error
        except (paramiko.SSHException, EOFError, ConnectionError, *_UNREADABLE) as error:
            raise ConnectionLost(f"SSH broke at {path} ({error or type(error).__name__})", endpoint=place) from error
        except FileNotFoundError as error:
            raise NoSuchPath(f"{path} or its folder is not there", endpoint=place) from error
        except OSError as error:
            if not self._connection.alive:
                raise ConnectionLost(f"SSH broke at {path} ({error})", endpoint=place) from error
            raise TransferFailed(f"the guest refuses {path} ({error})", endpoint=place) from error


# A connection that breaks is no error to the library's log: whoever uses the connection says what it means.
logging.getLogger(_LIBRARY_LOG).setLevel(logging.CRITICAL)

# One RSA key signs in several ways (RFC 8332).
_SIGNATURES: Final = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}


def fingerprint(key: bytes) -> str:
    """The SHA-256 fingerprint of a host key as OpenSSH shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def remote_path(path: str) -> str:
    """A DOS path as OpenSSH for Windows has it in SFTP: ``C:\\\\a\\\\b`` is ``/C:/a/b``."""
    return "/" + path.replace("\\", "/")
