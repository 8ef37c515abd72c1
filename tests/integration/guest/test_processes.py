"""ntguest.exe launches, ends and re-parents real processes, and says what the system said."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.integration.guest.wine import CHILD, DEADLINE, GUEST_FOLDER, Agent

ERROR_FILE_NOT_FOUND = 2
ERROR_PROCESS_ABORTED = 1067
ERROR_TIMEOUT = 1460
STATUS_OBJECT_NAME_NOT_FOUND = 0xC0000034
SECOND = 10_000_000
READY = 7


def test_a_launch_tells_pid_thread_parent_creator_image_and_times(agent):
    own = agent.do("hello")

    child = agent.launch("a", command_line="child one")

    assert child["pid"] not in (own["pid"], 0)
    assert child["tid"] not in (own["tid"], 0)
    assert (child["parent_pid"], child["creator_pid"], child["creator_tid"]) == (own["pid"], own["pid"], own["tid"])
    assert child["image_name"] == f"\\??\\{CHILD}"
    assert child["native_image"].startswith("\\Device\\")
    assert child["native_image"].endswith("\\ntproof\\child.exe")
    assert child["command_line"] == "child one"
    assert child["in_job"]
    assert not child["suspended"]
    assert own["time"] <= child["time_before"] <= child["time_after"]


def test_a_process_exits_with_the_status_it_is_told(agent):
    agent.launch("a")

    ended = agent.do("exit", process="a", status=0xC0000022)

    assert ended["exited"]
    assert ended["exit_code"] == 0xC0000022
    assert 0 < ended["created_time"] <= ended["exit_time"]


def test_a_process_is_terminated_with_a_status(agent):
    child = agent.launch("a")

    ended = agent.do("terminate", process="a", status=77)

    assert (ended["pid"], ended["exited"], ended["exit_code"]) == (child["pid"], True, 77)


def test_waiting_for_a_process_that_runs_on_ends_at_the_deadline(agent):
    agent.launch("a")

    assert agent.do("wait", process="a", deadline_ms=50)["exited"] is False
    assert agent.do("terminate", process="a")["exited"] is True
    assert agent.do("wait", process="a", deadline_ms=50)["exit_code"] == 1


def test_a_suspended_process_takes_no_orders_until_it_is_resumed(agent):
    assert agent.launch("a", suspended=True)["suspended"]

    refused = agent.ask("exit", process="a", status=5, deadline_ms=200)
    resumed = agent.do("resume", process="a")
    ended = agent.do("exit", process="a", status=5)

    assert (refused["error"], refused["win32_error"]) == ("process-unreachable", ERROR_TIMEOUT)
    assert resumed["win32_error"] == 0
    assert ended["exit_code"] == 5
    assert agent.ask("resume", process="a")["error"] == "bad-request"


def test_a_suspended_process_can_be_terminated_before_it_ran(agent):
    agent.launch("a", suspended=True)

    assert agent.do("terminate", process="a", status=9)["exit_code"] == 9


def test_the_parent_is_another_process_than_the_creator(agent):
    own = agent.do("hello")
    parent = agent.launch("parent")

    by_label = agent.launch("a", parent="parent")
    by_pid = agent.launch("b", parent=parent["pid"])

    for child in (by_label, by_pid):
        assert (child["parent_pid"], child["creator_pid"]) == (parent["pid"], own["pid"])


def test_a_child_creates_a_process_of_its_own(agent):
    creator = agent.launch("creator")

    child = agent.launch("a", creator="creator", command_line="made by a child")

    assert (child["parent_pid"], child["creator_pid"]) == (creator["pid"], creator["pid"])
    assert child["creator_tid"] != creator["pid"]
    assert child["in_job"]
    assert agent.do("exit", process="a", status=3)["exit_code"] == 3


def test_creator_and_parent_differ_when_a_child_creates_for_another(agent):
    parent = agent.launch("parent")
    creator = agent.launch("creator")

    child = agent.launch("a", creator="creator", parent="parent", suspended=True)

    assert (child["parent_pid"], child["creator_pid"]) == (parent["pid"], creator["pid"])
    assert agent.do("resume", process="a")["win32_error"] == 0
    assert agent.do("exit", process="a", status=4)["exit_code"] == 4


def test_one_child_creates_many_processes_one_after_the_other(agent):
    agent.launch("creator")

    made = [agent.launch(f"p{index}", creator="creator")["pid"] for index in range(12)]

    assert len(set(made)) == 12


@pytest.mark.parametrize("by_child", [False, True])
def test_a_launch_of_a_missing_file_is_ground_truth_and_no_mistake(agent, by_child):
    agent.launch("creator")
    creator = {"creator": "creator"} if by_child else {}

    answer = agent.do("launch", process="a", image="C:\\ntproof\\missing.exe", **creator)

    assert (answer["win32_error"], answer["status"]) == (ERROR_FILE_NOT_FOUND, STATUS_OBJECT_NAME_NOT_FOUND)
    assert (answer["pid"], answer["tid"]) == (None, None)
    # The label is free again.
    agent.launch("a")


@pytest.mark.parametrize("by_child", [False, True])
def test_a_launch_does_not_tell_the_status_of_an_earlier_call(agent, by_child):
    agent.launch("creator")
    creator = {"creator": "creator"} if by_child else {}
    earlier = agent.do("launch", process="a", image="C:\\ntproof\\missing.exe", **creator)
    assert earlier["status"] == STATUS_OBJECT_NAME_NOT_FOUND

    # A search along the path ends with an error that no system service gave.
    answer = agent.do("launch", process="a", command_line="no-such-program", **creator)

    assert (answer["win32_error"], answer["status"]) == (ERROR_FILE_NOT_FOUND, None)


@pytest.mark.parametrize("content", [b"", b"MZ", b"no program" * 500])
def test_a_file_that_is_no_program_gives_the_error_of_the_system(agent, wine, content):
    (wine.folder / "broken.exe").write_bytes(content)

    answer = agent.do("launch", process="a", image=f"{GUEST_FOLDER}\\broken.exe")

    assert answer["win32_error"] != 0
    assert answer["pid"] is None


def test_the_child_obeys_its_own_command_line(agent):
    agent.launch("a", command_line=f'"{CHILD}" --ntproof exit 0xC0000005')
    agent.launch("b", command_line="child --ntproof exit nonsense")
    agent.launch("c", command_line="child --ntproof event Global\\no-such-event 7")

    assert agent.do("wait", process="a")["exit_code"] == 0xC0000005
    assert agent.do("wait", process="b")["exit_code"] == 0xE0000001
    assert agent.do("wait", process="c")["exit_code"] == ERROR_FILE_NOT_FOUND


def test_a_label_is_taken_until_the_process_is_released(agent):
    first = agent.launch("a")

    assert "already" in agent.ask("launch", process="a", image=CHILD)["message"]
    agent.do("terminate", process="a")
    assert agent.do("release", process="a")["pid"] == first["pid"]
    assert agent.ask("wait", process="a")["error"] == "bad-request"
    agent.launch("a")


def test_a_process_that_is_gone_is_reported_as_gone(agent):
    agent.launch("a")
    agent.do("terminate", process="a")

    assert agent.ask("exit", process="a")["error"] == "process-gone"
    assert agent.ask("describe", process="a")["error"] == "process-gone"
    assert agent.do("wait", process="a")["exit_code"] == 1


def processes_named(name):
    """The processes of the host that run a program with this file name."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if name.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def assert_gone(name, otherwise):
    """Wait until no process of the host runs a program: Wine tells of an end a moment before the host does."""
    end = time.monotonic() + DEADLINE
    while processes_named(name):
        assert time.monotonic() < end, otherwise


def child_named(wine, stem):
    """A copy of child.exe that no other test run has; its file name."""
    name = f"{stem}-{os.getpid()}.exe"
    (wine.folder / name).write_bytes((wine.folder / "child.exe").read_bytes())
    return name


@contextlib.contextmanager
def standing_still(agent, wine, label):
    """A child that can be given orders, since its pipe is there, but does not run before the end of the block."""
    name = child_named(wine, label)
    child = agent.launch(label, image=f"{GUEST_FOLDER}\\{name}")
    event = f"Global\\ntproof-child-{child['pid']}"
    seen = None
    while seen != READY:
        agent.launch("watch", command_line=f"child --ntproof event {event} {READY}")
        seen = agent.do("wait", process="watch")["exit_code"]
        assert seen in {READY, ERROR_FILE_NOT_FOUND}
        agent.do("release", process="watch")
    (pid,) = processes_named(name)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_a_process_that_is_created_too_late_is_not_left_behind(agent, wine):
    late = child_named(wine, "late")

    with standing_still(agent, wine, "slow"):
        answer = agent.ask("launch", process="a", image=f"{GUEST_FOLDER}\\{late}", creator="slow", deadline_ms=200)
    # It takes this order once it is done with the one before.
    agent.do("describe", process="slow")

    assert (answer["error"], answer["win32_error"]) == ("stuck", ERROR_TIMEOUT)
    assert_gone(late, "a suspended process is left that nobody knows of")
    agent.launch("a")


def test_a_creator_that_was_never_given_the_order_is_unreachable_and_not_stuck(agent):
    agent.launch("creator", suspended=True)

    answer = agent.ask("launch", process="a", image=CHILD, creator="creator", deadline_ms=200)

    assert (answer["error"], answer["win32_error"]) == ("creator-unreachable", ERROR_TIMEOUT)


def test_a_process_that_ends_with_an_order_in_its_pipe_is_reported_as_gone(agent, wine):
    with standing_still(agent, wine, "victim") as pid:
        order = json.dumps({"op": "describe", "process": "victim"}).encode()
        answer = agent.send(order, meanwhile=lambda: os.kill(pid, signal.SIGKILL))

    assert (answer["error"], answer["win32_error"]) == ("process-gone", ERROR_PROCESS_ABORTED)


def test_the_deadline_of_an_exit_is_one_for_order_and_end_together(agent, wine):
    with standing_still(agent, wine, "stubborn"):
        before = agent.do("time")["time"]
        answer = agent.do("exit", process="stubborn", status=5, deadline_ms=3000)
        after = agent.do("time")["time"]

    assert (answer["win32_error"], answer["exited"], answer["exit_code"]) == (0, False, None)
    assert after - before < 5 * SECOND
    assert agent.do("wait", process="stubborn")["exit_code"] == 5


def test_what_a_program_started_is_terminated_with_it_whether_the_plan_knows_it_or_not(agent, wine):
    name = child_named(wine, "grandchild")
    agent.launch("program", image=f"{GUEST_FOLDER}\\{name}")
    agent.launch("started", creator="program", image=f"{GUEST_FOLDER}\\{name}")
    agent.launch("by it", creator="started", image=f"{GUEST_FOLDER}\\{name}")
    agent.launch("suspended", suspended=True, image=f"{GUEST_FOLDER}\\{name}")
    agent.do("describe", process="by it")
    for label in ("started", "by it"):
        agent.do("release", process=label)
    agent.do("exit", process="program")

    ended = agent.do("terminate_all")

    assert (ended["win32_error"], ended["remaining"]) == (0, 0)
    assert_gone(name, "processes outlive the end of all")
    assert agent.ask("wait", process="suspended")["error"] == "bad-request", "its label is still taken"
    agent.launch("program")


def test_all_of_many_processes_are_terminated(agent, wine):
    name = child_named(wine, "many")
    for index in range(40):
        agent.launch(f"p{index}", image=f"{GUEST_FOLDER}\\{name}", suspended=index % 2 == 0)

    assert agent.do("terminate_all", status=3)["remaining"] == 0
    assert_gone(name, "processes outlive the end of all")


def test_terminating_all_of_nothing_leaves_nothing(agent):
    assert agent.do("terminate_all", deadline_ms=0)["remaining"] == 0


def test_a_process_that_could_not_be_brought_into_the_job_is_terminated_with_all(agent, wine):
    name = child_named(wine, "outside")
    parent = agent.launch("parent")["pid"]
    other = Agent(wine)
    other.launch("own")
    outside = other.launch("a", image=f"{GUEST_FOLDER}\\{name}", parent=parent)

    ended = other.do("terminate_all")

    assert (outside["in_job"], ended["remaining"]) == (False, 0)
    assert_gone(name, "processes outlive the end of all")
    assert agent.do("wait", process="parent", deadline_ms=0)["exited"] is False
    assert other.close() == 0


def test_every_process_dies_with_the_agent(wine):
    name = child_named(wine, "survivor")
    agent = Agent(wine)
    for label, members in (("first", {}), ("second", {"creator": "first"}), ("third", {"parent": "second"})):
        agent.launch(label, image=f"{GUEST_FOLDER}\\{name}", **members)
        agent.do("describe", process=label)
    assert len(processes_named(name)) == 3

    assert agent.close() == 0

    assert_gone(name, "processes outlive the agent")


def test_a_process_of_another_job_dies_with_the_agent_that_launched_it(agent, wine):
    name = child_named(wine, "adopted")
    parent = agent.launch("parent")["pid"]
    other = Agent(wine)
    other.launch("own")

    # It is born into its parent's job, which the other agent's job is not part of.
    launched = other.launch("a", image=f"{GUEST_FOLDER}\\{name}", parent=parent)
    other.do("describe", process="a")
    assert other.close() == 0

    assert launched["in_job"] is False
    assert_gone(name, "the process outlives the agent")


def test_a_plan_is_read_from_a_file(wine):
    steps = [
        {"op": "launch", "process": "a", "image": CHILD},
        {"op": "exit", "process": "a", "status": 6},
        {"op": "quit"},
        {"op": "hello"},
    ]
    (wine.folder / "plan.jsonl").write_text("\n".join(map(json.dumps, steps)), encoding="utf-8")

    done = wine.run(f"{GUEST_FOLDER}\\ntguest.exe", "--plan", f"{GUEST_FOLDER}\\plan.jsonl")

    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["ok"] for answer in answers] == [True, True, True]
    assert answers[1]["exit_code"] == 6


def test_wrong_usage_is_answered_and_ends_with_its_own_code(wine):
    done = wine.run(f"{GUEST_FOLDER}\\ntguest.exe", "--plan", f"{GUEST_FOLDER}\\missing.jsonl", check=False)

    assert done.returncode == 2
    assert json.loads(done.stdout)["error"] == "bad-usage"
