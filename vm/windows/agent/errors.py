"""Errors of the agent, beside those of remoting (vm.windows.remoting.errors).

RemotingError
|- AgentRefused        the agent answers, but did not do what it was told
`- AgentTimedOut       it answers nothing in time, or what it was told does not get done
"""

from __future__ import annotations

from typing import Final

from vm.windows.remoting.errors import RemotingError

STUCK: Final = "stuck"
"""What ntguest.exe answers when a call into the driver does not return, or a cancelled request does not end."""


class AgentRefused(RemotingError):
    """The agent could not obey: a mistake in the request, or something that kept it from trying.

    Attributes:
        error: the stable name of what is wrong, such as ``bad-request`` or ``stuck``.
        reason: the agent's own words, empty where it has none.
        answer: the members of its answer.
    """

    def __init__(
        self, error: str, reason: str, *, endpoint: str, operation: str, answer: dict[str, object] | None = None
    ) -> None:
        super().__init__(f"the agent refuses: {error}{f': {reason}' if reason else ''}", endpoint=endpoint,
                         command=operation)  # fmt: skip
        self.error = error
        self.reason = reason
        self.answer = answer or {}


class AgentTimedOut(RemotingError):
    """The deadline passed, and the agent neither answered nor got done what it was asked: what it called may hang."""
