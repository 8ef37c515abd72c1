"""Undoing what a test did on a Windows machine, in one round trip to each agent: handles, processes, services, files.

The order is that in which nothing holds the next: a device that is open keeps its driver, a process its file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vm import win32
from vm.windows.agent.client import Request
from vm.windows.agent.errors import STUCK, AgentRefused
from vm.windows.agent.operations import Agent, milliseconds
from vm.windows.agent.protocol import Member
from vm.windows.hypervisor.reset import Trace

_DELETED_BEFORE: Final = frozenset({win32.ERROR_SERVICE_DOES_NOT_EXIST, win32.ERROR_SERVICE_MARKED_FOR_DELETE})
_STOPPED_BEFORE: Final = frozenset({win32.ERROR_SERVICE_NOT_ACTIVE, *_DELETED_BEFORE})
_AT_ONCE: Final = 5.0
"""Seconds for what ought to take no time, and does only where a driver keeps the service control manager waiting."""


@dataclass(frozen=True)
class Remains:
    """What a test left, as the agents name it.

    Attributes:
        agent: the administrator's.
        others: further agents; they are closed.
        requests: device requests that were started and not finished, with the agent that has them.
        handles: open device handles, likewise.
        services: that were created, deleted or not: a driver outlives its service's deletion.
        files: that were provided.
    """

    agent: Agent
    others: tuple[Agent, ...]
    requests: Mapping[str, Agent]
    handles: Mapping[str, Agent]
    services: tuple[str, ...]
    files: tuple[str, ...]


def undo(remains: Remains, *, deadline: float) -> set[Trace]:
    """Undo it.

    Args:
        remains: what is left.
        deadline: seconds for what one agent has to do.

    Returns:
        What could not be undone; empty when nothing is left.

    Raises:
        AgentRefused: ``stuck``, an unload routine does not return.
        Others: as AgentClient.ask_all.
    """
    found: set[Trace] = set()
    for other in remains.others:
        # Its end would do the same, but nobody is told when it has: a driver must not be stopped before.
        found |= _take(list(_of_agent(remains, other)), other, deadline)
        other.client.close()
    steps = [*_of_agent(remains, remains.agent), *_of_system(remains, deadline / 2)]
    return found | _take(steps, remains.agent, deadline)


def _take(steps: Sequence[tuple[Request, Trace]], agent: Agent, deadline: float) -> set[Trace]:
    """Have an agent take steps; what those that failed mean."""
    answers = agent.client.ask_all([request for request, _ in steps], deadline=deadline, strict=False)
    found: set[Trace] = set()
    for ((operation, _), trace), answer in zip(steps, answers, strict=True):
        if operation == "stop_service" and answer.get("error") == STUCK:
            raise AgentRefused(STUCK, "", endpoint=agent.client.endpoint, operation=operation)
        if _failed(operation, answer):
            found.add(trace)
    return found


def _of_agent(remains: Remains, agent: Agent) -> Iterator[tuple[Request, Trace]]:
    """What an agent itself holds: each request, and what it means when it fails."""
    for handle in (name for name, owner in remains.handles.items() if owner is agent):
        yield ("close", {"device": handle}), Trace.CLEANUP_FAILED
    for request in (name for name, owner in remains.requests.items() if owner is agent):
        # Closing the handle cancelled it.
        yield ("finish", {"request": request, "deadline_ms": milliseconds(1)}), Trace.DRIVER_STUCK
    # Programs start others that nobody here was told of, and which stay when the program ends.
    yield ("terminate_all", {"deadline_ms": milliseconds(_AT_ONCE)}), Trace.PROCESSES_LEFT


def _of_system(remains: Remains, driver: float) -> Iterator[tuple[Request, Trace]]:
    """What the system holds, likewise."""
    at_once = milliseconds(_AT_ONCE)
    for service in remains.services:
        yield ("stop_service", {"service": service, "deadline_ms": milliseconds(driver)}), Trace.DRIVER_STUCK
        yield ("delete_service", {"service": service, "deadline_ms": at_once}), Trace.CLEANUP_FAILED
        yield ("query_service", {"service": service, "deadline_ms": at_once}), Trace.DRIVER_STUCK
    for path in remains.files:
        yield ("remove", {"path": path}), Trace.CLEANUP_FAILED


def _failed(operation: str, answer: dict[str, Member]) -> bool:
    error = answer.get("win32_error")
    match operation:
        case "stop_service":
            return error not in {0, *_STOPPED_BEFORE}
        case "delete_service":
            return error not in {0, *_DELETED_BEFORE}
        case "query_service":
            # One that is marked for deletion stays until its driver is unloaded and nobody has it open.
            return error != win32.ERROR_SERVICE_DOES_NOT_EXIST
        case "finish":
            return answer.get("done") is not True
        case "terminate_all":
            return error != 0 or answer.get("remaining") != 0
        case _:
            return error != 0
