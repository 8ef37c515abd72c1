from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from harness.histories import History
from harness.model import Observer, Sequence, check
from harness.notification import Create, Exit
from harness.replay import compare_tree, replay_history
from harness.runner import run_scenario
from harness.verdict import Kind
from tests.unit.harness.fake_machine import FakeMachine
from tests.unit.harness.histories_data import histories, histories_file
from tests.unit.harness.test_model import IMAGE

Events = list[Create | Exit]
SAMPLES = 20


def each_history() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("history", histories(), ids=lambda history: history.id)


@each_history()
def test_a_recorded_history_passes(history: History):
    verdict = check(None, history.as_capture())

    assert verdict.passed, verdict.render()


@each_history()
def test_a_recorded_history_fails_after_a_random_corruption_that_breaks_an_invariant(history: History):
    generator = random.Random(history.id)
    for kind, corruptions in CORRUPTIONS.items():
        broken = [events for events in corruptions(list(history.events), generator) if is_contradictory(events)]
        if broken:
            assert observed_to_fail(generator.choice(broken)), kind


@each_history()
def test_a_doubled_create_is_found_in_every_history(history: History):
    generator = random.Random(history.id)
    for events in doubled_create(list(history.events), generator):
        assert observed_to_fail(events)


def test_a_corruption_is_found_exactly_when_another_event_contradicts_it():
    generator = random.Random(20)
    made: Counter[str] = Counter()
    contradicted: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for history in histories():
        for kind, corruptions in CORRUPTIONS.items():
            for events in sample(corruptions(list(history.events), generator), generator):
                expected = is_contradictory(events)
                made[kind] += 1
                contradicted[kind] += expected
                failed = observed_to_fail(events)
                found[kind] += failed
                assert failed == expected, (history.id, kind)
    print(f"\ndetection in {histories_file().parent.name}: corruption, made, contradicted, found")  # noqa: T201 - shown by -s
    for kind, number in made.items():
        rate = found[kind] / contradicted[kind] if contradicted[kind] else 1
        print(f"{kind:20} {number:6} {contradicted[kind]:6} {found[kind]:6} {rate:7.1%}")  # noqa: T201 - shown by -s
    assert made.keys() == CORRUPTIONS.keys()


def test_with_the_drivers_own_numbers_every_lost_notification_is_found():
    for history in histories():
        numbered = renumber(list(history.events))
        for index in range(1, len(numbered) - 1):
            observer = Observer(Sequence.CONTIGUOUS)
            observer.feed_all(numbered[:index] + numbered[index + 1 :])
            assert not observer.verdict().passed
            if index > 20:
                break


@each_history()
def test_a_history_comes_back_from_a_replay(history: History):
    replay = replay_history(history)
    capture = run_scenario(replay.scenario, FakeMachine(), image=IMAGE)

    verdict = check(replay.scenario, capture)
    assert verdict.passed, verdict.render()
    assert list(compare_tree(replay, capture.items)) == []


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("parent", Kind.TREE),
        ("loses-creates", Kind.TREE),
        ("loses-exits", Kind.TREE),
        ("image", Kind.IMAGE_NAME),
        ("command", Kind.COMMAND_LINE),
        ("exit-status", Kind.EXIT_STATUS),
    ],
)
def test_a_replay_that_comes_back_different_is_told(fault, kind):
    found = set()
    for history in histories()[:4]:
        replay = replay_history(history)
        capture = run_scenario(replay.scenario, FakeMachine(fault), image=IMAGE)
        found |= {difference.kind for difference in compare_tree(replay, capture.items)}

    assert kind in found


# An independent judgement: per pid, the whole word of what happened to it, against one regular expression.


def is_contradictory(events: Events) -> bool:
    words: dict[int, str] = {}
    images: dict[int, str | None] = {}
    for event in events:
        if event.pid % 4 or event.pid <= 4:
            return True
        if isinstance(event, Create):
            if event.parent_pid == event.pid:
                return True
            words[event.parent_pid] = words.get(event.parent_pid, "") + "A"
            words[event.pid] = words.get(event.pid, "") + "C"
            images[event.pid] = event.image_name
        else:
            if images.pop(event.pid, event.image_name) != event.image_name:
                return True
            words[event.pid] = words.get(event.pid, "") + "X"
    return any(re.fullmatch("A*X?(CA*X)*(CA*)?", word) is None for word in words.values())


def observed_to_fail(events: Events) -> bool:
    observer = Observer(Sequence.INCREASING)
    observer.feed_all(events)
    return not observer.verdict().passed


def renumber(events: Events) -> Events:
    """Numbers that give nothing away."""
    return [replace(event, sequence=number) for number, event in enumerate(events, 1)]


def sample(corrupted: Iterator[Events], generator: random.Random) -> list[Events]:
    found = list(corrupted)
    return found if len(found) <= SAMPLES else generator.sample(found, SAMPLES)


def indices(events: Events, kind: type[Create | Exit], generator: random.Random) -> list[int]:
    found = [index for index, event in enumerate(events) if isinstance(event, kind)]
    return found if len(found) <= SAMPLES else generator.sample(found, SAMPLES)


def pairs(events: Events) -> list[tuple[int, int]]:
    created: dict[int, int] = {}
    found = []
    for index, event in enumerate(events):
        if isinstance(event, Create):
            created[event.pid] = index
        elif event.pid in created:
            found.append((created.pop(event.pid), index))
    return found[:SAMPLES]


def dropped(kind: type[Create | Exit]) -> Callable[[Events, random.Random], Iterator[Events]]:
    def corrupt(events: Events, generator: random.Random) -> Iterator[Events]:
        for index in indices(events, kind, generator):
            yield renumber(events[:index] + events[index + 1 :])

    return corrupt


def doubled(kind: type[Create | Exit]) -> Callable[[Events, random.Random], Iterator[Events]]:
    def corrupt(events: Events, generator: random.Random) -> Iterator[Events]:
        for index in indices(events, kind, generator):
            yield renumber(events[: index + 1] + events[index:])

    return corrupt


doubled_create = doubled(Create)


def exit_before_create(events: Events, generator: random.Random) -> Iterator[Events]:
    for create, exit_ in pairs(events):
        rest = events[:exit_] + events[exit_ + 1 :]
        yield renumber([*rest[:create], events[exit_], *rest[create:]])


def changed(kind: type[Create | Exit], field: str) -> Callable[[Events, random.Random], Iterator[Events]]:
    def corrupt(events: Events, generator: random.Random) -> Iterator[Events]:
        pids = sorted({event.pid for event in events} | {e.parent_pid for e in events if isinstance(e, Create)})
        for index in indices(events, kind, generator):
            value: object = generator.choice(pids) if field != "image_name" else "C:\\other.exe"
            if value != getattr(events[index], field):
                yield renumber([*events[:index], replace(events[index], **{field: value}), *events[index + 1 :]])

    return corrupt


CORRUPTIONS: dict[str, Callable[[Events, random.Random], Iterator[Events]]] = {
    "dropped create": dropped(Create),
    "dropped exit": dropped(Exit),
    "doubled create": doubled_create,
    "doubled exit": doubled(Exit),
    "exit before create": exit_before_create,
    "pid of a create": changed(Create, "pid"),
    "pid of an exit": changed(Exit, "pid"),
    "image of a create": changed(Create, "image_name"),
    "image of an exit": changed(Exit, "image_name"),
    "parent of a create": changed(Create, "parent_pid"),
}
