"""What one attempt to create a process must make the driver report, and what its caller must be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from harness.capture import Launched
from harness.model.rules import RuleSet
from harness.model.tolerances import CLONE_NOTIFIED, Tolerance
from harness.model.windows import STATUS_SUCCESS, status_of_image, volume_relative
from harness.notification import canonical_text
from vm.machine import ImageKind

CAPABILITY_SUBSYSTEM_PROCESSES: Final = 0x4
"""PROCNOTIFY_CAPABILITY_SUBSYSTEM_PROCESSES, procnotify.h."""


@dataclass(slots=True)
class ExpectedCreate:
    """A create notification that is due.

    Attributes:
        step, label: the step and process behind it.
        pid: None when the machine cannot know it (a refused creation on Windows).
        image_name: the name to be reported; None when ground truth does not tell it.
        status: CreationStatus to be reported: the denying status, else success.
        tolerance: the row that makes the notification optional, else None.
    """

    step: int | None
    label: str
    pid: int | None
    parent_pid: int
    creator_pid: int
    creator_tid: int
    image_name: str | None
    command_line: str | None
    file_open_name_available: bool
    is_subsystem_process: bool
    status: int
    tolerance: Tolerance | None = None


@dataclass(slots=True)
class ExpectedExit:
    """An exit notification that is due.

    Attributes:
        status: the exit status to be reported; None when ground truth does not tell it.
        may_be_late: it may come after the call that caused it has returned (process-notify.md section 3).
        tolerance: the row that makes the notification optional, else None.
    """

    step: int | None
    label: str
    pid: int | None
    status: int | None
    may_be_late: bool = False
    tolerance: Tolerance | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What follows from one attempt to create a process.

    Attributes:
        create: the create notification; None when none is due.
        exit: the exit notification of a creation that fails after its create; None otherwise.
        status: the creation's outcome: success, the denying status, or what its image makes of it.
        denied: a rule denies it.
    """

    create: ExpectedCreate | None
    exit: ExpectedExit | None
    status: int
    denied: bool


def predict_launch(launched: Launched, rules: RuleSet, kind: ImageKind, capabilities: int) -> Prediction:
    """Predict an attempt that reached the point where notifications are due.

    Args:
        launched: the attempt and its ground truth.
        rules: the rules in force.
        kind: what the executable is.
        capabilities: PROCNOTIFY_CAPABILITY_* of the driver.
    """
    result = launched.result
    if launched.subsystem and not capabilities & CAPABILITY_SUBSYSTEM_PROCESSES:
        return Prediction(None, None, status_of_image(kind), denied=False)
    by_file_object = launched.two_step or launched.clone or launched.subsystem
    name = None if result.image_name is None else canonical_text(result.image_name)
    if by_file_object and name is not None:
        name = volume_relative(name)
    command_line = None if by_file_object or result.command_line is None else canonical_text(result.command_line)
    denying = rules.status_for(name)
    status = status_of_image(kind) if denying is None else denying
    tolerance = CLONE_NOTIFIED if launched.clone else None
    create = ExpectedCreate(
        launched.step,
        launched.label,
        result.pid,
        result.parent_pid,
        result.creator_pid,
        result.creator_tid,
        name,
        command_line,
        not by_file_object,
        launched.subsystem,
        STATUS_SUCCESS if denying is None else denying,
        tolerance,
    )
    failed = None
    if status != STATUS_SUCCESS:
        failed = ExpectedExit(launched.step, launched.label, result.pid, status, may_be_late=True, tolerance=tolerance)
    return Prediction(create, failed, status, denying is not None)
