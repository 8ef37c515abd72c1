"""An agent over SSH: a program that the guest's OpenSSH server starts, as the user that is logged in."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import paramiko

from vm.windows.agent.errors import AgentTimedOut
from vm.windows.remoting.deadline import Deadline
from vm.windows.remoting.errors import ConnectionLost
from vm.windows.remoting.ssh import SshConnection

_CHUNK: Final = 1 << 16


class SshChannel:
    """See vm.windows.agent.channel.Channel.

    Args:
        connection: logged in; other channels may use it too.
        program: the program's path.

    Raises:
        ConnectionFailed: the server does not start it, or the connection is gone.
    """

    def __init__(self, connection: SshConnection, program: str) -> None:
        self._connection = connection
        self._program = program
        self._channel = connection.run(program)

    @property
    def endpoint(self) -> str:
        """The SSH server."""
        return str(self._connection.endpoint)

    def send(self, lines: bytes, deadline: Deadline) -> None:
        """Give the program lines."""
        left = memoryview(lines)
        try:
            while left:
                left = left[self._send_some(left[:_CHUNK], deadline) :]
        except TimeoutError as error:
            raise AgentTimedOut(
                f"{self._program} took nothing for {deadline.seconds:g} s", endpoint=self.endpoint
            ) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._lost(str(error)) from error

    def receive(self, deadline: Deadline) -> bytes:
        """What the program wrote next."""
        self._limit(deadline)
        try:
            data = bytes(self._channel.recv(_CHUNK))
        except TimeoutError as error:
            raise AgentTimedOut(
                f"{self._program} answered nothing for {deadline.seconds:g} s", endpoint=self.endpoint
            ) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._lost(str(error)) from error
        if not data:
            raise self._lost(self._end())
        return data

    def abort(self) -> None:
        """End every call that waits."""
        self._connection.abort()

    def close(self) -> None:
        """End the program."""
        # What is gone already cannot be told to end.
        with suppress(paramiko.SSHException, EOFError, OSError):
            self._channel.close()

    def _send_some(self, data: memoryview, deadline: Deadline) -> int:
        """Send what the other side has room for: the library's own time limit is one for each such piece."""
        if deadline.passed:
            raise TimeoutError
        self._limit(deadline)
        return int(self._channel.send(bytes(data)))

    def _limit(self, deadline: Deadline) -> None:
        self._channel.settimeout(max(deadline.remaining(), 0.01))

    def _end(self) -> str:
        if not self._connection.alive:
            return "the connection broke"
        code = f" with exit code {self._channel.recv_exit_status()}" if self._channel.exit_status_ready() else ""
        complaint = b""
        if self._channel.recv_stderr_ready():
            complaint = self._channel.recv_stderr(400)
        said = complaint.decode(errors="replace").strip()
        return f"{self._program} ended{code}{f': {said}' if said else ''}"

    def _lost(self, reason: str) -> ConnectionLost:
        return ConnectionLost(f"the agent is gone: {reason or 'the connection broke'}", endpoint=self.endpoint)
