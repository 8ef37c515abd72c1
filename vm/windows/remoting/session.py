"""A session with the guest module: commands of the schema, checked on both sides, over a connection that may break.

After a lost connection the session is connected again with `reconnect`, which tells whether the guest was restarted in
between. A command that changes something is never repeated by itself, because its first run may have taken effect; one
that the schema calls repeatable is, unless the guest was restarted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from vm.windows.remoting.deadline import Deadline
from vm.windows.remoting.endpoint import Credentials, Endpoint
from vm.windows.remoting.errors import (
    ConnectionFailed,
    ConnectionLost,
    GuestCommandFailed,
    GuestNotResponding,
    GuestProtocolError,
    GuestRestarted,
    InvalidCommand,
    RemotingError,
    RequestRefused,
)
from vm.windows.remoting.module import GuestModule, load_module
from vm.windows.remoting.psrp import Call, PsrpConnection, properties
from vm.windows.remoting.schema import Command, Returns, Schema, guest_schema
from vm.windows.remoting.values import MalformedValue, Row, Value, from_guest, to_guest

logger = logging.getLogger(__name__)

DEFAULT_DEADLINE = 30.0
"""Seconds for a command that says nothing else."""

RETRY_SECONDS = 0.25
"""Pause between two attempts to reach a guest that is starting: nothing announces that its listener is up."""


_MAY_PASS = (ConnectionFailed, ConnectionLost, RequestRefused, GuestNotResponding)
"""What a guest that is starting or going down does; with these an attempt is worth repeating."""


@dataclass(frozen=True)
class GuestInfo:
    """What the guest module says of itself.

    Attributes:
        boot_id: the same as long as the guest was not restarted.
        process_id: of the process that runs the module.
        powershell: its version.
        system_time: the guest's clock, 100 ns units since 1601 UTC.
    """

    boot_id: str
    process_id: int
    powershell: str
    system_time: int


class GuestSession:
    """Commands of the guest module.

    Args:
        endpoint: where the guest listens.
        credentials: of an administrator.
        module: the guest module to run; it is sent to a guest that has another one. None for the one of this package.
        schema: the commands; None for those of this package.

    A session belongs to one worker. `connect` before anything else; `close` in the end, or use it as a context manager.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Credentials,
        *,
        module: GuestModule | None = None,
        schema: Schema | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._credentials = credentials
        self._module = module or load_module()
        self._schema = schema or guest_schema()
        self._connection: PsrpConnection | None = None
        self._info: GuestInfo | None = None
        self._aborted = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def info(self) -> GuestInfo:
        """What the module said when the session was connected last. Raises ConnectionFailed before that."""
        if self._info is None:
            raise ConnectionFailed("the session was never connected", endpoint=str(self.endpoint))
        return self._info

    @property
    def connected(self) -> bool:
        """False once an error broke the connection."""
        return self._connection is not None and self._connection.usable

    def connect(self, deadline: float = DEFAULT_DEADLINE) -> GuestInfo:
        """Connect once, and see to it that the guest runs this package's module.

        Raises:
            ConnectionFailed, GuestNotResponding: not within the deadline (seconds).
            IdentityChanged, CredentialsRefused, GuestProtocolError: no waiting will help.
        """
        return self._connect(Deadline(deadline))

    def connect_when_ready(self, deadline: float, *, alive: Callable[[], None] = lambda: None) -> GuestInfo:
        """Connect to a guest that is starting, trying until the deadline.

        Args:
            deadline: seconds.
            alive: called before each attempt; raises when there is no use in waiting any longer.

        Raises:
            ConnectionFailed, ConnectionLost, RequestRefused, GuestNotResponding: of the last attempt, when the deadline
                has passed.
            IdentityChanged, CredentialsRefused, GuestProtocolError: at once.
        """
        limit = Deadline(deadline, cancelled=self._aborted)
        while True:
            alive()
            try:
                return self._connect(limit)
            except _MAY_PASS as error:
                if limit.passed:
                    raise type(error)(
                        f"not reachable within {deadline:g} s; the last attempt: {error}", endpoint=str(self.endpoint)
                    ) from error
                limit.pause(RETRY_SECONDS)

    def reconnect(self, deadline: float = DEFAULT_DEADLINE) -> bool:
        """Connect again after the connection was lost, trying until the deadline. Raises as connect_when_ready.

        Returns:
            Whether the guest was restarted since it was connected last, so that nothing of what ran in it runs still.
        """
        before = self._info
        after = self.connect_when_ready(deadline)
        return before is None or before.boot_id != after.boot_id

    def call(self, name: str, *, deadline: float = DEFAULT_DEADLINE, **arguments: Value) -> list[Row]:
        """Run a command and wait for all it gives.

        Args:
            name: of the command.
            deadline: seconds.
            arguments: by parameter name; None leaves a parameter out.

        Raises:
            InvalidCommand: the schema has no such command or parameter, or the value does not fit.
            Win32Error: the guest's answer is a Win32 error.
            RemotingError: see vm.windows.remoting.errors for the kinds.
        """
        command = self._command(name)
        limit = Deadline(deadline)
        try:
            return list(self._rows(command, arguments, limit))
        except ConnectionLost as error:
            if not command.repeatable or limit.passed or self._aborted.is_set():
                raise
            logger.info("%s; connecting again", error)
        if self.reconnect(limit.remaining()):
            # What it answers now is of another run of it, in which nothing of the one before is left.
            raise GuestRestarted(
                "the guest was restarted while it was asked", endpoint=str(self.endpoint), command=command.name
            )
        return list(self._rows(command, arguments, limit))

    def one(self, name: str, *, deadline: float = DEFAULT_DEADLINE, **arguments: Value) -> Row:
        """Run a command that gives one object. Raises as `call`."""
        rows = self.call(name, deadline=deadline, **arguments)
        if len(rows) != 1:
            raise GuestProtocolError(f"{len(rows)} objects instead of one", endpoint=str(self.endpoint), command=name)
        return rows[0]

    def stream(self, name: str, *, deadline: float = DEFAULT_DEADLINE, **arguments: Value) -> Iterator[Row]:
        """Run a command and give each object as it arrives; closing the iterator stops the command.

        Raises as `call`, but repeats nothing: what was delivered cannot be taken back.
        """
        return self._rows(self._command(name), arguments, Deadline(deadline))

    def run_builtin(self, calls: list[Call], deadline: Deadline) -> list[object]:
        """Run cmdlets that every Windows has; for sending the module itself. Raises as `call`."""
        return list(self._usable().run(calls, deadline))

    def abort(self) -> None:
        """Break the connection, from any thread and without waiting: a call under way ends as ConnectionLost.

        The session is of no more use.
        """
        self._aborted.set()
        connection = self._connection
        if connection is not None:
            connection.abort()

    def close(self) -> None:
        """End the session; what it started in the guest ends with it. Closing twice does nothing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _command(self, name: str) -> Command:
        try:
            return self._schema[name]
        except KeyError:
            raise InvalidCommand(f"the guest module has no command {name}") from None

    def _usable(self) -> PsrpConnection:
        if self._connection is None or not self._connection.usable:
            raise ConnectionFailed("the session is not connected; connect it again", endpoint=str(self.endpoint))
        return self._connection

    def _rows(self, command: Command, arguments: dict[str, Value], deadline: Deadline) -> Iterator[Row]:
        sent = to_guest(command, arguments)
        start = time.monotonic()
        for item in self._usable().run([Call(command.name, sent)], deadline):
            found = properties(item)
            if command.returns is Returns.NONE or found is None:
                raise self._unexpected(command, f"{item!r:.80} instead of {command.returns.value} object")
            try:
                yield from_guest(command, found)
            except MalformedValue as error:
                raise self._unexpected(command, str(error)) from error
        logger.debug("%s: %s took %.3f s", self.endpoint, command.name, time.monotonic() - start)

    def _unexpected(self, command: Command, problem: str) -> RemotingError:
        return GuestProtocolError(problem, endpoint=str(self.endpoint), command=command.name)

    def _connect(self, deadline: Deadline) -> GuestInfo:
        self._open(deadline)
        try:
            self._info = self._load(deadline)
        except BaseException:
            self.close()
            raise
        return self._info

    def _load(self, deadline: Deadline) -> GuestInfo:
        """Have the guest run this package's module; send it where the guest has none, or another one."""
        try:
            found = self._module.load_into(self, deadline)
        except GuestCommandFailed as error:
            logger.info("%s: the guest has no module to run (%s)", self.endpoint, error)
            found = None
        if found is None:
            self._module.send(self, deadline)
            # .NET types stay loaded as long as their process lives, so the new module gets a new one.
            self._open(deadline)
            found = self._module.load_into(self, deadline)
        command = self._command("Get-NtproofGuestInfo")
        if found is None:
            raise self._unexpected(command, "the module that was sent is not the one that answers")
        try:
            row = from_guest(command, found)
        except MalformedValue as error:
            raise self._unexpected(command, str(error)) from error
        if row["SchemaVersion"] != self._schema.version:
            raise self._unexpected(command, f"schema {row['SchemaVersion']!r} instead of {self._schema.version}")
        return _guest_info(row)

    def _open(self, deadline: Deadline) -> None:
        self.close()
        self._connection = PsrpConnection(self.endpoint, self._credentials)
        try:
            self._connection.open(deadline)
        except BaseException:
            self.close()
            raise


def _guest_info(row: Row) -> GuestInfo:
    return GuestInfo(
        boot_id=str(row["BootId"]),
        process_id=_integer(row["ProcessId"]),
        powershell=str(row["PowerShellVersion"]),
        system_time=_integer(row["SystemTime"]),
    )


def _integer(value: Value) -> int:
    assert isinstance(value, int)  # the schema says so, and from_guest has seen to it
    return value
