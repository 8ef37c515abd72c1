"""Verifies the Authenticode signature of an image: page hashes, digest, signer, time stamp, further signatures."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from harness.build import der
from harness.build.pe import Image, load
from harness.build.signing import identifiers
from harness.build.signing.chain import CertificateFacts, chain_of
from harness.build.signing.cms import SignedData, Signer, read_signed_data, verify_signer
from harness.build.signing.digests import image_digest, page_hashes
from harness.build.signing.timestamp_token import Timestamp, timestamp_of
from harness.errors import SignatureError, UnverifiedSignature

if TYPE_CHECKING:
    from pathlib import Path

WIN_CERTIFICATE_HEADER: Final = struct.Struct("<IHH")
"""WIN_CERTIFICATE (wintrust.h): length, revision, type."""
TYPE_PKCS_SIGNED_DATA: Final = 0x0002
PAGE_HASH_CLASS: Final = bytes.fromhex("A6B586D5B4A12466AE05A217DA8E60D6")
"""The class of an SpcSerializedObject that holds page hashes."""
_PAGE_HASHES: Final = {
    der.object_identifier(identifiers.SPC_PAGE_HASHES_V1): "sha1",
    der.object_identifier(identifiers.SPC_PAGE_HASHES_V2): "sha256",
}
_MOST_SIGNATURES: Final = 8

T = TypeVar("T")


@dataclass(frozen=True)
class SignatureInfo:
    """A signature that was verified.

    Attributes:
        subject: the signer's name (RFC 4514).
        certificate_sha256: fingerprint of the signer's certificate in hexadecimal.
        digest: the image's Authenticode digest in hexadecimal; signing does not change it.
        digest_algorithm: of that digest, ``sha256`` for what is signed here.
        page_hashes: how many pages have a hash of their own; 0 when the signature has no page hashes.
        chain: the signer's certificate and its issuers, as far as the signature carries them.
        timestamp: when the signature was there, None where nobody says so.
        nested: further signatures over the same image.
    """

    subject: str
    certificate_sha256: str
    digest: str
    digest_algorithm: str
    page_hashes: int
    chain: tuple[CertificateFacts, ...]
    timestamp: Timestamp | None
    nested: tuple[SignatureInfo, ...]

    @property
    def for_code(self) -> bool:
        """Whether the signer's certificate may be used for code: a certificate that names no usage is for every one."""
        usages = self.chain[0].usages
        return not usages or not {identifiers.CODE_SIGNING_USAGE, identifiers.ANY_USAGE}.isdisjoint(usages)

    def all(self) -> tuple[SignatureInfo, ...]:
        """This signature and the nested ones."""
        return (self, *self.nested)


def verify(path: Path) -> SignatureInfo:
    """Verify the signature of an image file: page hashes, digest, and the signer's signature over both.

    Whether anyone trusts the certificate is not judged, nor what it may be used for: test certificates are trusted by
    whoever installs them.

    Raises:
        ImageError: not an x64 image.
        SignatureError: unsigned, malformed, changed since it was signed, or signed with another key; the message
            says which, and names the first changed page.
        UnverifiedSignature: the rest holds, and something cannot be verified here: an algorithm, a time stamp, a nested
            signature.
    """
    return verify_image(load(path))


def verify_image(image: Image) -> SignatureInfo:
    """As `verify`, for an image in memory."""
    data = signature_bytes(image)
    return strictly(lambda: _verify_all(image, data))


def signature_bytes(image: Image) -> bytes:
    """The PKCS#7 structure in the certificate table.

    Raises:
        SignatureError: there is none, or the table holds something else or more.
    """
    offset, size = image.certificate_table
    if not offset:
        raise SignatureError("the image is not signed")
    if size < WIN_CERTIFICATE_HEADER.size:
        raise SignatureError("the certificate table is too small to hold a signature")
    length, _, kind = WIN_CERTIFICATE_HEADER.unpack_from(image.data, offset)
    if kind != TYPE_PKCS_SIGNED_DATA or not WIN_CERTIFICATE_HEADER.size <= length <= size:
        raise SignatureError(f"the certificate table holds no PKCS#7 signature (type {kind}, {length} bytes)")
    if any(image.data[offset + length :]):
        raise SignatureError("there is data after the signature")
    return image.data[offset + WIN_CERTIFICATE_HEADER.size : offset + length]


def strictly(work: Callable[[], T]) -> T:
    """What some work on a signature gives; whatever a malformed structure leads to becomes a SignatureError.

    Raises:
        UnverifiedSignature: cryptography does not know an algorithm.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    # Missing members, unknown keys, odd extensions and names, numbers out of range.
    malformed = (
        *(ValueError, IndexError, StopIteration, OverflowError, TypeError),
        *(x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
    )
    try:
        with warnings.catch_warnings():
            # cryptography warns of odd certificates; what matters here is whether the signature matches.
            warnings.simplefilter("ignore")
            return work()
    except UnsupportedAlgorithm as error:
        raise UnverifiedSignature(f"the signature cannot be verified here: {error}") from error
    except malformed as error:
        raise SignatureError(f"the signature is malformed: {error}") from error


def _verify_all(image: Image, data: bytes) -> SignatureInfo:
    signed, rest = read_signed_data(data)
    if any(rest):
        raise SignatureError("there is hidden data behind the signature in the certificate table")
    info, nested = _verify_one(image, signed)
    if len(nested) > _MOST_SIGNATURES:
        raise SignatureError(f"the signature holds {len(nested)} more, which no tool writes")
    further = []
    for number, encoding in enumerate(nested, 1):
        try:
            further.append(strictly(partial(_verify_nested, image, encoding)))
        except SignatureError as error:
            # The first one holds; what a reader makes of a further one that does not is not documented.
            raise UnverifiedSignature(f"nested signature {number}: {error}") from error
    return SignatureInfo(**{**vars(info), "nested": tuple(further)})


def _verify_nested(image: Image, data: bytes) -> SignatureInfo:
    return _verify_one(image, read_signed_data(data)[0])[0]


def _verify_one(image: Image, signed: SignedData) -> tuple[SignatureInfo, list[bytes]]:
    """A signature without its nested ones, and the encodings of those."""
    if signed.content_type != der.object_identifier(identifiers.SPC_INDIRECT_DATA):
        raise SignatureError("the signature is not over an Authenticode digest")
    indirect = signed.content.expect(der.SEQUENCE, "SpcIndirectDataContent")
    # The digest covers the content of the SEQUENCE without its tag and length (PKCS#7 section 9.3).
    signer = verify_signer(signed, signed.signers[0], indirect.content, signed.content_type)
    pages = _verify_pages(image, indirect)
    algorithm, digest = indirect.children()[1].children()
    name = identifiers.digest_name(algorithm)
    if digest.content != image_digest(image, name):
        raise SignatureError("the image was changed after it was signed: its digest does not match")
    chain = chain_of(signer.certificate, signed.certificates)
    info = SignatureInfo(
        subject=chain[0].subject,
        certificate_sha256=chain[0].sha256,
        digest=digest.content.hex(),
        digest_algorithm=name,
        page_hashes=pages,
        chain=chain,
        timestamp=_timestamp(signer, signed),
        nested=(),
    )
    return info, [value.encoding for value in signer.unsigned_values(identifiers.NESTED_SIGNATURE)]


def _timestamp(signer: Signer, signed: SignedData) -> Timestamp | None:
    try:
        return strictly(lambda: timestamp_of(signer, signed))
    except SignatureError as error:
        # The signature itself holds.
        raise UnverifiedSignature(str(error)) from error


def _verify_pages(image: Image, indirect: der.Value) -> int:
    """Compare the page hashes; returns how many pages have one."""
    image_data = indirect.children()[0].children()[1].expect(der.SEQUENCE, "SpcPeImageData")
    link = image_data.children()[1].children()[0]
    if link.tag != 0xA1:
        return 0
    class_id, serialized = link.children()[:2]
    if class_id.content != PAGE_HASH_CLASS:
        return 0
    attribute = der.read(serialized.content)[0].children()[0]
    kind, values = attribute.children()[:2]
    if kind.encoding not in _PAGE_HASHES:
        raise UnverifiedSignature("the page hashes are neither SHA-1 nor SHA-256")
    actual = page_hashes(image, _PAGE_HASHES[kind.encoding])
    entry = struct.Struct(f"<I{len(actual[0][1])}s")
    entries = values.children()[0].expect(der.OCTET_STRING, "page hashes").content
    if len(entries) % entry.size:
        raise SignatureError("the page hashes are truncated")
    recorded = [(offset, digest) for offset, digest in entry.iter_unpack(entries)]
    if [offset for offset, _ in recorded] != [offset for offset, _ in actual]:
        raise SignatureError("the image was changed after it was signed: its pages are not those that were hashed")
    for (offset, expected), (_, found) in zip(recorded, actual, strict=True):
        if expected != found:
            raise SignatureError(
                f"the image was changed after it was signed: the page at file offset 0x{offset:X} does not match"
            )
    return len(actual) - 1
