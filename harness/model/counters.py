"""What the driver's statistics must say, given what it has reported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.abi import Statistics, load_abi
from harness.model.rules import RuleSet
from harness.verdict import Discrepancy, Kind

_SOURCE = "procnotify.h PROCNOTIFY_STATISTICS"


@dataclass(frozen=True, slots=True)
class Reported:
    """What the driver has reported since `base` was read.

    Attributes:
        creates, exits, denied: notifications delivered; denied are those creates with a failure status.
        lost: the sum of its gap records.
        rules: the rules that it has accepted.
        rule_sets: how many sets it has accepted.
        drained: its queue was read until it was empty, and nothing was done since.
    """

    base: Statistics
    creates: int
    exits: int
    denied: int
    lost: int
    rules: RuleSet
    rule_sets: int
    drained: bool


def check_statistics(
    seen: Statistics, reported: Reported, step: int | None, *, closed_world: bool
) -> Iterator[Discrepancy]:
    """Hold statistics against themselves and, on a machine where nothing else runs, against what was reported."""
    yield from _compare(_identities(seen), seen, step)
    if closed_world and reported.drained:
        yield from _compare(_drained_values(seen, reported), seen, step)


def _compare(expected: dict[str, int], seen: Statistics, step: int | None) -> Iterator[Discrepancy]:
    for name, value in expected.items():
        found = getattr(seen, name)
        if found != value:
            what, instead = f"{name} {value}", f"{found}"
            yield Discrepancy(Kind.STATISTICS, what, instead, step=step, source=_SOURCE)


def _identities(seen: Statistics) -> dict[str, int]:
    """What holds whenever the statistics are read: every notification is numbered, and queued or dropped."""
    return {
        "next_sequence": seen.created + seen.exited + 1,
        "queued": seen.created + seen.exited - seen.dropped,
        "high_water_bytes": max(seen.high_water_bytes, seen.queued_bytes),
        "denied": min(seen.denied, seen.created),
    }


def _drained_values(seen: Statistics, reported: Reported) -> dict[str, int]:
    base = reported.base
    total = reported.creates + reported.exits
    expected = {
        "delivered": base.delivered + total,
        "queued": base.queued + total,
        "dropped": base.dropped + reported.lost,
        "next_sequence": base.next_sequence + total + reported.lost,
        "queued_bytes": 0,
        "next_record_size": 0,
        "rule_count": len(reported.rules.rules),
        "rules_size": len(load_abi().encode_rules(reported.rules.rules)),
        "rules_generation": base.rules_generation + reported.rule_sets,
    }
    if reported.lost == 0:
        expected["created"] = base.created + reported.creates
        expected["exited"] = base.exited + reported.exits
        expected["denied"] = base.denied + reported.denied
    else:
        expected["denied"] = max(seen.denied, base.denied + reported.denied)
    return expected
