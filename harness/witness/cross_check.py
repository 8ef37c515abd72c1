"""Holds what a driver reported against what an independent witness saw of the same machine.

Processes are paired by order and identity (`harness.witness.lives`), never by time. Where both saw one, parent, image,
command line and exit status must agree. What one side alone saw is a discrepancy inside the common window, which
reaches on each side from the first to the last event that both have; outside it is only counted.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from harness.capture import CaptureItem, Launched
from harness.notification import Create, Exit, Gap
from harness.verdict import SPEC, Discrepancy, Findings, Kind, Verdict, show_status, show_text
from harness.witness.lives import DISORDER, Life, lives_of, pair_lives
from harness.witness.logs import Origin, WitnessLog
from harness.witness.names import Agreement, compare_command_lines, compare_images, is_minimal_process

_AGREE: Final = f"{SPEC} section 8: both witnesses of the same creations name the same parent, image and command line"
_SEEN: Final = f"{SPEC} section 1: every process is told to the registered routines, and to the kernel's audit"
_STATUS: Final = f"{SPEC} section 3: the exit carries the status with which the process ended"

TOLERATED_PERCENT: Final = "a text that an exporter changed (doubled %, what XML cannot carry)"
TOLERATED_CREATOR: Final = "a witness that names the creating process as the parent of a re-parented launch"
TOLERATED_DENIED: Final = "a denied creation that the witness does not mention"
TOLERATED_GAP: Final = "an event that falls into a gap which the driver reported"
TOLERATED_MINIMAL: Final = "a process without an image file, of which no routine is told"
TOLERATED_SUBSYSTEM: Final = "a subsystem process that the witness does not mention"


def cross_check(
    driver: Iterable[CaptureItem], witness: WitnessLog, subject: str = "", *, launches_known: bool = True
) -> Verdict:
    """Compare a driver's capture with a witness's log of the same machine.

    Args:
        driver: the items of a capture, or its notifications alone. Ground truth tells which launches were re-parented.
        launches_known: whether the items tell of every launch. Where they do not, a launch that the driver itself
            reports as re-parented is believed to be so.
        witness: the log. Where it is not complete, what one side alone saw is counted and not held against anybody.
        subject: what is judged, for the heading.

    Returns:
        MISSING_* is an event that the witness saw and the driver did not report, UNEXPECTED_* the reverse.
    """
    notifications: list[Create | Exit | Gap] = []
    reparented: set[tuple[int | None, int, int | None]] = set()
    for item in driver:
        if isinstance(item, (Create, Exit, Gap)):
            notifications.append(item)
            if isinstance(item, Create) and not launches_known and item.parent_pid != item.creator_pid:
                reparented.add((item.pid, item.parent_pid, item.creator_pid))
        elif isinstance(item, Launched) and item.result.parent_pid != item.result.creator_pid:
            reparented.add((item.result.pid, item.result.parent_pid, item.result.creator_pid))
    return _CrossCheck(notifications, witness, reparented).run(subject)


class _Side:
    """One side's lives, and the window of it that the other side has as well."""

    def __init__(self, events: Iterable[Create | Exit]) -> None:
        self.lives = lives_of(events)
        self.first = -1
        self.last = -1

    def meet(self, at: int) -> None:
        """Note that the event at this place was seen by both."""
        self.first = at if self.first < 0 else min(self.first, at)
        self.last = max(self.last, at)

    def is_common(self, at: int) -> bool:
        """Whether a place lies within the window."""
        return self.first < at < self.last


class _CrossCheck:
    def __init__(
        self,
        notifications: Sequence[Create | Exit | Gap],
        witness: WitnessLog,
        reparented: AbstractSet[tuple[int | None, int, int | None]],
    ) -> None:
        self._witness = witness
        self._reparented = reparented
        self._findings = Findings()
        events = [item for item in notifications if not isinstance(item, Gap)]
        self._driver_side = _Side(events)
        self._witness_side = _Side(witness.events)
        self._gaps = list(_gap_places(notifications))
        self._places: list[tuple[int, int]] = []
        self._counts = dict.fromkeys(("driver events", "witness events", "processes seen by both"), 0)
        self._counts["driver events"] = len(events)
        self._counts["witness events"] = len(witness.events)
        self._one_sided = {"seen by the driver alone": 0, "seen by the witness alone": 0}

    def run(self, subject: str) -> Verdict:
        pairs = pair_lives(self._driver_side.lives, self._witness_side.lives)
        for mine, theirs in pairs:
            self._meet(mine.create_at, theirs.create_at)
            self._meet(mine.exit_at, theirs.exit_at)
        self._places.sort(key=lambda place: place[1])
        self._counts["processes seen by both"] = len(pairs)
        for mine, theirs in pairs:
            self._compare(mine, theirs)
            self._half_seen(mine, theirs)
        mine_paired = {id(pair[0]) for pair in pairs}
        theirs_paired = {id(pair[1]) for pair in pairs}
        for life in self._driver_side.lives:
            if id(life) not in mine_paired:
                self._driver_alone(life, life.create, life.exit)
        for life in self._witness_side.lives:
            if id(life) not in theirs_paired:
                self._witness_alone(life, life.create, life.exit)
        heading = f"{subject}, against {self._witness.origin.value}" if subject else self._witness.origin.value
        return self._findings.verdict({**self._counts, **self._one_sided}, heading)

    def _meet(self, mine: int, theirs: int) -> None:
        if mine >= 0 and theirs >= 0:
            self._driver_side.meet(mine)
            self._witness_side.meet(theirs)
            self._places.append((mine, theirs))

    def _half_seen(self, mine: Life, theirs: Life) -> None:
        """Report the creation or the exit of a process that both know, but one side has only the other event of."""
        if mine.create is None or theirs.create is None:
            self._driver_alone(mine, mine.create, None)
            self._witness_alone(theirs, theirs.create, None)
        if mine.exit is None or theirs.exit is None:
            self._driver_alone(mine, None, mine.exit)
            self._witness_alone(theirs, None, theirs.exit)

    def _driver_alone(self, life: Life, create: Create | None, exit_: Exit | None) -> None:
        """Hold events against the witness that does not have them."""
        events = ((create, life.create_at, Kind.UNEXPECTED_CREATE), (exit_, life.exit_at, Kind.UNEXPECTED_EXIT))
        for event, at, kind in events:
            if event is None:
                continue
            self._one_sided["seen by the driver alone"] += 1
            if not self._witness.complete or not self._driver_side.is_common(at):
                continue
            denied = self._was_denied(life)
            if denied or (life.create is not None and life.create.is_subsystem_process):
                self._findings.tolerated[TOLERATED_DENIED if denied else TOLERATED_SUBSYSTEM] += 1
                continue
            name = "creation" if kind is Kind.UNEXPECTED_CREATE else "exit"
            seen = f"a {name} that the driver alone reports".replace("a exit", "an exit")
            self._report(kind, f"no {name}: {self._witness.origin.value} has none", seen, life, event.sequence, _SEEN)

    def _was_denied(self, life: Life) -> bool:
        """Whether the creation was denied; where the driver lost its create in a gap, the exit has that status."""
        if life.create is not None:
            return bool((life.create.status or 0) & 0x80000000)
        return bool(self._gaps and life.exit is not None and (life.exit.status or 0) & 0x80000000)

    def _witness_alone(self, life: Life, create: Create | None, exit_: Exit | None) -> None:
        """Hold events against the driver that did not report them."""
        events = ((create, life.create_at, Kind.MISSING_CREATE), (exit_, life.exit_at, Kind.MISSING_EXIT))
        for event, at, kind in events:
            if event is None:
                continue
            self._one_sided["seen by the witness alone"] += 1
            if not self._witness.complete or not self._witness_side.is_common(at):
                continue
            if is_minimal_process(life.image):
                self._findings.tolerated[TOLERATED_MINIMAL] += 1
            elif self._falls_into_gap(at):
                self._findings.tolerated[TOLERATED_GAP] += 1
            else:
                name = "creation" if kind is Kind.MISSING_CREATE else "exit"
                expected = f"the {name} in record {event.sequence} of {self._witness.origin.value}"
                self._report(kind, expected, "nothing from the driver", life, None, _SEEN)

    def _falls_into_gap(self, at: int) -> bool:
        """Whether the driver lost something where the event at this place of the witness's order belongs."""
        if not self._gaps:
            return False
        nearest = bisect.bisect_left(self._places, at, key=lambda place: place[1])
        around = [mine for mine, _ in self._places[max(nearest - 1, 0) : nearest + 1]]
        for gap in self._gaps:
            if gap[1] and min(around) - DISORDER <= gap[0] <= max(around) + DISORDER:
                gap[1] -= 1
                return True
        return False

    def _compare(self, mine: Life, theirs: Life) -> None:
        images = compare_images(mine.image, theirs.image)
        if images is Agreement.QUIRK:
            self._findings.tolerated[TOLERATED_PERCENT] += 1
        if images is Agreement.DIFFERENT:
            self._differs(Kind.IMAGE_NAME, show_text(theirs.image), show_text(mine.image), mine)
        elif (
            mine.exit is not None
            and theirs.exit is not None
            and compare_images(mine.exit.image_name, theirs.exit.image_name) is Agreement.DIFFERENT
        ):
            shown = show_text(theirs.exit.image_name), show_text(mine.exit.image_name)
            self._report(Kind.IMAGE_NAME, *shown, mine, mine.exit.sequence, _AGREE)
        if mine.create is not None and theirs.create is not None:
            self._compare_creations(mine, mine.create, theirs.create)
        if mine.exit is not None and theirs.exit is not None:
            seen, expected = mine.exit.status, theirs.exit.status
            if seen is not None and expected is not None and seen != expected:
                shown = show_status(expected), show_status(seen)
                self._report(Kind.EXIT_STATUS, *shown, mine, mine.exit.sequence, _STATUS)

    def _compare_creations(self, life: Life, mine: Create, theirs: Create) -> None:
        if mine.parent_pid != theirs.parent_pid:
            # The audit's field is the process that ran the new one. Only ground truth tells a launch that was
            # re-parented from a driver that names the wrong parent.
            known = (mine.pid, mine.parent_pid, theirs.parent_pid) in self._reparented
            if known and self._witness.origin is Origin.AUDIT:
                self._findings.tolerated[TOLERATED_CREATOR] += 1
            else:
                self._differs(Kind.PARENT, f"parent {theirs.parent_pid}", f"{mine.parent_pid}", life)
        agreement = compare_command_lines(mine.command_line, theirs.command_line)
        if agreement is Agreement.QUIRK:
            self._findings.tolerated[TOLERATED_PERCENT] += 1
        elif agreement is Agreement.DIFFERENT:
            self._differs(Kind.COMMAND_LINE, show_text(theirs.command_line), show_text(mine.command_line), life)

    def _differs(self, kind: Kind, expected: str, seen: str, life: Life) -> None:
        first = life.create if life.create is not None else life.exit
        self._report(kind, expected, seen, life, None if first is None else first.sequence, _AGREE)

    def _report(self, kind: Kind, expected: str, seen: str, life: Life, sequence: int | None, source: str) -> None:
        self._findings.add(Discrepancy(kind, expected, seen, None, f"pid {life.pid}", sequence, source))


def _gap_places(notifications: Iterable[Create | Exit | Gap]) -> Iterator[list[int]]:
    """Each gap as the place before which it lies among the events, and how many it lost."""
    at = 0
    for item in notifications:
        if isinstance(item, Gap):
            yield [at, item.count]
        else:
            at += 1
