"""A connection that its peer resets before the handshake leaves no descriptor open, on either side."""

from __future__ import annotations

import gc
import os
import socket
import struct
import threading
import warnings

import pytest

from tests.standin.requirements import require_remoting

require_remoting()

from vm.windows.remoting.endpoint import Credentials, Endpoint  # noqa: E402
from vm.windows.remoting.errors import ConnectionFailed, ConnectionLost  # noqa: E402
from vm.windows.remoting.session import GuestSession  # noqa: E402
from vm.windows.remoting.transport import pinned_session  # noqa: E402

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    connection.close()


@pytest.fixture
def pair():
    """The two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    yield client, server
    client.close()
    server.close()


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_the_clients_socket_is_closed_when_the_listener_has_reset_it(pair):
    client, server = pair
    session = pinned_session(Endpoint("127.0.0.1", 1, "ab" * 32, "basic"), Credentials("u", "p"))
    context = session.get_adapter("https://127.0.0.1").poolmanager.connection_pool_kw["ssl_context"]
    descriptor = client.fileno()
    reset(server)

    # The error holds the frames in which the socket was made, so that only closing it can close it.
    with pytest.raises(ConnectionResetError) as told:
        context.wrap_socket(client)

    assert not is_open(descriptor)
    assert told.value.__traceback__


def test_the_stand_ins_socket_is_closed_when_the_client_has_reset_it(standin, pair):
    client, server = pair
    descriptor = server.fileno()
    reset(client)

    standin._server.finish_request(server, ("127.0.0.1", 0))

    assert not is_open(descriptor)
    assert standin._connections == set()


def test_a_socket_that_was_shut_without_a_reset_is_closed_by_whoever_has_it(pair):
    client, server = pair
    session = pinned_session(Endpoint("127.0.0.1", 1, "ab" * 32, "basic"), Credentials("u", "p"))
    context = session.get_adapter("https://127.0.0.1").poolmanager.connection_pool_kw["ssl_context"]
    client.shutdown(socket.SHUT_RDWR)
    server.close()

    made = context.wrap_socket(client)

    assert made.version() is None
    made.close()


def test_a_listener_that_resets_every_connection_is_told_and_leaves_no_socket():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stopping = threading.Event()

        def answer():
            while True:
                connection, _ = listener.accept()
                reset(connection)
                if stopping.is_set():
                    return

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                session = GuestSession(Endpoint(*listener.getsockname(), "ab" * 32, "basic"), Credentials("u", "p"))
                for _ in range(100):
                    with pytest.raises((ConnectionFailed, ConnectionLost)):
                        session.connect(5)
                session.close()
                gc.collect()
        finally:
            stopping.set()
            socket.create_connection(listener.getsockname()).close()
            thread.join()

    assert [str(warning.message) for warning in told if warning.category is ResourceWarning] == []
