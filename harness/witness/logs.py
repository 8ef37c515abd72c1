"""What one witness wrote on one machine, from a file of rendered events or of recorded histories."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.capture_json import open_lines
from harness.errors import InputError
from harness.histories import History, is_history, read_histories
from harness.json_reader import parse_json
from harness.notification import Create, Exit
from harness.witness.event_xml import WitnessedEvent, read_event_xml


class Origin(enum.Enum):
    """Who a witness is. The value names it in verdicts."""

    AUDIT = "the kernel's audit"
    """Security events 4688 and 4689, made without any driver."""
    SYSMON = "Sysmon"
    """Events 1 and 5, made by another driver's notify routine."""


_PROVIDERS: Final = {"Microsoft-Windows-Security-Auditing": Origin.AUDIT, "Microsoft-Windows-Sysmon": Origin.SYSMON}
_HISTORIES: Final = {"audit": Origin.AUDIT, "driver": Origin.SYSMON}


@dataclass(frozen=True)
class WitnessLog:
    """The process events of one witness on one machine, in the order of its record numbers.

    Attributes:
        origin: who it is.
        host: the machine's name as the log has it.
        source: the file or the recording that it comes from.
        events: creations and exits; their sequence is the record number, other records lie between.
        complete: it saw every process of its window. A log that a filter was at work on is not complete.
    """

    origin: Origin
    host: str
    source: str
    events: tuple[Create | Exit, ...]
    complete: bool = True


def witness_of_history(history: History) -> WitnessLog:
    """A recorded history as a witness; it is not complete, since its recording was filtered.

    Raises:
        InputError: the history names a witness that is neither ``audit`` nor ``driver``.
    """
    origin = _HISTORIES.get(history.witness)
    if origin is None:
        raise InputError(f"history {history.id}: witness {history.witness!r}; known: {', '.join(_HISTORIES)}")
    return WitnessLog(origin, history.host, history.source, history.events, complete=False)


def read_witness(path: Path) -> tuple[WitnessLog, ...]:
    """The witnesses in a file: rendered XML of an event log, or recorded histories as JSON lines.

    Raises:
        InputError: it cannot be read, is neither, is malformed, or holds no process event.
    """
    if _begins_as_json(path):
        first = next((line for line in open_lines(path) if line.strip()), "{}")
        if not is_history(parse_json(first, f"{path}:1")):
            raise InputError(f"{path}: neither rendered events nor recorded histories, so it is no witness")
        return tuple(map(witness_of_history, read_histories(open_lines(path), str(path))))
    logs = collect_logs(read_event_xml(path), str(path))
    if not logs:
        raise InputError(f"{path}: it holds no process event; export Security 4688 and 4689, or Sysmon 1 and 5")
    return logs


def collect_logs(events: Iterable[WitnessedEvent], source: str) -> tuple[WitnessLog, ...]:
    """One log for each provider and computer, sorted by record number (an export may be newest first).

    Raises:
        InputError: a log holds two records with the same number.
    """
    found: dict[tuple[str, str], dict[int, Create | Exit]] = {}
    for witnessed in events:
        log = found.setdefault((witnessed.provider, witnessed.computer), {})
        number = witnessed.event.sequence
        if log.setdefault(number, witnessed.event) is not witnessed.event:
            raise InputError(f"{source}: record {number} of {witnessed.computer} is there twice; export it once")
    return tuple(
        WitnessLog(_PROVIDERS[provider], computer, source, tuple(log[number] for number in sorted(log)))
        for (provider, computer), log in found.items()
    )


def _begins_as_json(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from error
