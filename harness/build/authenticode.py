"""Signs driver images with Authenticode and page hashes, and verifies such signatures.

The format is that of Microsoft's "Windows Authenticode Portable Executable Signature Format": a PKCS#7 SignedData over
an SpcIndirectDataContent that holds the image's SHA-256 digest and, as an SpcSerializedObject, the SHA-256 digest of
each page. No time is recorded, so the same image and key give the same bytes.
"""

from __future__ import annotations

import hashlib
import struct
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.build import der
from harness.build.pe import DIRECTORY_SECURITY, Image, load, parse, with_checksum
from harness.errors import ConfigurationError, SignatureError

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.x509 import Certificate

    from harness.build.certificate import SigningIdentity

_SIGNED_DATA: Final = "1.2.840.113549.1.7.2"
_CONTENT_TYPE: Final = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST: Final = "1.2.840.113549.1.9.4"
_RSA_ENCRYPTION: Final = "1.2.840.113549.1.1.1"
_SHA256: Final = "2.16.840.1.101.3.4.2.1"
_SPC_INDIRECT_DATA: Final = "1.3.6.1.4.1.311.2.1.4"
_SPC_STATEMENT_TYPE: Final = "1.3.6.1.4.1.311.2.1.11"
_SPC_SP_OPUS_INFO: Final = "1.3.6.1.4.1.311.2.1.12"
_SPC_PE_IMAGE_DATA: Final = "1.3.6.1.4.1.311.2.1.15"
_SPC_INDIVIDUAL_CODE_SIGNING: Final = "1.3.6.1.4.1.311.2.1.21"
_SPC_PAGE_HASHES_V2: Final = "1.3.6.1.4.1.311.2.3.2"
_PAGE_HASH_CLASS: Final = bytes.fromhex("A6B586D5B4A12466AE05A217DA8E60D6")
_WIN_CERTIFICATE_HEADER: Final = struct.Struct("<IHH")
_REVISION_2: Final = 0x0200
_TYPE_PKCS_SIGNED_DATA: Final = 0x0002
_SMALLEST_PAGE: Final = 0x200
_LARGEST_PAGE: Final = 0x10000
_PAGE_ENTRY: Final = struct.Struct("<I32s")


@dataclass(frozen=True)
class SignatureInfo:
    """A signature that was verified.

    Attributes:
        subject: the signer's name (RFC 4514).
        certificate_sha256: fingerprint of the signer's certificate in hexadecimal.
        digest: the image's Authenticode SHA-256 digest in hexadecimal; signing does not change it.
        page_hashes: how many pages have a hash of their own; 0 when the signature has no page hashes.
    """

    subject: str
    certificate_sha256: str
    digest: str
    page_hashes: int


def image_digest(image: Image) -> bytes:
    """The Authenticode SHA-256 digest: the file without checksum, security directory entry and signature.

    Raises:
        ImageError: the certificate table lies outside the file.
    """
    offset, size = image.certificate_table
    entry = image.directory_offset(DIRECTORY_SECURITY)
    digest = hashlib.sha256(image.data[: image.checksum_offset])
    digest.update(image.data[image.checksum_offset + 4 : entry])
    digest.update(image.data[entry + 8 : offset or len(image.data)])
    if offset:
        digest.update(image.data[offset + size :])
    else:
        digest.update(bytes(-len(image.data) % 8))
    return digest.digest()


def page_hashes(image: Image) -> list[tuple[int, bytes]]:
    """File offset and SHA-256 of each page: the headers first, then each section's pages, then the end mark.

    A page that the file fills only in part is hashed as if zeros followed.

    Raises:
        SignatureError: the section alignment is no page size.
    """
    page = image.section_alignment
    if not _SMALLEST_PAGE <= page <= _LARGEST_PAGE:
        message = f"section alignment 0x{page:X} is no size that pages can be hashed with"
        raise SignatureError(message)
    entry = image.directory_offset(DIRECTORY_SECURITY)
    headers = (
        image.data[: image.checksum_offset]
        + image.data[image.checksum_offset + 4 : entry]
        + image.data[entry + 8 : image.size_of_headers]
    )
    headers += bytes(max(page - image.size_of_headers, 0))
    found = [(0, hashlib.sha256(headers).digest())]
    end = image.size_of_headers
    for section in image.sections:
        if not section.raw_size:
            continue
        end = section.raw_offset + section.raw_size
        for offset in range(section.raw_offset, end, page):
            content = image.data[offset : min(offset + page, end)]
            found.append((offset, hashlib.sha256(content.ljust(page, b"\0")).digest()))
    found.append((end, bytes(32)))
    return found


def sign(data: bytes, identity: SigningIdentity) -> bytes:
    """The image with a signature in place of any earlier one, and its checksum corrected.

    Raises:
        ImageError: not an x64 image.
        ConfigurationError: the private key cannot be read.
    """
    unsigned = _without_signature(data)
    image = parse(unsigned)
    signed_data = _signed_data(_indirect_data(image), identity)
    length = _WIN_CERTIFICATE_HEADER.size + len(signed_data)
    padding = bytes(-length % 8)
    header = _WIN_CERTIFICATE_HEADER.pack(length + len(padding), _REVISION_2, _TYPE_PKCS_SIGNED_DATA)
    table = header + signed_data + padding
    edited = bytearray(unsigned)
    struct.pack_into("<II", edited, image.directory_offset(DIRECTORY_SECURITY), len(unsigned), len(table))
    return with_checksum(bytes(edited) + table)


def _without_signature(data: bytes) -> bytes:
    image = parse(data)
    if len(image.directories) <= DIRECTORY_SECURITY:
        message = "the image has no room for a signature: its data directories end before the security directory"
        raise SignatureError(message)
    offset, size = image.certificate_table
    if offset and offset + size != len(data):
        message = "the image has data after its signature and cannot be signed again"
        raise SignatureError(message)
    edited = bytearray(data[: offset or len(data)])
    edited += bytes(-len(edited) % 8)
    struct.pack_into("<II", edited, image.directory_offset(DIRECTORY_SECURITY), 0, 0)
    return bytes(edited)


def _indirect_data(image: Image) -> bytes:
    entries = b"".join(_PAGE_ENTRY.pack(offset, digest) for offset, digest in page_hashes(image))
    hashes = der.sequence(der.object_identifier(_SPC_PAGE_HASHES_V2), der.set_of(der.octet_string(entries)))
    serialized = der.octet_string(_PAGE_HASH_CLASS) + der.octet_string(der.set_of(hashes))
    no_flags = der.encode(der.BIT_STRING, b"\0")
    image_data = der.sequence(no_flags, der.explicit(0, der.explicit(1, serialized)))
    return der.sequence(
        der.sequence(der.object_identifier(_SPC_PE_IMAGE_DATA), image_data),
        der.sequence(der.algorithm(_SHA256), der.octet_string(image_digest(image))),
    )


def _signed_data(indirect_data: bytes, identity: SigningIdentity) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    try:
        key = serialization.load_pem_private_key(identity.key_path.read_bytes(), password=None)
        certificate = x509.load_der_x509_certificate(identity.certificate)
    except (OSError, ValueError) as error:
        # The text of the error is left out: it may quote the file.
        message = f"{identity.key_path.parent}: the signing key or certificate cannot be read; delete the directory"
        raise ConfigurationError(message) from error
    if not isinstance(key, rsa.RSAPrivateKey) or key.public_key() != certificate.public_key():
        message = f"{identity.key_path}: not the RSA key of {identity.certificate_path}; delete the directory"
        raise ConfigurationError(message)
    # The digest covers the content of the SEQUENCE without its tag and length (PKCS#7 section 9.3).
    content = der.read(indirect_data)[0].content
    attributes = (
        _attribute(_CONTENT_TYPE, der.object_identifier(_SPC_INDIRECT_DATA)),
        _attribute(_SPC_SP_OPUS_INFO, der.sequence()),
        _attribute(_SPC_STATEMENT_TYPE, der.sequence(der.object_identifier(_SPC_INDIVIDUAL_CODE_SIGNING))),
        _attribute(_MESSAGE_DIGEST, der.octet_string(hashlib.sha256(content).digest())),
    )
    encoded = der.set_of(*attributes)
    signer = der.sequence(
        der.integer(1),
        der.sequence(certificate.issuer.public_bytes(), der.integer(certificate.serial_number)),
        der.algorithm(_SHA256),
        b"\xa0" + encoded[1:],
        der.algorithm(_RSA_ENCRYPTION),
        der.octet_string(key.sign(encoded, padding.PKCS1v15(), hashes.SHA256())),
    )
    signed = der.sequence(
        der.integer(1),
        der.set_of(der.algorithm(_SHA256)),
        der.sequence(der.object_identifier(_SPC_INDIRECT_DATA), der.explicit(0, indirect_data)),
        der.explicit(0, identity.certificate),
        der.set_of(signer),
    )
    return der.sequence(der.object_identifier(_SIGNED_DATA), der.explicit(0, signed))


def _attribute(dotted: str, value: bytes) -> bytes:
    return der.sequence(der.object_identifier(dotted), der.set_of(value))


def verify(path: Path) -> SignatureInfo:
    """Verify the signature of an image file: page hashes, digest, and the signer's signature over both.

    Whether anyone trusts the certificate is not judged: test certificates are trusted by whoever installs them.

    Raises:
        ImageError: not an x64 image.
        SignatureError: unsigned, malformed, changed since it was signed, or signed with another key; the message
            says which, and names the first changed page.
    """
    return verify_image(load(path))


def verify_image(image: Image) -> SignatureInfo:
    """As `verify`, for an image in memory."""
    offset, size = image.certificate_table
    if not offset:
        message = "the image is not signed"
        raise SignatureError(message)
    if size < _WIN_CERTIFICATE_HEADER.size:
        message = "the certificate table is too small to hold a signature"
        raise SignatureError(message)
    length, _, kind = _WIN_CERTIFICATE_HEADER.unpack_from(image.data, offset)
    if kind != _TYPE_PKCS_SIGNED_DATA or not _WIN_CERTIFICATE_HEADER.size <= length <= size:
        message = f"the certificate table holds no PKCS#7 signature (type {kind}, {length} bytes)"
        raise SignatureError(message)
    if any(image.data[offset + length :]):
        message = "there is data after the signature"
        raise SignatureError(message)
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    # Everything that a malformed structure or certificate leads to: missing members, unknown keys, odd extensions.
    malformed = (ValueError, IndexError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension)
    try:
        with warnings.catch_warnings():
            # cryptography warns of odd certificates; what matters here is whether the signature matches.
            warnings.simplefilter("ignore")
            return _verify_signed_data(image, image.data[offset + _WIN_CERTIFICATE_HEADER.size : offset + length])
    except malformed as error:
        message = f"the signature is malformed: {error}"
        raise SignatureError(message) from error


def _verify_signed_data(image: Image, data: bytes) -> SignatureInfo:
    outer, rest = der.read(data)
    if any(rest):
        message = "there is hidden data behind the signature in the certificate table"
        raise SignatureError(message)
    kind, wrapped = outer.expect(der.SEQUENCE, "ContentInfo").children()[:2]
    if kind.encoding != der.object_identifier(_SIGNED_DATA):
        message = "the signature is not a PKCS#7 SignedData"
        raise SignatureError(message)
    _, _, content_info, certificates, *_, signers = wrapped.children()[0].expect(der.SEQUENCE, "SignedData").children()
    content_type, content_wrapped = content_info.children()[:2]
    if content_type.encoding != der.object_identifier(_SPC_INDIRECT_DATA):
        message = "the signature is not over an Authenticode digest"
        raise SignatureError(message)
    indirect = content_wrapped.children()[0].expect(der.SEQUENCE, "SpcIndirectDataContent")
    certificate = _verify_signer(indirect, certificates, signers.children()[0])
    pages = _verify_pages(image, indirect)
    algorithm, digest = indirect.children()[1].children()
    if algorithm.children()[0].encoding != der.object_identifier(_SHA256):
        message = "the image digest is not SHA-256"
        raise SignatureError(message)
    if digest.content != image_digest(image):
        message = "the image was changed after it was signed: its digest does not match"
        raise SignatureError(message)
    from cryptography.hazmat.primitives import hashes

    return SignatureInfo(
        subject=certificate.subject.rfc4514_string(),
        certificate_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        digest=digest.content.hex(),
        page_hashes=pages,
    )


def _verify_signer(indirect: der.Value, certificates: der.Value, signer: der.Value) -> Certificate:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    _, serial_of, _, attributes, _, signature = signer.expect(der.SEQUENCE, "SignerInfo").children()[:6]
    attributes.expect(0xA0, "authenticated attributes")
    certificate = _signer_certificate(certificates, serial_of)
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        message = "the signer's key is not RSA"
        raise SignatureError(message)
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    if usage is None or x509.oid.ExtendedKeyUsageOID.CODE_SIGNING not in usage:
        message = "the signer's certificate is not meant for code signing"
        raise SignatureError(message)
    try:
        key.verify(signature.content, b"\x31" + attributes.encoding[1:], padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        message = "the signature does not match the signer's certificate"
        raise SignatureError(message) from None
    expected = der.set_of(der.octet_string(hashlib.sha256(indirect.content).digest()))
    values = {pair.children()[0].encoding: pair.children()[1].encoding for pair in attributes.children()}
    if values.get(der.object_identifier(_MESSAGE_DIGEST)) != expected:
        message = "the signed digest does not match the signature's content"
        raise SignatureError(message)
    if values.get(der.object_identifier(_CONTENT_TYPE)) != der.set_of(der.object_identifier(_SPC_INDIRECT_DATA)):
        message = "the signed content type is not an Authenticode digest"
        raise SignatureError(message)
    return certificate


def _signer_certificate(certificates: der.Value, serial_of: der.Value) -> Certificate:
    from cryptography import x509

    for encoded in certificates.expect(0xA0, "certificates").children():
        certificate = x509.load_der_x509_certificate(encoded.encoding)
        issuer = certificate.issuer.public_bytes()
        if issuer + der.integer(certificate.serial_number) == serial_of.content:
            return certificate
    message = "the signature does not hold its signer's certificate"
    raise SignatureError(message)


def _verify_pages(image: Image, indirect: der.Value) -> int:
    """Compare the page hashes; returns how many pages have one."""
    image_data = indirect.children()[0].children()[1].expect(der.SEQUENCE, "SpcPeImageData")
    link = image_data.children()[1].children()[0]
    if link.tag != 0xA1:
        return 0
    class_id, serialized = link.children()[:2]
    if class_id.content != _PAGE_HASH_CLASS:
        return 0
    attribute = der.read(serialized.content)[0].children()[0]
    kind, values = attribute.children()[:2]
    if kind.encoding != der.object_identifier(_SPC_PAGE_HASHES_V2):
        message = "the page hashes are not SHA-256"
        raise SignatureError(message)
    entries = values.children()[0].expect(der.OCTET_STRING, "page hashes").content
    if len(entries) % _PAGE_ENTRY.size:
        message = "the page hashes are truncated"
        raise SignatureError(message)
    recorded = [(offset, digest) for offset, digest in _PAGE_ENTRY.iter_unpack(entries)]
    actual = page_hashes(image)
    if [offset for offset, _ in recorded] != [offset for offset, _ in actual]:
        message = "the image was changed after it was signed: its pages are not those that were hashed"
        raise SignatureError(message)
    for (offset, expected), (_, found) in zip(recorded, actual, strict=True):
        if expected != found:
            message = f"the image was changed after it was signed: the page at file offset 0x{offset:X} does not match"
            raise SignatureError(message)
    return len(actual) - 1
