"""Sessions with a real pypsrp client over real sockets: commands, values, streams, and every way to be disappointed."""

from __future__ import annotations

import datetime
import logging
import socket
import threading
import time

import pytest

from tests.standin.requirements import require_remoting

require_remoting()

from tests.standin.certificates import make_certificate  # noqa: E402
from tests.standin.winrm import Fault  # noqa: E402
from vm import win32  # noqa: E402
from vm.errors import MachineBroken, Win32Error  # noqa: E402
from vm.windows.remoting.errors import (  # noqa: E402
    CommandTimedOut,
    ConnectionFailed,
    ConnectionLost,
    CredentialsRefused,
    GuestCommandFailed,
    GuestNotResponding,
    GuestProtocolError,
    GuestRestarted,
    IdentityChanged,
    InvalidCommand,
    RequestRefused,
)
from vm.windows.remoting.module import FILES, FOLDER, GuestModule, load_module  # noqa: E402

AGENT = r"C:\ntproof\ntguest.exe"
WATCH = {"Driver": "p.sys", "Flags": 0x9, "Watch": "add"}
"""For Set-NtproofVerifier, which changes something, so that it is never repeated by itself."""


def counting(arguments, lines):
    for number in range(int(arguments[0])):
        yield str(number)
    return 7


def numbers(rows):
    """What `counting` wrote, from the batches in which it arrived; held against their own count."""
    found = []
    for row in rows:
        lines = [] if row["Stream"] == "exit" else row["Text"].split("\n")
        assert row["Sequence"] == len(found) + 1
        assert row["ExitCode"] is not None or row["Count"] == len(lines)
        found += map(int, lines)
    return found


def echoing(arguments, lines):
    for line in lines:
        yield line.upper()
    return 3


def endless(arguments, lines):
    yield "started"
    next(lines)  # no line ever comes
    return 0


@pytest.fixture
def hanging(standin):
    """A program that writes one line and then waits for ever."""
    release = threading.Event()

    def wait(arguments, lines):
        yield "started"
        release.wait(30)
        return 0

    standin.windows.programs[AGENT.lower()] = wait
    yield wait
    release.set()


@pytest.mark.parametrize("authentication", ["basic", "ntlm", "negotiate"])
def test_a_session_is_made_with_each_kind_of_authentication(make_session, standin, authentication):
    info = make_session(authentication=authentication).connect()

    assert info.boot_id == standin.windows.boot_id
    assert info.powershell.startswith("5.1")


def test_a_guest_without_the_module_is_sent_it_and_one_that_has_it_is_not(make_session, standin):
    first, second = make_session(), make_session()

    first.connect()
    sent = len(standin.requests)
    second.connect()

    stored = {name: standin.windows.files.read(rf"{FOLDER}\{name}") for name in FILES}
    assert stored == load_module().files
    assert len(standin.requests) - sent < 10


def test_a_guest_with_another_version_of_the_module_is_sent_this_one(make_session, standin):
    older = GuestModule({name: b"older " + content for name, content in load_module().files.items()})
    make_session(module=older).connect()

    make_session().connect()

    assert standin.windows.files.read(rf"{FOLDER}\{FILES[1]}") == load_module().files[FILES[1]]


def test_a_command_gives_what_the_schema_promises(session, standin):
    standin.windows.files.write(r"C:\a.bin", b"abc")

    present, absent = session.call("Get-NtproofFileState", Path=[r"C:\a.bin", r"C:\b.bin"])

    assert present["Length"] == 3
    assert present["Exists"] is True
    assert absent == {"Path": r"C:\b.bin", "Exists": False, "Length": 0, "Sha256": None}


def test_a_win32_error_of_the_guest_arrives_as_one_with_its_call(session):
    with pytest.raises(Win32Error) as refused:
        session.call("Read-NtproofFileChunk", Path=r"C:\none.bin", Offset=0, Count=1)

    assert refused.value.code == win32.ERROR_FILE_NOT_FOUND
    assert refused.value.name == "ERROR_FILE_NOT_FOUND"
    assert refused.value.call == "CreateFileW"


def test_another_failure_of_the_guest_carries_its_name_and_leaves_the_session_usable(session):
    with pytest.raises(GuestCommandFailed) as failed:
        session.call("Install-NtproofCertificate", Certificate=b"no certificate", Store="Root")

    assert failed.value.failure == "BadCertificate"
    assert "Install-NtproofCertificate" in str(failed.value)
    assert session.one("Get-NtproofGuestInfo")


@pytest.mark.parametrize(
    "text",
    ["", "$(Stop-Computer); `n 'a' \"b\" _x0041_ \x00 \x1b \t\r\n \u00fcn\u00ef \u5b57 \U0001f980", "x" * 32767],
    ids=["empty", "every sign", "long"],
)
def test_a_text_arrives_and_comes_back_as_it_was(session, standin, text):
    received = []

    def parrot(arguments, lines):
        received.extend(arguments)
        yield arguments[0]
        return 0

    standin.windows.programs[AGENT.lower()] = parrot

    first, _ = session.call("Invoke-NtproofProgram", Path=AGENT, Argument=[text])

    assert received == [text]
    assert first["Text"] == text


@pytest.mark.parametrize("data", [b"", bytes(range(256)) * 5000], ids=["empty", "large"])
def test_bytes_arrive_and_come_back_as_they_were(session, standin, data):
    session.call("Write-NtproofFileChunk", Path=r"C:\b.bin", Offset=0, Data=data)

    assert standin.windows.files.read(r"C:\b.bin") == data
    assert session.one("Read-NtproofFileChunk", Path=r"C:\b.bin", Offset=0, Count=4 << 20)["Data"] == data


@pytest.mark.parametrize("flags", [0, 1, 0xFFFFFFFF])
def test_a_number_arrives_and_comes_back_as_it_was(session, standin, flags):
    session.call("Set-NtproofVerifier", Driver="p.sys", Flags=flags, Watch="add")

    assert standin.windows.verifier_flags == flags
    assert session.one("Get-NtproofMachineFact")["VerifierFlags"] == flags


def test_numbers_beyond_32_bits_and_dates_arrive_whole(session, standin):
    standin.windows.files.write(r"C:\Windows\MEMORY.DMP", b"PAGEDU64")

    (dump,) = session.call("Get-NtproofCrashDump")

    assert session.one("Get-NtproofGuestInfo")["SystemTime"] > 2**56
    assert isinstance(dump["Written"], datetime.datetime)
    assert abs(dump["Written"].timestamp() - time.time()) < 60


@pytest.mark.parametrize(
    ("command", "arguments", "problem"),
    [
        ("Get-Process", {}, "no command"),
        ("New-NtproofDirectory", {}, "wants a value for Path"),
        ("New-NtproofDirectory", {"Path": "p", "Colour": "red"}, "no parameter Colour"),
        ("New-NtproofDirectory", {"Path": 1}, "wants string"),
        ("New-NtproofDirectory", {"Path": "\ud800"}, "U\\+D800"),
        ("Get-NtproofFileState", {"Path": ["a", 1]}, "list of strings"),
        ("Read-NtproofFileChunk", {"Path": "a", "Offset": -1, "Count": 1}, "wants 0 to"),
        ("Read-NtproofFileChunk", {"Path": "a", "Offset": 0, "Count": True}, "wants an integer"),
        ("Get-NtproofAuditMark", {"Log": "System"}, "one of Security, Sysmon"),
    ],
)
def test_what_the_schema_does_not_have_never_leaves_the_host(session, standin, command, arguments, problem):
    sent = len(standin.requests)

    with pytest.raises(InvalidCommand, match=problem):
        session.call(command, **arguments)

    assert len(standin.requests) == sent


def test_objects_arrive_while_the_command_runs(session, standin, hanging):
    rows = session.stream("Invoke-NtproofProgram", Path=AGENT, deadline=20)

    assert next(rows)["Text"] == "started"
    rows.close()
    assert session.one("Get-NtproofGuestInfo")
    (pool,) = standin.pools.values()
    assert pool.pipes == {}


def test_a_long_stream_arrives_complete_and_in_order(session, standin):
    standin.windows.programs[AGENT.lower()] = counting

    rows = list(session.stream("Invoke-NtproofProgram", Path=AGENT, Argument=["30000"], deadline=60))

    assert numbers(rows) == list(range(30000))
    assert rows[-1]["ExitCode"] == 7


def test_an_agent_answers_line_by_line_and_ends_with_its_exit_code(session, standin):
    standin.windows.programs[AGENT.lower()] = echoing
    agent = session.one("Start-NtproofAgent", Path=AGENT)["AgentId"]

    session.call("Send-NtproofAgentLine", AgentId=agent, Line="one")
    session.call("Send-NtproofAgentLine", AgentId=agent, Line="two")
    seen = []
    while len(seen) < 2:
        rows = session.call("Receive-NtproofAgentLine", AgentId=agent, After=len(seen), WaitMilliseconds=5000)
        seen += [line for row in rows for line in row["Text"].split("\n")]
    ended = session.one("Stop-NtproofAgent", AgentId=agent, WaitMilliseconds=5000)

    assert seen == ["ONE", "TWO"]
    assert ended == {"ExitCode": 3, "Killed": False}


def test_a_command_that_does_not_end_is_stopped_at_its_deadline(session, standin, hanging):
    start = time.monotonic()

    with pytest.raises(CommandTimedOut, match=r"within 2 s"):
        session.call("Invoke-NtproofProgram", Path=AGENT, deadline=2)

    assert time.monotonic() - start < 6
    assert session.connected
    assert session.one("Get-NtproofGuestInfo")


@pytest.mark.parametrize("action", ["reset before", "reset after"])
def test_a_reset_while_output_is_received_loses_and_doubles_nothing(session, standin, action):
    standin.windows.programs[AGENT.lower()] = counting
    standin.faults += [Fault("Receive", action), Fault("Receive", action, skip=1)]

    rows = session.call("Invoke-NtproofProgram", Path=AGENT, Argument=["60000"], deadline=60)

    assert numbers(rows) == list(range(60000))
    assert not any(fault.times for fault in standin.faults)


def test_a_pipeline_that_somebody_else_stops_is_no_success(session, standin, hanging):
    rows = session.stream("Invoke-NtproofProgram", Path=AGENT, deadline=20)
    next(rows)
    (pool,) = standin.pools.values()
    (command,) = pool.pipes

    pool.stop(command, forget=False)

    with pytest.raises(GuestCommandFailed):
        list(rows)


def test_a_reset_of_a_command_that_changes_something_is_told_and_not_repeated(session, standin):
    standin.faults.append(Fault("Command", "reset after"))

    with pytest.raises(ConnectionLost, match="has to be asked"):
        session.call("Set-NtproofVerifier", **WATCH)

    restarted = session.reconnect(10)
    assert restarted is False
    assert session.one("Get-NtproofMachineFact")["VerifierFlags"] == 0x9


@pytest.mark.parametrize("action", ["reset before", "reset after"])
def test_a_question_is_asked_again_after_a_reset(session, standin, action):
    standin.faults.append(Fault("Command", action))

    assert session.one("Get-NtproofMachineFact")["TestSigning"] is True


def test_a_question_is_not_asked_again_of_a_guest_that_was_restarted_meanwhile(session, standin):
    standin.reboot()

    with pytest.raises(GuestRestarted, match="while it was asked"):
        session.one("Get-NtproofMachineFact")
    assert session.info.boot_id == standin.windows.boot_id
    assert session.one("Get-NtproofMachineFact")["TestSigning"] is True


def test_a_restarted_guest_is_recognised_and_connected_again(session, standin, hanging):
    rows = session.stream("Invoke-NtproofProgram", Path=AGENT, deadline=30)
    next(rows)

    standin.reboot()

    with pytest.raises(ConnectionLost):
        list(rows)
    assert not session.connected
    assert session.reconnect(20) is True
    assert session.info.boot_id == standin.windows.boot_id


def test_a_shell_that_the_guest_forgot_means_that_it_was_restarted(session, standin):
    standin.pools.clear()

    with pytest.raises(GuestRestarted):
        session.call("Set-NtproofVerifier", **WATCH)


def test_a_guest_that_stays_frozen_is_reported_at_the_deadline(session, standin):
    standin.freeze()
    start = time.monotonic()

    with pytest.raises(GuestNotResponding, match="frozen"):
        session.call("Set-NtproofVerifier", **WATCH, deadline=2)

    assert time.monotonic() - start < 8
    with pytest.raises(ConnectionFailed, match="not connected"):
        session.call("Set-NtproofVerifier", **WATCH)


def test_a_guest_that_freezes_for_a_while_loses_nothing(session, standin):
    standin.windows.programs[AGENT.lower()] = counting
    rows = session.stream("Invoke-NtproofProgram", Path=AGENT, Argument=["20000"], deadline=30)
    seen = [next(rows)]
    standin.freeze()
    thaw = threading.Timer(4, standin.thaw)
    thaw.start()

    seen += rows

    thaw.join()
    assert numbers(seen) == list(range(20000))


def test_nobody_listening_is_a_failed_connection_at_once(make_session, standin):
    standin.stop()
    start = time.monotonic()

    with pytest.raises(ConnectionFailed, match="refused"):
        make_session().connect(30)

    assert time.monotonic() - start < 2


def test_a_guest_that_starts_late_is_waited_for(make_session, standin):
    standin.stop()
    later = threading.Timer(1, standin.start)
    later.start()

    info = make_session().connect_when_ready(20)

    later.join()
    assert info.boot_id == standin.windows.boot_id


@pytest.mark.parametrize("verb", ["Create", "Command"])
def test_a_listener_that_refuses_while_it_starts_is_tried_again(make_session, standin, verb):
    standin.faults.append(Fault(verb, 2150859046, times=2))

    assert make_session().connect_when_ready(20).boot_id == standin.windows.boot_id


def test_waiting_for_a_guest_ends_at_the_deadline_with_the_last_cause(make_session, standin):
    standin.stop()

    with pytest.raises(ConnectionFailed, match=r"within 1 s.*refused"):
        make_session().connect_when_ready(1)


def test_waiting_ends_when_the_machine_is_known_to_be_dead(make_session, standin):
    standin.stop()

    def alive():
        raise MachineBroken("the domain is shut off")

    with pytest.raises(MachineBroken, match="shut off"):
        make_session().connect_when_ready(30, alive=alive)


def test_another_certificate_ends_the_connection_before_anything_is_sent(make_session, standin):
    expected = "ab" * 32

    with pytest.raises(IdentityChanged, match="certificate is not the pinned one") as changed:
        make_session(fingerprint=expected).connect_when_ready(30)

    assert changed.value.expected == expected
    assert changed.value.seen == standin.certificate.fingerprint
    assert standin.requests == []
    assert standin.logins == 0


def test_a_certificate_that_changes_within_a_session_is_noticed(session, standin):
    standin.stop()
    standin.certificate = make_certificate("another")
    standin.start()

    with pytest.raises(IdentityChanged):
        session.reconnect(10)


@pytest.mark.parametrize("authentication", ["basic", "negotiate"])
def test_a_wrong_password_is_told_at_once_and_not_shown(make_session, authentication):
    wrong = "wrong-Pa55word"

    with pytest.raises(CredentialsRefused) as refused:
        make_session(password=wrong, authentication=authentication).connect_when_ready(30)

    assert wrong not in str(refused.value)


def test_no_password_is_in_logs_or_representations(make_session, standin, caplog):
    caplog.set_level(logging.DEBUG)
    session = make_session()
    session.connect()
    session.one("Get-NtproofMachineFact")

    shown = caplog.text + repr(session) + repr(vars(session))

    assert "Get-NtproofMachineFact" in shown
    assert standin.password not in shown


def test_a_proxy_of_the_environment_is_not_followed(make_session, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)

        assert make_session().connect(10)


def test_a_fault_that_nobody_foresaw_is_reported_with_its_number(session, standin):
    standin.faults.append(Fault("Command", 2150859174))

    with pytest.raises(RequestRefused, match="fault 2150859174"):
        session.call("Set-NtproofVerifier", **WATCH)


def test_an_answer_that_the_schema_does_not_have_is_a_protocol_error(session, standin, monkeypatch):
    from tests.standin import pipelines

    monkeypatch.setattr(
        pipelines, "shape", lambda command, row: pipelines.PSCustomObject(Newest=pipelines.PSString("7"))
    )

    with pytest.raises(GuestProtocolError, match="lacks Oldest"):
        session.one("Get-NtproofAuditMark", Log="Security")


def test_two_commands_at_a_time_on_one_session_are_refused(session, standin, hanging):
    rows = session.stream("Invoke-NtproofProgram", Path=AGENT, deadline=20)
    next(rows)

    with pytest.raises(RuntimeError, match="one command at a time"):
        session.one("Get-NtproofGuestInfo")

    rows.close()


def test_closing_a_session_leaves_no_shell_in_the_guest(session, standin):
    session.close()
    session.close()

    assert standin.pools == {}
