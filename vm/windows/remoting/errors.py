"""Errors of remoting, by what has to happen next.

    MachineBroken (infrastructure; vm.errors)
    `- RemotingError               base of everything below; carries the endpoint and the command
       |- ConnectionFailed         no answer to a connection: nothing was sent
       |- ConnectionLost           it broke while a command ran: whether the command took effect has to be asked
       |  `- GuestRestarted        the guest no longer knows the session: it was restarted
       |- RequestRefused           WinRM answers with a fault or an HTTP status; a guest that starts or stops does so
       |- GuestNotResponding       the deadline passed and the guest answers nothing: frozen, or cut off
       |- CommandTimedOut          the deadline passed, the guest answers, the command does not end
       |- IdentityChanged          another certificate or host key than the pinned one
       |- CredentialsRefused       user name or password are wrong
       |- GuestCommandFailed       the command ended with an error that has no Win32 code
       |- GuestProtocolError       the guest's answer is not what the command schema says
       `- TransferFailed           a file did not arrive as it was sent
    Win32Error (an ordinary answer; vm.errors)
    InvalidCommand (ValueError)    the calling code gave a command or an argument that the schema does not have

A session that raised ConnectionFailed, ConnectionLost, RequestRefused, GuestNotResponding or IdentityChanged is of no
more use until it is connected again.
"""

from __future__ import annotations

from vm.errors import MachineBroken


class InvalidCommand(ValueError):
    """A command, parameter or value that the command schema does not have: a defect of the calling code."""


class RemotingError(MachineBroken):
    """Base class.

    Attributes:
        endpoint: ``host:port`` of the guest.
        command: the guest command under way, None outside of one.
    """

    def __init__(self, problem: str, *, endpoint: str, command: str | None = None) -> None:
        during = f" during {command}" if command else ""
        super().__init__(f"{endpoint}{during}: {problem}")
        self.endpoint = endpoint
        self.command = command


class ConnectionFailed(RemotingError):
    """No connection could be made."""


class ConnectionLost(RemotingError):
    """The connection broke while a command ran; ask the guest whether it took effect, do not repeat it blindly."""


class GuestRestarted(ConnectionLost):
    """The guest does not know the session any more."""


class RequestRefused(RemotingError):
    """WinRM answers, but refuses to do anything: it is starting, stopping, or out of shells."""


class GuestNotResponding(RemotingError):
    """The deadline passed without an answer of any kind."""


class CommandTimedOut(RemotingError):
    """The deadline passed; the guest answers, but the command did not end and was told to stop."""


class IdentityChanged(RemotingError):
    """The guest showed another certificate or host key than the pinned one. Nothing was sent to it.

    Attributes:
        expected: the pinned fingerprint.
        seen: the fingerprint that was shown, None if the guest does not even offer a key of the pinned kind.
    """

    def __init__(self, what: str, *, expected: str, seen: str | None, endpoint: str) -> None:
        shown = f"it shows {seen}" if seen else "it offers none of that kind"
        super().__init__(
            f"the {what} is not the pinned one: {expected} is pinned, {shown}. Either this is another machine, or the "
            "image was built anew and the old pin is still in use",
            endpoint=endpoint,
        )
        self.expected = expected
        self.seen = seen


class CredentialsRefused(RemotingError):
    """The guest refused user name or password."""


class GuestCommandFailed(RemotingError):
    """A command ended with an error.

    Attributes:
        error_id: PowerShell's FullyQualifiedErrorId.
        failure: the name of a failure that the schema lists, None for any other error.
        category: PowerShell's error category as a number (System.Management.Automation.ErrorCategory).
        position: where in the guest's script, for people.
    """

    def __init__(
        self,
        message: str,
        *,
        endpoint: str,
        command: str,
        error_id: str = "",
        failure: str | None = None,
        category: int = 0,
        position: str = "",
    ) -> None:
        named = f" [{error_id}]" if error_id else ""
        super().__init__(f"{message}{named}", endpoint=endpoint, command=command)
        self.error_id = error_id
        self.failure = failure
        self.category = category
        self.position = position


class GuestProtocolError(RemotingError):
    """The guest answered something else than the command schema promises; its module may be of another version."""


class TransferFailed(RemotingError):
    """A file did not arrive as it was sent, or could not be sent in time."""


class NoSuchPath(TransferFailed):
    """The folder to write a file into, or the file to read, is not there."""
