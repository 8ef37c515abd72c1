"""Values on their way to and from PowerShell: typed by the command schema, never by what pypsrp would guess.

Left to itself pypsrp sends int as 32 bits, cannot send dates, and fails on an empty byte array that comes back.
Text that XML cannot carry is refused here, where the message can name the parameter.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from vm.windows.remoting.errors import InvalidCommand
from vm.windows.remoting.schema import Command, Parameter, ResultField, ValueType

Value: TypeAlias = str | int | bool | bytes | list[str] | datetime.datetime | None
"""What commands take and give: a string, number, truth value, bytes, list of strings, or date with its time zone."""

Row: TypeAlias = dict[str, Value]
"""One object that a command gave, by property."""

# Lone surrogates and the two noncharacters have no place in XML 1.0; everything else PSRP can escape.
_NOT_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")
# .NET writes seven digits of a second where Python reads six.
_FRACTION = re.compile(r"(\.\d{6})\d+")

_TAGS = {
    ValueType.STRING: "S",
    ValueType.BYTES: "BA",
    ValueType.INT32: "I32",
    ValueType.UINT32: "U32",
    ValueType.INT64: "I64",
    ValueType.UINT64: "U64",
}


class MalformedValue(ValueError):
    """A value from the guest that is not of the type that the schema promises."""


def checked_arguments(command: Command, arguments: Mapping[str, Value]) -> dict[str, Value]:
    """The arguments of a command, held against the schema; those that are None are left out.

    Raises:
        InvalidCommand: an unknown or missing parameter, a value of the wrong type or out of its range.
    """
    given: dict[str, Value] = {name: value for name, value in arguments.items() if value is not None}
    unknown = sorted(set(given) - set(command.parameters))
    if unknown:
        raise InvalidCommand(f"{command.name} has no parameter {', '.join(unknown)}")
    missing = [name for name, parameter in command.parameters.items() if parameter.required and name not in given]
    if missing:
        raise InvalidCommand(f"{command.name} wants a value for {', '.join(missing)}")
    for name, value in given.items():
        _check(command, command.parameters[name], value)
    return given


def to_guest(command: Command, arguments: Mapping[str, Value]) -> dict[str, Any]:
    """Checked arguments as pypsrp has to be given them. Raises InvalidCommand as checked_arguments."""
    from pypsrp.serializer import TaggedValue

    sent: dict[str, Any] = {}
    for name, value in checked_arguments(command, arguments).items():
        kind = command.parameters[name].type
        if kind is ValueType.SWITCH:
            # A switch is present or absent; pypsrp sends a parameter without a value for None.
            if value:
                sent[name] = None
        elif kind is ValueType.STRINGS:
            sent[name] = value
        elif isinstance(value, datetime.datetime):
            sent[name] = TaggedValue("S", value.astimezone(datetime.UTC).isoformat())
        else:
            sent[name] = TaggedValue(_TAGS[kind], value)
    return sent


def from_guest(command: Command, properties: Mapping[str, Any]) -> Row:
    """The properties of an object from the guest, as the schema types them.

    Raises:
        MalformedValue: a property is missing or of another type; further properties are of no interest.
    """
    missing = sorted(set(command.results) - set(properties))
    if missing:
        raise MalformedValue(f"the answer lacks {', '.join(missing)}")
    return {name: _read(result, properties[name]) for name, result in command.results.items()}


def _check(command: Command, parameter: Parameter, value: Value) -> None:
    place = f"{command.name} -{parameter.name}"
    limits = parameter.type.integer_range
    if limits is not None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidCommand(f"{place} wants an integer, got {value!r}")
        low = limits[0] if parameter.minimum is None else parameter.minimum
        high = limits[-1] if parameter.maximum is None else parameter.maximum
        if not low <= value <= high:
            raise InvalidCommand(f"{place} wants {low} to {high}, got {value}")
        return
    if not isinstance(value, _PYTHON_TYPES[parameter.type]):
        raise InvalidCommand(f"{place} wants {parameter.type.value}, got {type(value).__name__}")
    texts: list[Any] = value if isinstance(value, list) else [value]
    for text in texts:
        if parameter.type is ValueType.STRINGS and not isinstance(text, str):
            raise InvalidCommand(f"{place} wants a list of strings, got {text!r} in it")
        if isinstance(text, str) and (bad := _NOT_XML.search(text)):
            raise InvalidCommand(f"{place} cannot carry U+{ord(bad[0]):04X}; pass such text as bytes")
    if parameter.values and value not in parameter.values:
        raise InvalidCommand(f"{place} wants one of {', '.join(parameter.values)}, got {value!r}")
    if isinstance(value, datetime.datetime) and value.tzinfo is None:
        raise InvalidCommand(f"{place} wants a date with its time zone")


_PYTHON_TYPES: dict[ValueType, type] = {
    ValueType.STRING: str,
    ValueType.STRINGS: list,
    ValueType.BYTES: bytes,
    ValueType.SWITCH: bool,
    ValueType.DATETIME: datetime.datetime,
}


def _read(result: ResultField, value: Any) -> Value:
    if value is None:
        return _absent(result)
    kind = result.type
    limits = kind.integer_range
    if limits is not None:
        if isinstance(value, int) and not isinstance(value, bool) and value in limits:
            return value
    elif kind is ValueType.STRINGS:
        # A list of one may come as its only item: PowerShell unrolls.
        items = value if isinstance(value, list) else [value]
        if all(isinstance(item, str) for item in items):
            return list(items)
    elif kind is ValueType.DATETIME:
        return _date(result, value)
    elif type(value) is {ValueType.STRING: str, ValueType.BYTES: bytes, ValueType.BOOLEAN: bool}[kind]:
        return cast("Value", value)
    raise MalformedValue(f"{result.name} should be {kind.value}, got {type(value).__name__} {value!r:.80}")


def _absent(result: ResultField) -> Value:
    # PowerShell's null stands for empty text, bytes and lists as well, since neither pypsrp nor PowerShell keep these
    # apart on every path.
    empty: dict[ValueType, Value] = {ValueType.STRING: "", ValueType.BYTES: b"", ValueType.STRINGS: []}
    if result.nullable:
        return None
    if result.type in empty:
        return empty[result.type]
    raise MalformedValue(f"{result.name} is null")


def _date(result: ResultField, value: Any) -> datetime.datetime:
    try:
        found = datetime.datetime.fromisoformat(_FRACTION.sub(r"\1", value))
    except (TypeError, ValueError) as error:
        raise MalformedValue(f"{result.name} should be a date in ISO 8601, got {value!r:.80}") from error
    if found.tzinfo is None:
        raise MalformedValue(f"{result.name} has no time zone: {value!r:.80}")
    return found
