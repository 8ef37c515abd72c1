"""Asks a time stamp authority when a signature was there: RFC 3161 over HTTP."""

from __future__ import annotations

import hashlib
import http.client
import io
import secrets
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, Final
from urllib.parse import urlsplit

from harness.build import der
from harness.build.files import digest_of
from harness.build.signing import identifiers
from harness.build.signing.files import NamedFile
from harness.build.signing.signature import strictly
from harness.build.signing.timestamp_token import verify_token
from harness.build.signing.usable import read_certificates
from harness.errors import ConfigurationError, SignatureError, SigningFailed
from vm.windows.remoting.deadline import Deadline

URL_PATTERN: Final = r"https?://[^\s/?#@]+(?:[/?][^\s#]*)?"
URL_HINT: Final = "an address that begins with http:// or https://, without a password"
_LARGEST_ANSWER: Final = 1 << 18
_BOOLEAN_TRUE: Final = b"\x01\x01\xff"
_GRANTED: Final = (0, 1)
"""granted, grantedWithMods (RFC 3161 section 2.4.2)."""
_FAILURES: Final = {
    0: "it does not know the digest algorithm",
    2: "the request is not permitted",
    5: "the data is malformed",
    14: "its clock is not to be had",
    15: "it does not know the policy",
    16: "it does not know an extension",
    17: "it lacks information",
    25: "it failed itself",
}
"""PKIFailureInfo (RFC 3161 section 2.4.2)."""


@dataclass(frozen=True)
class TimestampAuthority:
    """A server that says when a signature was there.

    Attributes:
        url: its address.
        deadline: seconds that it may take.
        roots: certificates that its own must come from, None to believe whoever answers.
        option: the option that names it, for messages.
    """

    # A query may hold what only the user and the server are to know.
    url: str = field(repr=False)
    deadline: int
    roots: NamedFile | None
    option: str

    @property
    def identity(self) -> str:
        """As `Signer.identity`."""
        return digest_of("timestamp", self.url, "" if self.roots is None else self.roots.sha256)

    @property
    def _place(self) -> str:
        return f"{self.option}: {self.url.partition('?')[0]}"

    def stamp(self, signature: bytes) -> bytes:
        """The token over a signature's bytes, verified.

        Raises:
            SigningFailed: the server does not answer, refuses, or answers something else.
            ConfigurationError: the file of roots cannot be read, or the address is none.
        """
        roots = self._roots()
        nonce = secrets.randbits(63)
        answer = self._post(_request(signature, nonce))
        try:
            token = strictly(lambda: _token(answer))
            stamped = strictly(lambda: verify_token(token, signature, roots))
        except SignatureError as error:
            raise SigningFailed(
                f"{self._place}: gave no time stamp that can be used: {error}; try another server"
            ) from error
        if stamped.nonce != nonce:
            raise SigningFailed(
                f"{self._place}: answered another request than the one that was made; try another server"
            )
        if not stamped.chain[0].valid_at(stamped.time):
            raise SigningFailed(
                f"{self._place}: its certificate, {stamped.authority}, is not valid at the time that it names, "
                f"{stamped.time:%Y-%m-%d %H:%M} UTC; try another server"
            )
        known = {hashlib.sha256(root).hexdigest() for root in roots}
        if self.roots is not None and not known & {one.sha256 for one in stamped.chain}:
            raise SigningFailed(
                f"{self._place}: its certificate, {stamped.authority}, does not come from {self.roots.place}; "
                "correct one of them"
            )
        return token

    def _roots(self) -> tuple[bytes, ...]:
        from cryptography.hazmat.primitives.serialization import Encoding

        if self.roots is None:
            return ()
        return tuple(one.public_bytes(Encoding.DER) for one in read_certificates(self.roots.read(), self.roots.place))

    def _post(self, body: bytes) -> bytes:
        end = Deadline(self.deadline)
        connection, path = self._connection()
        try:
            connection.connect()
            connection.sock = _TimedSocket(connection.sock, end)
            connection.request("POST", path, body, {"Content-Type": "application/timestamp-query"})
            # Closing the connection alone leaves the socket to a response that was not read to its end.
            with connection.getresponse() as response:
                if response.status != http.client.OK:
                    told = f"answered {response.status} {http.client.responses.get(response.status, '')}".rstrip()
                    raise SigningFailed(f"{self._place}: {told}; correct the address")
                data = response.read(_LARGEST_ANSWER + 1)
        except (OSError, http.client.HTTPException) as error:
            told = "did not answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            raise SigningFailed(
                f"{self._place}: no time stamp within {self.deadline} s: {told}; see whether the server can be reached"
            ) from error
        finally:
            connection.close()
        if len(data) > _LARGEST_ANSWER:
            raise SigningFailed(f"{self._place}: answered more than any time stamp is; correct the address")
        return data

    def _connection(self) -> tuple[http.client.HTTPConnection, str]:
        """The server, not yet connected to, and what to ask of it."""
        try:
            address = urlsplit(self.url)
            host = (address.hostname or "").encode("idna").decode("ascii")
            path = (address.path or "/") + (f"?{address.query}" if address.query else "")
            path.encode("ascii")
            if address.scheme == "https":
                context = ssl.create_default_context()
                return http.client.HTTPSConnection(host, address.port, timeout=self.deadline, context=context), path
            return http.client.HTTPConnection(host, address.port, timeout=self.deadline), path
        except (ValueError, http.client.InvalidURL) as error:
            raise ConfigurationError(f"{self._place}: not an address that can be asked; correct it") from error


class _TimedSocket:
    """A connected socket, as http.client uses one, of which no operation outlasts the deadline of the whole.

    A time limit of the socket's own is for each read; a server that sends an octet now and then would never meet it.
    """

    def __init__(self, connected: socket.socket, end: Deadline) -> None:
        self._socket = connected
        self._end = end

    def sendall(self, data: bytes) -> None:
        self._limit()
        self._socket.sendall(data)

    def makefile(self, mode: str) -> IO[bytes]:
        assert mode == "rb"
        return io.BufferedReader(_TimedReader(self._socket.makefile("rb", buffering=0), self._limit))

    def close(self) -> None:
        self._socket.close()

    def _limit(self) -> None:
        left = self._end.remaining()
        if not left:
            raise TimeoutError
        self._socket.settimeout(left)


class _TimedReader(io.RawIOBase):
    def __init__(self, raw: socket.SocketIO, limit: Callable[[], None]) -> None:
        super().__init__()
        self._raw = raw
        self._limit = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._limit()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _request(signature: bytes, nonce: int) -> bytes:
    """A TimeStampReq that asks for the authority's certificate (RFC 3161 section 2.4.1)."""
    imprint = der.sequence(der.algorithm(identifiers.SHA256), der.octet_string(hashlib.sha256(signature).digest()))
    return der.sequence(der.integer(1), imprint, der.integer(nonce), _BOOLEAN_TRUE)


def _token(answer: bytes) -> bytes:
    """The token of a TimeStampResp. Raises SignatureError where the authority refuses, DerError, IndexError."""
    outer, rest = der.read(answer)
    if rest:
        raise SignatureError("there is data behind the answer")
    info, *token = outer.expect(der.SEQUENCE, "TimeStampResp").children()
    status, *details = info.expect(der.SEQUENCE, "PKIStatusInfo").children()
    if der.number(status, "status") not in _GRANTED:
        raise SignatureError(f"it refuses{_reason(details)}")
    return token[0].encoding


def _reason(details: list[der.Value]) -> str:
    told = []
    for value in details:
        if value.tag == der.SEQUENCE:
            told += [text.content.decode("utf-8", "replace") for text in value.children()]
        elif value.tag == der.BIT_STRING:
            bits = "".join(f"{octet:08b}" for octet in value.content[1:])
            told += [meaning for bit, meaning in _FAILURES.items() if bits[bit : bit + 1] == "1"]
    text = "; ".join(told)
    # What a server says may reach a terminal.
    return f": {''.join(one if one.isprintable() else '?' for one in text)}" if told else ""
