"""Watches an installation: reads the guest's reports, holds the deadlines, and keeps pictures of the screen."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, Protocol

from vm.errors import MachineBroken, MachineError
from vm.windows.images.guest_report import (
    GuestEvent,
    GuestFacts,
    ReportReader,
    SetupDone,
    SetupFailed,
    StepEnded,
    StepStarted,
)
from vm.windows.images.hypervisor import InstallingMachine

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deadlines:
    """How long an installation may take, in seconds.

    Attributes:
        first_report: from the start until the guest reports its first step; Windows setup itself says nothing.
        step: for one step of the set-up in the guest.
        shutdown: from the last report until the machine is off.
        look: how often the machine is looked at, and a picture is taken when that was asked for.
    """

    first_report: float = 4 * 3600.0
    step: float = 3600.0
    shutdown: float = 900.0
    look: float = 10.0


class InstallationListener(Protocol):
    """Is told what the guest reports."""

    def guest_event(self, event: GuestEvent) -> None:
        """The guest reported something."""

    def screenshot(self, path: Path) -> None:
        """A picture of the screen was written."""


def install(
    machine: InstallingMachine,
    listener: InstallationListener,
    deadlines: Deadlines,
    *,
    pictures: Path,
    watch: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> GuestFacts:
    """Wait until the guest has set itself up and is off.

    Args:
        machine: the machine, which runs.
        listener: is told what the guest reports.
        deadlines: how long it may take.
        pictures: where a picture of the screen goes when something fails, and all the time when it is watched.
        watch: whether to take pictures all the time.
        clock: seconds that never go back.

    Returns:
        What the guest said of itself.

    Raises:
        MachineBroken: a step failed, a deadline passed, or the machine went off before its set-up was done; the message
            names the step, the deadline and the picture.
    """
    return _Watch(machine, listener, deadlines, pictures, watch, clock).until_off()


class _Watch:
    def __init__(
        self,
        machine: InstallingMachine,
        listener: InstallationListener,
        deadlines: Deadlines,
        pictures: Path,
        watch: bool,
        clock: Callable[[], float],
    ) -> None:
        self._machine = machine
        self._listener = listener
        self._deadlines = deadlines
        self._pictures = pictures
        self._watch = watch
        self._clock = clock
        self._reader = ReportReader()
        self._waits_for = "the guest's first report"
        self._until = clock() + deadlines.first_report
        self._picture_due = clock()
        self._facts: GuestFacts | None = None

    def until_off(self) -> GuestFacts:
        while True:
            left = self._until - self._clock()
            if left <= 0:
                self._fail(f"nothing came while waiting for {self._waits_for}; the deadline has passed")
            data = self._machine.read_serial(min(left, self._deadlines.look))
            if data is None:
                break
            for event in self._events(data):
                self._take(event)
            self._show()
        if self._facts is None:
            raise MachineBroken(f"the machine went off while waiting for {self._waits_for}: setup was ended or crashed")
        return self._facts

    def _events(self, data: bytes) -> list[GuestEvent]:
        try:
            return self._reader.feed(data)
        except MachineBroken as error:
            self._fail(str(error))

    def _take(self, event: GuestEvent) -> None:
        self._listener.guest_event(event)
        match event:
            case StepStarted(step):
                _LOG.info("guest: step %s", step)
                self._wait(f"the end of step {step}", self._deadlines.step)
            case StepEnded(step, seconds):
                _LOG.info("guest: step %s done in %.1f s", step, seconds)
                self._wait(f"what follows step {step}", self._deadlines.step)
            case SetupFailed(step, message, where):
                _LOG.error("guest: step %s failed at %s: %s", step, where, message)
                self._fail(f"step {step} of the set-up failed at {where}: {message}")
            case SetupDone(facts):
                _LOG.info("guest: set up, build %d.%d", facts.build, facts.revision)
                self._facts = facts
                self._wait("the machine to shut down", self._deadlines.shutdown)

    def _wait(self, what: str, seconds: float) -> None:
        self._waits_for = what
        self._until = self._clock() + seconds

    def _show(self) -> None:
        if self._watch and self._clock() >= self._picture_due:
            self._picture_due = self._clock() + self._deadlines.look
            self._take_picture()

    def _take_picture(self) -> str:
        """Write a picture; what that gave, for a message."""
        try:
            data = self._machine.screenshot()
            unfinished = self._pictures.with_name(self._pictures.name + ".partial")
            unfinished.write_bytes(data)
            unfinished.replace(self._pictures)
        except (MachineError, OSError) as error:
            # It is only an illustration: what it illustrates is told all the same.
            return f"there is no picture of the screen ({error})"
        self._listener.screenshot(self._pictures)
        return f"the screen is in {self._pictures}"

    def _fail(self, what: str) -> NoReturn:
        raise MachineBroken(f"{what}; {self._take_picture()}")
