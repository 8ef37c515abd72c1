"""Reads CMS SignedData (RFC 5652, and PKCS#7 before it) and verifies its signers, for signatures and time stamps."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.build import der
from harness.build.signing import identifiers
from harness.errors import SignatureError, UnverifiedSignature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.x509 import Certificate

_CERTIFICATES: Final = 0xA0
_VERSION: Final = 0xA0
_REVOCATIONS: Final = 0xA1
_SIGNED_ATTRIBUTES: Final = 0xA0
_UNSIGNED_ATTRIBUTES: Final = 0xA1


@dataclass(frozen=True)
class SignedData:
    """The parts of a SignedData.

    Attributes:
        content_type: encoded identifier of what is signed.
        content: what is signed: the value inside the explicit [0].
        certificates: each certificate that is carried, DER, in the order of the file.
        signers: each SignerInfo.
    """

    content_type: bytes
    content: der.Value
    certificates: tuple[bytes, ...]
    signers: tuple[der.Value, ...]


@dataclass(frozen=True)
class Signer:
    """A signer whose signature was verified.

    Attributes:
        certificate: whose key it was.
        digest_algorithm: of the signature, as `hashlib` names it.
        signed: the signed attributes: encoded value sets by encoded identifier.
        unsigned: the unsigned attributes likewise, with the values taken apart.
        signature: the signature's own bytes, which a time stamp is over.
    """

    certificate: Certificate
    digest_algorithm: str
    signed: dict[bytes, bytes]
    unsigned: tuple[tuple[bytes, tuple[der.Value, ...]], ...]
    signature: bytes

    def unsigned_values(self, dotted: str) -> Iterator[der.Value]:
        """The values of an unsigned attribute."""
        wanted = der.object_identifier(dotted)
        for identifier, values in self.unsigned:
            if identifier == wanted:
                yield from values


def read_signed_data(data: bytes) -> tuple[SignedData, bytes]:
    """The SignedData that some bytes begin with, and what follows it.

    Raises:
        SignatureError: it is a ContentInfo of another kind.
        DerError, IndexError: it is no such structure.
    """
    outer, rest = der.read(data)
    kind, wrapped = outer.expect(der.SEQUENCE, "ContentInfo").children()[:2]
    if kind.encoding != der.object_identifier(identifiers.SIGNED_DATA):
        raise SignatureError("the signature is not a PKCS#7 SignedData")
    parts = wrapped.children()[0].expect(der.SEQUENCE, "SignedData").children()
    content_type, *content = parts[2].expect(der.SEQUENCE, "the signed content").children()
    certificates = next((part for part in parts[3:-1] if part.tag == _CERTIFICATES), None)
    if any(part.tag not in {_CERTIFICATES, _REVOCATIONS} for part in parts[3:-1]):
        raise SignatureError("the signature has a part that no SignedData has")
    signed = SignedData(
        content_type.encoding,
        content[0].children()[0],
        tuple(one.encoding for one in certificates.children()) if certificates else (),
        tuple(parts[-1].expect(der.SET, "the signers").children()),
    )
    return signed, rest


def verify_signer(signed: SignedData, info: der.Value, content: bytes, content_type: bytes | None) -> Signer:
    """Verify one SignerInfo.

    Args:
        signed: where the signer's certificate is.
        info: the SignerInfo.
        content: the octets that the message digest is over.
        content_type: the encoded content type that the signer must have signed, None where none is demanded.

    Raises:
        SignatureError: the certificate is absent, or something does not match; the message says which.
        UnverifiedSignature: an algorithm is not known here.
        DerError, IndexError: it is no SignerInfo.
    """
    parts = info.expect(der.SEQUENCE, "SignerInfo").children()
    _, whose, algorithm, attributes, key_algorithm, signature = parts[:6]
    attributes.expect(_SIGNED_ATTRIBUTES, "authenticated attributes")
    certificate = _certificate_of(signed.certificates, whose)
    digest = identifiers.digest_name(algorithm)
    _verify(certificate, key_algorithm, signature.content, b"\x31" + attributes.encoding[1:], digest)
    values = {pair.children()[0].encoding: pair.children()[1].encoding for pair in attributes.children()}
    expected = der.set_of(der.octet_string(hashlib.new(digest, content, usedforsecurity=False).digest()))
    if values.get(der.object_identifier(identifiers.MESSAGE_DIGEST)) != expected:
        raise SignatureError("the signed digest does not match the signature's content")
    signed_type = values.get(der.object_identifier(identifiers.CONTENT_TYPE))
    if content_type is not None and signed_type != der.set_of(content_type):
        raise SignatureError("the signed content type is not that of the content")
    unsigned = parts[6].expect(_UNSIGNED_ATTRIBUTES, "unauthenticated attributes").children() if parts[6:] else []
    return Signer(
        certificate=certificate,
        digest_algorithm=digest,
        signed=values,
        unsigned=tuple((pair.children()[0].encoding, tuple(pair.children()[1].children())) for pair in unsigned),
        signature=signature.content,
    )


def issuer_and_serial(certificate: bytes) -> bytes:
    """What names a certificate in a SignerInfo, as the certificate's own octets: a name written anew may differ."""
    parts = der.read(certificate)[0].children()[0].children()
    offset = 1 if parts[0].tag == _VERSION else 0
    return parts[offset + 2].encoding + parts[offset].encoding


def _certificate_of(certificates: tuple[bytes, ...], whose: der.Value) -> Certificate:
    from cryptography import x509

    for encoded in certificates:
        try:
            name = issuer_and_serial(encoded)
        except (der.DerError, IndexError):
            # Of another kind than X.509 (RFC 5652 section 10.2.2), or damaged: not the signer's.
            continue
        if name == whose.content:
            return x509.load_der_x509_certificate(encoded)
    raise SignatureError("the signature does not hold its signer's certificate")


def _verify(certificate: Certificate, algorithm: der.Value, signature: bytes, data: bytes, digest: str) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    if algorithm.children()[0].encoding == der.object_identifier(identifiers.RSASSA_PSS):
        raise UnverifiedSignature("the signature is made with RSASSA-PSS, which is not verified here")
    algorithms: dict[str, hashes.HashAlgorithm] = {
        "sha1": hashes.SHA1(),  # noqa: S303 - signatures from before 2016 are read, none is made
        "sha256": hashes.SHA256(),
        "sha384": hashes.SHA384(),
        "sha512": hashes.SHA512(),
    }
    chosen = algorithms[digest]
    key = certificate.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), chosen)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(chosen))
        else:
            raise UnverifiedSignature("the signer's key is neither RSA nor on an elliptic curve")
    except InvalidSignature:
        raise SignatureError("the signature does not match the signer's certificate") from None
