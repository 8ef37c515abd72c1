"""The ANSI code page of the emulated system: Windows-1252, as the kernel's Rtl conversions and format engine use it.

Unlike Python's codec of that name the five bytes without a character map to the C1 controls and back, so that every
byte survives; what the code page cannot express becomes the default character, a question mark.
"""

from __future__ import annotations

from functools import cache

_UNDEFINED = (0x81, 0x8D, 0x8F, 0x90, 0x9D)


@cache
def _characters() -> str:
    return "".join(chr(byte) if byte in _UNDEFINED else bytes([byte]).decode("cp1252") for byte in range(256))


@cache
def _bytes() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(_characters())}


def decode(data: bytes) -> str:
    """Text of ANSI bytes."""
    if data.isascii():
        return data.decode("ascii")
    characters = _characters()
    return "".join(characters[byte] for byte in data)


def units(text: str) -> list[str]:
    """A text as single UTF-16 units, each a character of its own."""
    raw = text.encode("utf-16-le", "surrogatepass")
    return [chr(int.from_bytes(raw[at : at + 2], "little")) for at in range(0, len(raw), 2)]


def encode(text: str) -> bytes:
    """ANSI bytes of a text: one for each UTF-16 unit."""
    if text.isascii():
        return text.encode("ascii")
    table = _bytes()
    return bytes(table.get(unit, 0x3F) for unit in units(text))


def wide(text: str) -> bytes:
    """UTF-16 bytes of a text, lone surrogates kept."""
    return text.encode("utf-16-le", "surrogatepass")


def from_wide(data: bytes) -> str:
    """Text of UTF-16 bytes, lone surrogates kept; an odd byte at the end is ignored."""
    return data[: len(data) & ~1].decode("utf-16-le", "surrogatepass")
