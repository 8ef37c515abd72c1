"""What an agent's answers mean to whoever made the call."""

from __future__ import annotations

import pytest

from tests.unit.windows.agent.test_client import Scripted
from vm.windows.agent.client import AgentClient
from vm.windows.agent.errors import AgentTimedOut
from vm.windows.agent.operations import Agent


def agent_that_answers(**members):
    def answer(request):
        yield {"id": request["id"], "ok": True, **members}

    return Agent(AgentClient(Scripted(answer)), patience=7)


@pytest.mark.parametrize("call", ["exit", "terminate"])
def test_a_process_that_runs_on_after_its_end_was_asked_for_is_no_end(call):
    agent = agent_that_answers(win32_error=0, pid=8, exited=False, exit_code=None)

    with pytest.raises(AgentTimedOut, match="still runs after 7 s"):
        getattr(agent, call)("p1", 3)
