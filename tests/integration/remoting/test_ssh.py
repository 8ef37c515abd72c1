"""What an SSH server can do instead of logging somebody in: each is told as what it is."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress

import pytest

from tests.standin.requirements import require_remoting

require_remoting()

import paramiko  # noqa: E402

from tests.standin.sshd import make_host_key  # noqa: E402
from vm.windows.remoting.deadline import Deadline  # noqa: E402
from vm.windows.remoting.endpoint import Credentials  # noqa: E402
from vm.windows.remoting.errors import ConnectionFailed, CredentialsRefused  # noqa: E402
from vm.windows.remoting.ssh import SshConnection, SshEndpoint  # noqa: E402


@pytest.fixture
def serve():
    """Has the next connection served by a function of its socket; gives the endpoint."""
    listener = socket.create_server(("127.0.0.1", 0))
    key = make_host_key()
    threads = []

    def start(handler):
        def run():
            connection, _ = listener.accept()
            with connection, suppress(OSError, EOFError, paramiko.SSHException):
                handler(connection, key)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return SshEndpoint("127.0.0.1", listener.getsockname()[1], f"{key.get_name()} {key.get_base64()}")

    yield start
    listener.close()
    for thread in threads:
        thread.join(20)


def at_the_password(act):
    """A server that does something when it is told the password, and then refuses it."""

    class Server(paramiko.ServerInterface):
        def check_auth_password(self, username, password):
            act(self.transport)
            return paramiko.AUTH_FAILED

    def handler(connection, key):
        server = Server()
        server.transport = paramiko.Transport(connection)
        server.transport.set_log_channel("vm.windows.remoting.ssh.library")
        server.transport.add_server_key(key)
        server.transport.start_server(server=server)
        server.transport.join(20)

    return handler


def log_in(endpoint, seconds=5.0):
    SshConnection(endpoint, Credentials("administrator", "right"), Deadline(seconds)).close()


def test_a_password_that_is_refused_is_told_as_such(serve):
    with pytest.raises(CredentialsRefused):
        log_in(serve(at_the_password(lambda _transport: None)))


def test_a_connection_that_breaks_at_the_password_says_nothing_of_the_password(serve):
    with pytest.raises(ConnectionFailed):
        log_in(serve(at_the_password(lambda transport: transport.sock.close())))


def test_a_password_that_is_not_answered_in_time_is_not_refused(serve):
    answered = threading.Event()
    endpoint = serve(at_the_password(lambda _transport: answered.wait(10)))

    with pytest.raises(ConnectionFailed, match="within 1 s"):
        log_in(endpoint, 1.0)
    answered.set()


def garbled(connection, _key):
    """Algorithms that are no text (RFC 4253, 6 and 7.1)."""
    connection.sendall(b"SSH-2.0-garbled\r\n")
    payload = bytes([20]) + bytes(16) + struct.pack(">I2s", 2, b"\xff\xfe") * 10 + bytes(5)
    padding = 8 - (len(payload) + 5) % 8 + 8
    connection.sendall(struct.pack(">IB", len(payload) + 1 + padding, padding) + payload + bytes(padding))
    while connection.recv(4096):
        pass


def test_a_server_that_speaks_no_ssh_after_all_is_a_failed_connection(serve):
    with pytest.raises(ConnectionFailed):
        log_in(serve(garbled))
