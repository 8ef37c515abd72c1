"""Answers of WinRM that break off, never end, or are none: each is told as what it is, and within the deadline."""

from __future__ import annotations

import base64
import re
import time

import pytest

from tests.standin.requirements import require_remoting

require_remoting()

from tests.standin import winrm  # noqa: E402
from vm.windows.remoting.errors import ConnectionLost, GuestNotResponding, GuestProtocolError  # noqa: E402


@pytest.fixture
def answers(monkeypatch):
    """Has the next answer to a kind of request given by a function of the handler, its status, body and headers."""
    due = []
    ordinary = winrm._Handler._answer

    def answer(handler, status, body, headers):
        if body and due and handler.owner.requests[-1] == due[0][0]:
            _, give = due.pop(0)
            give(lambda changed: ordinary(handler, status, changed, headers), handler, body)
        else:
            ordinary(handler, status, body, headers)

    monkeypatch.setattr(winrm._Handler, "_answer", answer)
    return due


def broken_off(_send, handler, body):
    """Half of what was announced, then a reset."""
    head(handler, len(body))
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    handler._reset()


def head(handler, length):
    handler.send_response(200)
    handler.send_header("Content-Type", "application/soap+xml;charset=UTF-8")
    handler.send_header("Content-Length", str(length))
    handler.end_headers()


def endless(_send, handler, _body):
    head(handler, 1 << 40)
    handler.close_connection = True
    with_blanks = b" " * (1 << 20)
    while True:
        handler.wfile.write(with_blanks)


def dripping(_send, handler, body):
    head(handler, len(body))
    handler.close_connection = True
    for octet in body:
        handler.wfile.write(bytes([octet]))
        handler.wfile.flush()
        time.sleep(0.2)  # what is measured is how long the other side puts up with it


def changed(change):
    return lambda send, _handler, body: send(change(body))


def in_messages(change):
    """Changes the PowerShell messages that an answer carries."""

    def replaced(match):
        return b">" + base64.b64encode(change(base64.b64decode(match[1]))) + b"<"

    return changed(lambda body: re.sub(rb">([A-Za-z0-9+/=]{40,})<", replaced, body))


def test_an_answer_that_breaks_off_is_asked_for_again(session, answers):
    answers.append(("Receive", broken_off))

    assert session.one("Get-NtproofMachineFact")["TestSigning"] is True
    assert not answers


def test_an_answer_that_breaks_off_and_cannot_be_asked_for_again_is_a_lost_connection(session, answers):
    answers.append(("Command", broken_off))

    with pytest.raises(ConnectionLost):
        session.call("Set-NtproofVerifier", Driver="p.sys", Flags=0x9, Watch="add")
    assert session.reconnect(10) is False


@pytest.mark.parametrize(
    "give",
    [
        changed(lambda body: body[: len(body) // 2]),
        changed(lambda _body: b"\xff" * 50),
        changed(lambda body: body.replace(b"s:Body>", b"s:Nobody>")),
        in_messages(lambda message: message.replace(b"RefId=", b"Refid=")),
        in_messages(lambda message: message[:30]),
        in_messages(lambda message: message[:25] + b"\xee\xee" + message[27:]),
    ],
    ids=["half", "no XML", "no body", "no RefId", "half a message", "another kind of message"],
)
def test_an_answer_that_is_none_is_a_protocol_error(session, answers, give):
    answers.append(("Receive", give))

    with pytest.raises(GuestProtocolError):
        session.call("Get-NtproofMachineFact")
    assert not session.connected
    assert session.reconnect(10) is False


def test_an_answer_without_end_does_not_fill_the_memory(session, answers):
    answers.append(("Receive", endless))
    started = time.monotonic()

    with pytest.raises(GuestProtocolError, match="an answer of more than"):
        session.call("Get-NtproofMachineFact", deadline=30)

    assert time.monotonic() - started < 10


@pytest.mark.parametrize("give", [endless, dripping], ids=["endless", "dripping"])
def test_a_connection_whose_answer_is_not_read_to_its_end_is_closed(session, answers, give):
    answers.append(("Receive", give))
    opened = list(session._connection._transport._adapter()._sockets)

    with pytest.raises((GuestNotResponding, GuestProtocolError)) as caught:
        session.call("Get-NtproofMachineFact", deadline=2)

    assert [one.fileno() for one in opened] == [-1], caught


def test_an_answer_that_drips_in_does_not_outlast_the_deadline(session, answers):
    answers.append(("Receive", dripping))
    started = time.monotonic()

    with pytest.raises(GuestNotResponding):
        session.call("Get-NtproofMachineFact", deadline=2)

    assert time.monotonic() - started < 10


def test_a_guest_that_only_ever_answers_nothing_does_not_outlast_the_deadline(make_session, standin, monkeypatch):
    handle = standin.handle

    def nothing(verb, *arguments):
        return "<rsp:ReceiveResponse/>" if verb == "Receive" else handle(verb, *arguments)

    monkeypatch.setattr(standin, "handle", nothing)
    started = time.monotonic()

    with pytest.raises(GuestNotResponding):
        make_session().connect(1)

    assert time.monotonic() - started < 10
