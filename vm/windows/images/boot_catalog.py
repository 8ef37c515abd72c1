"""The El Torito boot catalog of an ISO image: which boot images firmware finds, and where the catalog says so.

"El Torito" Bootable CD-ROM Format Specification 1.0 (1995), sections 2.0 to 2.4.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

SECTOR: Final = 2048
VOLUME_DESCRIPTORS: Final = 16
BIOS: Final = 0x00
UEFI: Final = 0xEF

_BOOT_RECORD: Final = b"\x00CD001\x01EL TORITO SPECIFICATION"
_BOOTABLE: Final = 0x88
_SECTION_HEADERS: Final = (0x90, 0x91)
_LAST_HEADER: Final = 0x91


class NotAnIso(Exception):
    """The file is no ISO image, or not a bootable one; the message says which."""


@dataclass(frozen=True)
class BootImage:
    """A boot image.

    Attributes:
        platform: `BIOS` or `UEFI`, or another number of the specification.
        sector: where it begins.
        entry_offset: where the catalog's entry lies in the file.
    """

    platform: int
    sector: int
    entry_offset: int

    @property
    def sector_offset(self) -> int:
        """Where the catalog keeps the sector, a 32-bit number."""
        return self.entry_offset + 8


def _read(stream: BinaryIO, offset: int, length: int) -> bytes:
    stream.seek(offset)
    return stream.read(length)


def volume_size(stream: BinaryIO) -> int:
    """Bytes that the primary volume descriptor says the volume has.

    Raises:
        NotAnIso: there is no such descriptor.
    """
    descriptor = _read(stream, VOLUME_DESCRIPTORS * SECTOR, SECTOR)
    if descriptor[:7] != b"\x01CD001\x01":
        raise NotAnIso("it is no ISO image")
    sectors: int = struct.unpack_from("<I", descriptor, 80)[0]
    return sectors * SECTOR


def boot_images(stream: BinaryIO) -> tuple[BootImage, ...]:
    """The boot images of an ISO image.

    Raises:
        NotAnIso: the file is no ISO image, or has no valid boot catalog.
    """
    size = stream.seek(0, io.SEEK_END)
    volume_size(stream)
    record = _read(stream, (VOLUME_DESCRIPTORS + 1) * SECTOR, SECTOR)
    if not record.startswith(_BOOT_RECORD):
        raise NotAnIso("it is not bootable: it has no El Torito boot record")
    start = struct.unpack_from("<I", record, 0x47)[0] * SECTOR
    catalog = _read(stream, start, SECTOR)
    words = struct.unpack_from("<16H", catalog) if len(catalog) == SECTOR else (1,)
    if start > size or sum(words) & 0xFFFF or catalog[:1] != b"\x01" or catalog[30:32] != b"\x55\xaa":
        raise NotAnIso("its boot catalog is damaged")
    return tuple(_entries(catalog, start))


def _entries(catalog: bytes, start: int) -> list[BootImage]:
    found = []
    platform = catalog[1]
    position, left, more = 32, 1, True
    while left and position + 32 <= len(catalog):
        entry = catalog[position : position + 32]
        if entry[0] == _BOOTABLE:
            found.append(BootImage(platform, struct.unpack_from("<I", entry, 8)[0], start + position))
        position += 32
        left -= 1
        header = catalog[position : position + 32]
        if left == 0 and more and len(header) == 32 and header[0] in _SECTION_HEADERS:
            platform, left, more = header[1], struct.unpack_from("<H", header, 2)[0], header[0] != _LAST_HEADER
            position += 32
    return found
