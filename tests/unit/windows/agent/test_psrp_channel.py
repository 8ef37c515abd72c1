"""The channel over PowerShell Remoting, on a session that answers from a script."""

from __future__ import annotations

import pytest

from vm import win32
from vm.errors import Win32Error
from vm.windows.agent.client import AgentClient
from vm.windows.agent.psrp_channel import PsrpChannel
from vm.windows.remoting.deadline import Deadline
from vm.windows.remoting.errors import ConnectionFailed, GuestProtocolError

PROGRAM = "C:\\ntproof\\ntguest.exe"


class ScriptedSession:
    """A session whose program writes `text`, or cannot be started."""

    endpoint = "scripted:5986"
    connected = True

    def __init__(self, text="", refusal=None):
        self._text = text
        self._refusal = refusal

    def one(self, _name, **_arguments):
        if self._refusal is not None:
            raise self._refusal
        return {"AgentId": "1", "ProcessId": 4, "ExitCode": None}

    def call(self, _name, **_arguments):
        return [{"Sequence": 1, "Count": 1, "Stream": "out", "Text": self._text, "ProcessId": 4, "ExitCode": None}]


def test_a_line_of_any_units_is_received():
    client = AgentClient(PsrpChannel(ScriptedSession('{"id":1,"ok":true,"image_name":"\ud800"}'), PROGRAM))

    assert client.ask("hello", deadline=5)["image_name"] == "\ud800"


def test_a_program_that_cannot_be_started_is_no_answer_of_a_driver():
    missing = Win32Error(win32.ERROR_FILE_NOT_FOUND, "ERROR_FILE_NOT_FOUND", "CreateProcessW")

    with pytest.raises(ConnectionFailed, match=r"ntguest\.exe cannot be started: .*ERROR_FILE_NOT_FOUND"):
        PsrpChannel(ScriptedSession(refusal=missing), PROGRAM)


@pytest.mark.parametrize("first", [-5, 0, 2, 2**62])
def test_lines_that_are_not_the_next_ones_are_a_breach_of_the_protocol(first):
    session = ScriptedSession("text")
    session.call = lambda _name, **_arguments: [
        {"Sequence": first, "Count": 1, "Stream": "out", "Text": "text", "ProcessId": 4, "ExitCode": None}
    ]

    with pytest.raises(GuestProtocolError, match="not those after 0"):
        PsrpChannel(session, PROGRAM).receive(Deadline(5))


def test_what_the_program_wrote_is_received_as_lines():
    assert PsrpChannel(ScriptedSession("a\u00e9"), PROGRAM).receive(Deadline(5)) == "a\u00e9\n".encode()
