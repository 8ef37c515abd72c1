"""TLS sockets that leave nothing open when their peer is gone before the handshake."""

from __future__ import annotations

import errno
import ssl


class TlsSocket(ssl.SSLSocket):
    """An SSLSocket that closes itself when it finds, while it is made, that the connection was reset.

    CPython's SSLSocket takes over the descriptor, sees by getpeername that it is no longer connected, and reads from
    it. When that read fails with ECONNRESET it raises and leaves the descriptor open, with nobody who could close it
    (SSLSocket._create in Lib/ssl.py of CPython 3.11). To be set as SSLContext.sslsocket_class.
    """

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """As SSLSocket.recv; closes the socket when it fails before there is a secure connection."""
        try:
            return super().recv(buflen, flags)
        except OSError as error:
            # After these two the constructor goes on with the socket.
            if self.version() is None and error.errno not in (errno.ENOTCONN, errno.EINVAL):
                self.close()
            raise
