from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest

from harness.model import Observer, Sequence
from harness.notification import Create, Exit, Gap
from harness.verdict import Kind, Verdict

IMAGE = "\\??\\C:\\a.exe"


def create(sequence, pid, *, parent=1000, creator=1000, tid=1004, status=0):
    return Create(sequence, 1, pid, parent, creator, tid, status, IMAGE, "a", True)


def exit_(sequence: int, pid: int, status: int = 0, image: str | None = None):
    return Exit(sequence, 1, pid, status, image)


def observe(*notifications: Create | Exit | Gap, sequence: Sequence = Sequence.CONTIGUOUS) -> Verdict:
    observer = Observer(sequence)
    observer.feed_all(notifications)
    return observer.verdict()


@pytest.mark.parametrize(
    "notifications",
    [
        (),
        (create(1, 8), exit_(2, 8), create(3, 8)),
        (exit_(5, 8), create(6, 8), create(7, 12, parent=8)),
        (create(1, 8), Gap(2, 1, 40), create(42, 8), exit_(43, 12)),
        (create(1, 8, status=0xC0000022), exit_(2, 8, 0xC0000022)),
        (create(1, 8), exit_(2, 8, image=IMAGE)),
    ],
)
def test_a_possible_history_passes(notifications):
    verdict = observe(*notifications)

    assert verdict.passed, verdict.render()


@pytest.mark.parametrize(
    ("kind", "notifications"),
    [
        (Kind.PID, (create(1, 9),)),
        (Kind.PID, (create(1, 4),)),
        (Kind.PID, (exit_(1, 10),)),
        (Kind.DUPLICATE_CREATE, (create(1, 8), create(2, 8))),
        (Kind.DUPLICATE_EXIT, (exit_(1, 8), exit_(2, 8))),
        (Kind.MISSING_EXIT, (create(1, 8), create(2, 12), create(3, 1000, parent=2000, creator=2000, tid=2004))),
        (Kind.PARENT, (create(1, 8), exit_(2, 8), create(3, 12, parent=8))),
        (Kind.PARENT, (create(1, 8, parent=8),)),
        (Kind.PARENT, (create(1, 8, parent=1001),)),
        (Kind.CREATOR, (create(1, 8), exit_(2, 8), create(3, 12, creator=8, tid=16))),
        (Kind.CREATOR, (create(1, 8, status=0xC0000022), create(2, 12, creator=8, tid=16))),
        (Kind.CREATOR, (create(1, 8, creator=1002),)),
        (Kind.CREATOR, (create(1, 8, creator=8),)),
        (Kind.CREATOR, (create(1, 8, tid=1005),)),
        (Kind.CREATOR, (create(1, 8), create(2, 12, tid=8))),
        (Kind.IMAGE_NAME, (create(1, 8), exit_(2, 8, image="\\??\\C:\\b.exe"))),
        (Kind.EXIT_STATUS, (create(1, 8, status=0xC0000022), exit_(2, 8, 0))),
        (Kind.SEQUENCE, (create(1, 8), exit_(3, 8))),
        (Kind.SEQUENCE, (create(2, 8), exit_(2, 8))),
        (Kind.SEQUENCE, (Gap(1, 1, 5), exit_(5, 8))),
    ],
)
def test_an_impossible_history_fails_with_the_kind_of_its_contradiction(kind, notifications):
    verdict = observe(*notifications)

    assert verdict.kinds() == {kind}, verdict.render()


def test_holes_mean_nothing_to_a_witness_among_other_records_but_going_back_does():
    assert observe(create(1, 8), exit_(30, 8), sequence=Sequence.INCREASING).passed
    assert observe(create(30, 8), exit_(1, 8), sequence=Sequence.INCREASING).kinds() == {Kind.SEQUENCE}
    assert observe(Gap(1, 1, 1), sequence=Sequence.INCREASING).kinds() == {Kind.GAP}


def test_a_started_driver_begins_at_its_next_number():
    observer = Observer()
    observer.begin(7)
    observer.feed(create(8, 8))

    assert observer.verdict().kinds() == {Kind.SEQUENCE}


def test_a_pid_that_an_unreported_process_took_over_may_act_until_it_is_given_up():
    observer = Observer()
    observer.feed_all([create(1, 8), exit_(2, 8)])
    observer.allow_unreported(8)
    observer.feed(create(3, 12, parent=8, creator=8, tid=16))
    assert observer.verdict().passed

    observer.keep_unreported(set())
    observer.feed(create(4, 20, parent=8))
    assert observer.verdict().kinds() == {Kind.PARENT}


def test_an_unreported_process_may_create_and_end_before_its_pid_is_created():
    observer = Observer()
    observer.allow_unreported(8)
    observer.feed_all([create(1, 12, parent=8, creator=8, tid=16), create(2, 8)])

    assert observer.verdict().passed


def churn(count: int) -> Iterator[Create | Exit]:
    """A hundred processes at a time, each pid different from the ones before."""
    sequence = 1
    for number in range(count // 2):
        yield create(sequence, 2000 + 4 * number)
        sequence += 1
        if number >= 100:
            yield exit_(sequence, 2000 + 4 * (number - 100))
            sequence += 1


def peak(count: int) -> int:
    observer = Observer()
    tracemalloc.start()
    try:
        observer.feed_all(churn(count))
        assert observer.verdict().passed
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_history_even_when_no_pid_is_reused(monkeypatch):
    monkeypatch.setattr("harness.model.observe._GENERATION", 1000)
    peak(1000)

    assert peak(40_000) < 1.2 * peak(10_000)


def test_only_the_first_discrepancies_are_kept_and_all_are_counted():
    verdict = observe(*(create(number, 9) for number in range(1, 5000)))

    assert len(verdict.discrepancies) == 1000
    assert verdict.total > 5000
    assert verdict.render().endswith(f"and {verdict.total - 1000} more")
