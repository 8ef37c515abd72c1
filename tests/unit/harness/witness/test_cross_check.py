"""A driver and an independent witness agree where both saw a process, and each planted disagreement is found."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.capture import Launched
from harness.notification import Create, Exit, Gap
from harness.verdict import Kind
from harness.witness import Origin, cross_check, lives
from harness.witness.cross_check import (
    TOLERATED_CREATOR,
    TOLERATED_DENIED,
    TOLERATED_GAP,
    TOLERATED_MINIMAL,
    TOLERATED_PERCENT,
)
from harness.witness.lives import lives_of, pair_lives
from tests.unit.harness.witness.planting import plants, recorded_pairs
from tests.unit.harness.witness.world import IMAGES, as_log, worlds
from vm.machine import LaunchResult


def create(sequence, pid, parent=60, image=IMAGES[0], command_line="x", **members):
    return Create(sequence, sequence, pid, parent, parent, 5000, 0, f"\\??\\{image}", command_line, True, **members)


def a_day(pids=20):
    """Processes that come and go without any reuse of a pid."""
    events = []
    for index in range(pids):
        events += [create(2 * index + 1, 1000 + 8 * index), Exit(2 * index + 2, 0, 1000 + 8 * index, index)]
    return events


@pytest.mark.parametrize("pair", recorded_pairs(), ids=lambda pair: pair[0].id)
def test_recorded_witnesses_of_one_machine_agree_where_both_saw_a_process(pair):
    history, witness = pair

    verdict = cross_check(history.events, witness)

    assert verdict.passed, verdict.render()
    assert verdict.statistics["processes seen by both"] > 0


def test_hardly_any_recorded_witness_lost_something_within_the_common_window():
    pairs = recorded_pairs()

    complete = [pair for pair in pairs if cross_check(pair[0].events, replace(pair[1], complete=True)).passed]

    # One recorded audit has holes of its own.
    assert len(complete) >= len(pairs) - 1


def planted_in(history, witness):
    """Each disagreement planted where both saw the event: kind and whether it was found as what it is."""
    events = list(history.events)
    pairs = pair_lives(lives_of(events), lives_of(witness.events))
    both = {mine.create_at: theirs for mine, theirs in pairs if mine.create and theirs.create}
    both |= {mine.exit_at: theirs for mine, theirs in pairs if mine.exit and theirs.exit}
    first, last = min(both), max(both)
    for at, theirs in both.items():
        for kind, changed in plants(events, at):
            if kind in {Kind.MISSING_CREATE, Kind.MISSING_EXIT} and not first < at < last:
                continue
            if kind is Kind.COMMAND_LINE and theirs.create.command_line is None:
                continue
            found = cross_check(changed, witness).discrepancies
            yield kind, any((each.kind, each.process) == (kind, f"pid {events[at].pid}") for each in found)


def test_every_disagreement_planted_in_recorded_histories_is_found(record_property):
    planted, found = Counter(), Counter()
    for history, witness in recorded_pairs():
        complete = replace(witness, complete=True)
        if cross_check(history.events, complete).passed:
            for kind, hit in planted_in(history, complete):
                planted[kind] += 1
                found[kind] += hit
    for kind, count in planted.items():
        record_property(kind.value, f"{found[kind]} of {count}")

    wanted = {Kind.MISSING_CREATE, Kind.MISSING_EXIT, Kind.PARENT, Kind.IMAGE_NAME, Kind.COMMAND_LINE}
    assert planted.keys() == wanted
    assert found == planted


@given(worlds(), st.sampled_from(Origin))
def test_a_witness_of_the_same_events_agrees_however_often_pids_are_reused(events, origin):
    verdict = cross_check(events, as_log(events, origin))

    assert verdict.passed, verdict.render()
    assert verdict.statistics["processes seen by both"] == len(lives_of(events))


@given(worlds(most=100), st.data())
def test_windows_that_only_overlap_agree(events, data):
    cuts = [data.draw(st.integers(0, len(events))) for _ in range(4)]
    mine = events[min(cuts[:2]) : max(cuts[:2])]
    log = as_log(events, start=min(cuts[2:]), end=max(cuts[2:]))

    # A log that is not complete accuses nobody of missing something, whichever way lives of one pid were paired.
    verdict = cross_check(mine, replace(log, complete=False))

    assert verdict.kinds() <= {Kind.PARENT, Kind.COMMAND_LINE, Kind.EXIT_STATUS, Kind.IMAGE_NAME}


@given(st.integers(2, 40), st.data())
def test_windows_that_only_overlap_agree_in_full_where_pids_are_not_reused(pids, data):
    events = a_day(pids)
    cuts = [data.draw(st.integers(0, len(events))) for _ in range(4)]

    log = as_log(events, start=min(cuts[2:]), end=max(cuts[2:]))
    verdict = cross_check(events[min(cuts[:2]) : max(cuts[:2])], log)

    assert verdict.passed, verdict.render()


@given(worlds(pids=12), st.lists(st.integers(0, 200), max_size=20))
def test_neighbours_that_two_logs_write_in_another_order_do_not_matter(events, swaps):
    log = as_log(events)
    records = list(log.events)
    for at in swaps:
        if at + 1 < len(records) and records[at].pid != records[at + 1].pid:
            records[at : at + 2] = records[at + 1], records[at]

    assert cross_check(events, replace(log, events=tuple(records))).passed


@given(worlds(pids=8, most=40), st.data())
def test_a_changed_event_is_found_in_any_world(events, data):
    at = data.draw(st.integers(0, len(events) - 1))
    log = as_log(events)
    kind, changed = data.draw(st.sampled_from(list(plants(events, at))))
    inner = 0 < at < len(events) - 1
    assume(inner or kind not in {Kind.MISSING_CREATE, Kind.MISSING_EXIT})
    # An empty command line and one that the audit does not tell look the same in a log.
    assume(kind is not Kind.COMMAND_LINE or events[at].command_line)
    # With one pair of events the window is a point, and nothing lies within.
    assume(len(events) > 4)

    verdict = cross_check(changed, log)

    assert not verdict.passed
    assert f"pid {events[at].pid}" in {found.process for found in verdict.discrepancies}


def test_an_event_that_the_witness_lost_is_held_against_the_witness():
    events = a_day()
    log = as_log(events)

    verdict = cross_check(events, replace(log, events=log.events[:10] + log.events[11:]))

    assert [(found.kind, found.process) for found in verdict.discrepancies] == [(Kind.UNEXPECTED_CREATE, "pid 1040")]


def test_what_lies_outside_the_common_window_is_only_counted():
    events = a_day()

    verdict = cross_check(events[6:], as_log(events, end=30))

    assert verdict.passed
    assert verdict.statistics["seen by the driver alone"] == 10
    assert verdict.statistics["seen by the witness alone"] == 6


def test_a_log_that_was_filtered_accuses_nobody_of_missing_events():
    events = a_day()
    log = as_log(events, complete=False)

    verdict = cross_check(events[:10] + events[11:], replace(log, events=log.events[:20] + log.events[21:]))

    assert verdict.passed
    assert verdict.statistics["seen by the witness alone"] == 1


def test_an_event_in_a_gap_that_the_driver_reported_is_tolerated_and_no_more_than_it_lost():
    events = a_day()
    lossy = [*events[:10], Gap(11, 0, 2), *events[12:]]
    worse = [*events[:10], Gap(11, 0, 1), *events[12:]]

    first = cross_check(lossy, as_log(events))
    second = cross_check(worse, as_log(events))

    assert first.passed
    assert first.tolerated == {TOLERATED_GAP: 2}
    assert second.total == 1


def test_a_denied_creation_may_be_unknown_to_the_witness():
    events = a_day()
    denied = [
        *events[:10],
        replace(create(500, 4000), status=0xC0000022),
        Exit(501, 0, 4000, 0xC0000022),
        *events[10:],
    ]

    verdict = cross_check(denied, as_log(events))

    assert verdict.passed
    assert verdict.tolerated == {TOLERATED_DENIED: 2}


def test_a_denied_creation_is_not_taken_for_the_next_process_of_its_pid():
    denied = [replace(create(1, 4000), status=0xC0000022), Exit(2, 0, 4000, 0xC0000022)]
    unread = [create(1, 4000, image=IMAGES[1])]

    verdict = cross_check(denied, as_log(unread))

    assert verdict.passed, verdict.render()
    assert verdict.statistics["processes seen by both"] == 0


def test_the_exit_of_a_denied_creation_whose_create_the_driver_lost_may_be_unknown_too():
    events = a_day()
    exit_ = Exit(501, 0, 4000, 0xC0000022)

    with_gap = cross_check([*events[:10], Gap(500, 0, 1), exit_, *events[10:]], as_log(events))
    without = cross_check([*events[:10], exit_, *events[10:]], as_log(events))

    assert with_gap.passed, with_gap.render()
    assert with_gap.tolerated == {TOLERATED_DENIED: 1}
    assert without.kinds() == {Kind.UNEXPECTED_EXIT}


def test_where_launches_are_not_known_the_driver_is_believed_that_one_was_reparented():
    events = a_day()
    events[10] = replace(events[10], parent_pid=1000, creator_pid=60)
    told = list(as_log(events).events)
    told[10] = replace(told[10], parent_pid=60)
    log = replace(as_log(events), events=tuple(told))

    assert cross_check(events, log, launches_known=False).passed
    assert cross_check(events, log).kinds() == {Kind.PARENT}


def test_the_audit_may_name_the_creating_process_of_a_launch_that_is_known_to_be_reparented():
    events = a_day()
    events[10] = replace(events[10], parent_pid=1000, creator_pid=60)
    told = list(as_log(events).events)
    told[10] = replace(told[10], parent_pid=60)

    result = LaunchResult(events[10].pid, 5004, 1000, 60, 5000, events[10].image_name, events[10].command_line, 0)
    truth = Launched(0, "a", IMAGES[0], result)
    log = replace(as_log(events), events=tuple(told))

    audit = cross_check([*events, truth], log)
    sysmon = cross_check([*events, truth], replace(log, origin=Origin.SYSMON))
    unknown = cross_check(events, log)

    assert audit.passed
    assert audit.tolerated == {TOLERATED_CREATOR: 1}
    assert sysmon.kinds() == {Kind.PARENT}
    assert unknown.kinds() == {Kind.PARENT}


def test_a_process_without_an_image_file_is_nobodys_loss():
    events = a_day()
    log = as_log(events)
    registry = Create(7031, 0, 92, 4, None, None, None, "Registry", None)

    verdict = cross_check(events, replace(log, events=(*log.events[:11], registry, *log.events[11:])))

    assert verdict.passed
    assert verdict.tolerated == {TOLERATED_MINIMAL: 1}


def test_a_doubled_percent_sign_is_the_exporters():
    events = a_day()
    events[10] = replace(events[10], command_line="echo %PATH%")
    told = list(as_log(events).events)
    told[10] = replace(told[10], command_line="echo %%PATH%%")

    verdict = cross_check(events, replace(as_log(events), events=tuple(told)))

    assert verdict.passed
    assert verdict.tolerated == {TOLERATED_PERCENT: 1}


def test_an_exit_status_that_differs_is_found():
    events = a_day()
    told = list(as_log(events).events)
    told[11] = replace(told[11], status=99)

    (found,) = cross_check(events, replace(as_log(events), events=tuple(told))).discrepancies

    assert (found.kind, found.expected, found.seen) == (Kind.EXIT_STATUS, "0x00000063", "0x00000005")


def test_time_says_nothing():
    events = a_day()
    log = as_log(events)
    scrambled = tuple(replace(event, time=(event.sequence * 7919) % 1000) for event in log.events)

    assert cross_check(events, replace(log, events=scrambled)).passed
    assert not cross_check(events[:10] + events[12:], replace(log, events=scrambled)).passed


def test_a_pid_that_is_used_again_with_another_identity_is_another_process():
    events = a_day()
    again = [create(900, 1040, image=IMAGES[2], command_line="other"), Exit(901, 0, 1040, 7)]
    log = as_log([*events[:20], *again, *events[20:]])

    verdict = cross_check(events, log)

    assert [found.kind for found in verdict.discrepancies] == [Kind.MISSING_CREATE, Kind.MISSING_EXIT]


def test_nothing_in_common_is_no_verdict_against_anybody():
    verdict = cross_check(a_day(), as_log([create(1, 8000)]))

    assert verdict.passed
    assert verdict.statistics["processes seen by both"] == 0
    assert cross_check([], as_log([])).passed


def test_a_pid_that_is_used_over_and_over_is_looked_at_near_its_place_alone(monkeypatch):
    """A missed event makes every life of its pid doubtful; all pairs of them would be the square of their number."""
    events = []
    for index in range(2000):
        at = 2 * index + 1
        pid = 100 + 4 * (index % 5)
        events += [create(at, pid, command_line=f"{index}"), Exit(at + 1, 0, pid, 0)]
    asked = Counter()

    allow = lives._Anchors.allow

    def counted(anchors, left, right):
        asked["pairs"] += 1
        return allow(anchors, left, right)

    monkeypatch.setattr(lives._Anchors, "allow", counted)

    verdict = cross_check([event for event in events if event.sequence not in {1001, 1002}], as_log(events))

    assert verdict.kinds() == {Kind.MISSING_CREATE, Kind.MISSING_EXIT}
    assert verdict.total == 2
    assert 400 <= asked["pairs"] <= 2000 * 20
