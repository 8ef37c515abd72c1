"""Lines to and from a program in a guest, whatever carries them."""

from __future__ import annotations

from typing import Protocol

from vm.windows.remoting.deadline import Deadline


class Channel(Protocol):
    """The two ends of a program's standard input and output. One thread uses it; `abort` is for any thread."""

    @property
    def endpoint(self) -> str:
        """``host:port`` that the program is reached through."""

    def send(self, lines: bytes, deadline: Deadline) -> None:
        """Give the program whole lines, each with its line feed.

        Raises:
            ConnectionLost: the program or the connection is gone.
            AgentTimedOut: the program takes nothing.
        """

    def receive(self, deadline: Deadline) -> bytes:
        """What the program wrote next, waiting for it until the deadline; any part of any number of lines.

        Raises:
            ConnectionLost: the program or the connection is gone.
            AgentTimedOut: the program wrote nothing.
        """

    def abort(self) -> None:
        """End every call that waits, from any thread and without waiting; the channel is of no more use."""

    def close(self) -> None:
        """End the program by closing its input; closing twice does nothing."""
