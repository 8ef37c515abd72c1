"""What drivers print: DbgPrint output and remarks of the kernel, kept line by line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

_MAXIMUM_LINES = 10_000


@dataclass
class DebugLogState:
    """What a checkpoint keeps."""

    lines: list[str] = field(default_factory=list)
    unfinished: str = ""
    lost: int = 0


class DebugLog:
    """Lines printed since they were last taken; the oldest go when a driver prints without end."""

    def __init__(self, _kernel: Kernel) -> None:
        self.state = DebugLogState()

    def rebind(self) -> None:
        """Nothing is cached."""

    def write(self, text: str) -> None:
        """Printed text: a line ends at its line feed, as in a debugger."""
        *lines, rest = (self.state.unfinished + text).split("\n")
        self.state.unfinished = rest
        for line in lines:
            self.line(line.rstrip("\r"))

    def line(self, text: str) -> None:
        """One whole line."""
        state = self.state
        state.lines.append(text)
        if len(state.lines) > _MAXIMUM_LINES:
            del state.lines[0]
            state.lost += 1

    def take(self) -> list[str]:
        """All lines so far, which are forgotten."""
        state = self.state
        lines = state.lines
        if state.lost:
            lines = [f"({state.lost} earlier lines were lost)", *lines]
        if state.unfinished:
            lines = [*lines, state.unfinished]
        self.state = DebugLogState()
        return lines
