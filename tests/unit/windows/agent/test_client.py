"""The client holds each answer against the request that it is for, however the bytes arrive."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm.windows.agent.client import AgentClient
from vm.windows.agent.errors import AgentRefused, AgentTimedOut
from vm.windows.remoting.deadline import Deadline
from vm.windows.remoting.errors import ConnectionLost, GuestProtocolError


class Scripted:
    """A channel whose other end answers as `answer` says; `cuts` cut its bytes into pieces."""

    endpoint = "scripted:22"

    def __init__(self, answer, cuts=()):
        self._answer = answer
        self._cuts = deque(cuts)
        self._bytes = bytearray()
        self._aborted = threading.Event()
        self.sent = []

    def send(self, lines, deadline: Deadline):
        for line in lines.splitlines():
            request = json.loads(line)
            self.sent.append(request)
            for answer in self._answer(request):
                self._bytes += answer if isinstance(answer, bytes) else json.dumps(answer).encode() + b"\n"

    def receive(self, deadline: Deadline):
        if not self._bytes:
            if self._aborted.wait(deadline.remaining()):
                raise ConnectionLost("aborted", endpoint=self.endpoint)
            raise AgentTimedOut("nothing", endpoint=self.endpoint)
        count = max(self._cuts.popleft() if self._cuts else len(self._bytes), 1)
        piece = bytes(self._bytes[:count])
        del self._bytes[:count]
        return piece

    def abort(self):
        self._aborted.set()

    def close(self):
        self.abort()


def obedient(request):
    yield {"id": request["id"], "ok": True, "echo": request.get("text")}


@given(st.lists(st.text(max_size=20), max_size=8), st.lists(st.integers(1, 40), max_size=60))
def test_answers_are_matched_however_their_bytes_are_cut(texts, cuts):
    client = AgentClient(Scripted(obedient, cuts))

    answers = client.ask_all([("say", {"text": text}) for text in texts], deadline=5)

    assert [answer["echo"] for answer in answers] == texts


def test_several_requests_are_one_round_trip():
    client = AgentClient(Scripted(obedient))

    client.ask_all([("say", {"text": "a"})] * 5, deadline=5)
    client.ask("say", deadline=5)

    assert client.calls == 2


def test_a_posted_request_is_sent_at_once_and_answered_with_the_next():
    channel = Scripted(obedient)
    client = AgentClient(channel)

    client.post("release", process="p")
    assert [request["op"] for request in channel.sent] == ["release"]

    assert client.ask("say", deadline=5, text="x")["echo"] == "x"
    assert client.calls == 1


def test_a_posted_request_that_was_refused_is_told_by_the_next_call():
    def answer(request):
        yield {"id": request["id"], "ok": request["op"] != "release", "error": "bad-request", "message": "no"}

    client = AgentClient(Scripted(answer))
    client.post("release", process="p")

    with pytest.raises(AgentRefused, match="release"):
        client.ask("say", deadline=5)
    assert client.usable


def test_any_number_of_posted_requests_fill_no_buffer_for_ever():
    client = AgentClient(Scripted(obedient))

    for _ in range(1000):
        client.post("release", process="p")

    assert client.ask("say", deadline=5, text="still")["echo"] == "still"


def test_events_between_answers_are_kept_in_order():
    def answer(request):
        yield from ({"event": "data", "stream": "s", "index": index} for index in range(3))
        yield from obedient(request)

    client = AgentClient(Scripted(answer))
    client.ask("say", deadline=5)

    assert [event["index"] for event in client.take_events()] == [0, 1, 2]
    assert client.take_events() == []


def test_events_are_given_as_they_arrive():
    def answer(request):
        yield from obedient(request)
        yield {"event": "data", "index": 0}
        yield {"event": "end", "index": 1}

    client = AgentClient(Scripted(answer))
    client.ask("stream", deadline=5)
    events = client.events(deadline=0.05)

    assert [next(events)["event"], next(events)["event"]] == ["data", "end"]
    with pytest.raises(AgentTimedOut):
        next(events)


@pytest.mark.parametrize(
    "answer",
    [b"nonsense\n", b"{}\n", b'{"id":99,"ok":true}\n', b'{"id":1,"ok":1}\n', b'{"id":1}\n', b'{"id":1,"id":1}\n'],
    ids=["no JSON", "no id", "another id", "ok is no truth value", "no ok", "a key twice"],
)  # fmt: skip
def test_an_answer_that_is_none_breaks_the_client(answer):
    client = AgentClient(Scripted(lambda _request: [answer]))

    with pytest.raises(GuestProtocolError, match="does not keep to its protocol"):
        client.ask("say", deadline=5)

    assert not client.usable
    with pytest.raises(ConnectionLost):
        client.ask("say", deadline=5)


def test_an_answer_that_nobody_asked_for_breaks_the_client():
    client = AgentClient(Scripted(lambda request: [*obedient(request), {"id": 77, "ok": True}, *obedient(request)]))
    client.ask("say", deadline=5)

    with pytest.raises(GuestProtocolError):
        client.ask("say", deadline=5)


def test_a_refusal_carries_what_the_agent_says():
    client = AgentClient(
        Scripted(lambda r: [{"id": r["id"], "ok": False, "error": "stuck", "message": "held", "timed_out": True}])
    )

    with pytest.raises(AgentRefused) as refused:
        client.ask("control", deadline=5)

    assert (refused.value.error, refused.value.reason, refused.value.answer["timed_out"]) == ("stuck", "held", True)


def test_refusals_among_others_can_be_looked_at():
    client = AgentClient(
        Scripted(lambda r: [{"id": r["id"], "ok": r["op"] == "good", "error": "bad-request", "message": ""}])
    )

    answers = client.ask_all([("good", {}), ("bad", {}), ("good", {})], deadline=5, strict=False)

    assert [answer["ok"] for answer in answers] == [True, False, True]
    with pytest.raises(AgentRefused):
        client.ask_all([("good", {}), ("bad", {}), ("good", {})], deadline=5)
    assert client.ask("good", deadline=5)["ok"]


def test_a_client_without_an_answer_in_time_is_of_no_more_use():
    client = AgentClient(Scripted(lambda _request: []))

    with pytest.raises(AgentTimedOut):
        client.ask("say", deadline=0.05)
    assert not client.usable


def test_a_call_that_waits_ends_when_another_thread_aborts():
    client = AgentClient(Scripted(lambda _request: []))
    threading.Timer(0.05, client.abort).start()

    with pytest.raises(ConnectionLost):
        client.ask("say", deadline=30)


class Endless(Scripted):
    """A channel whose other end sends the same bytes on and on."""

    def __init__(self, data):
        super().__init__(lambda _request: [])
        self._data = data

    def receive(self, deadline: Deadline):
        return self._data


@pytest.mark.parametrize("data", [b'{"event":"data"}\n', b"x"], ids=["events", "a line without end"])
def test_a_guest_that_sends_on_and_on_does_not_outlast_the_deadline(data):
    client = AgentClient(Endless(data))

    with pytest.raises(AgentTimedOut, match="sends on"):
        client.ask("say", deadline=0.05)
    assert not client.usable


def test_events_that_nobody_takes_do_not_fill_the_memory():
    client = AgentClient(Endless(b'{"event":"data","output":"' + b"A" * (1 << 20) + b'"}\n'))

    with pytest.raises(GuestProtocolError, match="events that nobody takes"):
        client.ask("say", deadline=60)


def test_long_lines_are_not_kept_whole():
    def answer(request):
        yield {"id": request["id"], "ok": True, "output": "A" * (1 << 20)}

    client = AgentClient(Scripted(answer))
    tracemalloc.start()
    try:
        for _ in range(50):
            client.ask("control", deadline=5)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 4 << 20


def test_the_last_lines_are_remembered_and_cut_short():
    client = AgentClient(Scripted(obedient))
    for number in range(300):
        client.ask("say", deadline=5, text=f"line {number} " + "x" * 1000)

    lines = client.transcript()

    assert len(lines) == 200
    assert "line 299" in lines[-1]
    assert all(len(line) < 500 for line in lines)
