"""The programs of the emulated machine: the agent that makes calls, what it launched, which handles are still good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vm.emulated.ke.threads import Thread
    from vm.emulated.kernel import Kernel

AGENT_IMAGE = "C:\\Windows\\System32\\services.exe"


@dataclass
class UserModeState:
    """What a checkpoint keeps of the programs that run on the machine."""

    agent: int = 0
    threads: list[int] = field(default_factory=list)
    """Threads of the agent: one, and one more for each call that waits in the kernel while others are made."""
    launched: dict[int, str] = field(default_factory=dict)
    """Pid to image, for processes made through the machine, until they end."""


class UserMode:
    """The agent process and what it launched."""

    def __init__(self, kernel: Kernel) -> None:
        self.state = UserModeState()
        agent = kernel.ps.new_process(
            kernel.files.open_name(AGENT_IMAGE), kernel.files.file_name(AGENT_IMAGE), AGENT_IMAGE, parent_pid=4
        )
        agent.critical = True
        self.state.agent = agent.pid
        self._kernel = kernel
        thread = kernel.ps.insert_first_thread(agent)
        thread.previous_mode = 1
        self.state.threads.append(thread.tid)

    def rebind(self) -> None:
        """Nothing is cached."""

    def thread(self) -> Thread:
        """A thread of the agent that is not waiting in the kernel."""
        threads = self._kernel.threads
        for tid in self.state.threads:
            thread = threads.state.threads[tid]
            if threads.is_free(thread):
                return thread
        thread = self._kernel.ps.add_user_thread(self._kernel.ps.process(self.state.agent))
        self._kernel.events.thread_created(threads.state.threads[self.state.threads[0]], thread)
        self.state.threads.append(thread.tid)
        return thread


class History:
    """Which handles exist: those of the present line of events, up to where it left each line that it came from.

    A restore starts a new line. A moment is a line and a serial number on it.
    """

    def __init__(self, line: int = 0, origins: Mapping[int, int] | None = None) -> None:
        self.line = line
        self.serial = 0
        self.origins = dict(origins or {})

    def now(self) -> tuple[int, int]:
        """A new moment."""
        self.serial += 1
        return self.line, self.serial

    def includes(self, moment: tuple[int, int]) -> bool:
        """True when this history passed through a moment."""
        line, serial = moment
        return serial <= (self.serial if line == self.line else self.origins.get(line, -1))

    def copy(self) -> History:
        """This history as it is now."""
        copied = History(self.line, self.origins)
        copied.serial = self.serial
        return copied

    def branch(self, line: int) -> History:
        """A new line that starts here."""
        return History(line, {**self.origins, self.line: self.serial})
