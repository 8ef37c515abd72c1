"""What is done on a machine while a driver is watched: a sequence of steps as plain data.

A scenario can be generated, shrunk, stored as JSON (`harness.scenario_json`), replayed on any machine and printed.
Processes are named by labels. A label stands for one process, made by the one step that introduces it; a step that
names a process which could not be created is skipped when the scenario runs, and the capture says so.

Without a StartDriver step the driver starts after the preexisting processes have been made, before the first step.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, TypeAlias

from harness.abi import Match, Rule
from harness.errors import InputError
from vm.machine import ImageKind

FORMAT_NAME: Final = "ntproof-scenario"
FORMAT_VERSION: Final = 1


class Feature(enum.Enum):
    """An ability that not every machine has."""

    CLONE = "clone"
    TWO_STEP = "two-step"
    SUBSYSTEM = "subsystem"
    CREATOR = "creator"
    """Launches made by another process than the machine's agent."""


@dataclass(frozen=True)
class Requirements:
    """What a machine must be for the scenario to make sense on it.

    Attributes:
        minimum_build: lowest Windows build number.
        kinds: kinds of machine (`MachineFacts.kind`) on which it makes sense; empty for all.
    """

    minimum_build: int = 0
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class SetRules:
    """Give the driver a rule set. An invalid one may be given: the driver must refuse it."""

    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class ProvideImage:
    """Make an executable file exist at a DOS path."""

    path: str
    kind: ImageKind = ImageKind.NORMAL


@dataclass(frozen=True)
class Launch:
    """Create a process; fields as in `vm.machine.LaunchRequest`, processes by label."""

    label: str
    image: str
    command_line: str | None = None
    parent: str | None = None
    creator: str | None = None
    suspended: bool = False
    two_step: bool = False
    subsystem: bool = False


@dataclass(frozen=True)
class Clone:
    """Clone the running process `of`; the clone gets the label."""

    label: str
    of: str


@dataclass(frozen=True)
class Resume:
    """Resume a process that was launched suspended."""

    label: str


@dataclass(frozen=True)
class ExitProcess:
    """The process ends by itself."""

    label: str
    status: int = 0


@dataclass(frozen=True)
class Terminate:
    """The machine's agent terminates the process."""

    label: str
    status: int = 1


@dataclass(frozen=True)
class StartDriver:
    """Start the driver's service.

    Attributes:
        queue_bytes: value of its QueueBytes parameter; None leaves the driver's default.
    """

    queue_bytes: int | None = None


@dataclass(frozen=True)
class StopDriver:
    """Close the device and stop the driver's service."""


@dataclass(frozen=True)
class Drain:
    """Read all notifications that the driver holds."""


@dataclass(frozen=True)
class ReadStatistics:
    """Ask the driver for its statistics."""


@dataclass(frozen=True)
class ReadRules:
    """Ask the driver for the rules in force."""


Step: TypeAlias = (
    SetRules
    | ProvideImage
    | Launch
    | Clone
    | Resume
    | ExitProcess
    | Terminate
    | StartDriver
    | StopDriver
    | Drain
    | ReadStatistics
    | ReadRules
)


@dataclass(frozen=True)
class Preexisting:
    """A process that runs before the driver is first started."""

    label: str
    image: str
    command_line: str | None = None


@dataclass(frozen=True)
class Scenario:
    """A scenario.

    Attributes:
        name: for headings.
        steps: what is done, in order.
        processes: processes that run before the driver is started.
        drain_each_step: read the driver's notifications after each step, so that its queue cannot overflow. Without
            it they are read by Drain steps, before the driver is stopped and at the end.
        requirements: where it makes sense.

    Raises:
        InputError: a label is used before a step introduces it, twice introduced or used after its end, or the
            driver is started or stopped out of turn.
    """

    name: str
    steps: tuple[Step, ...]
    processes: tuple[Preexisting, ...] = ()
    drain_each_step: bool = True
    requirements: Requirements = Requirements()

    def __post_init__(self) -> None:
        _Validation(self).run()

    @property
    def features(self) -> frozenset[Feature]:
        """The abilities that its steps ask of a machine."""
        found = set()
        for step in self.steps:
            if isinstance(step, Clone):
                found.add(Feature.CLONE)
            elif isinstance(step, Launch):
                found |= {Feature.TWO_STEP} if step.two_step else set()
                found |= {Feature.SUBSYSTEM} if step.subsystem else set()
                found |= {Feature.CREATOR} if step.creator is not None else set()
        return frozenset(found)

    @property
    def starts_driver_itself(self) -> bool:
        """True when a StartDriver step says when the driver starts."""
        return any(isinstance(step, StartDriver) for step in self.steps)


class _Validation:
    """Walks through the steps with the labels that can be alive and the driver's state."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._known: set[str] = set()
        self._ended: set[str] = set()
        self._suspended: set[str] = set()
        self._running = not scenario.starts_driver_itself

    def run(self) -> None:
        for index, process in enumerate(self._scenario.processes):
            self._introduce(process.label, f"$.processes[{index}].label")
        for index, step in enumerate(self._scenario.steps):
            self._step(step, f"$.steps[{index}]")

    def _step(self, step: Step, path: str) -> None:
        match step:
            case Launch():
                self._use(step.parent, f"{path}.parent")
                self._use(step.creator, f"{path}.creator")
                self._introduce(step.label, f"{path}.label")
                if step.suspended:
                    self._suspended.add(step.label)
            case Clone():
                self._use(step.of, f"{path}.of")
                self._introduce(step.label, f"{path}.label")
            case Resume():
                self._use(step.label, f"{path}.label")
                if step.label not in self._suspended:
                    self._fail(f"{path}.label", f"{step.label!r} is not suspended; launch it suspended first")
                self._suspended.discard(step.label)
            case ExitProcess() | Terminate():
                self._use(step.label, f"{path}.label")
                if isinstance(step, ExitProcess) and step.label in self._suspended:
                    what = f"{step.label!r} is suspended and cannot exit by itself; resume it or use terminate"
                    self._fail(f"{path}.label", what)
                self._ended.add(step.label)
            case StartDriver():
                if self._running:
                    self._fail(path, "the driver runs already; stop it first")
                self._running = True
            case StopDriver():
                if not self._running:
                    self._fail(path, "the driver does not run; start it first")
                self._running = False
            case SetRules() | Drain() | ReadStatistics() | ReadRules():
                if not self._running:
                    self._fail(path, "the driver does not run; start it first")
            case ProvideImage():
                pass

    def _introduce(self, label: str, path: str) -> None:
        if not label:
            self._fail(path, "a label must not be empty")
        if label in self._known:
            self._fail(path, f"label {label!r} is taken; give each process its own")
        self._known.add(label)

    def _use(self, label: str | None, path: str) -> None:
        if label is None:
            return
        if label not in self._known:
            self._fail(path, f"no earlier step introduces {label!r}; launch it first")
        if label in self._ended:
            self._fail(path, f"{label!r} has ended by then; use it earlier")

    def _fail(self, path: str, what: str) -> None:
        raise InputError(f"scenario {self._scenario.name!r}: {path}: {what}")


__all__ = [
    "Clone",
    "Drain",
    "ExitProcess",
    "Feature",
    "Launch",
    "Match",
    "Preexisting",
    "ProvideImage",
    "ReadRules",
    "ReadStatistics",
    "Requirements",
    "Resume",
    "Rule",
    "Scenario",
    "SetRules",
    "StartDriver",
    "Step",
    "StopDriver",
    "Terminate",
]
