"""Process histories recorded on real Windows by other witnesses: event logs, one history a line.

A history is an object with ``id``, ``build``, ``witness`` (``driver`` or ``audit``), ``source``, ``host`` and
``events`` in the order of record. An event has ``seq`` (the log's record number: other records lie between), ``event``,
``time``, ``pid``, ``image`` (a DOS path), for a creation ``parent_pid`` and often ``command_line``, for an exit of the
audit ``exit_status``.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from harness.capture import Capture, CaptureHeader
from harness.json_reader import Node, parse_json
from harness.notification import Create, Exit

_EPOCH: Final = datetime.datetime(1601, 1, 1)  # noqa: DTZ001 - Windows counts from here, and both sides are UTC
_HEAD: Final = frozenset({"id", "build", "witness", "source", "host", "events"})
_CREATE: Final = frozenset({"seq", "event", "time", "pid", "image", "parent_pid"})
_EXIT: Final = frozenset({"seq", "event", "time", "pid", "image"})


@dataclass(frozen=True)
class History:
    """A recorded history: what one witness wrote on one machine within a window of time."""

    id: str
    build: int
    witness: str
    source: str
    host: str
    events: tuple[Create | Exit, ...]

    def as_capture(self) -> Capture:
        """The history as a capture that the observe mode judges."""
        details = {"history": self.id, "witness": self.witness, "source": self.source}
        header = CaptureHeader(self.host, "windows", self.build, "recorded", details, contiguous=False)
        return Capture(header, self.events)


def is_history(value: Any) -> bool:
    """Whether a file's first JSON value is a recorded history."""
    return isinstance(value, dict) and "events" in value and "format" not in value


def read_histories(lines: Iterable[str], source: str) -> Iterator[History]:
    """The histories in a file, one at a time.

    Raises:
        InputError: a line is malformed.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f"{source}:{number}"
            yield _history(Node(parse_json(line, place), place))


def _history(node: Node) -> History:
    node.object(_HEAD)
    return History(
        node.at("id").text(),
        node.at("build").integer(0, 1_000_000),
        node.at("witness").text(),
        node.at("source").text(empty=True),
        node.at("host").text(empty=True),
        tuple(map(_event, node.at("events").items())),
    )


def _event(node: Node) -> Create | Exit:
    if not isinstance(node.value, dict) or node.value.get("event") not in ("create", "exit"):
        node.fail("expected an object whose 'event' is 'create' or 'exit'")
    creation = node.value["event"] == "create"
    node.object(_CREATE if creation else _EXIT, frozenset({"command_line" if creation else "exit_status"}))
    sequence = node.at("seq").integer(0, (1 << 63) - 1)
    time = _time(node.at("time"))
    pid = node.at("pid").integer(0, 0xFFFFFFFF)
    image = node.at("image").text()
    if not creation:
        return Exit(sequence, time, pid, node.at("exit_status").optional_integer(0, 0xFFFFFFFF), image)
    parent = node.at("parent_pid").integer(0, 0xFFFFFFFF)
    command_line = node.at("command_line").optional_text(empty=True)
    return Create(sequence, time, pid, parent, None, None, None, image, command_line)


def _time(node: Node) -> int:
    """A time such as ``2020-09-17 21:45:44.371``, UTC, in 100 ns units since 1601."""
    try:
        since = datetime.datetime.fromisoformat(node.text()).replace(tzinfo=None) - _EPOCH
    except ValueError:
        node.fail(f"expected a time such as 2020-09-17 21:45:44.371, found {node.value!r:.80}")
    return (since.days * 86_400 + since.seconds) * 10_000_000 + since.microseconds * 10
