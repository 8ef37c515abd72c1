"""Verifies the time stamps of signatures: RFC 3161 tokens, and the countersignatures that came before them (PKCS#9)."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.build import der
from harness.build.signing import identifiers
from harness.build.signing.chain import CertificateFacts, chain_of, usages_of
from harness.build.signing.cms import SignedData, Signer, read_signed_data, verify_signer
from harness.errors import SignatureError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_TIME_STAMPING: Final = "1.3.6.1.5.5.7.3.8"
"""id-kp-timeStamping (RFC 5280 section 4.2.1.12)."""
_GENERALIZED_TIME: Final = 0x18
_UTC_TIME: Final = 0x17
_GENERALIZED: Final = re.compile(rb"(\d{14})(?:\.\d+)?Z")
_UTC: Final = re.compile(rb"(\d{12})Z")


@dataclass(frozen=True)
class Timestamp:
    """A time stamp that was verified.

    Attributes:
        time: when the signature was there, UTC.
        chain: the authority's certificate and its issuers, as far as the token carries them.
        nonce: the number that the request for it held, None where there is none.
    """

    time: dt.datetime
    chain: tuple[CertificateFacts, ...]
    nonce: int | None = None

    @property
    def authority(self) -> str:
        """Who says so (RFC 4514)."""
        return self.chain[0].subject


def timestamp_of(signer: Signer, carried: SignedData) -> Timestamp | None:
    """The time stamp of a signature, verified; None where it has none.

    Raises:
        SignatureError: it does not belong to the signature, or its own signature does not match.
        DerError, IndexError: it is malformed.
    """
    for token in signer.unsigned_values(identifiers.RFC3161_TIMESTAMP):
        return verify_token(token.encoding, signer.signature)
    for info in signer.unsigned_values(identifiers.COUNTERSIGNATURE):
        return _countersignature(info, signer, carried)
    return None


def verify_token(token: bytes, stamped: bytes, issuers: tuple[bytes, ...] = ()) -> Timestamp:
    """Verify an RFC 3161 token over some bytes.

    Args:
        token: the ContentInfo.
        stamped: what the token must be over.
        issuers: certificates, DER, that the chain may go on with beside those of the token.

    Raises:
        SignatureError: it is over something else, or its own signature does not match.
        DerError, IndexError: it is malformed.
    """
    signed, _ = read_signed_data(token)
    if signed.content_type != der.object_identifier(identifiers.TST_INFO):
        raise SignatureError("the time stamp is not an RFC 3161 token")
    content = signed.content.expect(der.OCTET_STRING, "the time stamp's content").content
    signer = verify_signer(signed, signed.signers[0], content, signed.content_type)
    _require_named(signer)
    _require_authority(signer.certificate)
    parts = der.read(content)[0].expect(der.SEQUENCE, "TSTInfo").children()
    algorithm, imprint = parts[2].expect(der.SEQUENCE, "MessageImprint").children()
    digest = hashlib.new(identifiers.digest_name(algorithm), stamped, usedforsecurity=False).digest()
    if imprint.content != digest:
        raise SignatureError("the time stamp was made for another signature")
    nonce = next((der.number(part, "nonce") for part in parts[5:] if part.tag == der.INTEGER), None)
    return Timestamp(_time(parts[4]), chain_of(signer.certificate, (*issuers, *signed.certificates)), nonce)


def _require_named(signer: Signer) -> None:
    """The token names its signer's certificate by digest, so none can be put in its place (RFC 3161 section 2.4.2)."""
    from cryptography.hazmat.primitives.serialization import Encoding

    encoded = signer.certificate.public_bytes(Encoding.DER)
    for dotted in (identifiers.SIGNING_CERTIFICATE_V2, identifiers.SIGNING_CERTIFICATE):
        value = signer.signed.get(der.object_identifier(dotted))
        if value is None:
            continue
        first = der.read(value)[0].children()[0].children()[0].children()[0].children()
        algorithm = "sha1" if dotted == identifiers.SIGNING_CERTIFICATE else "sha256"
        if first[0].tag == der.SEQUENCE:
            algorithm = identifiers.digest_name(first[0])
        digest = next(part.content for part in first if part.tag == der.OCTET_STRING)
        if digest == hashlib.new(algorithm, encoded, usedforsecurity=False).digest():
            return
        break
    raise SignatureError("the time stamp does not name its authority's certificate")


def _require_authority(certificate: Certificate) -> None:
    if _TIME_STAMPING not in usages_of(certificate):
        raise SignatureError("the time stamp's certificate is not meant for time stamping")


def _countersignature(info: der.Value, signer: Signer, carried: SignedData) -> Timestamp:
    counter = verify_signer(carried, info, signer.signature, None)
    _require_authority(counter.certificate)
    value = counter.signed.get(der.object_identifier(identifiers.SIGNING_TIME))
    if value is None:
        raise SignatureError("the countersignature names no time")
    return Timestamp(_time(der.read(value)[0].children()[0]), chain_of(counter.certificate, carried.certificates))


def _time(value: der.Value) -> dt.datetime:
    if value.tag == _GENERALIZED_TIME and (match := _GENERALIZED.fullmatch(value.content)):
        text = match[1].decode("ascii")
    elif value.tag == _UTC_TIME and (match := _UTC.fullmatch(value.content)):
        # RFC 5280 section 4.1.2.5.1: years from 50 on belong to the twentieth century.
        text = ("19" if match[1] >= b"50" else "20") + match[1].decode("ascii")
    else:
        raise SignatureError("the time stamp's time is malformed")
    return dt.datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=dt.UTC)
