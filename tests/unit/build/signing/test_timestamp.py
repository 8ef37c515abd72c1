"""Time stamps are asked for over HTTP, verified before they are believed, and each way to fail is told."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
import threading
import time
from functools import partial
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from harness.build import der, pe
from harness.build.signing.chain import chain_of
from harness.build.signing.cms import SignedData, Signer, issuer_and_serial
from harness.build.signing.files import NamedFile
from harness.build.signing.identifiers import (
    COUNTERSIGNATURE,
    MESSAGE_DIGEST,
    RSA_ENCRYPTION,
    SHA256,
    SIGNING_TIME,
)
from harness.build.signing.signature import strictly, verify_image
from harness.build.signing.signer import KeySigner
from harness.build.signing.timestamp_client import TimestampAuthority
from harness.build.signing.timestamp_token import timestamp_of, verify_token
from harness.build.signing.usable import rsa_signature
from harness.errors import ConfigurationError, SignatureError, SigningFailed
from tests.fixtures.signing_keys import CODE, SERVER, STAMPING, make, root, rsa_key, team, write
from tests.fixtures.timestamp_server import Authority
from tests.standin.requirements import require_program

DATA = b"a signature"


@pytest.fixture
def authority(tmp_path):
    require_program("openssl", "openssl")
    return Authority(tmp_path)


@pytest.fixture
def client(authority, tmp_path):
    with authority.serve() as url:
        yield TimestampAuthority(
            url, 5, NamedFile(write(tmp_path / "root.pem", root().pem()), "timestamp_roots"), "timestamp"
        )


def stamped_signature(client, identity, minimal):
    signed = KeySigner(identity, client).sign(minimal.image.read_bytes())
    return signed.data, verify_image(pe.parse(signed.data))


def test_a_signature_is_stamped_with_the_time(client, authority, identity, minimal):
    _, info = stamped_signature(client, identity, minimal)

    assert abs(info.timestamp.time - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)
    assert info.timestamp.authority == "CN=Test Time"
    assert [one.subject for one in info.timestamp.chain] == ["CN=Test Time", "CN=Test Root"]
    assert authority.requests[0][0] == "application/timestamp-query"


def test_a_token_that_names_its_certificate_by_sha1_is_verified_too(tmp_path, identity, minimal):
    require_program("openssl", "openssl")
    with Authority(tmp_path, named_by="sha1").serve() as url:
        _, info = stamped_signature(TimestampAuthority(url, 5, None, "timestamp"), identity, minimal)

    assert info.timestamp.authority == "CN=Test Time"


def test_no_two_requests_have_the_same_nonce(client, authority):
    assert client.stamp(DATA) != client.stamp(DATA)
    assert authority.requests[0][1] != authority.requests[1][1]


def test_a_token_for_another_signature_is_refused(client):
    token = client.stamp(DATA)

    with pytest.raises(SignatureError, match="made for another signature"):
        verify_token(token, b"another signature")


def test_a_stamp_moved_to_another_image_is_refused(client, identity, minimal, cookie):
    data, _ = stamped_signature(client, identity, minimal)
    token = client.stamp(b"something else")
    moved = KeySigner(identity, _Fixed(token)).sign(cookie.image.read_bytes()).data

    with pytest.raises(SignatureError, match="time stamp was made for another signature"):
        verify_image(pe.parse(moved))
    assert verify_image(pe.parse(data)).timestamp


class _Fixed:
    """Gives one token whatever it is asked for."""

    identity = "fixed"

    def __init__(self, token):
        self._token = token

    def stamp(self, _signature):
        return self._token


def test_each_changed_octet_of_a_token_is_refused_or_changes_nothing_that_is_told(client):
    token = client.stamp(DATA)
    told = verify_token(token, DATA)
    refused = 0
    for position in range(0, len(token), 3):
        altered = bytearray(token)
        altered[position] ^= 0x01
        try:
            found = strictly(partial(verify_token, bytes(altered), DATA))
        except SignatureError:
            refused += 1
            continue
        assert (found.time, found.nonce, found.authority) == (told.time, told.nonce, told.authority)
    # The rest are certificates that are not the authority's own, and what no signature covers.
    assert refused > len(token) // 8


def replayed(authority):
    first = authority.reply

    def answer(request):
        answer.kept = answer.kept or first(request)
        return answer.kept

    answer.kept = None
    return answer


def test_an_answer_to_another_request_is_refused(client, authority):
    authority.answer = replayed(authority)
    client.stamp(DATA)

    with pytest.raises(SigningFailed, match="answered another request"):
        client.stamp(DATA)


def test_a_refusal_is_told_in_the_servers_words(tmp_path):
    require_program("openssl", "openssl")
    authority = Authority(tmp_path, digests="sha512")
    with authority.serve() as url, pytest.raises(SigningFailed, match=r"it refuses: .*digest algorithm"):
        TimestampAuthority(url, 5, None, "timestamp").stamp(DATA)


def test_a_certificate_that_is_not_for_time_stamps_is_refused(client, authority):
    """OpenSSL would not stamp with it, so the token is made for the right one and its certificate changed."""
    token = client.stamp(DATA)
    usage = der.object_identifier(STAMPING.dotted_string)
    wrong = token.replace(usage, der.object_identifier(CODE.dotted_string))

    assert wrong != token
    with pytest.raises(SignatureError, match="does not name its authority's certificate"):
        verify_token(wrong, DATA)


def test_what_a_server_says_reaches_no_terminal_as_it_is(client, authority):
    text = der.sequence(der.encode(0x0C, b"\x1b[2Jno"))
    authority.answer = lambda _: der.sequence(der.sequence(der.integer(2), text))

    with pytest.raises(SigningFailed, match=r"it refuses: \?\[2Jno;"):
        client.stamp(DATA)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"", "malformed: truncated value"),
        (b"<html>not found</html>", "gave no time stamp that can be used"),
        (der.sequence(der.sequence(der.integer(2))), "it refuses"),
        (der.sequence(der.sequence(der.integer(0))), "gave no time stamp that can be used"),
        (der.sequence(der.sequence(der.integer(0)), der.sequence()), "gave no time stamp that can be used"),
        (bytes(1 << 19), "answered more than any time stamp is"),
    ],
)
def test_an_answer_that_is_no_time_stamp_is_told_with_the_address(client, authority, answer, complaint):
    authority.answer = lambda _: answer

    with pytest.raises(SigningFailed, match=complaint) as caught:
        client.stamp(DATA)

    assert client.url in str(caught.value)


def test_an_http_error_is_told(client, authority):
    authority.status = 503

    with pytest.raises(SigningFailed, match="answered 503 Service Unavailable"):
        client.stamp(DATA)


def test_a_server_that_drips_is_given_up_at_the_deadline(client, authority):
    authority.answer = lambda _: [b"\x30"] * 60
    hasty = TimestampAuthority(client.url, 1, None, "timestamp")
    started = time.monotonic()

    with pytest.raises(SigningFailed, match="no time stamp within 1 s: did not answer in time"):
        hasty.stamp(DATA)

    assert time.monotonic() - started < 5


def test_a_server_that_drips_its_headers_is_given_up_at_the_deadline():
    def drip(listener, over):
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            for _ in range(100):
                connection.sendall(b"a")
                if over.wait(0.1):
                    break

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener, over))
        thread.start()
        started = time.monotonic()
        with pytest.raises(SigningFailed, match="no time stamp within 1 s: did not answer in time"):
            TimestampAuthority(f"http://127.0.0.1:{listener.getsockname()[1]}/", 1, None, "timestamp").stamp(DATA)
        lasted = time.monotonic() - started
        over.set()
        thread.join()

    assert lasted < 5


@pytest.mark.parametrize(
    "url",
    ["http://host:99999/", "http://host:x/", "http://[::1/", "http://a..b/", f"http://{'a' * 64}/", "http://h/\xe9"],
)
def test_an_address_that_is_none_is_the_users_mistake(url):
    with pytest.raises(ConfigurationError, match=r"timestamp: http://.*: not an address that can be asked; correct it"):
        TimestampAuthority(url, 5, None, "timestamp").stamp(DATA)


def test_what_an_address_holds_behind_its_path_is_not_told(authority):
    authority.status = 403
    with authority.serve() as url:
        asked = TimestampAuthority(f"{url}?key=correcthorse", 5, None, "timestamp")
        with pytest.raises(SigningFailed, match="answered 403 Forbidden") as caught:
            asked.stamp(DATA)

    assert "correcthorse" not in f"{caught.value} {asked!r}"


def test_a_server_that_says_nothing_is_given_up_at_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(SigningFailed, match="did not answer in time; see whether"):
            TimestampAuthority(url, 1, None, "timestamp").stamp(DATA)


def test_a_server_that_is_not_there_is_told():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}/"
    with pytest.raises(SigningFailed, match=r"timestamp: http://127.*Connection refused"):
        TimestampAuthority(url, 5, None, "timestamp").stamp(DATA)


def test_an_authority_below_another_root_is_refused(client, tmp_path):
    stranger = make("Test Root", rsa_key(7), usages=(), authority=True)
    roots = NamedFile(write(tmp_path / "other.pem", stranger.pem()), "timestamp_roots")

    with pytest.raises(SigningFailed, match=r"its certificate, CN=Test Time, does not come from .*other\.pem"):
        TimestampAuthority(client.url, 5, roots, "timestamp").stamp(DATA)


def test_an_authority_whose_certificate_expired_is_refused(tmp_path):
    require_program("openssl", "openssl")
    expired = Authority(tmp_path, begins=dt.timedelta(days=-9), ends=dt.timedelta(days=-1))

    with expired.serve() as url, pytest.raises(SigningFailed, match="CN=Test Time, is not valid at the time that it"):
        TimestampAuthority(url, 5, None, "timestamp").stamp(DATA)


def test_a_signer_is_no_issuer(client, tmp_path):
    """Whoever has a certificate of the root could otherwise make authorities of his own."""
    forged = make("Forged Time", rsa_key(8), usages=(STAMPING,), issuer=team())
    carried = [one.public_bytes(Encoding.DER) for one in forged.issuers]

    assert [one.subject for one in chain_of(forged.certificate, carried)] == ["CN=Forged Time"]


def test_an_absent_file_of_roots_is_told_before_the_server_is_asked(authority, tmp_path):
    roots = NamedFile(tmp_path / "absent.pem", "timestamp_roots")

    with authority.serve() as url, pytest.raises(ConfigurationError, match=r"timestamp_roots: .*cannot be read"):
        TimestampAuthority(url, 5, roots, "timestamp").stamp(DATA)

    assert authority.requests == []


def countersigned(time_attribute, *, usages=(STAMPING,), over=DATA):
    """A signer that carries a countersignature as they were before RFC 3161 (PKCS#9), and what carries both."""
    clock = make("Old Clock", rsa_key(8), usages=usages)
    attributes = [
        der.sequence(der.object_identifier(MESSAGE_DIGEST), der.set_of(der.octet_string(sha256(over).digest())))
    ]
    if time_attribute is not None:
        attributes.append(der.sequence(der.object_identifier(SIGNING_TIME), der.set_of(time_attribute)))
    encoded = der.set_of(*attributes)
    info = der.sequence(
        der.integer(1),
        der.sequence(issuer_and_serial(clock.der)),
        der.algorithm(SHA256),
        b"\xa0" + encoded[1:],
        der.algorithm(RSA_ENCRYPTION),
        der.octet_string(rsa_signature(clock.key)(encoded)),
    )
    value = der.read(info)[0]
    signer = Signer(team().certificate, "sha256", {}, ((der.object_identifier(COUNTERSIGNATURE), (value,)),), DATA)
    return signer, SignedData(b"", value, (team().der, clock.der), ())


@pytest.mark.parametrize(
    ("encoded", "year"),
    [
        (der.encode(0x17, b"171002154543Z"), 2017),
        (der.encode(0x17, b"991002154543Z"), 1999),
        (der.encode(0x18, b"20171002154543Z"), 2017),
        (der.encode(0x18, b"20171002154543.25Z"), 2017),
    ],
)
def test_a_countersignature_of_the_older_kind_is_verified(encoded, year):
    found = timestamp_of(*countersigned(encoded))

    assert found.time == dt.datetime(year, 10, 2, 15, 45, 43, tzinfo=dt.UTC)
    assert (found.authority, found.nonce) == ("CN=Old Clock", None)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"over": b"other"}, "the signed digest does not match"),
        ({"usages": (CODE,)}, "not meant for time stamping"),
        ({"time_attribute": None}, "names no time"),
        ({"time_attribute": der.encode(0x17, b"17100215Z")}, "time is malformed"),
        ({"time_attribute": der.integer(5)}, "time is malformed"),
        ({"time_attribute": der.encode(0x18, b"20179902154543Z")}, "malformed"),
    ],
)
def test_a_countersignature_that_does_not_hold_is_refused(changes, complaint):
    given = {"time_attribute": der.encode(0x17, b"171002154543Z"), **changes}

    with pytest.raises(SignatureError, match=complaint):
        strictly(partial(timestamp_of, *countersigned(**given)))


def test_a_signature_is_no_time_stamp(identity):
    signed = der.sequence(
        der.object_identifier("1.2.840.113549.1.7.2"),
        der.explicit(0, der.sequence(der.integer(1), der.set_of(), der.sequence(
            der.object_identifier("1.2.840.113549.1.7.1"), der.explicit(0, der.octet_string(b""))), der.set_of())),
    )  # fmt: skip

    with pytest.raises(SignatureError, match="not an RFC 3161 token"):
        verify_token(signed, DATA)


def test_a_server_that_cannot_prove_who_it_is_is_refused(tmp_path):
    owner = make("localhost", rsa_key(9), usages=(SERVER,))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write(tmp_path / "c.pem", owner.pem()), write(tmp_path / "k.pem", owner.key_pem()))

    def answer(listener):
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True):
            pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(SigningFailed, match="certificate verify failed"):
            TimestampAuthority(url, 5, None, "timestamp").stamp(DATA)
        thread.join()
