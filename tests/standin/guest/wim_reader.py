"""Reads files out of an uncompressed Windows image file, as setup applies an image.

Written from Microsoft's "Windows Imaging File Format (WIM)" (2007), and checked by the hashes that the file carries.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

MAGIC = b"MSWIM\0\0\0"
COMPRESSED = 0x2
"""FLAG_HEADER_COMPRESSION of the header."""
_RESOURCE_COMPRESSED, _RESOURCE_METADATA = 0x4, 0x2
_LOOKUP_ENTRY = struct.Struct("<QQQHI20s")
_DENTRY_LENGTH = 102
_CHUNK = 1 << 20


class WrongImage(Exception):
    """The file holds no such image, or is damaged; says which."""


@dataclass(frozen=True)
class Resource:
    size: int
    offset: int
    sha1: bytes


class WimFile:
    """An image file that is open for reading."""

    def __init__(self, stream):
        self._stream = stream
        header = stream.read(208)
        if header[:8] != MAGIC:
            raise WrongImage("install.wim does not begin as a Windows image file")
        if struct.unpack_from("<I", header, 16)[0] & COMPRESSED:
            raise WrongImage("install.wim is compressed")
        (self.images,) = struct.unpack_from("<I", header, 44)
        self._resources = {}
        self._metadata = []
        table = self._read(_header_resource(header, 48))
        for place in range(0, len(table), _LOOKUP_ENTRY.size):
            packed, offset, size, _part, _references, digest = _LOOKUP_ENTRY.unpack_from(table, place)
            flags = packed >> 56
            if flags & _RESOURCE_COMPRESSED:
                raise WrongImage("install.wim has a compressed resource")
            resource = Resource(size, offset, digest)
            if flags & _RESOURCE_METADATA:
                self._metadata.append(resource)
            else:
                self._resources[digest] = resource

    def files(self, index):
        """Files of an image by their path with slashes."""
        if not 1 <= index <= len(self._metadata):
            raise WrongImage(f"install.wim has no image {index}: it has {len(self._metadata)}")
        data = self._read(self._metadata[index - 1])
        (security,) = struct.unpack_from("<I", data)
        root = _aligned(max(security, 8))
        return dict(self._walk(data, root, ""))

    def copy(self, resource, write):
        """Give the file's content in pieces to `write`, and hold it against its hash."""
        digest = hashlib.sha1(usedforsecurity=False)
        self._stream.seek(resource.offset)
        left = resource.size
        while left:
            piece = self._stream.read(min(left, _CHUNK))
            if not piece:
                raise WrongImage("install.wim is cut off")
            left -= len(piece)
            digest.update(piece)
            write(piece)
        if digest.digest() != resource.sha1:
            raise WrongImage("install.wim is damaged: a file has another hash")

    def _read(self, resource):
        self._stream.seek(resource.offset)
        return self._stream.read(resource.size)

    def _walk(self, data, place, folder):
        """Entries of a directory; the first one of an image stands alone and is its root."""
        while True:
            (length,) = struct.unpack_from("<Q", data, place)
            if length <= 8:
                return
            (attributes,) = struct.unpack_from("<I", data, place + 8)
            (children,) = struct.unpack_from("<Q", data, place + 16)
            digest = data[place + 64 : place + 84]
            streams, _short, name_length = struct.unpack_from("<HHH", data, place + 96)
            start = place + _DENTRY_LENGTH
            name = data[start : start + name_length].decode("utf-16-le")
            path = f"{folder}/{name}" if folder else name
            if attributes & 0x10 and children:  # FILE_ATTRIBUTE_DIRECTORY
                yield from self._walk(data, children, path)
            elif not attributes & 0x10:
                yield path, self._resources.get(digest) or self._unnamed_stream(data, place + _aligned(length), streams)
            place = _aligned(place + length)
            for _ in range(streams):
                place += _aligned(struct.unpack_from("<Q", data, place)[0])

    def _unnamed_stream(self, data, place, streams):
        """The content of a file that has further streams: it is then the one without a name."""
        for _ in range(streams):
            length, _reserved = struct.unpack_from("<QQ", data, place)
            (name_length,) = struct.unpack_from("<H", data, place + 36)
            if not name_length:
                return self._resources.get(data[place + 16 : place + 36]) or Resource(0, 0, hashlib.sha1(b"").digest())
            place += _aligned(length)
        return Resource(0, 0, hashlib.sha1(b"").digest())


def _header_resource(header, place):
    packed, offset, size = struct.unpack_from("<QQQ", header, place)
    if packed >> 56 & _RESOURCE_COMPRESSED:
        raise WrongImage("install.wim has a compressed table")
    return Resource(size, offset, b"")


def _aligned(length):
    return -(-length // 8) * 8
