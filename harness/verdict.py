"""Where a capture and the model differ, and how that is told to people."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from harness.printable import printable
from vm.win32 import error_name

Json: TypeAlias = dict[str, Any]

SPEC = "docs/reference/process-notify.md"


class Kind(enum.Enum):
    """What kind of difference a discrepancy is. The value is its stable name in JSON."""

    MISSING_CREATE = "missing-create"
    MISSING_EXIT = "missing-exit"
    UNEXPECTED_CREATE = "unexpected-create"
    UNEXPECTED_EXIT = "unexpected-exit"
    DUPLICATE_CREATE = "duplicate-create"
    DUPLICATE_EXIT = "duplicate-exit"
    ORDER = "order"
    """An exit before its create, or a create reported after the call that made the process had returned."""
    SEQUENCE = "sequence"
    """Sequence numbers that repeat, go back, or leave a hole that no gap record explains."""
    GAP = "gap"
    """A gap whose count is not the number of notifications that are missing."""
    PID = "pid"
    PARENT = "parent"
    CREATOR = "creator"
    IMAGE_NAME = "image-name"
    COMMAND_LINE = "command-line"
    FLAGS = "flags"
    DENIAL = "denial"
    """A creation denied without a matching rule, not denied despite one, or with another status."""
    LAUNCH_RESULT = "launch-result"
    """The caller of CreateProcess got another answer than it should."""
    EXIT_STATUS = "exit-status"
    RULES = "rules"
    """A rule set refused or accepted wrongly, or read back differently."""
    STATISTICS = "statistics"
    DRIVER_CONTROL = "driver-control"
    """The driver could not be started, stopped, opened or asked as it must."""
    MALFORMED_OUTPUT = "malformed-output"
    DRIVER_FAULT = "driver-fault"
    """A bugcheck, a hang, or a call to an export that does not exist."""
    INCOMPLETE = "incomplete"
    """The capture ends before the scenario does."""
    TREE = "tree"
    """A replayed history came back with another tree."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One difference between what was seen and what must be.

    Attributes:
        kind: what kind of difference.
        expected: what the model expects, for people.
        seen: what there was instead, for people.
        step: index of the scenario's step that caused it, None where there is none.
        process: label of the process in the scenario, or ``pid 1234``; empty where no process is concerned.
        sequence: sequence number of the notification concerned, None where there is none.
        source: the rule behind the expectation: a row of the specification or a declaration of the public header.
        driver_line: ``file:line`` of the driver where the machine knows it, else empty.
        details: further lines, such as a bugcheck's stack.
    """

    kind: Kind
    expected: str
    seen: str
    step: int | None = None
    process: str = ""
    sequence: int | None = None
    source: str = ""
    driver_line: str = ""
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"step {self.step}"] if self.step is not None else []
        parts += [self.process] if self.process else []
        parts += [f"notification {self.sequence}"] if self.sequence is not None else []
        parts += [self.driver_line] if self.driver_line else []
        where = f" ({', '.join(parts)})" if parts else ""
        return f"{self.kind.value}{where}: expected {self.expected}; seen {self.seen}"

    def to_json(self) -> Json:
        """The discrepancy as JSON data with stable keys."""
        return {
            "kind": self.kind.value,
            "expected": self.expected,
            "seen": self.seen,
            "step": self.step,
            "process": self.process,
            "sequence": self.sequence,
            "source": self.source,
            "driver_line": self.driver_line,
            "details": list(self.details),
        }


@dataclass(frozen=True)
class Verdict:
    """The judgement of one capture.

    Attributes:
        discrepancies: the differences, in the order in which they came up; at most `Findings.limit` are kept.
        total: how many there were altogether.
        tolerated: how often each tolerance was used, by the name of its row (`harness.model.tolerances`).
        statistics: counts of what was judged (creates, exits, gaps, lost, launches, ...).
        subject: what was judged, for the heading.
    """

    discrepancies: tuple[Discrepancy, ...] = ()
    total: int = 0
    tolerated: Mapping[str, int] = field(default_factory=dict)
    statistics: Mapping[str, int] = field(default_factory=dict)
    subject: str = ""

    @property
    def passed(self) -> bool:
        """True when nothing differed."""
        return self.total == 0

    def kinds(self) -> frozenset[Kind]:
        """The kinds of the discrepancies."""
        return frozenset(found.kind for found in self.discrepancies)

    def lines(self) -> Iterator[str]:
        """The verdict as lines of plain text, printable whatever a scenario or a driver put into its names."""
        yield from map(printable, self._lines())

    def _lines(self) -> Iterator[str]:
        counts = ", ".join(f"{count} {name}" for name, count in self.statistics.items() if count)
        subject = f"{self.subject}: " if self.subject else ""
        if self.passed:
            yield f"{subject}passed ({counts or 'nothing captured'})"
        else:
            plural = "discrepancy" if self.total == 1 else "discrepancies"
            yield f"{subject}failed with {self.total} {plural} ({counts or 'nothing captured'})"
        for found in self.discrepancies:
            yield f"  {found}"
            if found.source:
                yield f"    why: {found.source}"
            yield from (f"    {line}" for line in found.details)
        if self.total > len(self.discrepancies):
            yield f"  and {self.total - len(self.discrepancies)} more"
        for row, count in self.tolerated.items():
            yield f"  tolerated {count} times: {row}"

    def render(self) -> str:
        """The verdict as plain text."""
        return "\n".join(self.lines())

    def to_json(self) -> Json:
        """The verdict as JSON data with stable keys."""
        return {
            "passed": self.passed,
            "subject": self.subject,
            "discrepancies": [found.to_json() for found in self.discrepancies],
            "total": self.total,
            "tolerated": dict(self.tolerated),
            "statistics": dict(self.statistics),
        }


class Findings:
    """Collects discrepancies in bounded memory while a capture streams by."""

    __slots__ = ("discrepancies", "limit", "tolerated", "total")

    def __init__(self, limit: int = 1000) -> None:
        self.discrepancies: list[Discrepancy] = []
        self.limit = limit
        self.tolerated: Counter[str] = Counter()
        self.total = 0

    def add(self, found: Discrepancy) -> None:
        """Note a discrepancy; those beyond the limit are only counted."""
        self.total += 1
        if len(self.discrepancies) < self.limit:
            self.discrepancies.append(found)

    def verdict(self, statistics: Mapping[str, int], subject: str = "") -> Verdict:
        """What has been found so far as a verdict."""
        return Verdict(tuple(self.discrepancies), self.total, dict(self.tolerated), dict(statistics), subject)


def show_text(text: str | None, limit: int = 120) -> str:
    """A text for a message: quoted, unprintable units escaped, long ones cut with their length in UTF-16 units."""
    if text is None:
        return "none"
    shown = ascii(text)
    if len(shown) <= limit:
        return shown
    units = len(text.encode("utf-16-le", "surrogatepass")) // 2
    return f"{shown[: limit // 2]}...{shown[-limit // 4 :]} ({units} units)"


def show_error(code: int) -> str:
    """A Win32 error as people look it up: number and name."""
    return f"Win32 error {code} {error_name(code)}" if code else "success"


def show_status(status: int | None) -> str:
    """An NTSTATUS for a message."""
    return "none" if status is None else f"0x{status & 0xFFFFFFFF:08X}"
