"""What a signature is over: the Authenticode digest of an image, and the digest of each of its pages."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from harness.build.pe import DIRECTORY_SECURITY, Image
from harness.errors import SignatureError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SMALLEST_PAGE: Final = 0x200
_LARGEST_PAGE: Final = 0x10000
_MOST_HASHED: Final = 4
"""Sections of a malformed image may share their bytes; more than this many times the file is not hashed."""


def image_digest(image: Image, algorithm: str = "sha256") -> bytes:
    """The Authenticode digest: the file without checksum, security directory entry and signature.

    Raises:
        ImageError: the certificate table lies outside the file.
    """
    offset, size = image.certificate_table
    entry = image.directory_offset(DIRECTORY_SECURITY)
    digest = hashlib.new(algorithm, image.data[: image.checksum_offset], usedforsecurity=False)
    digest.update(image.data[image.checksum_offset + 4 : entry])
    digest.update(image.data[entry + 8 : offset or len(image.data)])
    if offset:
        digest.update(image.data[offset + size :])
    else:
        digest.update(bytes(-len(image.data) % 8))
    return digest.digest()


def page_hashes(image: Image, algorithm: str = "sha256") -> list[tuple[int, bytes]]:
    """File offset and digest of each page: the headers first, then each section's pages, then the end mark.

    A page that the file fills only in part is hashed as if zeros followed.

    Raises:
        SignatureError: the section alignment is no page size, or sections share so much that hashing would not end.
    """
    page = image.section_alignment
    if not _SMALLEST_PAGE <= page <= _LARGEST_PAGE:
        raise SignatureError(f"section alignment 0x{page:X} is no size that pages can be hashed with")
    if sum(section.raw_size for section in image.sections) > _MOST_HASHED * len(image.data):
        raise SignatureError("the sections share their bytes, so their pages cannot be hashed")

    def digest(content: bytes) -> bytes:
        return hashlib.new(algorithm, content, usedforsecurity=False).digest()

    found = [(0, digest(_headers(image)))]
    end = image.size_of_headers
    for section in image.sections:
        if section.raw_size:
            end = section.raw_offset + section.raw_size
            found += [(offset, digest(content)) for offset, content in _pages(image, section.raw_offset, end)]
    found.append((end, bytes(hashlib.new(algorithm, usedforsecurity=False).digest_size)))
    return found


def _headers(image: Image) -> bytes:
    entry = image.directory_offset(DIRECTORY_SECURITY)
    covered = (
        image.data[: image.checksum_offset]
        + image.data[image.checksum_offset + 4 : entry]
        + image.data[entry + 8 : image.size_of_headers]
    )
    return covered + bytes(max(image.section_alignment - image.size_of_headers, 0))


def _pages(image: Image, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    page = image.section_alignment
    for offset in range(start, end, page):
        yield offset, image.data[offset : min(offset + page, end)].ljust(page, b"\0")
