"""Finds files in a UDF file system, as Windows installation media have it, and where their parts lie in the image.

ECMA-167 (volume structure and file structure, parts 3 and 4) and OSTA UDF 1.02, as written by oscdimg: one volume, one
partition, no virtual or metadata partition. Nothing is written here.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

SECTOR: Final = 2048
ANCHOR_SECTOR: Final = 256
_LONGEST_DIRECTORY: Final = 1 << 24
_LONGEST_RECORD: Final = 38 + 0xFFFF + 0xFF + 3
_MOST_DESCRIPTORS: Final = 64

# Tag identifiers (ECMA-167 3/7.2.1 and 4/7.2.1).
_ANCHOR: Final = 2
_PARTITION: Final = 5
_LOGICAL_VOLUME: Final = 6
_TERMINATING: Final = 8
_FILE_SET: Final = 256
_FILE_IDENTIFIER: Final = 257
_FILE_ENTRY: Final = 261
_EXTENDED_FILE_ENTRY: Final = 266

_DIRECTORY: Final = 0x02
_DELETED: Final = 0x04
_PARENT: Final = 0x08


class UdfError(Exception):
    """The image holds no UDF file system that can be read here; the message says what is wrong."""


@dataclass(frozen=True)
class Extent:
    """Bytes that lie together, by their offset in the image."""

    offset: int
    length: int


@dataclass(frozen=True)
class Entry:
    """A file or folder.

    Attributes:
        name: its name.
        is_folder: whether it is a folder.
        size: bytes of its content.
        extents: where the content lies.
        identifier: where the directory's record of it lies; None for the root.
    """

    name: str
    is_folder: bool
    size: int
    extents: tuple[Extent, ...]
    identifier: Extent | None = None


def crc16(data: bytes) -> int:
    """CRC of a descriptor: polynomial 0x1021, start 0 (ECMA-167 3/7.2.6)."""
    value = 0
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1) ^ 0x1021 if value & 0x8000 else value << 1
        value &= 0xFFFF
    return value


def tag_checksum(tag: bytes) -> int:
    """Sum of a tag's 16 bytes without the sum itself (ECMA-167 3/7.2.3)."""
    return (sum(tag[:4]) + sum(tag[5:16])) & 0xFF


def encode_identifier(name: str) -> bytes:
    """A name as OSTA compressed Unicode (OSTA UDF 2.1.1)."""
    try:
        return b"\x08" + name.encode("latin-1")
    except UnicodeEncodeError:
        return b"\x10" + name.encode("utf-16-be")


def _decode_identifier(data: bytes) -> str:
    if not data:
        return ""
    return data[1:].decode("utf-16-be", "replace") if data[0] in (16, 255) else data[1:].decode("latin-1")


class UdfReader:
    """A UDF file system in an open image."""

    def __init__(self, stream: BinaryIO) -> None:
        """Read the volume's structure.

        Raises:
            UdfError: there is none, or it is of a kind that installation media do not have.
        """
        self._stream = stream
        self._size = stream.seek(0, io.SEEK_END)
        if self._size < (ANCHOR_SECTOR + 1) * SECTOR:
            raise UdfError("no UDF anchor at sector 256")
        anchor = self._sector(ANCHOR_SECTOR)
        if self._tag(anchor) != _ANCHOR:
            raise UdfError("no UDF anchor at sector 256")
        length, start = struct.unpack_from("<II", anchor, 16)
        self._partition_start, self._block, file_set = self._volume(start, length)
        descriptor = self._partition_bytes(file_set, SECTOR)
        if self._tag(descriptor) != _FILE_SET:
            raise UdfError("the file set descriptor is missing")
        self.root = self._entry("", struct.unpack_from("<I", descriptor, 404)[0])

    def _volume(self, start: int, length: int) -> tuple[int, int, int]:
        partition: int | None = None
        volume: tuple[int, int] | None = None
        for number in range(min(length // SECTOR, _MOST_DESCRIPTORS)):
            sector = self._sector(start + number)
            tag = self._tag(sector)
            if tag == _PARTITION:
                partition = struct.unpack_from("<I", sector, 188)[0]
            elif tag == _LOGICAL_VOLUME:
                block = struct.unpack_from("<I", sector, 212)[0]
                maps = sector[440 : 440 + struct.unpack_from("<I", sector, 264)[0]]
                if block != SECTOR or maps[:2] != b"\x01\x06" or len(maps) != 6:
                    raise UdfError("not the one plain partition that installation media have")
                volume = block, struct.unpack_from("<I", sector, 252)[0]
            elif tag == _TERMINATING:
                break
        if partition is None or volume is None:
            raise UdfError("the volume descriptors are incomplete")
        return partition * SECTOR, *volume

    def _read(self, offset: int, length: int) -> bytes:
        if offset < 0 or offset + length > self._size:
            raise UdfError(f"the image ends at {self._size}, before {offset + length}: it is cut off or damaged")
        self._stream.seek(offset)
        return self._stream.read(length)

    def _sector(self, number: int) -> bytes:
        return self._read(number * SECTOR, SECTOR)

    def _partition_bytes(self, block: int, length: int) -> bytes:
        return self._read(self._partition_start + block * self._block, length)

    @staticmethod
    def _tag(data: bytes) -> int | None:
        """The tag's identifier, None when it is not intact."""
        if len(data) < 16 or tag_checksum(data) != data[4]:
            return None
        identifier: int = struct.unpack_from("<H", data)[0]
        return identifier

    def _entry(self, name: str, block: int, identifier: Extent | None = None) -> Entry:
        data = self._partition_bytes(block, self._block)
        tag = self._tag(data)
        if tag not in (_FILE_ENTRY, _EXTENDED_FILE_ENTRY):
            raise UdfError(f"the file entry of {name or 'the root folder'!r} is damaged")
        is_folder = data[16 + 11] == 4
        flags = struct.unpack_from("<H", data, 16 + 18)[0]
        size: int = struct.unpack_from("<Q", data, 56)[0]
        attributes_at, header = (168, 176) if tag == _FILE_ENTRY else (208, 216)
        attributes, allocated = struct.unpack_from("<II", data, attributes_at)
        start = header + attributes
        if start + allocated > len(data):
            raise UdfError(f"the file entry of {name!r} is damaged")
        descriptors = data[start : start + allocated]
        kind = flags & 7
        if kind == 3:
            place = self._partition_start + block * self._block + start
            return Entry(name, is_folder, size, (Extent(place, size),), identifier)
        return Entry(name, is_folder, size, tuple(self._extents(descriptors, kind)), identifier)

    def _extents(self, descriptors: bytes, kind: int) -> Iterator[Extent]:
        if kind not in (0, 1):
            raise UdfError("a file uses extended allocation descriptors")
        step = 8 if kind == 0 else 16
        for position in range(0, len(descriptors) - step + 1, step):
            length, block = struct.unpack_from("<II", descriptors, position)
            # The two upper bits say how it is allocated; 3 continues elsewhere, which no installation medium needs.
            if length >> 30 == 3:
                raise UdfError("a file's allocation descriptors continue elsewhere")
            if length & 0x3FFFFFFF:
                yield Extent(self._partition_start + block * self._block, length & 0x3FFFFFFF)

    def read(self, entry: Entry, *, start: int = 0, length: int | None = None) -> bytes:
        """Content of a file, or a part of it.

        Raises:
            UdfError: the image is cut off.
        """
        end = entry.size if length is None else min(entry.size, start + length)
        found = []
        position = 0
        for extent in entry.extents:
            low, high = max(start, position), min(end, position + extent.length)
            if low < high:
                found.append(self._read(extent.offset + low - position, high - low))
            position += extent.length
        return b"".join(found)

    def record(self, entry: Entry) -> bytes:
        """The directory's record of a file or folder.

        Raises:
            UdfError: it is the root, which has none.
        """
        if entry.identifier is None:
            raise UdfError("the root folder has no record")
        return self._read(entry.identifier.offset, entry.identifier.length)

    def entries(self, folder: Entry) -> Iterator[Entry]:
        """What a folder holds.

        Raises:
            UdfError: the folder is damaged.
        """
        if not folder.is_folder or folder.size > _LONGEST_DIRECTORY:
            raise UdfError(f"{folder.name!r} is no folder")
        data = self.read(folder)
        position = 0
        while position + 38 <= len(data):
            # The longest record: 38 bytes, two lengths of 16 and of 8 bits, and what fills up to four.
            record = data[position : position + _LONGEST_RECORD]
            if self._tag(record) != _FILE_IDENTIFIER:
                raise UdfError(f"the folder {folder.name!r} is damaged")
            flags, name_length = record[18], record[19]
            block = struct.unpack_from("<I", record, 24)[0]
            use_length = struct.unpack_from("<H", record, 36)[0]
            name_at = 38 + use_length
            length = (name_at + name_length + 3) & ~3
            if not flags & (_DELETED | _PARENT):
                name = _decode_identifier(record[name_at : name_at + name_length])
                yield self._entry(name, block, Extent(self._place(folder, position), length))
            position += length

    def _place(self, entry: Entry, position: int) -> int:
        for extent in entry.extents:
            if position < extent.length:
                return extent.offset + position
            position -= extent.length
        raise UdfError(f"{entry.name!r} is shorter than it says")

    def find(self, path: str) -> Entry | None:
        """The file or folder of a path with slashes, without regard to case; None when there is none.

        Raises:
            UdfError: a folder on the way is damaged.
        """
        found = self.root
        for part in path.split("/"):
            if not found.is_folder:
                return None
            matching = (entry for entry in self.entries(found) if entry.name.casefold() == part.casefold())
            below = next(matching, None)
            if below is None:
                return None
            found = below
        return found
