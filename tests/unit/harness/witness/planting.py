"""Plants one disagreement of each kind into what a driver reported, so that a cross-check has something to find."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from harness.notification import Create, Exit
from harness.verdict import Kind
from harness.witness.logs import Origin, witness_of_history
from tests.unit.harness.histories_data import histories


def recorded_pairs():
    """What Sysmon's driver and the audit wrote of the same machine at the same time: events and a witness."""
    found = defaultdict(dict)
    for history in histories():
        log = witness_of_history(history)
        found[history.source, history.host][log.origin] = history
    return [(pair[Origin.SYSMON], witness_of_history(pair[Origin.AUDIT])) for pair in found.values() if len(pair) == 2]


def without(events, at):
    return [*events[:at], *events[at + 1 :]]


def put(events, at, event):
    return [*events[:at], event, *events[at + 1 :]]


def plants(events, at):
    """Every disagreement that can be planted at a place: its kind and the events with it."""
    event = events[at]
    if isinstance(event, Create):
        yield Kind.MISSING_CREATE, without(events, at)
        yield Kind.PARENT, put(events, at, replace(event, parent_pid=event.parent_pid + 4))
        if event.image_name is not None:
            other = event.image_name[:-1] + ("X" if event.image_name[-1] not in "xX" else "Y")
            yield Kind.IMAGE_NAME, put(events, at, replace(event, image_name=other))
        if event.command_line is not None:
            yield Kind.COMMAND_LINE, put(events, at, replace(event, command_line=event.command_line + " "))
    elif isinstance(event, Exit):
        yield Kind.MISSING_EXIT, without(events, at)
        if event.status is not None:
            yield Kind.EXIT_STATUS, put(events, at, replace(event, status=event.status ^ 1))
