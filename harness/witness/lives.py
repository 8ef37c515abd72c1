"""Turns a stream of creations and exits into lives of processes, and pairs the lives that two witnesses saw.

A life is a pid's creation, its exit, or both. Two lives can be one process only if their pids are equal and nothing
that both sides tell makes them strangers; of all ways to pair the lives of a pid in order, the one with most in common
is taken. Clocks play no part: event logs of one machine may be hours apart (an export in local time), and order within
a log is what its writer promises.

A pid that was used again on one side only could be taken for another life; so the pids that both sides used equally
often, for processes that agree in full, serve as anchors, and no pair may lie across them by more than the disorder
that two logs show. Among pairings with equally much in common the one whose places follow the anchors best is taken;
without any anchor, the distance at which most events agree stands in for them.
"""

from __future__ import annotations

import bisect
import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from harness.notification import Create, Exit
from harness.witness.names import Agreement, compare_command_lines, compare_images

DISORDER: Final = 32
"""How many events of a log may lie on the wrong side of one: two logs write bursts in their own order."""

_PAIRED: Final = 4
_IMAGE: Final = 3
_PARENT: Final = 3
_COMMAND_LINE: Final = 3
_STATUS: Final = 2
_BOTH_CREATED: Final = 1
_DOMINANT: Final = 1 << 48
"""Worth of one point: more than the displacements of any number of pairs together."""
_VOTES: Final = 1000
"""Pairs of one pid's lives that take part in finding the distance of two logs."""


@dataclass(frozen=True, slots=True)
class Life:
    """One process as one side saw it.

    Attributes:
        pid: its pid.
        create, exit: the events; None where the side has none.
        create_at, exit_at: their places in the side's order, -1 likewise.
    """

    pid: int
    create: Create | None
    exit: Exit | None
    create_at: int
    exit_at: int

    @property
    def image(self) -> str | None:
        """The image's name, from whichever event tells it."""
        if self.create is not None and self.create.image_name is not None:
            return self.create.image_name
        return None if self.exit is None else self.exit.image_name

    @property
    def first_at(self) -> int:
        """Place of its first event."""
        return self.exit_at if self.create is None else self.create_at


def lives_of(events: Iterable[Create | Exit]) -> list[Life]:
    """The lives in a stream, in the order of their first event. A creation without an exit between ends the life."""
    found: list[Life] = []
    running: dict[int, int] = {}
    for at, event in enumerate(events):
        if isinstance(event, Create):
            running[event.pid] = len(found)
            found.append(Life(event.pid, event, None, at, -1))
        elif (index := running.pop(event.pid, None)) is None:
            found.append(Life(event.pid, None, event, -1, at))
        else:
            begun = found[index]
            found[index] = Life(begun.pid, begun.create, event, begun.create_at, at)
    return found


def pair_lives(left: Sequence[Life], right: Sequence[Life]) -> list[tuple[Life, Life]]:
    """Pairs of lives that are the same process, in the order of the left side."""
    mine, theirs = _by_pid(left), _by_pid(right)
    anchors = _anchors(mine, theirs)
    pairs: list[tuple[Life, Life]] = []
    for pid, lives in mine.items():
        if pid in theirs:
            pairs += _align(lives, theirs[pid], anchors)
    return sorted(pairs, key=lambda pair: pair[0].first_at)


def affinity(left: Life, right: Life) -> int:
    """How much two lives of one pid have in common; 0 when they are strangers."""
    points = same = other = 0
    weights = [(compare_images(left.image, right.image), _IMAGE)]
    if left.create is not None and right.create is not None:
        points += _BOTH_CREATED
        same_parent = left.create.parent_pid == right.create.parent_pid
        weights.append((Agreement.SAME if same_parent else Agreement.DIFFERENT, _PARENT))
        command_lines = compare_command_lines(left.create.command_line, right.create.command_line)
        weights.append((command_lines, _COMMAND_LINE))
    if left.exit is not None and right.exit is not None and None not in {left.exit.status, right.exit.status}:
        same_status = left.exit.status == right.exit.status
        weights.append((Agreement.SAME if same_status else Agreement.UNKNOWN, _STATUS))
    for agreement, weight in weights:
        if agreement in {Agreement.SAME, Agreement.QUIRK}:
            same += weight
        elif agreement is Agreement.DIFFERENT:
            other += weight
    # A denied creation may be missing on one side, and its pid is the next one's: what differs is another process.
    if other and (_was_denied(left) or _was_denied(right)):
        return 0
    return 0 if other > same else _PAIRED + points + same


def _was_denied(life: Life) -> bool:
    return life.create is not None and bool((life.create.status or 0) & 0x80000000)


def _by_pid(lives: Iterable[Life]) -> dict[int, list[Life]]:
    found: dict[int, list[Life]] = {}
    for life in lives:
        found.setdefault(life.pid, []).append(life)
    return found


class _Anchors:
    """Places of the same process on both sides, rising on both; `offset` is their distance where there is none."""

    def __init__(self, places: Sequence[tuple[int, int]], offset: int) -> None:
        self._left = [place[0] for place in places]
        self._right = [place[1] for place in places]
        self._offset = offset

    def displacement(self, left: Life, right: Life) -> int:
        """How far the right life lies from where the nearest anchor before it expects the left one."""
        both_created = left.create_at >= 0 and right.create_at >= 0
        mine, theirs = (left.create_at, right.create_at) if both_created else (left.exit_at, right.exit_at)
        before = max(bisect.bisect_right(self._left, mine) - 1, 0)
        offset = self._right[before] - self._left[before] if self._left else self._offset
        return abs(theirs - mine - offset)

    def allow(self, left: Life, right: Life) -> bool:
        """Whether the lives share an event, and lie with it on the same side of every anchor up to the disorder."""
        shared = [
            places for places in ((left.create_at, right.create_at), (left.exit_at, right.exit_at)) if min(places) >= 0
        ]
        return bool(shared) and all(theirs in self.window(mine) for mine, theirs in shared)

    def window(self, mine: int) -> range:
        """Where on the right side the event at this place of the left side may lie."""
        before = bisect.bisect_left(self._left, mine - DISORDER) - 1
        after = bisect.bisect_right(self._left, mine + DISORDER)
        first = 0 if before < 0 else self._right[before] - DISORDER
        return range(first, sys.maxsize if after >= len(self._right) else self._right[after] + DISORDER + 1)


def _anchors(mine: dict[int, list[Life]], theirs: dict[int, list[Life]]) -> _Anchors:
    """The longest rising run of processes whose pids both sides used equally often, for the same processes in turn."""
    places = []
    for pid, lives in mine.items():
        others = theirs.get(pid, [])
        if _agree_in_turn(lives, others):
            places += [(one.create_at, other.create_at) for one, other in zip(lives, others, strict=True)]
    rising = _longest_rise(sorted(places))
    return _Anchors(rising, 0 if rising else _common_distance(mine, theirs))


def _common_distance(mine: dict[int, list[Life]], theirs: dict[int, list[Life]]) -> int:
    """The distance in place at which most lives agree in full, the smallest of several."""
    distances: Counter[int] = Counter()
    for pid, lives in mine.items():
        for one, other in itertools.islice(itertools.product(lives, theirs.get(pid, [])), _VOTES):
            if _agrees_in_full(one, other):
                distances[other.create_at - one.create_at] += 1
    return max(distances, key=lambda distance: (distances[distance], -abs(distance)), default=0)


def _agree_in_turn(lives: Sequence[Life], others: Sequence[Life]) -> bool:
    return len(lives) == len(others) and all(map(_agrees_in_full, lives, others))


def _agrees_in_full(left: Life, right: Life) -> bool:
    if left.create is None or right.create is None or left.create.parent_pid != right.create.parent_pid:
        return False
    command_lines = compare_command_lines(left.create.command_line, right.create.command_line)
    return compare_images(left.image, right.image) is Agreement.SAME and command_lines is not Agreement.DIFFERENT


def _longest_rise(places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest subsequence whose second members rise (patience sorting)."""
    tails: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for index, (_, value) in enumerate(places):
        at = bisect.bisect_left(tails, value)
        before.append(ends[at - 1] if at else -1)
        tails[at : at + 1] = [value]
        ends[at : at + 1] = [index]
    found = []
    index = ends[-1] if ends else -1
    while index >= 0:
        found.append(places[index])
        index = before[index]
    return found[::-1]


def _align(left: Sequence[Life], right: Sequence[Life], anchors: _Anchors) -> Iterator[tuple[Life, Life]]:
    """The pairing of one pid's lives, in order on both sides, with the highest affinity in sum."""
    if _agree_in_turn(left, right) and all(map(anchors.allow, left, right)):
        yield from zip(left, right, strict=True)
        return
    worths = list(_worths(left, right, anchors))
    best = _best_sums(worths, len(right))
    i = j = 0
    while i < len(left) and j < len(right):
        worth = worths[i].get(j, 0)
        if worth and best[i][j] == worth + best[i + 1][j + 1]:
            yield left[i], right[j]
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1


def _worths(left: Sequence[Life], right: Sequence[Life], anchors: _Anchors) -> Iterator[dict[int, int]]:
    """For each left life, what it is worth with each right one that it can be; only those near it are looked at."""
    creates = [(life.create_at, j) for j, life in enumerate(right) if life.create_at >= 0]
    exits = [(life.exit_at, j) for j, life in enumerate(right) if life.exit_at >= 0]
    for mine in left:
        near: set[int] = set()
        for at, others in ((mine.create_at, creates), (mine.exit_at, exits)):
            if at >= 0:
                window = anchors.window(at)
                first = bisect.bisect_left(others, (window.start, 0))
                near.update(j for _, j in others[first : bisect.bisect_left(others, (window.stop, 0))])
        row = {}
        for j in near:
            if anchors.allow(mine, right[j]) and (points := affinity(mine, right[j])):
                row[j] = points * _DOMINANT - min(anchors.displacement(mine, right[j]), _DOMINANT >> 20)
        yield row


def _best_sums(worths: Sequence[Mapping[int, int]], width: int) -> list[list[int]]:
    """For each place in both sequences the highest sum of worths that a pairing from there on has."""
    best = [[0] * (width + 1)]
    for worth in reversed(worths):
        below = best[-1]
        row = below.copy()
        nearest = min(worth, default=0)
        for j in range(max(worth, default=-1), -1, -1):
            if j < nearest and below[j] >= row[j + 1]:
                # Sums only grow towards the beginning, so from here on this row is the one below.
                break
            row[j] = max(below[j], row[j + 1], worth[j] + below[j + 1] if j in worth else 0)
        best.append(row)
    return best[::-1]
