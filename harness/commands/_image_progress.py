"""How the build of an image is shown: a line for each stage and each step in the guest, with its time."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from vm.windows.images.guest_report import GuestEvent, SetupDone, SetupFailed, StepEnded, StepStarted
from vm.windows.images.stages import Stage

TENTHS = 10


class PrintedProgress:
    """Prints what happens; large copies tell every tenth on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._told = 0
        self._shown = False

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def stage_started(self, stage: Stage) -> None:
        """A stage began."""
        self._told = 0
        self._print(f"{stage.name}: {stage.title}")

    def stage_ended(self, stage: Stage, seconds: float, *, again: bool) -> None:
        """A stage is done."""
        self._print(f"{stage.name}: {f'done in {seconds:.1f} s' if again else 'done before'}")

    def stage_failed(self, stage: Stage, seconds: float) -> None:
        """A stage failed; the error is printed by the command."""
        self._print(f"{stage.name}: failed after {seconds:.1f} s")

    def progress(self, done: int, total: int) -> None:
        """Bytes of the current stage."""
        reached = TENTHS * done // max(total, 1)
        if reached > self._told and self._stream.isatty():
            self._print(f"  {reached * 100 // TENTHS} %")
        self._told = max(self._told, reached)

    def guest_event(self, event: GuestEvent) -> None:
        """The guest reported something."""
        match event:
            case StepStarted(step):
                self._print(f"  guest: {step}")
            case StepEnded(step, seconds):
                self._print(f"  guest: {step} done in {seconds:.1f} s")
            case SetupFailed(step, message, where):
                self._print(f"  guest: {step} failed at {where}: {message}")
            case SetupDone(facts):
                self._print(f"  guest: set up, Windows build {facts.build}.{facts.revision}")
                self._print(f"  guest: certificate {facts.certificate_sha256}, SSH host key {facts.ssh_fingerprint}")

    def screenshot(self, path: Path) -> None:
        """A picture of the screen was written; where it is is told once."""
        if not self._shown:
            self._print(f"  screen: {path}")
            self._shown = True
