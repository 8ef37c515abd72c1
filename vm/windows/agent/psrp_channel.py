"""An agent over PowerShell Remoting, for guests without an SSH server: slower, and as the administrator only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from vm.errors import MachineError, Win32Error
from vm.windows.agent.errors import AgentTimedOut
from vm.windows.remoting.deadline import Deadline
from vm.windows.remoting.errors import ConnectionFailed, ConnectionLost
from vm.windows.remoting.guest import Guest, GuestAgent
from vm.windows.remoting.session import GuestSession

_WAIT: Final = 5.0
"""Seconds that one call waits in the guest for a line."""


class PsrpChannel:
    """See vm.windows.agent.channel.Channel.

    Args:
        session: connected, and used for nothing else at the same time.
        program: the program's path.

    Raises:
        ConnectionFailed: the guest does not start it.
        Others: see vm.windows.remoting.errors.
    """

    def __init__(self, session: GuestSession, program: str) -> None:
        self._session = session
        self._program = program
        self._agent: GuestAgent | None = None
        try:
            self._agent = Guest(session).start_agent(program)
        except Win32Error as error:
            # Of a call that a test makes this would be an ordinary answer; without the program there are no answers.
            raise ConnectionFailed(f"{program} cannot be started: {error}", endpoint=self.endpoint) from error
        self._waiting: list[bytes] = []
        self._held: str | None = None

    @property
    def endpoint(self) -> str:
        """The WinRM listener."""
        return str(self._session.endpoint)

    def send(self, lines: bytes, deadline: Deadline) -> None:  # noqa: ARG002 - each command has a deadline of its own
        """Give the program lines."""
        agent = self._running()
        *first, self._held = [*self._held_lines(), *lines.decode("ascii").splitlines()]
        with self._program_alive():
            for line in first:
                agent.send(line)

    def receive(self, deadline: Deadline) -> bytes:
        """What the program wrote next."""
        agent = self._running()
        while True:
            wait = min(_WAIT, deadline.remaining())
            held = self._held_lines()
            with self._program_alive():
                found = agent.ask(held[0], wait) if held else agent.lines(wait)
            for line in found:
                if line.stream == "exit":
                    raise self._lost(f"{self._program} ended with exit code {line.exit_code}")
                if line.stream == "out":
                    # What no UTF-8 can hold is for the reader of the lines to judge.
                    self._waiting.append(line.text.encode("utf-8", "surrogatepass") + b"\n")
            if self._waiting:
                data, self._waiting = b"".join(self._waiting), []
                return data
            if deadline.passed:
                raise AgentTimedOut(
                    f"{self._program} answered nothing for {deadline.seconds:g} s", endpoint=self.endpoint
                )

    def abort(self) -> None:
        """End every call that waits."""
        self._session.abort()

    def close(self) -> None:
        """End the program."""
        agent, self._agent = self._agent, None
        if agent is not None and self._session.connected:
            with suppress(MachineError):
                agent.stop()

    def _held_lines(self) -> list[str]:
        """The last line that was given: it goes out with the call that asks for its answer, which halves the calls."""
        held, self._held = self._held, None
        return [] if held is None else [held]

    @contextmanager
    def _program_alive(self) -> Iterator[None]:
        try:
            yield
        except Win32Error as error:
            raise self._lost(str(error)) from error

    def _running(self) -> GuestAgent:
        if self._agent is None:
            raise self._lost("it was closed")
        return self._agent

    def _lost(self, reason: str) -> ConnectionLost:
        return ConnectionLost(f"the agent is gone: {reason}", endpoint=self.endpoint)
