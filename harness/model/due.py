"""Notifications that are due: pushed when ground truth says so, taken when they arrive, missing when they do not.

Per pid they are due in the order of what happened, so a reused pid's create is never taken for its predecessor's. Of a
process that was denied or failed the caller may not know the pid; its notifications take their place in that order as
soon as its create has told it.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from harness.model.predict import ExpectedCreate, ExpectedExit
from harness.notification import Create, Exit

Expected: TypeAlias = ExpectedCreate | ExpectedExit


@dataclass(frozen=True, slots=True)
class Taken:
    """A due notification has arrived.

    Attributes:
        expected: what was due.
        overtaken: a notification of the same pid that was due later arrived earlier.
    """

    expected: Expected
    overtaken: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is due, with its place in the order of what happened."""

    place: int
    expected: Expected


class DueNotifications:
    """The notifications that are due, by pid; those of processes whose pid nobody knows yet are matched by content."""

    def __init__(self) -> None:
        self._by_pid: dict[int, list[_Entry]] = {}
        self._unknown: list[_Entry] = []
        self._overtaken: set[int] = set()
        self._places = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._by_pid or self._unknown)

    def push(self, expected: Expected) -> None:
        """A notification is due."""
        self._put(_Entry(next(self._places), expected))

    def take_create(self, create: Create) -> Taken | None:
        """The due notification that this one is, or None."""
        unknown = self._unknown_like(create)
        if unknown is not None and unknown.place < self._place_of_create(create.pid):
            return self._take_unknown(unknown, create.pid)
        taken = self._take(create.pid, ExpectedCreate)
        return taken if taken is not None or unknown is None else self._take_unknown(unknown, create.pid)

    def take_exit(self, exit_: Exit) -> Taken | None:
        """The due notification that this one is, or None."""
        taken = self._take(exit_.pid, ExpectedExit)
        return taken if taken is not None else self._take_unannounced(exit_)

    def settle(self, *, late_too: bool) -> Iterator[Expected]:
        """Give up on what is due: yields it and forgets it. What may be late stays unless `late_too`."""
        kept: list[_Entry] = []
        for entries in (*self._by_pid.values(), self._unknown):
            for entry in entries:
                if isinstance(entry.expected, ExpectedExit) and entry.expected.may_be_late and not late_too:
                    kept.append(entry)
                else:
                    yield entry.expected
        self.clear()
        for entry in kept:
            self._put(entry)

    def drop(self, limit: int) -> int:
        """Forget at most `limit` of what is due and return how many were forgotten: a gap holds them."""
        pending = [*(entry for entries in self._by_pid.values() for entry in entries), *self._unknown]
        self.clear()
        for entry in pending[limit:]:
            self._put(entry)
        return min(limit, len(pending))

    def clear(self) -> None:
        """Forget everything that is due."""
        self._by_pid.clear()
        self._unknown.clear()
        self._overtaken.clear()

    def _put(self, entry: _Entry) -> None:
        pid = entry.expected.pid
        entries = self._unknown if pid is None else self._by_pid.setdefault(pid, [])
        bisect.insort(entries, entry, key=_place)

    def _place_of_create(self, pid: int) -> int:
        """The place of the first create that is due for a pid; behind every other where none is."""
        creates = (entry.place for entry in self._by_pid.get(pid, ()) if isinstance(entry.expected, ExpectedCreate))
        return next(creates, next(self._places))

    def _take(self, pid: int, kind: type[Expected]) -> Taken | None:
        entries = self._by_pid.get(pid, [])
        for index, entry in enumerate(entries):
            if isinstance(entry.expected, kind):
                self._overtaken.update(earlier.place for earlier in entries[:index])
                return self._remove(entries, index, pid)
        return None

    def _take_unannounced(self, exit_: Exit) -> Taken | None:
        """The exit of a process whose create was lost, so that nothing has told its pid: matched by its status."""
        for entry in self._unknown:
            if isinstance(entry.expected, ExpectedExit) and entry.expected.status == exit_.status:
                self._unknown.remove(entry)
                entry.expected.pid = exit_.pid
                return Taken(entry.expected, overtaken=False)
        return None

    def _remove(self, entries: list[_Entry], index: int, pid: int) -> Taken:
        entry = entries.pop(index)
        if not entries:
            del self._by_pid[pid]
        overtaken = entry.place in self._overtaken
        self._overtaken.discard(entry.place)
        return Taken(entry.expected, overtaken)

    def _unknown_like(self, create: Create) -> _Entry | None:
        """The first create of an unknown pid that has the content of this one."""
        for entry in self._unknown:
            if isinstance(entry.expected, ExpectedCreate) and _same_content(entry.expected, create):
                return entry
        return None

    def _take_unknown(self, entry: _Entry, pid: int) -> Taken:
        """Take it; from now on the process's exit is due under the pid that the notification gave."""
        self._unknown.remove(entry)
        for other in [other for other in self._unknown if other.expected.label == entry.expected.label]:
            self._unknown.remove(other)
            other.expected.pid = pid
            self._put(other)
        return Taken(entry.expected, overtaken=False)


def _place(entry: _Entry) -> int:
    return entry.place


def _same_content(expected: ExpectedCreate, create: Create) -> bool:
    same_creator = expected.creator_pid == create.creator_pid
    return same_creator and expected.image_name == create.image_name and expected.command_line == create.command_line
