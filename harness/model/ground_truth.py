"""Holds what a machine says it did against what the scenario asked of it.

Ground truth that contradicts the scenario is not the driver's fault: nothing can be judged by it.
"""

from __future__ import annotations

from collections.abc import Callable

from harness.capture import Launched
from harness.errors import InputError
from harness.notification import canonical_text
from harness.scenario import Clone, Launch
from harness.verdict import show_text


def require_launch(item: Launched, step: Launch | Clone, pid_of: Callable[[str], int]) -> None:
    """Require that an attempt to create a process was the one that the scenario has.

    Args:
        item: the attempt.
        step: the scenario's step.
        pid_of: the pid of a process that runs, by its label.

    Raises:
        InputError: the ground truth is of another attempt.
    """
    result = item.result
    if isinstance(step, Clone):
        _require(item, "parent", pid_of(step.of), result.parent_pid)
        return
    if step.creator is not None:
        _require(item, "creator", pid_of(step.creator), result.creator_pid)
    parent = step.parent if step.parent is not None else step.creator
    if parent is not None:
        _require(item, "parent", pid_of(parent), result.parent_pid)
    else:
        _require(item, "parent", result.creator_pid, result.parent_pid)
    for flag in ("suspended", "two_step", "subsystem"):
        _require(item, flag, getattr(step, flag), getattr(item, flag))
    _require(item, "image", step.image, item.image)
    if step.command_line is not None and result.command_line is not None:
        asked, told = canonical_text(step.command_line), canonical_text(result.command_line)
        _require(item, "command line", show_text(asked), show_text(told))


def _require(item: Launched, what: str, asked: object, told: object) -> None:
    if asked != told:
        place = f"capture: step {item.step}, {item.label!r}"
        raise InputError(f"{place}: the scenario asks for {what} {asked}, the machine says {told}")
