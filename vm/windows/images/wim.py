"""Reads what a Windows image file (install.wim, install.esd) says of the images in it.

The header and its resource entries: Microsoft, "Windows Imaging File Format (WIM)" (2007). The XML at the end is never
compressed, in an .esd neither.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET

MAGIC: Final = b"MSWIM\0\0\0"
HEADER_LENGTH: Final = 208
_XML_ENTRY: Final = 72
_LONGEST_XML: Final = 1 << 22
AMD64: Final = 9
"""PROCESSOR_ARCHITECTURE_AMD64 of winnt.h."""


class WimError(Exception):
    """The file is no Windows image file that can be read here; the message says why."""


@dataclass(frozen=True)
class WimImage:
    """One image.

    Attributes:
        index: its number, from 1.
        name: its name, such as ``Windows Server 2022 SERVERSTANDARDCORE``.
        display_name: the name that setup shows; the same as the name where there is none.
        edition: edition identifier, such as ``Professional``; empty when it is no Windows.
        architecture: PROCESSOR_ARCHITECTURE of winnt.h, -1 when unknown.
        build: Windows build number, 0 when unknown.
        revision: update build revision.
        languages: display languages.
    """

    index: int
    name: str
    display_name: str
    edition: str
    architecture: int
    build: int
    revision: int
    languages: tuple[str, ...]


def read_images(size: int, read: Callable[[int, int], bytes]) -> tuple[WimImage, ...]:
    """The images of a file.

    Args:
        size: length of the file in bytes.
        read: gives the bytes at an offset, of a length.

    Raises:
        WimError: the file is no Windows image file, or damaged.
    """
    header = read(0, HEADER_LENGTH)
    if len(header) < HEADER_LENGTH or header[:8] != MAGIC:
        raise WimError("it does not begin as a Windows image file")
    length = int.from_bytes(header[_XML_ENTRY : _XML_ENTRY + 7], "little")
    (offset,) = struct.unpack_from("<Q", header, _XML_ENTRY + 8)
    if length > _LONGEST_XML or offset + length > size:
        raise WimError("its list of images lies outside of it: the file is cut off or damaged")
    try:
        root = ET.fromstring(read(offset, length).decode("utf-16"))  # noqa: S314 - expat limits expansion; no entities
        found = tuple(_image(element) for element in root.iter("IMAGE"))
    except (UnicodeDecodeError, ET.ParseError, ValueError) as error:
        raise WimError(f"its list of images is damaged: {error}") from error
    if not found:
        raise WimError("it holds no image")
    return found


def _image(element: ET.Element) -> WimImage:
    def text(path: str, default: str = "") -> str:
        return (element.findtext(path) or default).strip()

    name = text("NAME")
    languages = tuple((found.text or "").strip() for found in element.iterfind("WINDOWS/LANGUAGES/LANGUAGE"))
    return WimImage(
        index=int(element.get("INDEX", "")),
        name=name,
        display_name=text("DISPLAYNAME", name),
        edition=text("WINDOWS/EDITIONID"),
        architecture=int(text("WINDOWS/ARCH", "-1")),
        build=int(text("WINDOWS/VERSION/BUILD", "0")),
        revision=int(text("WINDOWS/VERSION/SPBUILD", "0")),
        languages=languages,
    )
