"""Reads frozen data classes from mappings that people or files gave: each wrong value is one error with its remedy.

A data class declares its fields with `text`, `whole`, `flag`, `choice`, `texts` and `part`; `read` makes one from a
mapping, `write` makes the mapping again. Nothing is converted silently, and a key that is not declared is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import Enum
from typing import Any, Final, NoReturn, Protocol, TypeVar

from vm.errors import MachineConfigurationError

_RULE: Final = "strict"
_NAMES: Final = {
    dict: "a table",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "an integer",
    float: "a number",
}

T = TypeVar("T")


class Place:
    """Where a value stands: the file or other source, and the keys that lead to it."""

    __slots__ = ("keys", "source")

    def __init__(self, source: str, keys: tuple[str, ...] = ()) -> None:
        self.source = source
        self.keys = keys

    def at(self, key: str) -> Place:
        """The place of a key below this one."""
        return Place(self.source, (*self.keys, key))

    def fail(self, what: str) -> NoReturn:
        """Raise the MachineConfigurationError that says `what` of this place."""
        where = ": ".join(part for part in (self.source, ".".join(self.keys)) if part)
        raise MachineConfigurationError(f"{where}: {what}")


class Rule(Protocol):
    """What a field accepts."""

    def read(self, value: object, place: Place) -> Any:
        """The value as the data class holds it; fails at the place when it does not fit."""

    def write(self, value: Any) -> object:
        """The value as a mapping holds it."""


def _expect(value: object, kind: type[T], place: Place, what: str) -> T:
    if type(value) is not kind:
        place.fail(f"expected {what}, found {_NAMES.get(type(value), type(value).__name__)}")
    return value


@dataclass(frozen=True)
class TextRule:
    """A text that matches a pattern as a whole; `hint` says in words what that is.

    A wrong text is quoted in the error unless it may hold a secret that was put in the wrong place.
    """

    pattern: str
    hint: str
    quoted: bool = True

    def read(self, value: object, place: Place) -> str:
        """The text."""
        given = _expect(value, str, place, self.hint)
        if not re.fullmatch(self.pattern, given):
            place.fail(f"{repr(given) if self.quoted else 'what is given'} does not fit; expected {self.hint}")
        return given

    def write(self, value: str) -> object:
        """The text."""
        return value


@dataclass(frozen=True)
class WholeRule:
    """An integer within bounds, both included."""

    low: int
    high: int
    unit: str

    def read(self, value: object, place: Place) -> int:
        """The integer."""
        given = _expect(value, int, place, f"an integer ({self.unit})")
        if not self.low <= given <= self.high:
            place.fail(f"{given} is out of range; expected {self.low} to {self.high} ({self.unit})")
        return given

    def write(self, value: int) -> object:
        """The integer."""
        return value


@dataclass(frozen=True)
class FlagRule:
    """True or false."""

    def read(self, value: object, place: Place) -> bool:
        """The flag."""
        return _expect(value, bool, place, "true or false")

    def write(self, value: bool) -> object:
        """The flag."""
        return value


@dataclass(frozen=True)
class ChoiceRule:
    """One member of an enumeration, by its value."""

    kind: type[Enum]

    def read(self, value: object, place: Place) -> Enum:
        """The member."""
        names = [str(member.value) for member in self.kind]
        if value not in names:
            place.fail(f"{value!r} is not known; choose from {', '.join(names)}")
        return self.kind(value)

    def write(self, value: Enum) -> object:
        """Its value."""
        return value.value


@dataclass(frozen=True)
class TextsRule:
    """A list of texts, each by the same rule and none twice."""

    each: TextRule

    def read(self, value: object, place: Place) -> tuple[str, ...]:
        """The texts."""
        given = tuple(
            self.each.read(item, place.at(str(index)))
            for index, item in enumerate(_expect(value, list, place, f"a list, each item {self.each.hint}"))
        )
        twice = sorted({item for item in given if given.count(item) > 1})
        if twice:
            place.fail(f"{', '.join(twice)} is listed twice; name each once")
        return given

    def write(self, value: tuple[str, ...]) -> object:
        """A list."""
        return list(value)


@dataclass(frozen=True)
class ArgumentsRule:
    """A list of texts of any kind and order: the arguments of a command."""

    def read(self, value: object, place: Place) -> tuple[str, ...]:
        """The texts."""
        listed = _expect(value, list, place, "a list of texts")
        return tuple(_expect(item, str, place.at(str(index)), "a text") for index, item in enumerate(listed))

    def write(self, value: tuple[str, ...]) -> object:
        """A list."""
        return list(value)


@dataclass(frozen=True)
class TableRule:
    """A table of texts by free keys."""

    def read(self, value: object, place: Place) -> dict[str, str]:
        """The table."""
        table = _expect(value, dict, place, "a table of texts")
        return {
            _expect(key, str, place, "a text"): _expect(item, str, place.at(key), "a text")
            for key, item in table.items()
        }

    def write(self, value: Mapping[str, str]) -> object:
        """A plain table."""
        return dict(value)


@dataclass(frozen=True)
class PartRule:
    """A data class of its own."""

    kind: type[Any]

    def read(self, value: object, place: Place) -> Any:
        """The part."""
        return _read(self.kind, value, place)

    def write(self, value: Any) -> object:
        """Its mapping."""
        return write(value)


@dataclass(frozen=True)
class PartsRule:
    """A list of data classes of one kind."""

    kind: type[Any]

    def read(self, value: object, place: Place) -> tuple[Any, ...]:
        """The parts."""
        listed = _expect(value, list, place, "a list of tables")
        return tuple(_read(self.kind, item, place.at(str(index))) for index, item in enumerate(listed))

    def write(self, value: tuple[Any, ...]) -> object:
        """A list of mappings."""
        return [write(item) for item in value]


def _declared(rule: Rule, default: Any) -> Any:
    return field(default=default, metadata={_RULE: rule}, kw_only=True)


def text(pattern: str, hint: str, *, default: Any = MISSING, quoted: bool = True) -> Any:
    """A field for a text that matches a pattern as a whole; one that may hold a secret is not `quoted` in errors."""
    return _declared(TextRule(pattern, hint, quoted), default)


def whole(low: int, high: int, unit: str, *, default: Any = MISSING) -> Any:
    """A field for an integer within bounds, both included."""
    return _declared(WholeRule(low, high, unit), default)


def flag(*, default: Any = MISSING) -> Any:
    """A field for true or false."""
    return _declared(FlagRule(), default)


def choice(kind: type[Enum], *, default: Any = MISSING) -> Any:
    """A field for a member of an enumeration."""
    return _declared(ChoiceRule(kind), default)


def texts(pattern: str, hint: str, *, default: Any = MISSING) -> Any:
    """A field for a list of texts."""
    return _declared(TextsRule(TextRule(pattern, hint)), default)


def arguments() -> Any:
    """A field for the arguments of a command."""
    return _declared(ArgumentsRule(), MISSING)


def table() -> Any:
    """A field for a table of texts by free keys."""
    return _declared(TableRule(), MISSING)


def part(kind: type[Any]) -> Any:
    """A field for a data class that is declared the same way."""
    return _declared(PartRule(kind), MISSING)


def parts(kind: type[Any]) -> Any:
    """A field for a list of data classes."""
    return _declared(PartsRule(kind), MISSING)


def rule_of(declared: Field[Any]) -> Rule:
    """The rule of a field of such a data class."""
    rule: Rule = declared.metadata[_RULE]
    return rule


def read(kind: type[T], value: object, source: str) -> T:
    """Make a data class from a mapping.

    Args:
        kind: the data class; each field is declared with one of the functions here.
        value: the mapping.
        source: the file or option that it is from, for messages.

    Raises:
        MachineConfigurationError: a key is unknown or missing, or a value does not fit; names source, key and remedy.
    """
    return _read(kind, value, Place(source))


def _read(kind: type[T], value: object, place: Place) -> T:
    if not isinstance(value, Mapping):
        place.fail(f"expected a table, found {_NAMES.get(type(value), type(value).__name__)}")
    declared = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key in value:
        if key not in declared:
            place.fail(f"unknown key {key!r}; known here: {', '.join(declared)}")
    found: dict[str, Any] = {}
    for name, one in declared.items():
        if name in value:
            found[name] = rule_of(one).read(value[name], place.at(name))
        elif one.default is MISSING:
            place.fail(f"{name!r} is missing; add it")
    return kind(**found)


def write(value: Any) -> dict[str, object]:
    """The mapping that `read` makes this data class from; a field that is None is left out."""
    return {
        declared.name: rule_of(declared).write(getattr(value, declared.name))
        for declared in fields(value)
        if getattr(value, declared.name) is not None
    }
