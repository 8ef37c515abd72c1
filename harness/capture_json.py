"""Captures as JSON lines: a header line, then one item a line; and the recorded histories of other witnesses.

    {"format": "ntproof-capture", "version": 1, "machine": "emulated", ...}
    {"event": "launched", "step": 0, "label": "a", ...}
    {"event": "create", "sequence": 1, "pid": 1200, ...}

Both directions stream, so a capture may be larger than memory. Keys with their default value may be left out.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, TextIO

from harness import capture as items
from harness.abi import Rule, Statistics, Version
from harness.capture import FORMAT_NAME, FORMAT_VERSION, Capture, CaptureHeader, CaptureItem
from harness.errors import InputError
from harness.json_reader import MAXIMUM_TEXT_UNITS, Node, parse_json
from harness.notification import Create, Exit, Gap
from harness.scenario_json import rule_from_json, rule_to_json
from vm.machine import ImageKind, LaunchResult

_EVENTS: Final[Mapping[str, type[Any]]] = {
    "create": Create,
    "exit": Exit,
    "gap": Gap,
    "launched": items.Launched,
    "resumed": items.Resumed,
    "ended": items.Ended,
    "image-provided": items.ImageProvided,
    "driver-started": items.DriverStarted,
    "driver-stopped": items.DriverStopped,
    "rules-set": items.RulesSet,
    "rules-read": items.RulesRead,
    "statistics-read": items.StatisticsRead,
    "drained": items.Drained,
    "skipped": items.Skipped,
    "call-failed": items.CallFailed,
    "output-violated": items.OutputViolated,
    "faulted": items.Faulted,
    "completed": items.Completed,
}
_NAMES: Final = {kind: name for name, kind in _EVENTS.items()}
_UNSIGNED: Final = (1 << 64) - 1
_SIGNED: Final = (1 << 63) - 1
_PYTHON_TYPES: Final = {"int": int, "str": str, "bool": bool}
_KEYS: Final = {
    _NAMES[kind]: {"event": str, **{f.name: _PYTHON_TYPES[str(f.type).removesuffix(" | None")] for f in fields(kind)}}
    for kind in (Create, Exit, Gap)
}


def write_capture(capture: Capture, stream: TextIO) -> int:
    """Write a capture to a text stream and return the number of items."""
    stream.write(capture_head_to_line(capture.header))
    count = 0
    for item in capture.items:
        stream.write(item_to_line(item))
        count += 1
    return count


def capture_head_to_line(header: CaptureHeader) -> str:
    """A header as a capture's first line."""
    return json.dumps({"format": FORMAT_NAME, "version": FORMAT_VERSION, **_plain(header)}) + "\n"


def item_to_line(item: CaptureItem) -> str:
    """An item as a line of JSON."""
    return json.dumps({"event": _NAMES[type(item)], **_plain(item)}) + "\n"


def read_capture(lines: Iterable[str], source: str) -> Capture:
    """Read a capture; items are read from `lines` as they are asked for.

    Args:
        lines: the lines, header first.
        source: name of the file, for messages.

    Raises:
        InputError: the header is malformed; walking the items raises it for a malformed item.
    """
    numbered = enumerate(lines, 1)
    for number, line in numbered:
        if line.strip():
            header = header_from_node(Node(parse_json(line, f"{source}:{number}"), f"{source}:{number}"))
            return Capture(header, _items(numbered, source))
    raise InputError(f"{source}: the file is empty; a capture begins with a header line")


def is_capture(value: Any) -> bool:
    """Whether a file's first JSON value is the header of a capture."""
    return isinstance(value, dict) and value.get("format") == FORMAT_NAME


def open_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, one at a time. Raises InputError when it cannot be read."""
    try:
        with path.open(encoding="utf-8") as stream:
            yield from stream
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8; a capture is UTF-8 text, one JSON object a line") from error


def peek(lines: Iterator[str], path: Path) -> tuple[Iterable[str], Any]:
    """All lines again, and the JSON value of the first that is not blank.

    Raises:
        InputError: the file is empty, or that line is no JSON by itself.
    """
    seen = []
    for number, line in enumerate(lines, 1):
        seen.append(line)
        if line.strip():
            try:
                return itertools.chain(seen, lines), parse_json(line, f"{path}:{number}")
            except InputError as error:
                advice = "captures and histories have one JSON object a line, which a scenario has not"
                raise InputError(f"{error}; {advice}") from error
    raise InputError(f"{path}: the file is empty; a capture begins with a header line")


def header_from_node(node: Node) -> CaptureHeader:
    """The header in a capture's first line. Raises InputError."""
    optional = frozenset(field.name for field in fields(CaptureHeader))
    node.object(frozenset({"format", "version"}), optional)
    if node.value["format"] != FORMAT_NAME:
        node.at("format").fail(f"expected {FORMAT_NAME!r}, found {node.value['format']!r:.80}")
    if node.value["version"] != FORMAT_VERSION or isinstance(node.value["version"], bool):
        node.at("version").fail(f"this release reads version {FORMAT_VERSION}, found {node.value['version']!r:.80}")
    return CaptureHeader(**_values(node, CaptureHeader))


def _items(lines: Iterable[tuple[int, str]], source: str) -> Iterator[CaptureItem]:
    for number, line in lines:
        if not line.strip():
            continue
        place = f"{source}:{number}"
        value = parse_json(line, place)
        notification = _plain_notification(value)
        if notification is not None:
            yield notification
            continue
        node = Node(value, place)
        if not isinstance(node.value, dict) or not isinstance(node.value.get("event"), str):
            node.fail("expected an object with an 'event'")
        kind = _EVENTS.get(node.value["event"])
        if kind is None:
            node.at("event").fail(f"unknown event {node.value['event']!r:.80}; known: {', '.join(_EVENTS)}")
        yield _read(node, kind, frozenset({"event"}))


def _plain_notification(value: Any) -> CaptureItem | None:
    """The notification in an object that is plainly one, None for whatever needs a second look.

    Nearly every line of a long capture is one, and this is several times faster than `_read`.
    """
    event = value.get("event") if isinstance(value, dict) else None
    kind = _KEYS.get(event) if isinstance(event, str) else None
    if kind is None or not value.keys() <= kind.keys():
        return None
    values = dict(value)
    del values["event"]
    for key, given in values.items():
        if type(given) is not kind[key]:
            return None
        if isinstance(given, str):
            if not given.isascii() or len(given) > MAXIMUM_TEXT_UNITS:
                return None
        elif not isinstance(given, int) or not 0 <= given <= _SIGNED:
            return None
    try:
        return _EVENTS[value["event"]](**values)  # type: ignore[no-any-return]
    except TypeError:
        return None


def _plain(item: Any) -> dict[str, Any]:
    data = {}
    for field in fields(item):
        value = getattr(item, field.name)
        if value == field.default or (value == {} and field.default is MISSING):
            continue
        data[field.name] = _plain_value(value)
    return data


def _plain_value(value: Any) -> Any:
    if isinstance(value, Rule):
        return rule_to_json(value)
    if is_dataclass(value):
        return _plain(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain_value(element) for element in value]
    return dict(value) if isinstance(value, Mapping) else value


def _read(node: Node, kind: type[Any], extra: frozenset[str] = frozenset()) -> Any:
    """An instance of a dataclass from an object node."""
    required: set[str] = set(extra)
    optional: set[str] = set()
    for field in fields(kind):
        missing = field.default is MISSING and field.default_factory is MISSING
        (required if missing else optional).add(field.name)
    node.object(frozenset(required), frozenset(optional))
    return kind(**_values(node, kind))


def _values(node: Node, kind: type[Any]) -> dict[str, Any]:
    """The fields that an object gives, each read as its annotation says."""
    values: dict[str, Any] = {}
    for field in fields(kind):
        if node.has(field.name):
            child = node.at(field.name)
            annotation = str(field.type)
            optional = annotation.endswith(" | None")
            if optional and child.value is None:
                values[field.name] = None
            elif field.name == "time":
                values[field.name] = child.integer(-(1 << 63), (1 << 63) - 1)
            else:
                values[field.name] = _BY_ANNOTATION[annotation.removesuffix(" | None")](child)
    return values


def _rules(node: Node) -> tuple[Rule, ...]:
    return tuple(map(rule_from_json, node.items()))


def _texts(node: Node) -> tuple[str, ...]:
    return tuple(element.text(empty=True, limit=1 << 20) for element in node.items())


_BY_ANNOTATION: Final[Mapping[str, Callable[[Node], Any]]] = {
    "int": lambda node: node.integer(0, _UNSIGNED),
    "str": lambda node: node.text(empty=True),
    "bool": lambda node: node.boolean(),
    "Mapping[str, str]": lambda node: node.strings(),
    "tuple[str, ...]": _texts,
    "tuple[Rule, ...]": _rules,
    "ImageKind": lambda node: node.choice(ImageKind),
    "LaunchResult": lambda node: _read(node, LaunchResult),
    "Statistics": lambda node: _read(node, Statistics),
    "Version": lambda node: _read(node, Version),
}
