"""The service's life and long mixed histories ("StartService", "ControlService" of the Win32 documentation).

The histories are drawn from fixed seeds: each is another order of launches, exits, denials, restarts and reads, and the
model judges them all.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from harness.abi import Match, Rule
from harness.conformance.acts import APP, SERVICE, TOOL, fails, nt_name, run_to_exit, scenario
from harness.notification import Create, Exit
from harness.scenario import (
    Clone,
    Drain,
    ExitProcess,
    Launch,
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
from vm.machine import ImageKind, ServiceState
from vm.win32 import (
    ERROR_ALREADY_EXISTS,
    ERROR_SERVICE_ALREADY_RUNNING,
    ERROR_SERVICE_DOES_NOT_EXIST,
    ERROR_SERVICE_EXISTS,
    ERROR_SERVICE_NOT_ACTIVE,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.capture import Capture
    from harness.driver import ProcNotify
    from harness.machines import DriverImage
    from vm.machine import Machine


def test_a_service_is_installed_started_stopped_and_deleted(clean_machine: Machine, driver_image: DriverImage) -> None:
    clean_machine.install_driver(SERVICE, driver_image.path)
    assert clean_machine.driver_state(SERVICE) is ServiceState.STOPPED
    clean_machine.start_driver(SERVICE)
    assert clean_machine.driver_state(SERVICE) is ServiceState.RUNNING
    clean_machine.stop_driver(SERVICE)
    clean_machine.delete_driver(SERVICE)
    with fails(ERROR_SERVICE_DOES_NOT_EXIST):
        clean_machine.driver_state(SERVICE)


def test_a_running_driver_is_not_started_again(machine: Machine) -> None:
    with fails(ERROR_SERVICE_ALREADY_RUNNING):
        machine.start_driver(SERVICE)


def test_a_stopped_driver_is_not_stopped_again(machine: Machine) -> None:
    machine.stop_driver(SERVICE)
    with fails(ERROR_SERVICE_NOT_ACTIVE):
        machine.stop_driver(SERVICE)


def test_a_service_is_not_installed_twice(machine: Machine, driver_image: DriverImage) -> None:
    with fails(ERROR_SERVICE_EXISTS):
        machine.install_driver(SERVICE, driver_image.path)


def test_the_driver_works_under_another_service_name(
    clean_machine: Machine, driver_image: DriverImage, open_driver: Callable[..., ProcNotify]
) -> None:
    clean_machine.install_driver("another-name", driver_image.path)
    clean_machine.start_driver("another-name")
    with open_driver(clean_machine) as driver:
        pid = run_to_exit(clean_machine)
        seen = driver.read_available()
    assert [(type(one), getattr(one, "pid", None)) for one in seen] == [(Create, pid), (Exit, pid)]
    clean_machine.stop_driver("another-name")
    clean_machine.delete_driver("another-name")


def test_a_second_instance_fails_to_load_and_leaves_the_first_alone(
    machine: Machine, driver: ProcNotify, driver_image: DriverImage
) -> None:
    """Its device's name is taken: IoCreateDevice fails with STATUS_OBJECT_NAME_COLLISION."""
    machine.install_driver("second", driver_image.path)
    with fails(ERROR_ALREADY_EXISTS):
        machine.start_driver("second")
    machine.delete_driver("second")
    run_to_exit(machine)
    assert len(driver.read_available()) == 2


IMAGES = (APP, TOOL, "C:\\ntproof\\Other Tool\\other.exe", "D:\\volume\\tool.exe", "C:\\ntproof\\elevated.exe")
RULES = (
    Rule(Match.SUFFIX, "tool.exe", 0xC0000906),
    Rule(Match.SUBTREE, "\\??\\C:\\ntproof\\tools", 0x80000005),
    Rule(Match.EXACT, nt_name(APP).upper(), 0xC0000022),
    Rule(Match.SUBTREE, "\\??\\d:\\", 0),
)


class History:
    """Draws one scenario from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  (a history, not a secret)
        self._steps: list[Step] = [ProvideImage(IMAGES[-1], ImageKind.REQUIRES_ELEVATION), StartDriver()]
        self._alive: list[str] = []
        self._rules: tuple[Rule, ...] = ()

    def draw(self, length: int) -> Scenario:
        """A scenario of about `length` steps."""
        for index in range(length):
            self._draw_step(index)
        self._steps.append(ReadStatistics())
        return scenario("history", *self._steps, drain_each_step=self._random.random() < 0.5)

    def _draw_step(self, index: int) -> None:
        choice = self._random.random()
        if choice < 0.5:
            self._launch(f"process {index}")
        elif choice < 0.85 and self._alive:
            label = self._alive.pop(self._random.randrange(len(self._alive)))
            status = self._random.choice([0, 1, 0xC0000005, 0x40010004])
            kind = self._random.choice((ExitProcess, Terminate))
            self._steps.append(kind(label, status))
        elif choice < 0.9:
            self._rules = tuple(self._random.sample(RULES, self._random.randrange(len(RULES) + 1)))
            self._steps += [SetRules(self._rules), ReadRules()]
        elif choice < 0.93:
            self._steps += [StopDriver(), StartDriver()]
            self._rules = ()
        elif choice < 0.95 and self._alive:
            self._steps.append(Clone(f"clone {index}", self._random.choice(self._alive)))
        else:
            self._steps.append(self._random.choice((Drain, ReadStatistics))())

    def _launch(self, label: str) -> None:
        image = self._random.choice(IMAGES)
        text = self._random.choice([None, "", "app /x", label * self._random.randrange(1, 300), "\ud800"])
        creator = self._random.choice([*self._alive, None])
        parent = self._random.choice([*self._alive, None, None])
        how = self._random.choice([{}, {}, {}, {"suspended": True}, {"two_step": True}])
        self._steps.append(Launch(label, image, text, parent=parent, creator=creator, **how))
        if "suspended" in how:
            self._steps.append(Resume(label))
        if image == IMAGES[2] or (not self._rules and image != IMAGES[-1]):
            self._alive.append(label)


@pytest.mark.parametrize("seed", range(12))
def test_a_long_mixed_history_is_what_the_model_predicts(run_scenario: Callable[..., Capture], seed: int) -> None:
    run_scenario(History(seed).draw(80))
