"""Processes of a Windows machine: which were launched and how they are named in the agents, and what can be asked."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

from vm import win32
from vm.errors import MachineError, UnsupportedByMachine, Win32Error
from vm.machine import Account, ImageKind, LaunchRequest, LaunchResult
from vm.windows.agent.errors import AgentRefused
from vm.windows.agent.operations import Agent, Launched, error_of
from vm.windows.agent.protocol import MOST_PROCESSES
from vm.windows.machine.link import GuestLink

LONGEST_TEXT: Final = 32_767
"""UTF-16 units of the longest command line or path (Microsoft Learn, CreateProcessW)."""
_NOT_NOTIFIED: Final = frozenset(
    {win32.ERROR_FILE_NOT_FOUND, win32.ERROR_PATH_NOT_FOUND, win32.ERROR_INVALID_NAME, win32.ERROR_BAD_PATHNAME}
)
_FILENAME_TOO_LONG: Final = 206  # ERROR_FILENAME_EXCED_RANGE, winerror.h


@dataclass
class LaunchedProcess:
    """A process that was launched and is not known to have ended."""

    label: str
    pid: int
    image: str
    agent: Agent
    suspended: bool


class Processes:
    """The processes of one machine since it was put back."""

    def __init__(self, link: GuestLink) -> None:
        self._link = link
        self._labels = itertools.count(1)
        self._alive: dict[int, LaunchedProcess] = {}

    def clear(self) -> None:
        """None runs any more."""
        self._alive.clear()

    def launch(self, request: LaunchRequest, agent_pid: int, kind: ImageKind) -> LaunchResult:
        """Create a process.

        Args:
            request: how.
            agent_pid: of the agent that makes launches of its own.
            kind: what the image is known to be.

        Raises:
            UnsupportedByMachine: Windows offers no way.
            Win32Error: ERROR_INVALID_PARAMETER 87 for a parent or creator that does not run.
        """
        _refuse_what_windows_lacks(request)
        if too_long(request.image) or too_long(request.command_line):
            # The agent could not even be told; CreateProcessW checks the same before anything else.
            return LaunchResult(None, None, agent_pid, agent_pid, 0, None, request.command_line,
                                _FILENAME_TOO_LONG, notified=False)  # fmt: skip
        creator = None
        if request.creator is not None and request.creator != agent_pid:
            creator = self._known(request.creator, "CreateProcessW")
        agent = self._agent_for(kind, creator, request)
        if sum(one.agent is agent for one in self._alive.values()) >= MOST_PROCESSES:
            raise UnsupportedByMachine(
                f"one process more than {MOST_PROCESSES}: the agent in the guest holds no more; end some first"
            )
        parent = self._named(request.parent, agent)
        label = f"process{next(self._labels)}"
        try:
            launched = agent.launch(
                label,
                request.image,
                request.command_line,
                parent=parent,
                creator=creator.label if creator else None,
                suspended=request.suspended,
            )
        except AgentRefused as error:
            if (meaning := self._meaning(error, request)) is not None:
                raise meaning from error
            raise
        if launched.pid is not None and launched.win32_error == 0:
            self._alive[launched.pid] = LaunchedProcess(label, launched.pid, request.image, agent, request.suspended)
        return _result(launched, request)

    def resume(self, pid: int) -> None:
        """Resume a process launched suspended; nothing happens to one that runs."""
        process = self._known(pid, "ResumeThread")
        if process.suspended:
            process.agent.resume(process.label)
            process.suspended = False

    def exit(self, pid: int, status: int) -> None:
        """Have a process end by itself. Raises as Machine.exit_process."""
        process = self._known(pid, "ExitProcess")
        if process.suspended:
            raise error_of(
                win32.ERROR_INVALID_PARAMETER, "ExitProcess", detail=f"process {pid} is suspended; resume it first"
            )
        try:
            process.agent.exit(process.label, status)
        except AgentRefused as error:
            if error.error == "process-gone":
                self._forget(process)
                raise self._not_running(pid, "ExitProcess") from error
            if error.error == "process-unreachable":
                raise UnsupportedByMachine(
                    f"process {pid} ({process.image}) takes no orders, so that it cannot be asked to exit; "
                    "terminate it, or launch a program that provide_image put there"
                ) from error
            raise
        self._forget(process)

    def terminate(self, pid: int, status: int) -> None:
        """Terminate a process. Raises as Machine.terminate_process."""
        process = self._known(pid, "TerminateProcess")
        try:
            process.agent.terminate(process.label, status)
        except Win32Error as error:
            # Windows refuses so for a process that has ended already (Microsoft Learn, TerminateProcess).
            if error.code != win32.ERROR_ACCESS_DENIED or process.agent.running([process.label])[0]:
                raise
            self._forget(process)
            raise self._not_running(pid, "TerminateProcess") from error
        self._forget(process)

    def running(self) -> dict[int, str]:
        """Those that run now, with their image."""
        by_agent: dict[Agent, list[LaunchedProcess]] = {}
        for process in self._alive.values():
            by_agent.setdefault(process.agent, []).append(process)
        for agent, processes in by_agent.items():
            runs = agent.running([process.label for process in processes])
            for process in (one for one, alive in zip(processes, runs, strict=True) if not alive):
                self._forget(process)
        return {pid: process.image for pid, process in self._alive.items()}

    def _forget(self, process: LaunchedProcess) -> None:
        del self._alive[process.pid]
        process.agent.release(process.label)

    def _known(self, pid: int, call: str) -> LaunchedProcess:
        try:
            return self._alive[pid]
        except KeyError:
            raise self._not_running(pid, call) from None

    @staticmethod
    def _not_running(pid: int, call: str) -> Win32Error:
        return error_of(
            win32.ERROR_INVALID_PARAMETER, call, detail=f"no process {pid} was launched here and still runs"
        )

    def _named(self, pid: int | None, agent: Agent) -> str | int | None:
        """A parent as the agent knows it: its own by label, any other by pid."""
        known = None if pid is None else self._alive.get(pid)
        return known.label if known is not None and known.agent is agent else pid

    def _agent_for(self, kind: ImageKind, creator: LaunchedProcess | None, request: LaunchRequest) -> Agent:
        if kind is not ImageKind.REQUIRES_ELEVATION:
            return creator.agent if creator is not None else self._link.agent()
        # An administrator's agent has the rights that the image asks for, so that Windows would not refuse it.
        if creator is not None or request.parent is not None:
            raise UnsupportedByMachine(
                "a program that asks for elevation is only refused to a standard user, whose agent cannot create "
                "processes in the name of another process"
            )
        return self._link.agent(Account.STANDARD_USER)

    def _meaning(self, error: AgentRefused, request: LaunchRequest) -> MachineError | None:
        """What a refused launch says of the request; None where it says something of the agent."""
        if error.error == "bad-request" and request.parent is not None and "'parent'" in error.reason:
            return self._not_running(request.parent, "CreateProcessW")
        if error.error == "creator-unreachable" and request.creator is not None:
            creator = self._alive.get(request.creator)
            if creator is not None and not creator.agent.running([creator.label])[0]:
                self._forget(creator)
                return self._not_running(request.creator, "CreateProcessW")
            return UnsupportedByMachine(
                f"process {request.creator} takes no orders, so that it cannot create another; let a program that "
                "provide_image put there be the creator"
            )
        return None


def too_long(text: str | None) -> bool:
    """More than Windows takes for a path or a command line."""
    return text is not None and len(text.encode("utf-16-le", "surrogatepass")) > 2 * LONGEST_TEXT


def _refuse_what_windows_lacks(request: LaunchRequest) -> None:
    if "\0" in f"{request.image}{request.command_line}":
        raise UnsupportedByMachine("CreateProcessW takes texts that end at their first NUL, so that none can hold one")
    if request.two_step:
        raise UnsupportedByMachine(
            "CreateProcessW makes a process and its first thread in one step; the agent in the guest does not call "
            "NtCreateProcessEx"
        )
    if request.subsystem:
        raise UnsupportedByMachine(
            "only a Pico provider, which the Windows Subsystem for Linux registers in the kernel, can make a subsystem "
            "process"
        )


def _result(launched: Launched, request: LaunchRequest) -> LaunchResult:
    parent = launched.parent_pid
    if parent is None:
        parent = request.parent if request.parent is not None else launched.creator_pid
    succeeded = launched.win32_error == 0
    return LaunchResult(
        launched.pid,
        launched.tid,
        parent,
        launched.creator_pid,
        launched.creator_tid,
        launched.image_name,
        launched.command_line if succeeded else request.command_line,
        launched.win32_error,
        launched.status,
        notified=launched.win32_error not in _NOT_NOTIFIED,
    )
