"""HTTPS to a WinRM listener: the certificate is pinned, and no request outlives the deadline of its command.

pypsrp's own transport trusts authorities or nobody, follows proxies of the environment, and repeats a request that got
no answer five times with growing pauses. Here the listener is known by the fingerprint of its certificate alone, the
environment has no say, and what may be repeated is: a Receive that is sent again byte for byte brings the same data.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
import weakref
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import requests
from pypsrp.negotiate import HTTPNegotiateAuth
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from vm.windows.remoting.deadline import Deadline
from vm.windows.remoting.endpoint import Credentials, Endpoint
from vm.windows.remoting.errors import IdentityChanged
from vm.windows.remoting.tls import TlsSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pypsrp.wsman import WSMan

CONNECT_SECONDS = 5.0
"""How long a TCP connection and its TLS handshake may take."""

REQUEST_SECONDS = 30.0
"""How long a request other than a Receive may take: opening a shell starts a process in the guest."""

GRACE_SECONDS = 2.0
"""How much longer than WSMan's own operation timeout an answer may take before it counts as missing."""

RESETS = 3
"""How often in a row a Receive is sent again over a new connection."""

ANSWER_BYTES = 4 * 1024 * 1024
"""More than the longest answer: WinRM keeps to the envelope size that it is asked for."""


class NotConnected(Exception):
    """No connection could be made: nothing was sent."""


class Broken(Exception):
    """A connection broke after a request may have gone out."""


class Silent(Exception):
    """A request got no answer in its time."""


class TooLong(Exception):
    """An answer is longer than any that WinRM gives."""


def pinned_session(endpoint: Endpoint, credentials: Credentials) -> requests.Session:
    """A session that talks to this one listener only, and to it only if it shows the pinned certificate."""
    session = requests.Session()
    session.trust_env = False
    # The pinned connection verifies; requests must not look for authorities.
    session.verify = False
    session.headers["User-Agent"] = "ntproof"
    session.headers["Accept-Encoding"] = "identity"
    session.mount("https://", _PinnedAdapter(endpoint))
    session.adapters.pop("http://", None)
    if endpoint.authentication == "basic":
        session.auth = HTTPBasicAuth(credentials.username.encode(), credentials.password.encode())
    else:
        session.auth = HTTPNegotiateAuth(
            username=credentials.username,
            password=credentials.password,
            auth_provider=endpoint.authentication,
            send_cbt=True,
            service="WSMAN",
            wrap_required=False,
        )
    return session


class DeadlineTransport:
    """Stands in for the transport of a pypsrp WSMan object: the same requests, under a deadline.

    Attributes:
        deadline: of the command under way; set by whoever runs commands.
    """

    def __init__(self, inner: Any, session: requests.Session, deadline: Deadline) -> None:
        inner.session = session
        self._inner = inner
        self.deadline = deadline
        self._adapter().deadline_of = lambda: self.deadline

    @property
    def endpoint(self) -> str:
        """The listener's URL, which WSMan puts into its headers."""
        return str(self._inner.endpoint)

    def send(self, message: bytes, *, retries_on_read_timeout: int = 0, timeout: float | None = None) -> bytes:
        """Send a WSMan envelope.

        Args:
            message: the envelope.
            retries_on_read_timeout: more than 0 marks a request that may be repeated as it is; the number is ignored.
            timeout: seconds after which WSMan itself gives up, None for requests that it answers at once.

        Raises:
            NotConnected, Broken, Silent: no answer, by cause.
            TooLong: an answer without end.
            IdentityChanged: the listener shows another certificate.
        """
        repeatable = retries_on_read_timeout > 0
        if repeatable and timeout is None and self.deadline.passed:
            # While a session opens, pypsrp itself asks again and again, whatever the time.
            raise Silent("the guest answers, but nothing that leads on")
        resets = 0
        while True:
            try:
                answer: bytes = self._inner.send(message, retries_on_read_timeout=0, timeout=self._limits(timeout))
            except requests.ConnectTimeout as error:
                raise NotConnected(f"no connection within {CONNECT_SECONDS:g} s") from error
            except requests.ReadTimeout as error:
                if not repeatable or self.deadline.passed:
                    raise Silent("the guest did not answer") from error
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
                if _never_connected(error):
                    raise NotConnected(_reason(error)) from error
                resets += 1
                if not repeatable or resets > RESETS or self.deadline.passed:
                    raise Broken(_reason(error)) from error
            else:
                return answer

    def close(self) -> None:
        """Close every connection."""
        self._inner.close()

    def abort(self) -> None:
        """Break every connection, from any thread and without waiting: a request under way ends as Broken."""
        self._adapter().abort()

    def _adapter(self) -> _PinnedAdapter:
        adapter = self._inner.session.adapters["https://"]
        assert isinstance(adapter, _PinnedAdapter)
        return adapter

    def _limits(self, operation: float | None) -> tuple[float, float]:
        left = max(self.deadline.remaining(), 0.1)
        if operation is None:
            return min(CONNECT_SECONDS, left), min(REQUEST_SECONDS, left)
        # A Receive may wait for all of its operation timeout; only an answer still later is a missing one.
        return min(CONNECT_SECONDS, left), operation + GRACE_SECONDS


def install(wsman: WSMan, endpoint: Endpoint, credentials: Credentials, deadline: Deadline) -> DeadlineTransport:
    """Put a pinned transport under a WSMan object."""
    transport = DeadlineTransport(wsman.transport, pinned_session(endpoint, credentials), deadline)
    wsman.transport = transport  # type: ignore[assignment]
    return transport


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and everything that it wraps, by cause, context, argument or urllib3's ``reason``."""
    seen: set[int] = set()
    pending: list[BaseException] = [error]
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        wrapped = (current.__cause__, current.__context__, getattr(current, "reason", None), *current.args)
        pending += [inner for inner in wrapped if isinstance(inner, BaseException)]


def _never_connected(error: requests.RequestException) -> bool:
    return any(isinstance(cause, NewConnectionError | ConnectTimeoutError | ssl.SSLError) for cause in causes(error))


def _reason(error: BaseException) -> str:
    """The operating system's words for it where there are any: those of requests are a nest of representations."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return next((str(cause) for cause in causes(error) if isinstance(cause, ssl.SSLError)), "the connection broke")


class _PinnedConnection(HTTPSConnection):
    """A TLS connection that is closed unless the peer shows the pinned certificate, before a byte is sent to it."""

    pinned: Endpoint
    sockets: weakref.WeakSet[ssl.SSLSocket]

    def connect(self) -> None:
        super().connect()
        assert isinstance(self.sock, ssl.SSLSocket)
        self.sockets.add(self.sock)
        certificate = self.sock.getpeercert(binary_form=True) or b""
        seen = hashlib.sha256(certificate).hexdigest()
        if not hmac.compare_digest(seen, self.pinned.fingerprint):
            self.close()
            raise IdentityChanged("certificate", expected=self.pinned.fingerprint, seen=seen, endpoint=str(self.pinned))
        self.is_verified = True


def _bounded(raw: Any, left: float) -> Callable[..., Iterator[bytes]]:
    """What reads the body of an answer for requests: of bounded length, and within the time that its command has left.

    The time limit of a socket is one for each of its bytes, so that a peer that sends them one by one never exceeds it.
    """

    def stream(amount: int, decode_content: bool | None = None) -> Iterator[bytes]:
        limit, size = Deadline(max(left, GRACE_SECONDS)), 0
        with ExitStack() as unread:
            # What comes next on such a connection is the rest of this answer, and nobody else would close it.
            unread.callback(raw.close)
            while data := raw.read1(amount, decode_content=decode_content):
                size += len(data)
                if size > ANSWER_BYTES:
                    raise TooLong(f"an answer of more than {ANSWER_BYTES} bytes")
                if limit.passed:
                    raise Silent("the guest did not answer to the end")
                yield data
            unread.pop_all()

    return stream


class _PinnedAdapter(HTTPAdapter):
    deadline_of: Callable[[], Deadline]

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._sockets: weakref.WeakSet[ssl.SSLSocket] = weakref.WeakSet()
        super().__init__(pool_connections=1, pool_maxsize=2, max_retries=0)

    def abort(self) -> None:
        """Shut every connection down in both directions, which wakes whoever waits for it."""
        for opened in tuple(self._sockets):
            with suppress(OSError):
                socket.socket.shutdown(opened, socket.SHUT_RDWR)

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        response = super().send(request, *arguments, **options)
        response.raw.stream = _bounded(response.raw, self.deadline_of().remaining())
        return response

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.sslsocket_class = TlsSocket
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # The fingerprint identifies the peer; its name and issuer say nothing about a certificate made in a guest.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        super().init_poolmanager(connections, maxsize, block, ssl_context=context, assert_hostname=False, **kwargs)
        connection = type(
            "_PinnedConnection", (_PinnedConnection,), {"pinned": self._endpoint, "sockets": self._sockets}
        )
        pool = type("_PinnedPool", (HTTPSConnectionPool,), {"ConnectionCls": connection})
        self.poolmanager.pool_classes_by_scheme = {"https": pool}
