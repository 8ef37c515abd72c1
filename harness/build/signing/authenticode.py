"""Writes Authenticode signatures with page hashes into driver images.

The format is that of Microsoft's "Windows Authenticode Portable Executable Signature Format": a PKCS#7 SignedData over
an SpcIndirectDataContent that holds the image's SHA-256 digest and, as an SpcSerializedObject, the SHA-256 digest of
each page. Without a time stamp no time is recorded, so the same image and key give the same bytes.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Final

from harness.build import der
from harness.build.pe import ALL_64_BIT, DIRECTORY_SECURITY, Image, parse, with_checksum
from harness.build.signing import identifiers
from harness.build.signing.cms import issuer_and_serial
from harness.build.signing.digests import image_digest, page_hashes
from harness.build.signing.signature import PAGE_HASH_CLASS, TYPE_PKCS_SIGNED_DATA, WIN_CERTIFICATE_HEADER
from harness.errors import SignatureError

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.build.signing.signer import SigningKey

    Stamp = Callable[[bytes], bytes]
    """From a signature's bytes to the time stamp token over them."""

_REVISION_2: Final = 0x0200
_PAGE_ENTRY: Final = struct.Struct("<I32s")


def sign(data: bytes, key: SigningKey, stamp: Stamp | None = None) -> bytes:
    """The image with a signature in place of any earlier one, and its checksum corrected.

    Args:
        data: the image file.
        key: the certificates and what signs with the private key.
        stamp: asks a time stamp authority; None records no time.

    Raises:
        ImageError: not a 64-bit image.
        SignatureError: the image has no room for a signature, or data behind the one that it has.
    """
    unsigned = without_signature(data)
    image = parse(unsigned, ALL_64_BIT)
    signed_data = _signed_data(_indirect_data(image), key, stamp)
    length = WIN_CERTIFICATE_HEADER.size + len(signed_data)
    padding = bytes(-length % 8)
    header = WIN_CERTIFICATE_HEADER.pack(length + len(padding), _REVISION_2, TYPE_PKCS_SIGNED_DATA)
    table = header + signed_data + padding
    edited = bytearray(unsigned)
    struct.pack_into("<II", edited, image.directory_offset(DIRECTORY_SECURITY), len(unsigned), len(table))
    return with_checksum(bytes(edited) + table)


def without_signature(data: bytes) -> bytes:
    """The image before it was signed, its checksum left as it is.

    Raises:
        ImageError: not a 64-bit image.
        SignatureError: the image has no room for a signature, or data behind the one that it has.
    """
    image = parse(data, ALL_64_BIT)
    if len(image.directories) <= DIRECTORY_SECURITY:
        raise SignatureError(
            "the image has no room for a signature: its data directories end before the security directory"
        )
    offset, size = image.certificate_table
    if offset and offset + size != len(data):
        raise SignatureError("the image has data after its signature and cannot be signed again")
    edited = bytearray(data[: offset or len(data)])
    edited += bytes(-len(edited) % 8)
    struct.pack_into("<II", edited, image.directory_offset(DIRECTORY_SECURITY), 0, 0)
    return bytes(edited)


def same_but_for_signature(one: bytes, other: bytes) -> bool:
    """Whether two images differ in nothing but signature and checksum. Raises as `without_signature`."""
    return with_checksum(without_signature(one)) == with_checksum(without_signature(other))


def _indirect_data(image: Image) -> bytes:
    entries = b"".join(_PAGE_ENTRY.pack(offset, digest) for offset, digest in page_hashes(image))
    hashes = der.sequence(der.object_identifier(identifiers.SPC_PAGE_HASHES_V2), der.set_of(der.octet_string(entries)))
    serialized = der.octet_string(PAGE_HASH_CLASS) + der.octet_string(der.set_of(hashes))
    no_flags = der.encode(der.BIT_STRING, b"\0")
    image_data = der.sequence(no_flags, der.explicit(0, der.explicit(1, serialized)))
    return der.sequence(
        der.sequence(der.object_identifier(identifiers.SPC_PE_IMAGE_DATA), image_data),
        der.sequence(der.algorithm(identifiers.SHA256), der.octet_string(image_digest(image))),
    )


def _signed_data(indirect_data: bytes, key: SigningKey, stamp: Stamp | None) -> bytes:
    # The digest covers the content of the SEQUENCE without its tag and length (PKCS#7 section 9.3).
    content = der.read(indirect_data)[0].content
    statement = der.sequence(der.object_identifier(identifiers.SPC_INDIVIDUAL_CODE_SIGNING))
    attributes = (
        _attribute(identifiers.CONTENT_TYPE, der.object_identifier(identifiers.SPC_INDIRECT_DATA)),
        _attribute(identifiers.SPC_SP_OPUS_INFO, der.sequence()),
        _attribute(identifiers.SPC_STATEMENT_TYPE, statement),
        _attribute(identifiers.MESSAGE_DIGEST, der.octet_string(hashlib.sha256(content).digest())),
    )
    encoded = der.set_of(*attributes)
    signature = key.sign(encoded)
    unsigned = b""
    if stamp is not None:
        unsigned = der.explicit(1, _attribute(identifiers.RFC3161_TIMESTAMP, stamp(signature)))
    signer = der.sequence(
        der.integer(1),
        der.sequence(issuer_and_serial(key.certificate)),
        der.algorithm(identifiers.SHA256),
        b"\xa0" + encoded[1:],
        der.algorithm(identifiers.RSA_ENCRYPTION),
        der.octet_string(signature),
        unsigned,
    )
    signed = der.sequence(
        der.integer(1),
        der.set_of(der.algorithm(identifiers.SHA256)),
        der.sequence(der.object_identifier(identifiers.SPC_INDIRECT_DATA), der.explicit(0, indirect_data)),
        # A SET OF in DER is sorted, and strict readers refuse another order.
        der.explicit(0, b"".join(sorted({key.certificate, *key.issuers}))),
        der.set_of(signer),
    )
    return der.sequence(der.object_identifier(identifiers.SIGNED_DATA), der.explicit(0, signed))


def _attribute(dotted: str, value: bytes) -> bytes:
    return der.sequence(der.object_identifier(dotted), der.set_of(value))
