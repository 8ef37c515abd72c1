"""Gives the guest's programs to its login shell: a connection is one run of a program, with its input and output."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from pathlib import Path

FOLDER = Path("/run/standin")
_LOG = logging.getLogger(__name__)


class ProgramSocket:
    """A socket in the file system; `serve` gets the first line, the lines after it as bytes, and what sends bytes.

    It is called in a thread of its own for each connection.
    """

    def __init__(self, name, serve, *, for_everybody=False):
        FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
        path = FOLDER / name
        path.unlink(missing_ok=True)
        self._serve = serve
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o666 if for_everybody else 0o600)
        self._listener.listen(64)
        self._connections = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close_all(self):
        """End every connection."""
        for connection in tuple(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection):
        self._connections.add(connection)
        try:
            with connection, connection.makefile("rb") as reading:
                first = reading.readline()
                if first:
                    lines = (line.rstrip(b"\r\n") for line in reading)
                    self._serve(first.decode().rstrip("\r\n"), lines, connection.sendall)
        except OSError:
            # Whoever was there is gone.
            pass
        except Exception:  # noqa: BLE001 - one program that fails ends no other
            _LOG.exception("a connection ended")
        finally:
            self._connections.discard(connection)
