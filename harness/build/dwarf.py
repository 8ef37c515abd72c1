"""Makes the image that ships from the one that the linker leaves, which carries DWARF."""

from __future__ import annotations

import struct
from typing import Final

from harness.build.pe import SECTION_HEADER_SIZE, parse, with_checksum
from harness.errors import ImageError

_LARGEST: Final = 0xFFFFFFFF


def without_dwarf(data: bytes) -> bytes:
    """The image as it would have been linked without DWARF: every address, and all other content, stays.

    lld-link keeps DWARF of the GNU target in sections at the end of the image. Removing their headers and data, the
    COFF string table that names them included, leaves the image that ships; the complete one is its twin for source
    lines.

    Raises:
        ImageError: not an image, or its DWARF sections are not the last ones.
    """
    image = parse(data)
    kept = [s for s in image.sections if not s.name.startswith(".debug_")]
    if kept != list(image.sections[: len(kept)]) or not kept:
        message = "the DWARF sections are not the last sections of the image"
        raise ImageError(message)
    removed = image.sections[len(kept) :]
    end = max(s.raw_offset + s.raw_size for s in kept)
    if end < image.section_table_offset + len(image.sections) * SECTION_HEADER_SIZE:
        message = "the headers contradict the sections: all data lies inside the headers"
        raise ImageError(message)
    if removed and min(s.raw_offset for s in removed) < end:
        message = "the DWARF sections are not the last data of the image"
        raise ImageError(message)
    edited = bytearray(data[:end])
    last = max(kept, key=lambda s: s.rva)
    alignment = max(image.section_alignment, 1)
    size_of_image = (last.rva + last.virtual_size + alignment - 1) // alignment * alignment
    initialised = struct.unpack_from("<I", data, image.optional_header_offset + 8)[0] - sum(s.raw_size for s in removed)
    if not 0 <= initialised <= _LARGEST or not 0 < size_of_image <= _LARGEST:
        message = "the headers contradict the sections: the image would be larger than 4 GB, or smaller than nothing"
        raise ImageError(message)
    struct.pack_into("<H", edited, image.header_offset + 6, len(kept))
    struct.pack_into("<II", edited, image.header_offset + 12, 0, 0)
    struct.pack_into("<I", edited, image.optional_header_offset + 8, initialised)
    struct.pack_into("<I", edited, image.optional_header_offset + 56, size_of_image)
    headers = image.section_table_offset + len(kept) * SECTION_HEADER_SIZE
    edited[headers : headers + len(removed) * SECTION_HEADER_SIZE] = bytes(len(removed) * SECTION_HEADER_SIZE)
    return with_checksum(bytes(edited))
