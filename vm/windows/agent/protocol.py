"""Lines of ntguest.exe's plan protocol (docs/reference/guest-programs.md), written and read strictly.

A text crosses as UTF-16 units, lone surrogates among them, escaped in ASCII, so that no encoding on the way can change
it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

LONGEST_LINE: Final = 4 << 20
"""Bytes of a line that ntguest.exe takes."""
LARGEST_BUFFER: Final = 1 << 20
"""Bytes of a device buffer that it takes."""
LARGEST_PARAMETER: Final = 1 << 20
"""Bytes of a service parameter that it takes; a text has two for each unit, and two for its end."""
MOST_DEVICES: Final = 64
"""Device handles that it holds at a time."""
MOST_REQUESTS: Final = 256
"""Device requests under a name that it holds at a time."""
MOST_PROCESSES: Final = 4096
"""Processes that it holds at a time."""
LONGEST_WAIT: Final = 600_000
"""Milliseconds of a deadline that it takes."""
LONGEST_ANSWER: Final = 8 << 20
"""Bytes of the longest answer: a launch with two texts of 65,535 escaped units, or a buffer in base64."""

Member: TypeAlias = str | int | bool | None
Members: TypeAlias = Mapping[str, Member]


class Malformed(ValueError):
    """A line that is no answer of ntguest.exe."""


def encode(operation: str, identity: int, members: Mapping[str, Member | bytes]) -> bytes:
    """A request as a line. Bytes become base64; members that are None are left out."""
    given = {
        key: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for key, value in members.items()
        if value is not None
    }
    return json.dumps({"op": operation, "id": identity, **given}, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes) -> dict[str, Member]:
    """An answer or event.

    Raises:
        Malformed: it is no flat JSON object of texts, integers and truth values.
    """
    if len(line) > LONGEST_ANSWER:
        raise Malformed(f"a line of {len(line)} bytes")
    try:
        value = json.loads(line, object_pairs_hook=_members, parse_float=_refused, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{error}: {line[:80]!r}") from error
    if not isinstance(value, dict):
        raise Malformed(f"no object: {line[:80]!r}")
    return value


def _members(pairs: Sequence[tuple[str, Any]]) -> dict[str, Member]:
    found: dict[str, Member] = {}
    for key, value in pairs:
        if key in found:
            raise Malformed(f"{key!r:.40} is given twice")
        if value is not None and not isinstance(value, str | int):
            raise Malformed(f"{key!r:.40} is neither text nor integer nor truth value")
        found[key] = value
    return found


def _refused(text: str) -> None:
    raise Malformed(f"{text:.40} is no integer")


def integer(members: Members, key: str, bits: int = 32) -> int:
    """An unsigned integer. Raises Malformed."""
    value = members.get(key)
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise Malformed(f"{key} should be an integer of {bits} bits, is {value!r:.40}")
    return value


def optional_integer(members: Members, key: str, bits: int = 32) -> int | None:
    """An unsigned integer, None for null or a member that is not there. Raises Malformed."""
    return None if members.get(key) is None else integer(members, key, bits)


def flag(members: Members, key: str) -> bool:
    """A truth value. Raises Malformed."""
    value = members.get(key)
    if type(value) is not bool:
        raise Malformed(f"{key} should be true or false, is {value!r:.40}")
    return value


def optional_text(members: Members, key: str) -> str | None:
    """A text, None for null or a member that is not there. Raises Malformed."""
    value = members.get(key)
    if value is not None and type(value) is not str:
        raise Malformed(f"{key} should be a text, is {value!r:.40}")
    return value


def octets(members: Members, key: str) -> bytes:
    """Bytes. Raises Malformed."""
    value = members.get(key)
    if type(value) is str:
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise Malformed(f"{key} should be bytes in base64, is {value!r:.40}")
