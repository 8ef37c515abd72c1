"""What agents are asked when a test is undone, and what their answers mean."""

from __future__ import annotations

import pytest

from tests.unit.windows.agent.test_client import Scripted
from vm.windows.agent.client import AgentClient
from vm.windows.agent.errors import AgentRefused
from vm.windows.agent.operations import Agent
from vm.windows.hypervisor.reset import Trace
from vm.windows.machine.undo import Remains, undo

GOOD = {
    "close": {"win32_error": 0},
    "finish": {"done": True},
    "terminate_all": {"win32_error": 0, "remaining": 0},
    "stop_service": {"win32_error": 0},
    "delete_service": {"win32_error": 0},
    "query_service": {"win32_error": 1060},
    "remove": {"win32_error": 0},
}


def agent_that_answers(**answers):
    def answer(request):
        yield {"id": request["id"], "ok": True, **answers.get(request["op"], GOOD[request["op"]])}

    channel = Scripted(answer)
    return Agent(AgentClient(channel)), channel


def left_with(agent, others=(), **more):
    return Remains(agent, others, **{"requests": {}, "handles": {}, "services": (), "files": (), **more})


def operations(channel):
    return [request["op"] for request in channel.sent]


def test_everything_is_undone_in_one_round_trip_to_each_agent_processes_before_drivers():
    (agent, channel), (other, others_channel) = agent_that_answers(), agent_that_answers()
    remains = left_with(
        agent,
        (other,),
        handles={"h": agent, "theirs": other},
        requests={"r": agent},
        services=("driver",),
        files=("C:\\ntproof\\app.exe",),
    )

    assert undo(remains, deadline=20) == set()

    assert operations(others_channel) == ["close", "terminate_all"]
    assert operations(channel) == [
        "close", "finish", "terminate_all", "stop_service", "delete_service", "query_service", "remove",
    ]  # fmt: skip
    assert (agent.client.calls, other.client.calls) == (1, 1)


def test_an_agent_that_no_process_is_known_of_is_asked_all_the_same():
    agent, channel = agent_that_answers()

    assert undo(left_with(agent), deadline=20) == set()

    assert [(one["op"], one["deadline_ms"]) for one in channel.sent] == [("terminate_all", 5000)]


@pytest.mark.parametrize(
    "answer",
    [{"win32_error": 0, "remaining": 1}, {"win32_error": 8, "remaining": 0}, {"ok": False, "error": "bad-request"}],
    ids=["remain", "unknown", "refused"],
)
@pytest.mark.parametrize("whose", ["administrator", "other"])
def test_processes_that_may_run_on_are_left(answer, whose):
    agent, _ = agent_that_answers(**({"terminate_all": answer} if whose == "administrator" else {}))
    other, _ = agent_that_answers(**({"terminate_all": answer} if whose == "other" else {}))

    assert undo(left_with(agent, (other,)), deadline=20) == {Trace.PROCESSES_LEFT}


def test_a_driver_that_keeps_a_process_and_then_its_own_unloading_is_told_as_stuck():
    agent, _ = agent_that_answers(
        terminate_all={"win32_error": 0, "remaining": 1},
        stop_service={"ok": False, "error": "stuck", "win32_error": 1460},
    )

    with pytest.raises(AgentRefused, match="stuck"):
        undo(left_with(agent, services=("driver",)), deadline=20)
