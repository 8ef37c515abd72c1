"""Reads commands.toml: the commands of the guest module, their parameters and their results.

The client checks arguments and answers with it, the stand-in endpoint binds parameters with it, and tests hold the
module's param blocks against it.
"""

from __future__ import annotations

import enum
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from vm.win32 import error_values

_NAME = re.compile(r"[A-Z][a-z]+-Ntproof[A-Z][A-Za-z0-9]*")


class ValueType(enum.Enum):
    """Types of parameters and results; the value is the name in commands.toml."""

    STRING = "string"
    STRINGS = "strings"
    BYTES = "bytes"
    BOOLEAN = "boolean"
    SWITCH = "switch"
    INT32 = "int32"
    UINT32 = "uint32"
    INT64 = "int64"
    UINT64 = "uint64"
    DATETIME = "datetime"

    @property
    def integer_range(self) -> range | None:
        """The values of an integer type, None for other types."""
        return _RANGES.get(self)


_RANGES = {
    ValueType.INT32: range(-(2**31), 2**31),
    ValueType.UINT32: range(2**32),
    ValueType.INT64: range(-(2**63), 2**63),
    ValueType.UINT64: range(2**64),
}


class Returns(enum.Enum):
    """How many objects a command gives."""

    NONE = "none"
    ONE = "one"
    MANY = "many"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a command.

    Attributes:
        name: as PowerShell has it.
        type: what it takes.
        required: whether it must be given.
        values: the only values allowed, empty for any.
        minimum: smallest number allowed, None for that of the type.
        maximum: largest number allowed, None for that of the type.
    """

    name: str
    type: ValueType
    required: bool = False
    values: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None


@dataclass(frozen=True)
class ResultField:
    """A property of the objects that a command gives."""

    name: str
    type: ValueType
    nullable: bool = False


@dataclass(frozen=True)
class Command:
    """A command of the guest module.

    Attributes:
        name: as PowerShell has it, ``Get-NtproofGuestInfo``.
        summary: one sentence.
        returns: how many objects it gives.
        repeatable: whether running it again changes nothing.
        parameters: by name, in order.
        results: by name, in order; empty exactly when it returns nothing.
        errors: Win32 codes that callers rely on; others may come as well.
        failures: names of errors that have no Win32 code.
    """

    name: str
    summary: str
    returns: Returns
    repeatable: bool = False
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    results: Mapping[str, ResultField] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schema:
    """Every command of the guest module, by name, and the version that both sides must share."""

    version: int
    commands: Mapping[str, Command]

    def __getitem__(self, name: str) -> Command:
        return self.commands[name]

    def __iter__(self) -> Iterator[Command]:
        return iter(self.commands.values())


class SchemaError(ValueError):
    """commands.toml contradicts itself: a defect of this package."""


@cache
def guest_schema() -> Schema:
    """The schema that this package ships."""
    return parse_schema((resources.files(__package__) / "commands.toml").read_text(encoding="utf-8"))


def parse_schema(text: str) -> Schema:
    """Read a schema. Raises SchemaError that names the command and what is wrong with it."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SchemaError(f"commands.toml: {error}") from error
    commands = {name: _command(name, entry) for name, entry in document.pop("command", {}).items()}
    version = document.pop("version", None)
    if not isinstance(version, int) or document:
        raise SchemaError(f"commands.toml: wants a version and commands, and nothing else: {sorted(document)}")
    return Schema(version, commands)


def _command(name: str, entry: dict[str, Any]) -> Command:
    if not _NAME.fullmatch(name):
        raise SchemaError(f"{name}: a command is named Verb-NtproofNoun")
    rest = dict(entry)
    try:
        found = Command(
            name=name,
            summary=str(rest.pop("summary")),
            returns=Returns(rest.pop("returns")),
            repeatable=bool(rest.pop("repeatable", False)),
            parameters={key: _parameter(key, value) for key, value in rest.pop("parameters", {}).items()},
            results={key: _result(key, value) for key, value in rest.pop("results", {}).items()},
            errors=tuple(error_values()[symbol] for symbol in rest.pop("errors", ())),
            failures=tuple(rest.pop("failures", ())),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SchemaError(f"{name}: {error!r}") from error
    if rest:
        raise SchemaError(f"{name}: unknown keys {sorted(rest)}")
    if bool(found.results) == (found.returns is Returns.NONE):
        raise SchemaError(f"{name}: result fields belong to exactly those commands that return something")
    return found


def _parameter(name: str, entry: dict[str, Any]) -> Parameter:
    kind = ValueType(entry["type"])
    found = Parameter(**{**entry, "name": name, "type": kind, "values": tuple(entry.get("values", ()))})
    if kind is ValueType.BOOLEAN:
        raise ValueError(f"{name}: a parameter that is true or false is a switch")
    if (found.minimum is not None or found.maximum is not None) and kind.integer_range is None:
        raise ValueError(f"{name}: only numbers have a range")
    if found.values and kind is not ValueType.STRING:
        raise ValueError(f"{name}: only strings have a set of values")
    return found


def _result(name: str, entry: dict[str, Any]) -> ResultField:
    kind = ValueType(entry["type"])
    if kind is ValueType.SWITCH:
        raise ValueError(f"{name}: a result that is true or false is a boolean")
    return ResultField(**{**entry, "name": name, "type": kind})
