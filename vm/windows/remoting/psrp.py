"""PowerShell Remoting to one guest: structured commands in a runspace pool, polled under a deadline.

No script text is ever built: a command is a name and typed parameters. A connection belongs to one worker; pypsrp's
objects do not survive being shared between threads.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from xml.etree.ElementTree import ParseError

import requests
from pypsrp.complex_objects import GenericComplexObject, PSInvocationState, RunspacePoolState
from pypsrp.exceptions import AuthenticationError, WinRMError, WinRMTransportError, WSManFaultError
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.wsman import WSMan
from spnego.exceptions import SpnegoError

from vm.errors import MachineError
from vm.windows.remoting import transport
from vm.windows.remoting.deadline import Deadline
from vm.windows.remoting.endpoint import Credentials, Endpoint
from vm.windows.remoting.error_records import error_of_record
from vm.windows.remoting.errors import (
    CommandTimedOut,
    ConnectionFailed,
    ConnectionLost,
    CredentialsRefused,
    GuestCommandFailed,
    GuestNotResponding,
    GuestProtocolError,
    GuestRestarted,
    IdentityChanged,
    RemotingError,
    RequestRefused,
)

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 1
"""How long a Receive waits in the guest for output; deadlines are kept to about this. Output itself comes at once."""

STOP_SECONDS: Final = 5.0
"""How long a command may take to stop when it is told to."""

CLOSE_SECONDS: Final = 5.0
"""How long ending a session may take; what is left of it then, the guest ends by itself."""

ENVELOPE_BYTES: Final = 500 * 1024
"""WinRM's MaxEnvelopeSizekb since Windows 8 and Server 2012 (Microsoft: Installation and configuration for WinRM)."""

FAULT_SHELL_UNKNOWN: Final = 2150858843
"""ERROR_WSMAN_UNEXPECTED_SELECTORS, 0x8033805B (wsmerror.h): the guest knows no such shell."""

FAULT_ABORTED: Final = 995
"""ERROR_OPERATION_ABORTED (winerror.h): the shell is closing under the request."""


@dataclass(frozen=True)
class Call:
    """A cmdlet or function with its parameters, as pypsrp serialises them; None makes a switch."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


class PsrpConnection:
    """A runspace pool with one runspace.

    Args:
        endpoint: where, and with which certificate.
        credentials: of an administrator of the guest.

    `open` before anything else, and `close` in the end. After an error that broke the connection, `usable` is False and
    only `close` makes sense.
    """

    def __init__(self, endpoint: Endpoint, credentials: Credentials) -> None:
        self.endpoint = endpoint
        self.usable = False
        self._in_use = threading.Lock()
        self._wsman = WSMan(
            endpoint.host,
            port=endpoint.port,
            username=credentials.username,
            password=credentials.password,
            ssl=True,
            auth=endpoint.authentication,
            max_envelope_size=ENVELOPE_BYTES,
            operation_timeout=int(transport.REQUEST_SECONDS),
        )
        self._transport = transport.install(self._wsman, endpoint, credentials, Deadline(0))
        self._pool = RunspacePool(self._wsman)

    def open(self, deadline: Deadline) -> None:
        """Connect and make the runspace.

        Raises:
            ConnectionFailed: nobody listens, or the listener went away.
            GuestNotResponding: no answer within the deadline.
            IdentityChanged, CredentialsRefused: see vm.windows.remoting.errors.
        """
        self._transport.deadline = deadline
        with self._translated(None, started=False, deadline=deadline):
            self._pool.open()
        self.usable = True

    def run(self, calls: Sequence[Call], deadline: Deadline) -> Iterator[Any]:
        """Run calls one after the other as one pipeline, and give their output as it arrives.

        Closing the iterator early stops the pipeline in the guest.

        Raises:
            Win32Error: a command of the guest module failed with a Win32 code.
            GuestCommandFailed: a call ended with any other error; what it gave before was delivered.
            CommandTimedOut: the deadline passed; the pipeline was stopped.
            GuestNotResponding: the deadline passed and the guest answers nothing.
            ConnectionLost, ConnectionFailed, GuestRestarted: the connection is gone.
        """
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("a remoting connection runs one command at a time; give each worker its own")
        try:
            yield from self._run(calls, deadline)
        finally:
            self._in_use.release()

    def close(self) -> None:
        """End the session in the guest where it can be reached, and every connection. Raises nothing."""
        self._transport.deadline = Deadline(CLOSE_SECONDS)
        if self.usable and self._pool.state == RunspacePoolState.OPENED:
            try:
                self._pool.close()
            except (*_TRANSPORT_ERRORS, MachineError) as error:
                logger.debug("%s: the session could not be ended: %s", self.endpoint, error)
        self.usable = False
        self._transport.close()

    def abort(self) -> None:
        """Break the connection, from any thread and without waiting: a command under way ends as ConnectionLost."""
        self.usable = False
        self._transport.abort()

    def _run(self, calls: Sequence[Call], deadline: Deadline) -> Iterator[Any]:
        name = calls[-1].name
        self._transport.deadline = deadline
        shell = PowerShell(self._pool)
        for number, call in enumerate(calls):
            if number:
                shell.add_statement()
            shell.add_cmdlet(call.name).add_parameters(dict(call.parameters))
        with self._translated(name, started=False, deadline=deadline):
            shell.begin_invoke()
        try:
            while shell.state == PSInvocationState.RUNNING:
                if deadline.passed:
                    raise CommandTimedOut(
                        f"did not end within {deadline.seconds:g} s; the guest answers, the command was told to stop",
                        endpoint=str(self.endpoint),
                        command=name,
                    )
                with self._translated(name, started=True, deadline=deadline):
                    shell.poll_invoke(timeout=POLL_SECONDS)
                # pypsrp keeps every object; a long stream is handed on instead.
                output, shell.output = shell.output, []
                yield from output
                self._log_streams(name, shell)
        finally:
            self._finish(name, shell)
        if shell.streams.error:
            with self._translated(name, started=True, deadline=deadline):
                error = error_of_record(shell.streams.error[0], endpoint=str(self.endpoint), command=name)
            raise error
        if shell.state != PSInvocationState.COMPLETED:
            raise GuestCommandFailed("ended early and left no error", endpoint=str(self.endpoint), command=name)

    def _finish(self, name: str, shell: PowerShell) -> None:
        """Stop what still runs and release the pipeline; a pipeline that is not closed stays in the guest for ever."""
        if not self.usable:
            return
        self._transport.deadline = Deadline(STOP_SECONDS)
        try:
            if shell.state == PSInvocationState.RUNNING:
                shell.stop()
            shell.close()
        except (*_TRANSPORT_ERRORS, MachineError) as error:
            # The command's own outcome is what the caller wants to know; the next one finds out about the connection.
            self.usable = False
            logger.debug("%s: %s could not be closed: %s", self.endpoint, name, error)

    def _log_streams(self, name: str, shell: PowerShell) -> None:
        for warning in shell.streams.warning:
            logger.warning("%s: %s: %s", self.endpoint, name, warning)
        for stream in (shell.streams.warning, shell.streams.progress, shell.streams.verbose, shell.streams.information):
            stream.clear()

    @contextmanager
    def _translated(self, command: str | None, *, started: bool, deadline: Deadline) -> Iterator[None]:
        """Turn what pypsrp and the transport raise into errors of this package, and note what broke the connection.

        Args:
            command: the command under way.
            started: whether the guest has it, so that a lost connection leaves its outcome open.
            deadline: of the command.
        """
        try:
            yield
        except _TRANSPORT_ERRORS as error:
            self.usable = False
            raise self._translate(error, command, started=started, deadline=deadline) from error
        except IdentityChanged:
            self.usable = False
            raise

    def _translate(self, error: Exception, command: str | None, *, started: bool, deadline: Deadline) -> RemotingError:
        kind, problem = _diagnose(error, started=started, deadline=deadline)
        if command and issubclass(kind, ConnectionLost | GuestNotResponding):
            problem += "; whether the command took effect has to be asked"
        return kind(problem, endpoint=str(self.endpoint), command=command)


def properties(item: Any) -> Mapping[str, Any] | None:
    """The properties of an object from the guest, None for anything that is no object."""
    if not isinstance(item, GenericComplexObject):
        return None
    return {**item.adapted_properties, **item.extended_properties}


def _diagnose(error: Exception, *, started: bool, deadline: Deadline) -> tuple[type[RemotingError], str]:
    match error:
        case transport.NotConnected() if started:
            return ConnectionLost, f"the connection is gone ({error})"
        case transport.NotConnected():
            return ConnectionFailed, f"no connection ({error})"
        case transport.Broken():
            return ConnectionLost, f"the connection broke ({error})"
        case transport.Silent():
            waited = deadline.seconds if deadline.passed else transport.REQUEST_SECONDS
            return GuestNotResponding, f"no answer within {waited:g} s: the guest is frozen or cut off"
        case AuthenticationError() | SpnegoError():
            return CredentialsRefused, f"the guest refuses these credentials ({error})"
        case WSManFaultError() if error.code in {FAULT_SHELL_UNKNOWN, FAULT_ABORTED}:
            return GuestRestarted, "the guest has no such session any more: it was restarted"
        case WSManFaultError():
            return RequestRefused, f"WinRM refuses the request: {error.reason} (fault {error.code})"
        case WinRMTransportError():
            return RequestRefused, f"WinRM answers with HTTP status {error.code}"
        case _:
            return GuestProtocolError, f"an answer that is not PowerShell Remoting ({error})"


# HTTPNegotiateAuth raises ValueError where the listener offers no authentication that fits. For an answer that is not
# as MS-PSRP has it, pypsrp has no error of its own: it fails in whatever reads the answer.
_TRANSPORT_ERRORS = (
    transport.NotConnected,
    transport.Broken,
    transport.Silent,
    transport.TooLong,
    requests.RequestException,
    SpnegoError,
    WinRMError,
    ParseError,
    ValueError,
    AttributeError,
    LookupError,
    TypeError,
    OverflowError,
    RecursionError,
    struct.error,
)
