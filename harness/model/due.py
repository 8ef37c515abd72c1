"""Notifications that are due: pushed when ground truth says so, taken when they arrive, missing when they do not.

Per pid they are due in the order of what happened, so a reused pid's create is never taken for its predecessor's.
"""

from __future__ import annotations

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


class DueNotifications:
    """The notifications that are due, by pid; those of processes whose pid nobody knows yet are matched by content."""

    def __init__(self) -> None:
        self._by_pid: dict[int, list[Expected]] = {}
        self._unknown: list[Expected] = []
        self._overtaken: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._by_pid or self._unknown)

    def push(self, expected: Expected) -> None:
        """A notification is due."""
        if expected.pid is None:
            self._unknown.append(expected)
        else:
            self._by_pid.setdefault(expected.pid, []).append(expected)

    def take_create(self, create: Create) -> Taken | None:
        """The due notification that this one is, or None."""
        taken = self._take(create.pid, ExpectedCreate)
        return taken if taken is not None else self._take_unknown(create)

    def take_exit(self, exit_: Exit) -> Taken | None:
        """The due notification that this one is, or None."""
        return self._take(exit_.pid, ExpectedExit)

    def settle(self, *, late_too: bool) -> Iterator[Expected]:
        """Give up on what is due: yields it and forgets it. What may be late stays unless `late_too`."""
        kept: list[Expected] = []
        for entries in (*self._by_pid.values(), self._unknown):
            for expected in entries:
                if isinstance(expected, ExpectedExit) and expected.may_be_late and not late_too:
                    kept.append(expected)
                else:
                    yield expected
        self.clear()
        for expected in kept:
            self.push(expected)

    def drop(self, limit: int) -> int:
        """Forget at most `limit` of what is due and return how many were forgotten: a gap holds them."""
        pending = [*(expected for entries in self._by_pid.values() for expected in entries), *self._unknown]
        self.clear()
        for expected in pending[limit:]:
            self.push(expected)
        return min(limit, len(pending))

    def clear(self) -> None:
        """Forget everything that is due."""
        self._by_pid.clear()
        self._unknown.clear()
        self._overtaken.clear()

    def _take(self, pid: int, kind: type[Expected]) -> Taken | None:
        entries = self._by_pid.get(pid, [])
        for index, expected in enumerate(entries):
            if isinstance(expected, kind):
                self._overtaken.update(id(earlier) for earlier in entries[:index])
                return self._remove(entries, index, pid)
        return None

    def _remove(self, entries: list[Expected], index: int, pid: int) -> Taken:
        expected = entries.pop(index)
        if not entries:
            del self._by_pid[pid]
        overtaken = id(expected) in self._overtaken
        self._overtaken.discard(id(expected))
        return Taken(expected, overtaken)

    def _take_unknown(self, create: Create) -> Taken | None:
        """Match by content; from then on the process's exit is due under the pid that the notification gave."""
        for expected in self._unknown:
            if isinstance(expected, ExpectedCreate) and _same_content(expected, create):
                self._unknown.remove(expected)
                for other in [other for other in self._unknown if other.label == expected.label]:
                    self._unknown.remove(other)
                    other.pid = create.pid
                    self.push(other)
                return Taken(expected, overtaken=False)
        return None


def _same_content(expected: ExpectedCreate, create: Create) -> bool:
    same_creator = expected.creator_pid == create.creator_pid
    return same_creator and expected.image_name == create.image_name and expected.command_line == create.command_line
