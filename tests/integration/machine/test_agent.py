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
from vm.machine import LaunchRequest  # noqa: E402

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
