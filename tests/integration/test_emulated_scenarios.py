"""procnotify's own binary on the emulated machine, judged by the model: recorded histories and generated scenarios."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.abi import Match, Rule
from harness.build.driver_build import build_driver
from harness.commands.replay import replay_on
from harness.histories import History
from harness.model import check
from harness.runner import run_scenario
from harness.scenario import (
    Clone,
    Drain,
    ExitProcess,
    Launch,
    Preexisting,
    ProvideImage,
    ReadRules,
    ReadStatistics,
    Resume,
    Scenario,
    SetRules,
    StartDriver,
    Step,
    StopDriver,
    Terminate,
)
from tests.unit.harness.histories_data import histories
from tests.unit.harness.strategies import TEXT
from tests.unit.harness.test_model import EVERYTHING
from vm.emulated.kernel import KernelOptions
from vm.emulated.machine import EmulatedMachine
from vm.machine import ImageKind

PROFILES = ("documented", "observed")
IMAGES = {
    "C:\\Tools\\a.exe": ImageKind.NORMAL,
    "C:\\Tools\\Sub\\Größe.exe": ImageKind.NORMAL,
    "C:\\Tools\\elevated.exe": ImageKind.REQUIRES_ELEVATION,
    "C:\\Other\\broken.exe": ImageKind.INVALID,
}
PATTERNS = (
    "\\??\\C:\\tools",
    "\\??\\C:\\Tools\\A.EXE",
    "gröSSe.exe",
    "grÖße.exe",
    "sub\\größe.EXE",
    "\\Tools",
    "\\",
    "x",
    "",
)
STATUSES = st.sampled_from([0, 0xC0000022, 0xC0000001, 0x80000005, 0xC0DE0001, 1])


@pytest.fixture(scope="module")
def image() -> Path:
    return build_driver("procnotify").image


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("history", histories(), ids=lambda history: history.id)
def test_a_recorded_history_comes_back_from_the_driver(history: History, profile: str, image: Path):
    machine = EmulatedMachine("emulated", KernelOptions(profile=profile))
    try:
        verdict = replay_on(machine, history, image)
    finally:
        machine.close()

    assert verdict.passed, verdict.render()
    assert verdict.statistics["launches"] > 0


@pytest.mark.parametrize("profile", PROFILES)
def test_the_scenario_of_everything_passes(profile: str, image: Path):
    verdict = judge(EVERYTHING, profile, image)

    assert verdict.passed, verdict.render()
    assert verdict.statistics["creates"] == 9


@st.composite
def busy_scenarios(draw: st.DrawFn) -> Scenario:
    """Scenarios with much going on: rules that match, nested processes, failures, restarts and small queues."""
    steps: list[Step] = [ProvideImage(path, kind) for path, kind in IMAGES.items()]
    processes = tuple(Preexisting(f"old{n}", "C:\\Tools\\a.exe") for n in range(draw(st.integers(0, 2))))
    alive = [process.label for process in processes]
    suspended: set[str] = set()
    restarts = draw(st.booleans())
    if restarts:
        steps.append(StartDriver(draw(st.sampled_from([None, 0, 0x40000]))))
    rule = st.builds(Rule, st.sampled_from(Match), st.sampled_from(PATTERNS), STATUSES)
    for number in range(draw(st.integers(1, 14))):
        label, known = f"p{number}", st.none() | st.sampled_from(alive or [None])
        match draw(st.integers(0, 9)):
            case 0 | 1 | 2 | 3:
                path = draw(st.sampled_from([*IMAGES, "C:\\missing.exe"]))
                flags = (draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 9)) == 0)
                steps.append(Launch(label, path, draw(st.none() | TEXT), draw(known), draw(known), *flags))
                alive.append(label)
                suspended |= {label} if flags[0] else set()
            case 4:
                steps.append(SetRules(tuple(draw(st.lists(rule, max_size=4)))))
            case 5 | 6 if alive:
                ended = draw(st.sampled_from(alive))
                alive.remove(ended)
                status = draw(st.integers(0, 0xFFFFFFFF))
                paused = ended in suspended
                steps.append(Terminate(ended, status) if paused else ExitProcess(ended, status))
            case 7 if set(alive) - suspended:
                steps.append(Clone(label, draw(st.sampled_from(sorted(set(alive) - suspended)))))
                alive.append(label)
            case 8 if suspended & set(alive):
                resumed = draw(st.sampled_from(sorted(suspended & set(alive))))
                suspended.discard(resumed)
                steps.append(Resume(resumed))
            case 9 if restarts:
                steps += [StopDriver(), StartDriver()]
            case _:
                steps.append(draw(st.sampled_from([Drain(), ReadStatistics(), ReadRules()])))
    return Scenario("generated", tuple(steps), processes, draw(st.booleans()))


@pytest.mark.parametrize("profile", PROFILES)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
@given(scenario=busy_scenarios())
def test_any_scenario_passes(scenario: Scenario, profile: str, image: Path):
    verdict = judge(scenario, profile, image)

    assert verdict.passed, verdict.render()


def test_a_queue_that_overflows_is_explained_to_the_last_notification(image: Path):
    launches = tuple(Launch(f"p{number}", "C:\\Tools\\a.exe", "x" * 32_000) for number in range(12))
    steps = (
        StartDriver(queue_bytes=0x40000),
        ProvideImage("C:\\Tools\\a.exe"),
        *launches,
        *(ExitProcess(launch.label) for launch in launches),
        ReadStatistics(),
        Launch("after", "C:\\Tools\\a.exe"),
        ReadStatistics(),
    )
    verdict = judge(Scenario("overflow", steps, drain_each_step=False), "observed", image)

    assert verdict.passed, verdict.render()
    assert verdict.statistics["lost"] >= 8


def judge(scenario: Scenario, profile: str, image: Path):
    machine = EmulatedMachine("emulated", KernelOptions(profile=profile))
    try:
        return check(scenario, run_scenario(scenario, machine, image=image))
    finally:
        machine.close()
