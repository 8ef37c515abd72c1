"""Reads JSON that people wrote: each wrong value is one InputError that names the file, the place and the remedy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final, NoReturn, TypeVar

from harness.errors import InputError
from harness.notification import canonical_text

MAXIMUM_TEXT_UNITS: Final = 32_767
"""UTF-16 units in the longest UNICODE_STRING (ntdef.h: USHORT byte length, an even number of bytes)."""

E = TypeVar("E", bound=Enum)


def parse_json(text: str, source: str) -> Any:
    """The value of a JSON document.

    Raises:
        InputError: it is no JSON; names line and column.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"{source}: line {error.lineno}, column {error.colno}"
        raise InputError(f"{place}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise InputError(f"{source}: nested too deeply; no value here is nested more than a few levels") from error
    except ValueError as error:
        raise InputError(f"{source}: not JSON: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


class Node:
    """A JSON value with its place in the document.

    Attributes:
        value: the value.
        path: its place, such as ``$.steps[3].image``.
        source: the file, for messages.
    """

    __slots__ = ("path", "source", "value")

    def __init__(self, value: Any, source: str, path: str = "$") -> None:
        self.value = value
        self.source = source
        self.path = path

    def fail(self, what: str) -> NoReturn:
        """Raise the InputError that says `what` of this place."""
        raise InputError(f"{self.source}: {self.path}: {what}")

    def object(self, required: frozenset[str], optional: frozenset[str] = frozenset()) -> Node:
        """This node, known to be an object with these keys and no others."""
        if not isinstance(self.value, dict):
            self.fail(f"expected an object, found {_name(self.value)}")
        for key in sorted(required):
            if key not in self.value:
                self.fail(f"{key!r} is missing; add it")
        for key in self.value:
            if key not in required and key not in optional:
                known = ", ".join(sorted(required | optional))
                self.fail(f"unknown key {key!r}; known here: {known}")
        return self

    def has(self, key: str) -> bool:
        """Whether the object has the key."""
        return key in self.value

    def at(self, key: str) -> Node:
        """The value under a key; null when it is missing."""
        return Node(self.value.get(key), self.source, f"{self.path}.{key}")

    def items(self) -> Iterator[Node]:
        """The elements of a list."""
        if not isinstance(self.value, list):
            self.fail(f"expected a list, found {_name(self.value)}")
        for index, value in enumerate(self.value):
            yield Node(value, self.source, f"{self.path}[{index}]")

    def text(self, *, empty: bool = False, limit: int = MAXIMUM_TEXT_UNITS) -> str:
        """A text of at most `limit` UTF-16 units."""
        if not isinstance(self.value, str):
            self.fail(f"expected a text, found {_name(self.value)}")
        if not self.value and not empty:
            self.fail("expected a text that is not empty")
        text = canonical_text(self.value)
        units = len(text.encode("utf-16-le", "surrogatepass")) // 2
        if units > limit:
            self.fail(f"the text has {units} UTF-16 units; Windows carries at most {limit}")
        return text

    def optional_text(self, *, empty: bool = False) -> str | None:
        """A text, or None for null or a missing key."""
        return None if self.value is None else self.text(empty=empty)

    def integer(self, low: int, high: int) -> int:
        """An integer within bounds, both included."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            self.fail(f"expected an integer, found {_name(self.value)}")
        if not low <= self.value <= high:
            self.fail(f"{self.value} is out of range; expected {low} to {high}")
        return self.value

    def optional_integer(self, low: int, high: int) -> int | None:
        """An integer, or None for null or a missing key."""
        return None if self.value is None else self.integer(low, high)

    def status(self) -> int:
        """An NTSTATUS: an unsigned 32-bit integer, or a text such as ``0xC0000022``."""
        if isinstance(self.value, str):
            try:
                number = int(self.value, 16) if self.value.lower().startswith("0x") else -1
            except ValueError:
                number = -1
            if not 0 <= number <= 0xFFFFFFFF:
                self.fail(f"{self.value!r} is no status; write it as 0xC0000022")
            return number
        return self.integer(0, 0xFFFFFFFF)

    def boolean(self, default: bool = False) -> bool:
        """A boolean; `default` for null or a missing key."""
        if self.value is None:
            return default
        if not isinstance(self.value, bool):
            self.fail(f"expected true or false, found {_name(self.value)}")
        return self.value

    def choice(self, choices: type[E]) -> E:
        """A member of an enumeration, by its value or, for integer enumerations, its lower-case name."""
        by_name = {_choice_name(member): member for member in choices}
        if not isinstance(self.value, str) or self.value not in by_name:
            self.fail(f"expected one of {', '.join(by_name)}, found {self.value!r:.80}")
        return by_name[self.value]

    def strings(self) -> Mapping[str, str]:
        """An object whose values are texts."""
        if not isinstance(self.value, dict):
            self.fail(f"expected an object, found {_name(self.value)}")
        return {key: self.at(key).text(empty=True) for key in self.value}


def _choice_name(member: Enum) -> str:
    return member.value if isinstance(member.value, str) else member.name.lower()


def _name(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {int: "an integer", float: "a fraction", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
