"""Holds a driver's file against the digest in its signature, as code integrity does before a driver is started.

Who signed is not asked: under test signing any certificate will do. Formats: "PE Format" (Microsoft Learn, "Attribute
Certificate Table") and "Windows Authenticode Portable Executable Signature Format".
"""

from __future__ import annotations

import enum
import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vm.emulated.loader.pe_headers import Headers

DIRECTORY_SECURITY: Final = 4
_DIRECTORIES: Final = 48
"""From the checksum to the data directories in a PE32+ optional header."""
_OCTET_STRING: Final = 4
_ALGORITHMS: Final = ("sha256", "sha1", "sha384", "sha512")


class Signature(enum.Enum):
    """What the file's signature says of the file."""

    ABSENT = "absent"
    MATCHES = "matches"
    """It was made for this file."""
    ALTERED = "altered"
    """It was made for other bytes: the file was changed after it was signed, or the signature is no signature."""


def judge_signature(data: bytes, headers: Headers) -> Signature:
    """Compare the file's digest with the one in its signature.

    Args:
        data: the whole file.
        headers: its headers, read and checked; the certificate table lies inside the file.
    """
    offset, size = headers.directories[DIRECTORY_SECURITY]
    if not size:
        return Signature.ABSENT
    signature = data[offset : offset + size]
    for algorithm in _ALGORITHMS:
        digest = hashlib.new(algorithm, usedforsecurity=False)
        for part in _covered(data, headers, offset, size):
            digest.update(part)
        value = digest.digest()
        if bytes((_OCTET_STRING, len(value))) + value in signature:
            return Signature.MATCHES
    return Signature.ALTERED


def _covered(data: bytes, headers: Headers, offset: int, size: int) -> Iterator[memoryview]:
    """All but the checksum, the directory entry of the signature, and the signature."""
    view = memoryview(data)
    entry = headers.checksum_offset + _DIRECTORIES + 8 * DIRECTORY_SECURITY
    yield view[: headers.checksum_offset]
    yield view[headers.checksum_offset + 4 : entry]
    yield view[entry + 8 : offset]
    yield view[offset + size :]
