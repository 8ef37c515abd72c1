"""What an agent does, as typed calls: services, devices, processes and files of a guest.

Each call raises what AgentClient.ask raises, and Win32Error where the system refused the call that was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from vm import win32
from vm.errors import UnsupportedByMachine, Win32Error
from vm.machine import RegistryValue, ServiceState
from vm.windows.agent.client import AgentClient, Request
from vm.windows.agent.errors import AgentTimedOut
from vm.windows.agent.protocol import (
    LARGEST_PARAMETER,
    LONGEST_WAIT,
    Malformed,
    Member,
    Members,
    flag,
    integer,
    octets,
    optional_integer,
    optional_text,
)
from vm.windows.remoting.errors import GuestProtocolError

CANCELLED_WITHIN: Final = 10.0
"""Seconds that ntguest.exe gives a driver to complete a request that it cancelled (driver/guest/agent.h)."""

_STATES: Final = {1: ServiceState.STOPPED, 3: ServiceState.STOP_PENDING, 4: ServiceState.RUNNING}
"""SERVICE_STATUS.dwCurrentState (winsvc.h); a driver service has no start, pause or continue pending."""


@dataclass(frozen=True)
class Hello:
    """What an agent says of itself."""

    protocol: int
    pid: int
    build: int
    time: int


@dataclass(frozen=True)
class Launched:
    """What a launch came to. Members that Windows tells only of a process that exists are None otherwise.

    Attributes:
        status: the NTSTATUS behind `win32_error`; None where the call failed before any system service did.
        command_line_read: the command line is the one in the new process, not the one that was passed.
    """

    win32_error: int
    status: int | None
    pid: int | None
    tid: int | None
    parent_pid: int | None
    creator_pid: int
    creator_tid: int
    image_name: str | None
    command_line: str | None
    command_line_read: bool


@dataclass(frozen=True)
class Transfer:
    """How a device request ended."""

    win32_error: int
    status: int
    information: int
    output: bytes


def error_of(code: int, call: str, *, status: int | None = None, detail: str = "") -> Win32Error:
    """The error that a call of the guest set."""
    return Win32Error(code, win32.error_name(code), call, status=status, detail=detail)


def milliseconds(seconds: float) -> int:
    """A deadline as the agent takes it."""
    return min(max(round(seconds * 1000), 0), LONGEST_WAIT)


class Agent:
    """One agent.

    Args:
        client: its client.
        patience: seconds for a call that ought to answer at once.
        slack: seconds that an answer may take beyond the time that the guest itself was given: a busy host delays both.
    """

    def __init__(self, client: AgentClient, *, patience: float = 30.0, slack: float = 15.0) -> None:
        self.client = client
        self._patience = patience
        self._slack = slack

    def hello(self) -> Hello:
        """What it is."""
        answer = self._ask("hello")
        with self._read("hello"):
            return Hello(*(integer(answer, key, 63) for key in ("protocol", "pid", "build", "time")))

    def time(self) -> int:
        """The guest's clock: 100 ns units since 1601 UTC."""
        answer = self._ask("time")
        with self._read("time"):
            return integer(answer, "time", 63)

    # Services

    def create_service(self, service: str, image: str) -> None:
        """Create a demand-start kernel service without parameters."""
        answer = self._ask("create_service", service=service, image=image)
        self._succeeded(answer, "CreateServiceW", f"service {service}")

    def set_parameters(self, service: str, parameters: Mapping[str, RegistryValue]) -> None:
        """Replace the values under a service's Parameters key."""
        requests: list[Request] = [("clear_parameters", {"service": service})]
        requests += [
            ("set_parameter", {"service": service, "value": name, **_typed(value)})
            for name, value in parameters.items()
        ]
        for answer in self.client.ask_all(requests, deadline=self._patience):
            self._succeeded(answer, "RegSetValueExW", f"parameters of service {service}")

    def start_service(self, service: str, *, deadline: float) -> None:
        """Start a service; an entry point that does not return within `deadline` seconds is AgentRefused ``stuck``."""
        answer = self._ask_driver("start_service", service, deadline)
        self._succeeded(answer, "StartServiceW", f"service {service}")

    def stop_service(self, service: str, *, deadline: float) -> ServiceState:
        """Stop a service, likewise; its state afterwards."""
        answer = self._ask_driver("stop_service", service, deadline)
        self._succeeded(answer, "ControlService", f"service {service}")
        return self._state(answer, "stop_service")

    def delete_service(self, service: str) -> None:
        """Delete a service."""
        self._succeeded(self._ask("delete_service", service=service), "DeleteService", f"service {service}")

    def service_state(self, service: str) -> ServiceState:
        """The state of a service."""
        answer = self._ask("query_service", service=service)
        self._succeeded(answer, "QueryServiceStatus", f"service {service}")
        return self._state(answer, "query_service")

    # Files

    def provide(self, path: str, source: str) -> None:
        """Copy a file of the guest to another path, over what this program put there but nothing else.

        Raises:
            Win32Error: ERROR_FILE_EXISTS 80 where a file of somebody else's is.
        """
        self._succeeded(self._ask("provide", path=path, source=source), "CopyFileW", path)

    def remove(self, path: str) -> None:
        """Remove a provided file; one that is gone is no error."""
        self._succeeded(self._ask("remove", path=path), "DeleteFileW", path)

    # Processes

    def launch(
        self, label: str, image: str, command_line: str | None, *, parent: str | int | None, creator: str | None,
        suspended: bool,
    ) -> Launched:  # fmt: skip
        """Create a process; a refused creation is an answer too.

        Args:
            label: names the process in later calls.
            image: path of the executable.
            command_line: None to pass none.
            parent: label or pid of the process to inherit from.
            creator: label of the process that makes the call; None for the agent.
            suspended: leave its first thread suspended.
        """
        answer = self._ask(
            "launch",
            process=label,
            image=image,
            command_line=command_line,
            parent=parent,
            creator=creator,
            suspended=suspended or None,
            deadline_ms=milliseconds(self._patience),
        )
        with self._read("launch"):
            return Launched(
                integer(answer, "win32_error"),
                optional_integer(answer, "status"),
                optional_integer(answer, "pid"),
                optional_integer(answer, "tid"),
                optional_integer(answer, "parent_pid", 63),
                integer(answer, "creator_pid"),
                integer(answer, "creator_tid"),
                optional_text(answer, "image_name"),
                optional_text(answer, "command_line"),
                answer.get("command_line_read") is not None and flag(answer, "command_line_read"),
            )

    def resume(self, label: str) -> None:
        """Resume a process that was launched suspended."""
        self._succeeded(self._ask("resume", process=label), "ResumeThread", f"process {label}")

    def exit(self, label: str, status: int) -> None:
        """Have a process end by itself, and wait for that. Raises AgentTimedOut for one that still runs then."""
        self._end("exit", label, status)

    def terminate(self, label: str, status: int) -> None:
        """Terminate a process, and wait until it is gone. Raises AgentTimedOut for one that still runs then."""
        self._end("terminate", label, status)

    def running(self, labels: list[str]) -> list[bool]:
        """Whether each process still runs, in one round trip."""
        if not labels:
            return []
        requests: list[Request] = [("wait", {"process": label, "deadline_ms": 0}) for label in labels]
        answers = self.client.ask_all(requests, deadline=self._patience)
        with self._read("wait"):
            return [not flag(answer, "exited") for answer in answers]

    def release(self, label: str) -> None:
        """Forget a process; its pid may be used again. Nobody waits for the answer."""
        self.client.post("release", process=label)

    # Devices

    def open(self, device: str, path: str, *, read: bool, write: bool) -> None:
        """Open a device under a name."""
        answer = self._ask("open", device=device, path=path, read=read, write=write)
        self._succeeded(answer, "CreateFileW", path)

    def duplicate(self, device: str, name: str) -> None:
        """A second handle of an open device, under another name."""
        answer = self._ask("duplicate", device=device, **{"as": name})
        self._succeeded(answer, "DuplicateHandle", device)

    def close(self, device: str) -> None:
        """Close a handle."""
        self._succeeded(self._ask("close", device=device), "CloseHandle", device)

    def transfer(
        self, kind: str, device: str, *, deadline: float, code: int | None = None, data: bytes | None = None,
        output_size: int | None = None,
    ) -> Transfer | None:  # fmt: skip
        """A request to its end, None when it was pending at the deadline and was cancelled.

        Args:
            kind: ``control``, ``read`` or ``write``.
            device: the handle.
            deadline: seconds.
            code: of a control request.
            data: for control and write.
            output_size: for control and read.
        """
        answer = self.client.ask(
            kind,
            deadline=deadline + CANCELLED_WITHIN + self._slack,
            device=device,
            code=code,
            input=data,
            output_size=output_size,
            deadline_ms=milliseconds(deadline),
        )
        with self._read(kind):
            return None if flag(answer, "timed_out") else _transfer(answer)

    def start(self, request: str, device: str, code: int, data: bytes, output_size: int) -> bool:
        """Start a control request under a name; whether it is done already."""
        answer = self._ask("start", request=request, device=device, code=code, input=data, output_size=output_size)
        with self._read("start"):
            return flag(answer, "done")

    def finish(self, request: str, *, deadline: float) -> Transfer | None:
        """How a started request ended, which releases its name; None while it is pending at the deadline."""
        answer = self.client.ask(
            "finish", deadline=deadline + self._slack, request=request, deadline_ms=milliseconds(deadline)
        )
        with self._read("finish"):
            return _transfer(answer) if flag(answer, "done") else None

    def cancel(self, request: str) -> int:
        """Ask for a started request's cancellation; the Win32 error of CancelIoEx."""
        answer = self._ask("cancel", request=request)
        with self._read("cancel"):
            return integer(answer, "win32_error")

    # Streams

    def stream(self, name: str, device: str, code: int, data: bytes, output_size: int, *, depth: int) -> None:
        """Keep `depth` control requests under way; what they bring comes as events of the client."""
        self._ask("stream", stream=name, device=device, code=code, input=data, output_size=output_size, depth=depth)

    def stop_stream(self, name: str) -> None:
        """End a stream; every event of it has arrived when this returns."""
        self._ask("stop", stream=name)

    # What the calls above have in common

    def _ask(self, operation: str, **members: Member | bytes) -> dict[str, Member]:
        return self.client.ask(operation, deadline=self._patience + self._slack, **members)

    def _ask_driver(self, operation: str, service: str, deadline: float) -> dict[str, Member]:
        return self.client.ask(
            operation, deadline=deadline + self._slack, service=service, deadline_ms=milliseconds(deadline)
        )

    def _end(self, operation: str, label: str, status: int) -> None:
        answer = self._ask(
            operation, process=label, status=status & 0xFFFF_FFFF, deadline_ms=milliseconds(self._patience)
        )
        self._succeeded(answer, {"exit": "ExitProcess"}.get(operation, "TerminateProcess"), f"process {label}")
        with self._read(operation):
            gone = flag(answer, "exited")
        if not gone:
            # Windows calls drivers on the way out of a process: one that keeps it there keeps it for ever.
            raise AgentTimedOut(
                f"the process was told to end and still runs after {self._patience:g} s",
                endpoint=self.client.endpoint,
                command=operation,
            )

    def _succeeded(self, answer: Members, call: str, detail: str) -> None:
        with self._read(call):
            code = integer(answer, "win32_error")
            status = optional_integer(answer, "status")
        if code:
            raise error_of(code, call, status=status, detail=detail)

    def _state(self, answer: Members, operation: str) -> ServiceState:
        with self._read(operation):
            return _STATES.get(integer(answer, "state"), ServiceState.STOP_PENDING)

    @contextmanager
    def _read(self, operation: str) -> Iterator[None]:
        try:
            yield
        except Malformed as error:
            raise GuestProtocolError(
                f"ntguest.exe answers {operation} otherwise than documented: {error}",
                endpoint=self.client.endpoint,
                command=operation,
            ) from error


def _transfer(answer: Members) -> Transfer:
    return Transfer(
        integer(answer, "win32_error"),
        integer(answer, "status"),
        integer(answer, "information", 63),
        octets(answer, "output"),
    )


def _typed(value: RegistryValue) -> dict[str, Member | bytes]:
    """A registry value under the member that says its type; bool is an int to Python, and a DWORD to a driver.

    Raises UnsupportedByMachine for one that is too large.
    """
    if isinstance(value, int):
        return {"number": int(value) & 0xFFFF_FFFF}
    size = len(value) if isinstance(value, bytes) else len(value.encode("utf-16-le", "surrogatepass")) + 2
    if size > LARGEST_PARAMETER:
        raise UnsupportedByMachine(
            f"a service parameter of {size} bytes: the agent in the guest takes at most {LARGEST_PARAMETER}"
        )
    return {"text": value} if isinstance(value, str) else {"data": value}
