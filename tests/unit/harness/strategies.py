"""Hypothesis strategies for the harness's data."""

from __future__ import annotations

from hypothesis import strategies as st

from harness.abi import Match, Rule
from harness.notification import Create, Exit, Gap, canonical_text
from harness.scenario import (
    Clone,
    Drain,
    ExitProcess,
    Launch,
    Preexisting,
    ProvideImage,
    ReadRules,
    ReadStatistics,
    Requirements,
    Resume,
    Scenario,
    SetRules,
    Step,
    StopDriver,
    Terminate,
)
from vm.machine import ImageKind

U32 = st.integers(0, 0xFFFFFFFF)
SURROGATES = st.integers(0xD800, 0xDFFF).map(chr)
TEXT = st.lists(st.one_of(st.characters(), SURROGATES, st.sampled_from('\0\\" ')), max_size=20).map(
    lambda units: canonical_text("".join(units))
)
NAME = TEXT.filter(bool)
STATUS = st.one_of(st.sampled_from([0, 1, 0xC0000022, 0x80000005, 0x40010004]), U32)
RULES = st.lists(st.builds(Rule, st.sampled_from(Match), TEXT, STATUS), max_size=4).map(tuple)


def notifications() -> st.SearchStrategy[list[Create | Exit | Gap]]:
    """Notifications in sequence order, as a driver may deliver them."""
    create = st.builds(
        Create,
        st.just(0),
        st.integers(-(1 << 63), (1 << 63) - 1),
        U32,
        U32,
        U32,
        U32,
        U32,
        st.none() | TEXT,
        st.none() | TEXT,
        st.booleans(),
        st.booleans(),
    )
    exit_ = st.builds(Exit, st.just(0), st.integers(-(1 << 63), (1 << 63) - 1), U32, U32)
    gap = st.builds(Gap, st.just(0), st.just(7), st.integers(1, 1 << 40))
    return st.lists(st.tuples(st.one_of(create, exit_, gap), st.integers(0, 3)), max_size=8).map(_numbered)


def _numbered(drawn: list[tuple[Create | Exit | Gap, int]]) -> list[Create | Exit | Gap]:
    from dataclasses import replace

    sequence = 1
    found = []
    for notification, hole in drawn:
        sequence += hole
        found.append(replace(notification, sequence=sequence))
        sequence += notification.count if isinstance(notification, Gap) else 1
    return found


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Valid scenarios: labels are introduced before they are used and not used after their end."""
    older = range(draw(st.integers(0, 2)))
    processes = tuple(Preexisting(f"old{n}", draw(NAME), draw(st.none() | TEXT)) for n in older)
    alive = [process.label for process in processes]
    suspended: set[str] = set()
    steps: list[Step] = []
    for number in range(draw(st.integers(0, 10))):
        label = f"p{number}"
        known = st.sampled_from(alive) if alive else st.none()
        kind = draw(st.integers(0, 9))
        if kind <= 3 or not alive:
            paused = draw(st.booleans())
            flags = (draw(st.booleans()), draw(st.booleans()))
            parents = (draw(st.none() | known), draw(st.none() | known))
            steps.append(Launch(label, draw(NAME), draw(st.none() | TEXT), *parents, paused, *flags))
            alive.append(label)
            suspended |= {label} if paused else set()
        elif kind == 4:
            steps.append(Clone(label, draw(known)))
            alive.append(label)
        elif kind <= 6:
            ended = draw(known)
            gone = Terminate(ended, draw(STATUS)) if ended in suspended else ExitProcess(ended, draw(STATUS))
            steps.append(gone)
            alive.remove(ended)
        elif kind == 7:
            paused_ones = sorted(suspended & set(alive))
            if paused_ones:
                resumed = draw(st.sampled_from(paused_ones))
                suspended.discard(resumed)
                steps.append(Resume(resumed))
        elif kind == 8:
            steps.append(SetRules(draw(RULES)))
        else:
            plain = [Drain(), ReadStatistics(), ReadRules(), ProvideImage(draw(NAME), draw(st.sampled_from(ImageKind)))]
            steps.append(draw(st.sampled_from(plain)))
    if draw(st.booleans()):
        steps.append(StopDriver())
    requirements = Requirements(draw(st.integers(0, 30_000)), draw(st.sampled_from([(), ("windows",)])))
    return Scenario(draw(NAME), tuple(steps), processes, draw(st.booleans()), requirements)
