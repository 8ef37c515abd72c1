"""The few parts of ASN.1 DER (ITU-T X.690) that Authenticode needs: writing values, and reading them back bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SEQUENCE: Final = 0x30
SET: Final = 0x31
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
_NULL: Final = b"\x05\x00"
_MOST_VALUES: Final = 1 << 14
"""In one constructed value; certificates and attributes of a signature are a few dozen."""
_LONGEST_IDENTIFIER: Final = 64
"""Octets of an OBJECT IDENTIFIER; the longest that is used in signatures has a dozen."""


class DerError(ValueError):
    """Bytes are not the DER that was expected."""


@dataclass(frozen=True)
class Value:
    """One DER value: its tag octet, its content, and the whole encoding."""

    tag: int
    content: bytes
    encoding: bytes

    def children(self) -> list[Value]:
        """The values inside a constructed one. Raises DerError."""
        found = []
        position = 0
        while position < len(self.content):
            # By position: what is left is as long as the file, and is not copied for each of its values.
            value, position = _read_at(self.content, position)
            found.append(value)
            if len(found) > _MOST_VALUES:
                message = f"more than {_MOST_VALUES} values in one, which no signature has"
                raise DerError(message)
        return found

    def expect(self, tag: int, what: str) -> Value:
        """This value, if it has the tag. Raises DerError naming `what`."""
        if self.tag != tag:
            message = f"{what}: tag 0x{self.tag:02X} instead of 0x{tag:02X}"
            raise DerError(message)
        return self


def read(data: bytes) -> tuple[Value, bytes]:
    """The first value of some bytes, and what follows it. Raises DerError."""
    value, end = _read_at(data, 0)
    return value, data[end:]


def _read_at(data: bytes, position: int) -> tuple[Value, int]:
    """The value that begins at a position, and where it ends. Raises DerError."""
    if len(data) < position + 2:
        message = "truncated value"
        raise DerError(message)
    length, start = data[position + 1], position + 2
    if length & 0x80:
        octets = length & 0x7F
        if not 1 <= octets <= 4 or len(data) < start + octets:
            message = "length of a form that DER does not use here"
            raise DerError(message)
        length, start = int.from_bytes(data[start : start + octets], "big"), start + octets
    end = start + length
    if end > len(data):
        message = f"a value of {length} bytes has only {len(data) - start}"
        raise DerError(message)
    return Value(data[position], data[start:end], data[position:end]), end


def encode(tag: int, *contents: bytes) -> bytes:
    """One value with the given tag octet whose content is the concatenation of `contents`."""
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def sequence(*contents: bytes) -> bytes:
    """A SEQUENCE."""
    return encode(SEQUENCE, *contents)


def set_of(*contents: bytes) -> bytes:
    """A SET OF, in the order that DER demands."""
    return encode(SET, *sorted(contents))


def explicit(number: int, content: bytes) -> bytes:
    """A context-specific constructed value."""
    return encode(0xA0 | number, content)


def octet_string(content: bytes) -> bytes:
    """An OCTET STRING."""
    return encode(OCTET_STRING, content)


def integer(number: int) -> bytes:
    """An INTEGER, in the fewest octets that hold it."""
    magnitude = number if number >= 0 else ~number
    return encode(INTEGER, number.to_bytes(magnitude.bit_length() // 8 + 1, "big", signed=True))


def object_identifier(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER from its dotted form."""
    first, second, *rest = (int(part) for part in dotted.split("."))
    content = bytearray()
    for number in (first * 40 + second, *rest):
        septets = [number & 0x7F]
        while number := number >> 7:
            septets.append(number & 0x7F | 0x80)
        content += bytes(reversed(septets))
    return encode(OBJECT_IDENTIFIER, bytes(content))


def algorithm(dotted: str) -> bytes:
    """An AlgorithmIdentifier with NULL parameters."""
    return sequence(object_identifier(dotted), _NULL)


def dotted(identifier: Value) -> str:
    """The dotted form of an OBJECT IDENTIFIER. Raises DerError."""
    content = identifier.expect(OBJECT_IDENTIFIER, "OBJECT IDENTIFIER").content
    if not content or content[-1] & 0x80:
        message = "an OBJECT IDENTIFIER that is cut short"
        raise DerError(message)
    if len(content) > _LONGEST_IDENTIFIER:
        message = f"an OBJECT IDENTIFIER of {len(content)} bytes, longer than any"
        raise DerError(message)
    numbers, number = [], 0
    for octet in content:
        number = number << 7 | octet & 0x7F
        if not octet & 0x80:
            numbers.append(number)
            number = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


def number(value: Value, what: str) -> int:
    """The number of an INTEGER. Raises DerError naming `what`."""
    return int.from_bytes(value.expect(INTEGER, what).content, "big", signed=True)
