"""One ntguest.exe: requests go out with a number, answers come back in order and are held against it.

Requests can be posted: their answers are read, and checked, with the next one that is waited for, so that what nobody
waits for costs no round trip.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vm.windows.agent.channel import Channel
from vm.windows.agent.errors import AgentRefused, AgentTimedOut
from vm.windows.agent.protocol import LONGEST_ANSWER, Malformed, Member, Members, decode, encode, flag
from vm.windows.remoting.deadline import Deadline
from vm.windows.remoting.errors import ConnectionLost, GuestProtocolError

logger = logging.getLogger(__name__)

LINES_KEPT: Final = 200
"""How many of the last lines are remembered for reports of crashes."""
_SHOWN: Final = 400
_POSTED_AT_MOST: Final = 64
"""How many answers may be outstanding before one is waited for, so that neither side's buffers fill up."""
EVENTS_KEPT: Final = 64 << 20
"""Bytes of events that may wait for somebody to take them: a guest that sends on and on must not fill the memory."""

Request = tuple[str, Mapping[str, Member | bytes]]
"""An operation and its members."""


@dataclass(frozen=True)
class _Outstanding:
    identity: int
    operation: str
    awaited: bool


class AgentClient:
    """Requests and answers over a channel. One thread uses it; `abort` is for any thread.

    Args:
        channel: to the program.

    Attributes:
        calls: how many times an answer was waited for, for measurements.
    """

    def __init__(self, channel: Channel) -> None:
        self.calls = 0
        self._channel = channel
        self._outstanding: deque[_Outstanding] = deque()
        self._events: deque[tuple[int, dict[str, Member]]] = deque()
        self._event_bytes = 0
        self._lines: deque[tuple[float, str, bytes]] = deque(maxlen=LINES_KEPT)
        self._partial = bytearray()
        self._received: deque[bytes] = deque()
        self._number = 0
        self._broken = False

    @property
    def endpoint(self) -> str:
        """``host:port`` that the agent is reached through."""
        return self._channel.endpoint

    @property
    def usable(self) -> bool:
        """False once the channel broke or the agent did not keep to the protocol."""
        return not self._broken

    def ask(self, operation: str, *, deadline: float, **members: Member | bytes) -> dict[str, Member]:
        """Have an operation done: the members of its answer.

        Args:
            operation: its name.
            deadline: seconds until the answer must be there.
            members: of the request; bytes are sent as base64, None is left out.

        Raises:
            AgentRefused: the agent did not do it.
            ConnectionLost: the agent or the connection is gone, or `abort` was called.
            AgentTimedOut: no answer within the deadline; the client is of no more use.
            GuestProtocolError: the answer is not as documented.
        """
        return self.ask_all([(operation, members)], deadline=deadline)[0]

    def ask_all(self, requests: Sequence[Request], *, deadline: float, strict: bool = True) -> list[dict[str, Member]]:
        """Have several operations done in order, in one round trip: all are sent before the first is answered.

        Args:
            requests: each is tried, whatever became of those before it.
            deadline: seconds until the last answer must be there.
            strict: raise AgentRefused for the first request that was refused; else its answer is among the others.

        Raises as `ask`.
        """
        limit = Deadline(deadline)
        self.calls += 1
        self._send(requests, limit, awaited=True)
        found, refused = self._answers(limit)
        if refused is not None and strict:
            raise refused
        return found

    def post(self, operation: str, *, deadline: float = 30.0, **members: Member | bytes) -> None:
        """Have an operation done without waiting; if it is refused, the next call that waits raises that."""
        limit = Deadline(deadline)
        if len(self._outstanding) >= _POSTED_AT_MOST:
            _, refused = self._answers(limit)
            if refused is not None:
                raise refused
        self._send([(operation, members)], limit, awaited=False)

    def events(self, *, deadline: float) -> Iterator[dict[str, Member]]:
        """Events of streams as they arrive, until the deadline passes without one. Raises as `ask`."""
        while True:
            while self._events:
                yield self._next_event()
            limit = Deadline(deadline)
            while not self._events:
                self._take(self._line(limit))

    def take_events(self) -> list[dict[str, Member]]:
        """Events that have arrived with answers so far."""
        return [self._next_event() for _ in range(len(self._events))]

    def abort(self) -> None:
        """End a call that waits, from any thread."""
        self._channel.abort()

    def close(self) -> None:
        """End the agent, and with it every process that it launched; closing twice does nothing."""
        self._broken = True
        self._channel.close()

    def transcript(self) -> list[str]:
        """The last lines in both directions, the oldest first, each cut to a readable length."""
        return [
            f"{moment:.3f} {way} {line[:_SHOWN].decode('ascii', 'replace').rstrip()}{' ...' * (len(line) > _SHOWN)}"
            for moment, way, line in self._lines.copy()
        ]

    def _send(self, requests: Sequence[Request], limit: Deadline, *, awaited: bool) -> None:
        if self._broken:
            raise ConnectionLost("the agent is not connected any more", endpoint=self._channel.endpoint)
        lines = []
        for operation, members in requests:
            self._number += 1
            line = encode(operation, self._number, members)
            self._remember(">", line)
            self._outstanding.append(_Outstanding(self._number, operation, awaited))
            lines.append(line)
        try:
            self._channel.send(b"".join(lines), limit)
        except BaseException:
            self._broken = True
            raise

    def _answers(self, limit: Deadline) -> tuple[list[dict[str, Member]], AgentRefused | None]:
        """Read until nothing is outstanding: the answers that are waited for, and the first refusal of any."""
        found: list[dict[str, Member]] = []
        refused: AgentRefused | None = None
        while self._outstanding:
            expected = self._outstanding[0]
            answer = self._take(self._line(limit))
            if answer is None:
                self._require_time(limit)
                continue
            try:
                obeyed = flag(answer, "ok")
            except Malformed as error:
                raise self._violated(str(error)) from error
            if not obeyed:
                refused = refused or self._refusal(expected.operation, answer)
            if expected.awaited:
                found.append(answer)
        return found, refused

    def _take(self, line: bytes) -> dict[str, Member] | None:
        """Sort a line: an event is kept, an answer must be the one that is due."""
        try:
            members = decode(line)
        except Malformed as error:
            raise self._violated(str(error)) from error
        if "event" in members:
            self._events.append((len(line), members))
            self._event_bytes += len(line)
            if self._event_bytes > EVENTS_KEPT:
                raise self._violated(f"more than {EVENTS_KEPT} bytes of events that nobody takes")
            return None
        if not self._outstanding:
            raise self._violated(f"an answer to no request: {line[:80]!r}")
        due = self._outstanding.popleft()
        if members.get("id") != due.identity:
            raise self._violated(f"an answer to request {members.get('id')!r:.20} instead of {due.identity}")
        return members

    def _next_event(self) -> dict[str, Member]:
        size, members = self._events.popleft()
        self._event_bytes -= size
        return members

    def _line(self, limit: Deadline) -> bytes:
        while not self._received:
            try:
                data = self._channel.receive(limit)
            except BaseException:
                # Whether the answer still comes is not known, so that no later answer could be matched.
                self._broken = True
                raise
            *whole, rest = data.split(b"\n")
            for piece in whole:
                self._received.append(bytes(self._partial + piece))
                self._partial.clear()
            self._partial += rest
            if len(self._partial) > LONGEST_ANSWER:
                raise self._violated("a line without end")
            if not self._received:
                self._require_time(limit)
        line = self._received.popleft()
        self._remember("<", line)
        return line

    def _remember(self, way: str, line: bytes) -> None:
        """Keep what `transcript` shows of a line, which may have megabytes."""
        self._lines.append((time.monotonic(), way, line[: _SHOWN + 1]))

    def _require_time(self, limit: Deadline) -> None:
        """A guest that keeps sending never lets the channel's own deadline pass."""
        if limit.passed:
            self._broken = True
            raise AgentTimedOut(
                f"ntguest.exe sends on, but for {limit.seconds:g} s not the answer", endpoint=self._channel.endpoint
            )

    def _refusal(self, operation: str, answer: Members) -> AgentRefused:
        error, message = answer.get("error"), answer.get("message")
        refused = AgentRefused(
            str(error), str(message or ""), endpoint=self._channel.endpoint, operation=operation, answer=dict(answer)
        )
        logger.debug("%s", refused)
        return refused

    def _violated(self, problem: str) -> GuestProtocolError:
        self._broken = True
        return GuestProtocolError(f"ntguest.exe does not keep to its protocol: {problem}",
                                  endpoint=self._channel.endpoint)  # fmt: skip
