"""An SSH server on a SmallWindows: SFTP over its files, and ntguest.exe. Real clients talk to it over real sockets."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import threading

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.standin.windows import ADMINISTRATOR, NTGUEST, STANDARD_USER, Refused
from vm.machine import Account

CHUNK = 1 << 16
ERRNO = {2: errno.ENOENT, 3: errno.ENOENT, 5: errno.EACCES}


def make_host_key():
    private = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return paramiko.Ed25519Key.from_private_key(io.StringIO(private.decode()))


class StandInSsh:
    """The server. A context manager.

    `drop_after` cuts the connection once that many bytes were written; `corrupt` changes the first byte of each file;
    `stalled` takes data no longer and answers nothing. `commands` are the programs that were started.
    """

    def __init__(self, windows, *, password, user_password=None, host_key=None, port=0):
        self.windows = windows
        self.accounts = {ADMINISTRATOR: (password, Account.ADMINISTRATOR)}
        if user_password is not None:
            self.accounts[STANDARD_USER] = (user_password, Account.STANDARD_USER)
        self.commands = []
        self.key = host_key or make_host_key()
        self.drop_after = None
        self.corrupt = False
        self.stalled = False
        self.closing = threading.Event()
        self.written = 0
        self.logins = 0
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._transports = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def host_key(self):
        return f"{self.key.get_name()} {self.key.get_base64()} standin"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Listen no more and close every connection."""
        self.closing.set()
        if self._thread.is_alive():
            # A plain close would leave the accepting thread in the kernel.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._thread.join(5)
        self._listener.close()
        self.cut()

    def cut(self):
        transports, self._transports = self._transports, []
        for transport in transports:
            transport.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                transport = paramiko.Transport(connection)
                self._transports.append(transport)
                transport.add_server_key(self.key)
                transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files, owner=self)
                with contextlib.suppress(paramiko.SSHException, EOFError):
                    transport.start_server(event=threading.Event(), server=_Logins(self))


class _Logins(paramiko.ServerInterface):
    def __init__(self, owner):
        self._owner = owner
        self._account = None

    def check_auth_password(self, username, password):
        known, account = self._owner.accounts.get(username, (None, None))
        if known is None or password != known:
            return paramiko.AUTH_FAILED
        self._account = account
        self._owner.logins += 1
        return paramiko.AUTH_SUCCESSFUL

    def get_allowed_auths(self, username):
        return "password"

    def check_channel_request(self, kind, chanid):
        return paramiko.OPEN_SUCCEEDED if kind == "session" else paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel, command):
        path = command.decode()
        self._owner.commands.append(path)
        if path.lower() != NTGUEST.lower() or self._owner.windows.files.get(path) is None:
            return False
        threading.Thread(target=self._run_agent, args=(channel,), daemon=True).start()
        return True

    def _run_agent(self, channel):
        from tests.standin.ntguest import serve

        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            serve(self._owner.windows, _lines(channel), channel.sendall, account=self._account)
            channel.send_exit_status(0)
            channel.close()


def _lines(channel):
    rest = b""
    while data := channel.recv(CHUNK):
        *whole, rest = (rest + data).split(b"\n")
        yield from whole


class _Files(paramiko.SFTPServerInterface):
    def __init__(self, server, *, owner):
        super().__init__(server)
        self._owner = owner

    def open(self, path, flags, attr):
        dos = path.lstrip("/").replace("/", "\\")
        try:
            if flags & os.O_WRONLY:
                self._owner.windows.files.write(dos, b"", make_folders=False)
                return _Writing(self._owner, dos)
            return _Reading(self._owner.windows.files.read(dos))
        except Refused as refused:
            return paramiko.SFTPServer.convert_errno(ERRNO.get(refused.code, errno.EIO))


class _Writing(paramiko.SFTPHandle):
    def __init__(self, owner, path):
        super().__init__()
        self._owner = owner
        self._path = path
        self._content = bytearray()

    def write(self, offset, data):
        owner = self._owner
        if owner.stalled:
            owner.closing.wait(30)
        owner.written += len(data)
        if owner.drop_after is not None and owner.written > owner.drop_after:
            owner.cut()
            return paramiko.SFTP_FAILURE
        self._content[offset : offset + len(data)] = data
        return paramiko.SFTP_OK

    def close(self):
        content = bytes(self._content)
        if self._owner.corrupt and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        with contextlib.suppress(Refused):
            self._owner.windows.files.write(self._path, content, make_folders=False)


class _Reading(paramiko.SFTPHandle):
    def __init__(self, content):
        super().__init__()
        self._content = content

    def read(self, offset, length):
        return self._content[offset : offset + length]

    def stat(self):
        found = paramiko.SFTPAttributes()
        found.st_size = len(self._content)
        return found
