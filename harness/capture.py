"""What a run captured: ground truth from the machine and notifications from the driver, in the order they became known.

A capture is a header and a stream of items. `Drained` says that everything the driver held at that point is above it,
so a notification that was due and is not there is missing. `harness.capture_json` stores captures as JSON lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from harness.abi import Rule, Statistics, Version
from harness.notification import Create, Exit, Gap
from vm.machine import ImageKind, LaunchResult

FORMAT_NAME: Final = "ntproof-capture"
FORMAT_VERSION: Final = 1


@dataclass(frozen=True)
class CaptureHeader:
    """Where a capture comes from.

    Attributes:
        machine, kind, build, profile, details: the machine's facts (`vm.machine.MachineFacts`).
        driver_sha256: SHA-256 of the driver's image, None when it was not at hand.
        scenario: name of the scenario, None when there was none.
        scenario_sha256: `harness.scenario_json.scenario_hash`, None likewise.
        closed_world: nothing but the scenario makes processes on that machine, so each notification has its cause here.
        contiguous: each notification takes the next sequence number, so that only a gap record explains a hole.
    """

    machine: str = ""
    kind: str = ""
    build: int = 0
    profile: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    driver_sha256: str | None = None
    scenario: str | None = None
    scenario_sha256: str | None = None
    closed_world: bool = False
    contiguous: bool = True


@dataclass(frozen=True, slots=True)
class Launched:
    """An attempt to create a process has returned; `step` is None for one that runs before the scenario begins."""

    step: int | None
    label: str
    image: str
    result: LaunchResult
    suspended: bool = False
    two_step: bool = False
    subsystem: bool = False
    clone: bool = False


@dataclass(frozen=True, slots=True)
class Resumed:
    """A suspended process was resumed."""

    step: int
    label: str
    pid: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A process ended, and was gone when the call returned."""

    step: int
    label: str
    pid: int
    status: int
    terminated: bool = False


@dataclass(frozen=True, slots=True)
class ImageProvided:
    """An executable file exists from now on."""

    step: int
    path: str
    kind: ImageKind


@dataclass(frozen=True, slots=True)
class DriverStarted:
    """The driver was started, or found running; error is the Win32 error, 0 for success.

    Version, statistics and rules are what it answered then; None when it could not be asked.
    """

    step: int | None
    error: int
    attached: bool = False
    version: Version | None = None
    statistics: Statistics | None = None
    rules: tuple[Rule, ...] | None = None


@dataclass(frozen=True, slots=True)
class DriverStopped:
    """The driver was stopped; error is the Win32 error, 0 for success."""

    step: int | None
    error: int


@dataclass(frozen=True, slots=True)
class RulesSet:
    """A rule set was given to the driver; error is the Win32 error, 0 when it was accepted."""

    step: int
    rules: tuple[Rule, ...]
    error: int


@dataclass(frozen=True, slots=True)
class RulesRead:
    """The driver told its rules."""

    step: int | None
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class StatisticsRead:
    """The driver told its statistics."""

    step: int | None
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class Drained:
    """The driver's queue was read until it was empty; `step` is the last step done."""

    step: int | None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A step could not be done because the process it names, `label`, does not run."""

    step: int
    label: str


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call that must succeed failed.

    Attributes:
        error: Win32 error.
        message: the error as text, with the call.
    """

    step: int | None
    error: int
    message: str


@dataclass(frozen=True, slots=True)
class OutputViolated:
    """The driver's output is not what its header allows."""

    step: int | None
    offset: int
    what: str


@dataclass(frozen=True, slots=True)
class Faulted:
    """The driver did what no driver may do: a bugcheck or a hang. The capture ends here.

    Attributes:
        message: the fault in one line.
        driver_line: ``file:line`` of the driver where known, else empty.
        details: the report's further lines.
    """

    step: int | None
    message: str
    driver_line: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completed:
    """The scenario was run to its end."""


Truth: TypeAlias = (
    Launched
    | Resumed
    | Ended
    | ImageProvided
    | DriverStarted
    | DriverStopped
    | RulesSet
    | RulesRead
    | StatisticsRead
    | Drained
    | Skipped
    | CallFailed
    | OutputViolated
    | Faulted
    | Completed
)

CaptureItem: TypeAlias = Truth | Create | Exit | Gap


@dataclass(frozen=True)
class Capture:
    """A capture: `items` may be a stream that can be walked only once."""

    header: CaptureHeader
    items: Iterable[CaptureItem]
