"""Reads the version resource of an image: VS_VERSIONINFO behind RT_VERSION, as "PE Format" and verrsrc.h lay it out.

Every count, offset and length comes from the file and is bounded before it is used.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from harness.build.pe import DIRECTORY_RESOURCE
from harness.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from harness.build.pe import Image

RT_VERSION: Final = 16
_SUBDIRECTORY: Final = 0x80000000
_FIXED_SIGNATURE: Final = 0xFEEF04BD
_KEY: Final = "VS_VERSION_INFO"
_MOST_ENTRIES: Final = 1024
_MOST_STRINGS: Final = 256
_LARGEST: Final = 0x10000


@dataclass(frozen=True)
class VersionInfo:
    """What a version resource says.

    Attributes:
        file_version: four numbers with dots.
        product_version: likewise.
        strings: its texts, such as ``CompanyName``, of the first language.
    """

    file_version: str
    product_version: str
    strings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Block:
    """One block of the tree: its key, its value and where its children begin and end in the resource."""

    key: str
    value: bytes
    children: int
    end: int


def read_version(image: Image) -> VersionInfo | None:
    """The version resource, None where the image has none.

    Raises:
        ImageError: the resources are malformed; the message says where.
    """
    rva, _ = image.directory(DIRECTORY_RESOURCE)
    if not rva:
        return None
    offset = _entry(image, rva, 0, RT_VERSION)
    for _ in ("name", "language"):
        if offset is None:
            return None
        if not offset & _SUBDIRECTORY:
            raise ImageError("the version resource has no language below it")
        offset = _entry(image, rva, offset & ~_SUBDIRECTORY, None)
    if offset is None:
        return None
    if offset & _SUBDIRECTORY:
        raise ImageError("the version resource is a directory where its data should be")
    where, size = struct.unpack("<II", image.read(rva + offset, 8, "the entry of the version resource"))
    if size > _LARGEST:
        raise ImageError(f"the version resource has 0x{size:X} bytes, more than any has")
    return _parse(image.read(where, size, "the version resource"))


def _entry(image: Image, base: int, directory: int, wanted: int | None) -> int | None:
    """What the wanted entry of a resource directory points to, or the first where none is wanted."""
    header = image.read(base + directory, 16, "a resource directory")
    named, numbered = struct.unpack_from("<HH", header, 12)
    if named + numbered > _MOST_ENTRIES:
        raise ImageError(f"a resource directory has {named + numbered} entries, more than any has")
    for index in range(named + numbered):
        entry = image.read(base + directory + 16 + 8 * index, 8, "an entry of a resource directory")
        identifier, offset = struct.unpack("<II", entry)
        if wanted is None or identifier == wanted:
            return int(offset)
    return None


def _parse(data: bytes) -> VersionInfo:
    root = _block(data, 0, len(data))
    if root.key != _KEY or len(root.value) < 24:
        raise ImageError("the version resource does not begin with VS_VERSION_INFO and its fixed part")
    signature, _, *versions = struct.unpack_from("<6I", root.value)
    if signature != _FIXED_SIGNATURE:
        raise ImageError(f"the fixed part of the version resource has signature 0x{signature:X}")
    return VersionInfo(_version(*versions[:2]), _version(*versions[2:]), _strings(data, root))


def _version(high: int, low: int) -> str:
    return f"{high >> 16}.{high & 0xFFFF}.{low >> 16}.{low & 0xFFFF}"


def _strings(data: bytes, root: _Block) -> dict[str, str]:
    for info in _blocks(data, root):
        if info.key == "StringFileInfo":
            table = next(_blocks(data, info), None)
            if table is None:
                break
            return {block.key: _text(block.value) for block in _blocks(data, table)}
    return {}


def _blocks(data: bytes, parent: _Block) -> Iterator[_Block]:
    position = parent.children
    for _ in range(_MOST_STRINGS):
        if position + 6 > parent.end:
            return
        block = _block(data, position, parent.end)
        yield block
        position = _aligned(block.end)
    raise ImageError("the version resource has more entries than any has")


def _block(data: bytes, start: int, limit: int) -> _Block:
    if start + 6 > limit:
        raise ImageError("the version resource is truncated")
    length, value_length, is_text = struct.unpack_from("<HHH", data, start)
    end = start + length
    if length < 6 or end > limit:
        raise ImageError(f"a block of the version resource has {length} bytes where {limit - start} are left")
    key_end = start + 6
    while data[key_end : key_end + 2] != b"\0\0":
        key_end += 2
        if key_end >= end:
            raise ImageError("a key of the version resource is not terminated")
    value = _aligned(key_end + 2)
    # A text's length counts characters, any other's counts bytes.
    value_end = min(value + value_length * (2 if is_text == 1 else 1), end)
    return _Block(_text(data[start + 6 : key_end]), data[value:value_end], min(_aligned(value_end), end), end)


def _aligned(position: int) -> int:
    return (position + 3) & ~3


def _text(data: bytes) -> str:
    return data.decode("utf-16-le", "replace").split("\0")[0]
