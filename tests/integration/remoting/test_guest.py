"""The typed commands against the stand-in."""

from __future__ import annotations

import threading

import pytest

from tests.standin.requirements import require_remoting

require_remoting()

from tests.standin.certificates import make_certificate  # noqa: E402
from tests.standin.commands import COMMANDS  # noqa: E402
from tests.standin.winrm import SHELL_UNKNOWN, Fault  # noqa: E402
from vm import win32  # noqa: E402
from vm.errors import Win32Error  # noqa: E402
from vm.windows.driver_trust import TrustStore  # noqa: E402
from vm.windows.remoting.errors import CommandTimedOut, GuestCommandFailed  # noqa: E402
from vm.windows.remoting.guest import Guest  # noqa: E402
from vm.windows.remoting.schema import guest_schema  # noqa: E402

AGENT = r"C:\ntproof\ntguest.exe"


@pytest.fixture
def guest(session):
    return Guest(session)


def test_the_stand_in_has_exactly_the_commands_of_the_schema():
    assert sorted(COMMANDS) == sorted(guest_schema().commands)


def test_facts_say_whether_a_test_signed_driver_can_run(guest, standin):
    assert guest.facts().obstacles() == []

    standin.windows.test_signing = False

    (obstacle,) = guest.facts().obstacles()
    assert "bcdedit" in obstacle


def test_a_certificate_goes_into_the_store_that_is_named_and_is_not_added_again(guest, standin):
    certificate = make_certificate("signer").der

    added = [guest.install_certificate(certificate, TrustStore.TRUSTED_PUBLISHER).added for _ in range(2)]

    assert added == [True, False]
    assert list(standin.windows.publishers.values()) == [certificate]
    assert standin.windows.roots == {}


def test_a_program_streams_its_lines_and_ends_with_its_exit_code(guest, standin):
    def program(arguments, lines):
        yield from (f"{arguments} {line}" for line in lines)
        return 0xC0000005

    standin.windows.programs[AGENT.lower()] = program

    lines = list(guest.run_program(AGENT, ["a b", 'c"d'], b"one\ntwo\n"))

    assert [line.text for line in lines] == ["['a b', 'c\"d'] one", "['a b', 'c\"d'] two", ""]
    assert [line.stream for line in lines] == ["out", "out", "exit"]
    assert lines[-1].exit_code == 0xC0000005


def test_empty_lines_of_a_program_are_kept(guest, standin):
    def blank(arguments, lines):
        yield from ("", "", "x", "")
        return 0

    standin.windows.programs[AGENT.lower()] = blank

    lines = list(guest.run_program(AGENT))

    assert [line.text for line in lines] == ["", "", "x", "", ""]
    assert [line.sequence for line in lines] == [1, 2, 3, 4, 5]


def test_a_program_that_is_not_there_is_a_win32_error(guest):
    with pytest.raises(Win32Error) as absent:
        list(guest.run_program(r"C:\absent.exe"))

    assert absent.value.code == win32.ERROR_FILE_NOT_FOUND


@pytest.mark.parametrize("action", ["reset before", "reset after"])
def test_an_agent_loses_no_line_when_the_connection_breaks(guest, standin, action):
    def echo(arguments, lines):
        yield from lines
        return 0

    standin.windows.programs[AGENT.lower()] = echo
    with guest.start_agent(AGENT) as agent:
        for number in range(20):
            agent.send(f"line {number}")
        standin.faults.append(Fault("Receive", action))
        seen = []
        while len(seen) < 20:
            seen += [line.text for line in agent.lines()]

    assert seen == [f"line {number}" for number in range(20)]


def test_an_agent_is_asked_and_answers_in_one_call(guest, standin):
    def double(arguments, lines):
        for line in lines:
            yield f"{line}{line}"
        return 0

    standin.windows.programs[AGENT.lower()] = double
    with guest.start_agent(AGENT) as agent:
        sent = len(standin.requests)
        answers = [line.text for text in ("a", "b") for line in agent.ask(text, 5.0)]
        assert standin.requests[sent:].count("Command") == 2

    assert answers == ["aa", "bb"]


def test_an_agent_that_ended_refuses_further_lines(guest, standin):
    def brief(arguments, lines):
        yield "done"
        return 5

    standin.windows.programs[AGENT.lower()] = brief
    agent = guest.start_agent(AGENT)
    seen = []
    while not seen or seen[-1].exit_code is None:
        seen += agent.lines()

    with pytest.raises(Win32Error) as broken:
        agent.send("anyone there?")

    assert seen[-1].exit_code == 5
    assert broken.value.code == win32.ERROR_BROKEN_PIPE


def test_an_agent_is_gone_with_its_session(guest, standin):
    standin.windows.programs[AGENT.lower()] = lambda arguments, lines: iter(lines)
    agent = guest.start_agent(AGENT)
    standin.reboot()
    guest.session.reconnect()

    with pytest.raises(GuestCommandFailed) as gone:
        agent.lines()

    assert gone.value.failure == "NoAgent"


def test_audit_records_after_a_mark_come_in_the_order_of_the_log(guest, standin):
    windows = standin.windows
    windows.record("Security", 4688, "<before/>")
    mark = guest.audit_mark()
    windows.record("Security", 4624, "<logon/>")
    windows.record("Security", 4688, "<create name='\u00fc'/>")
    windows.record("Security", 4689, "<exit/>")

    records = list(guest.audit_records(mark))

    assert [(record.event_id, record.xml) for record in records] == [
        (4688, "<create name='\u00fc'/>"),
        (4689, "<exit/>"),
    ]
    assert guest.audit_is_complete(mark)


def test_a_record_with_a_text_that_xml_cannot_carry_comes_all_the_same(guest, standin):
    standin.windows.record("Security", 4688, "<create>\x01 \x1b \ud83d \U0001f600 \uffff</create>")

    (record,) = guest.audit_records(0)

    assert record.xml == "<create>\x01 \x1b \ufffd \U0001f600 \ufffd</create>"


def test_a_log_that_lost_records_after_the_mark_is_not_complete(guest, standin):
    mark = guest.audit_mark()
    for _ in range(5):
        standin.windows.record("Security", 4688, "<create/>")
    del standin.windows.logs["Security"][:3]

    assert not guest.audit_is_complete(mark)


def test_a_log_that_was_cleared_after_the_mark_is_not_complete(guest, standin):
    for _ in range(5):
        standin.windows.record("Security", 4688, "<create/>")
    mark = guest.audit_mark()
    standin.windows.logs["Security"].clear()

    assert not guest.audit_is_complete(mark)


def test_sysmon_records_where_it_is_not_installed_are_a_named_failure(guest):
    with pytest.raises(GuestCommandFailed) as absent:
        guest.audit_mark("Sysmon")

    assert absent.value.failure == "NoLog"


def test_auditing_is_switched_on(guest, standin):
    guest.enable_process_auditing()

    assert standin.windows.auditing


def test_the_verifier_is_set_and_made_to_fail_allocations_without_a_restart(guest, standin):
    guest.verify_driver("p.sys", 0x9BB)
    guest.fail_allocations("p.sys", 0.06, pool_tag="Proc")

    assert standin.windows.verified == {"p.sys"}
    assert standin.windows.low_resources == {"p.sys": (600, "Proc")}
    guest.verify_driver("p.sys", 0, watch=False)
    assert standin.windows.low_resources == {}
    assert standin.windows.verified == set()


def test_dumps_are_listed(guest, standin):
    standin.windows.files.write(r"C:\Windows\MEMORY.DMP", b"PAGEDU64" * 100)

    (dump,) = guest.crash_dumps()

    assert (dump.path, dump.length) == (r"C:\Windows\MEMORY.DMP", 800)


@pytest.mark.parametrize("fault", [(), ("Command", "reset after"), ("Receive", SHELL_UNKNOWN)], ids=str)
def test_a_restart_ends_with_a_session_on_the_restarted_guest(guest, standin, fault):
    # The answer may be lost with the guest that gave it: the connection breaks, or the restarted one knows no shell.
    standin.faults += [Fault(*fault)] if fault else []

    def reboot_when_asked():
        standin.windows.restart_asked.wait(10)
        standin.reboot()

    thread = threading.Thread(target=reboot_when_asked)
    thread.start()
    before = standin.windows.boot_id

    guest.restart(deadline=20)

    thread.join()
    assert guest.session.info.boot_id == standin.windows.boot_id != before


def test_a_guest_that_does_not_go_down_is_told(guest, standin):
    with pytest.raises(CommandTimedOut, match="did not restart within 2 s"):
        guest.restart(deadline=2)
