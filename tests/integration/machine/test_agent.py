"""The stand-in's ntguest.exe is as strict as the program that it stands in for, and streams without loss."""

from __future__ import annotations

import json

import pytest

from tests.standin.requirements import require_remoting

require_remoting()

from harness.abi import load_abi  # noqa: E402
from tests.integration.guest.test_hostile_input import MALFORMED, is_refusal  # noqa: E402
from tests.standin.ntguest import serve  # noqa: E402
from tests.standin.windows import SmallWindows  # noqa: E402
from tests.standin.winrm import Fault  # noqa: E402
from vm.machine import Account, LaunchRequest  # noqa: E402
from vm.windows.agent.errors import AgentRefused  # noqa: E402

APP = "C:\\ntproof\\app.exe"


def test_every_malformed_line_is_refused_and_the_next_is_obeyed():
    windows = SmallWindows()
    written = []
    lines = [part for line in MALFORMED for part in (line, b'{"op":"time","id":1}')]
    try:
        serve(windows, lines, written.append)
    finally:
        windows.system.close()

    answers = [json.loads(line) for line in written]
    assert len(answers) == len(lines)
    for line, refusal, obeyed in zip(MALFORMED, answers[::2], answers[1::2], strict=True):
        assert is_refusal(refusal), line
        assert obeyed["ok"]


def test_what_a_program_opened_and_launched_ends_with_it(machine, guest, driver_path):
    machine.install_driver("procnotify", driver_path)
    machine.start_driver("procnotify")
    machine.open_device("\\\\.\\ProcNotify")
    machine.provide_image(APP)
    machine.launch(LaunchRequest(APP, "app"))
    agent = machine.link.agent()
    agent.client.ask("quit", deadline=5)

    system = guest.windows.system
    with system.changed:
        # The answer to `quit` comes before the end: handles are closed first, then processes end.
        assert system.changed.wait_for(lambda: system._machine.running_processes() == {}, 20)
    with system.using() as emulated:
        emulated.stop_driver("procnotify")
        assert emulated.driver_state("procnotify").value == "stopped"


def test_all_that_is_terminated_is_what_the_job_holds_and_what_was_kept_out_of_it(machine, guest):
    machine.provide_image(APP)
    parent = machine.launch(LaunchRequest(APP, "app")).pid
    other = machine.link.agent(Account.STANDARD_USER).client
    own, outside = (
        other.ask("launch", deadline=5, process=label, image=APP, command_line="app", parent=of)
        for label, of in (("own", None), ("outside", parent))
    )
    with guest.windows.system.using() as emulated:
        started = guest.windows.system.launch(emulated, LaunchRequest(APP, "app", creator=own["pid"]), elevated=False)
    assert set(emulated.running_processes()) == {parent, own["pid"], outside["pid"], started.pid}
    ended = other.ask("terminate_all", deadline=5, status=3)

    assert (own["in_job"], outside["in_job"], ended["win32_error"], ended["remaining"]) == (True, False, 0, 0)
    with guest.windows.system.using() as emulated:
        assert set(emulated.running_processes()) == {parent}
    with pytest.raises(AgentRefused, match="no such process"):
        other.ask("wait", deadline=5, process="own")


def test_a_stream_brings_every_notification_in_order_while_a_plan_runs(machine, driver_path):
    machine.install_driver("procnotify", driver_path)
    machine.start_driver("procnotify")
    machine.provide_image(APP)
    agent, abi = machine.link.agent(), load_abi()
    agent.open("stream", "\\\\.\\ProcNotify", read=True, write=True)
    agent.stream("s", "stream", abi.integer("IOCTL_PROCNOTIFY_READ"), b"", 4096, depth=4)
    pids = []
    for number in range(20):
        pids.append(machine.launch(LaunchRequest(APP, f"app {number}")).pid)
        machine.exit_process(pids[-1])
    agent.stop_stream("s")

    events = agent.client.take_events()
    seen = [one for event in events if event["event"] == "data" for one in abi.decode_notifications(_output(event))]
    assert [one.sequence for one in seen] == list(range(1, 41))
    assert [one.pid for one in seen] == [pid for pid in pids for _ in range(2)]
    assert events[-1]["event"] == "end"


def _output(event):
    import base64

    return base64.b64decode(event["output"])


@pytest.mark.parametrize("count", [1, 200])
def test_answers_of_any_length_cross_in_order(machine, count):
    agent = machine.link.agent()
    answers = agent.client.ask_all([("time", {})] * count, deadline=30)

    assert len(answers) == count
    assert sorted(answer["time"] for answer in answers) == [answer["time"] for answer in answers]


def test_a_guest_without_ssh_that_is_still_starting_is_waited_for(make_guest, make_machine):
    guest = make_guest(ssh=False)
    guest.remoting.faults.append(Fault("Create", 2150859046, times=2))

    assert make_machine(guest).system_time() > 0
    assert not guest.remoting.faults[0].times
