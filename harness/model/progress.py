"""Follows a capture through its scenario: each step must have left its item, in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from harness import capture as captured
from harness.capture import CaptureHeader, CaptureItem
from harness.errors import InputError
from harness.scenario import (
    Clone,
    ExitProcess,
    Launch,
    ProvideImage,
    ReadRules,
    Resume,
    Scenario,
    SetRules,
    StartDriver,
    Step,
    StopDriver,
    Terminate,
)
from harness.scenario_json import scenario_hash, step_name

_ITEM_OF_STEP: Final[Mapping[type[Step], type[CaptureItem]]] = {
    SetRules: captured.RulesSet,
    ProvideImage: captured.ImageProvided,
    Launch: captured.Launched,
    Clone: captured.Launched,
    Resume: captured.Resumed,
    ExitProcess: captured.Ended,
    Terminate: captured.Ended,
    StartDriver: captured.DriverStarted,
    StopDriver: captured.DriverStopped,
    ReadRules: captured.RulesRead,
}
_LEFT_BY_A_STEP: Final = frozenset(_ITEM_OF_STEP.values())


class Progress:
    """Where a capture is in its scenario.

    Attributes:
        has_truth: the capture holds ground truth, not notifications alone.
    """

    def __init__(self, header: CaptureHeader, scenario: Scenario | None) -> None:
        """Begin.

        Raises:
            InputError: the capture was made with another scenario.
        """
        self._scenario = scenario
        self._next = 0
        self.has_truth = False
        if scenario is not None and header.scenario_sha256 not in (None, scenario_hash(scenario)):
            message = f"capture: made with scenario {header.scenario!r} of another content than {scenario.name!r}"
            raise InputError(f"{message}; give the scenario file it was made with")

    def follow(self, item: CaptureItem) -> None:
        """Go on to an item of ground truth. Raises InputError when the scenario has no such item here."""
        self.has_truth = True
        if self._scenario is None:
            return
        if isinstance(item, captured.Completed):
            self._pass_over(len(self._scenario.steps))
            return
        step = getattr(item, "step", None)
        if step is None:
            return
        if isinstance(item, (captured.Skipped, captured.CallFailed)):
            self._take(step)
        elif type(item) in _LEFT_BY_A_STEP:
            self._take(step)
            self._match(item, step)

    def _take(self, step: int) -> None:
        if step >= len(self._scenario_steps):
            raise InputError(f"capture: step {step} is beyond the scenario, which has {len(self._scenario_steps)}")
        self._pass_over(step)
        self._next = max(self._next, step + 1)

    def _pass_over(self, until: int) -> None:
        """Steps that leave no item of their own may be passed over."""
        for index in range(self._next, until):
            step = self._scenario_steps[index]
            if type(step) in _ITEM_OF_STEP:
                raise InputError(f"capture: nothing was captured of step {index} ({step_name(step)})")
        self._next = max(self._next, until)

    def _match(self, item: CaptureItem, index: int) -> None:
        step = self._scenario_steps[index]
        label = getattr(step, "label", None)
        if _ITEM_OF_STEP.get(type(step)) is not type(item) or getattr(item, "label", None) != label:
            found = type(item).__name__
            raise InputError(f"capture: step {index} is {step_name(step)} {label or ''}, the capture has {found}")
        if isinstance(step, SetRules) and isinstance(item, captured.RulesSet) and item.rules != step.rules:
            raise InputError(f"capture: step {index} sets other rules than the capture says")
        ends = isinstance(step, (ExitProcess, Terminate)) and isinstance(item, captured.Ended)
        if ends and item.status != step.status:  # type: ignore[union-attr]
            raise InputError(f"capture: step {index} ends a process with another status than the capture says")

    @property
    def _scenario_steps(self) -> tuple[Step, ...]:
        assert self._scenario is not None
        return self._scenario.steps
