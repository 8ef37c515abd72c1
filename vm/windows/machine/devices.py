"""Device handles and overlapped requests of programs on a Windows machine."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from vm import win32
from vm.errors import UnsupportedByMachine
from vm.windows.agent.operations import Agent, Transfer, error_of
from vm.windows.agent.protocol import LARGEST_BUFFER, MOST_DEVICES, MOST_REQUESTS

if TYPE_CHECKING:
    from vm.windows.machine.machine import WindowsMachine

_CALLS: Final = {"control": "DeviceIoControl", "read": "ReadFile", "write": "WriteFile"}


class DeviceTable:
    """Names of the handles and requests that are open in the agents since the machine was put back."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.handles: dict[str, Agent] = {}
        self.requests: dict[str, Agent] = {}

    def new_handle(self, agent: Agent) -> str:
        """A name that was never used, for a handle. Raises UnsupportedByMachine where an agent can hold no more."""
        return self._new_name("device", self.handles, agent, MOST_DEVICES)

    def new_request(self, agent: Agent) -> str:
        """A name that was never used, for a request. Raises UnsupportedByMachine likewise."""
        return self._new_name("request", self.requests, agent, MOST_REQUESTS)

    def _new_name(self, kind: str, held: dict[str, Agent], agent: Agent, most: int) -> str:
        if sum(one is agent for one in held.values()) >= most:
            raise UnsupportedByMachine(
                f"one {kind} more than {most}: the agent in the guest holds no more at a time; close some first"
            )
        return f"{kind}{next(self._numbers)}"

    def clear(self) -> None:
        """Nothing is open."""
        self.handles.clear()
        self.requests.clear()


class WindowsRequest:
    """An overlapped request; see the Machine protocol."""

    def __init__(self, handle: WindowsHandle, name: str, agent: Agent) -> None:
        self._handle = handle
        self._name = name
        self._agent = agent
        self._ended: Transfer | None = None

    @property
    def done(self) -> bool:
        """True once the driver has completed it."""
        return self._finish(0.0)

    def wait(self, deadline: float = 10.0) -> bytes:
        """The output, after waiting at most `deadline` seconds."""
        if not self._finish(deadline):
            raise TimeoutError(f"DeviceIoControl on {self._handle.path} is still pending after {deadline:g} s")
        assert self._ended is not None
        return self._handle.output_of(self._ended, "control").output

    def cancel(self) -> None:
        """CancelIoEx; a request that is done already stays as it is."""
        if self._ended is not None:
            return
        machine = self._handle.machine
        with machine.calling(f"cancel a request of {self._handle.path}", self._handle.era):
            code = self._agent.cancel(self._name)
        if code not in {win32.ERROR_SUCCESS, win32.ERROR_NOT_FOUND}:
            raise error_of(code, "CancelIoEx", detail=self._handle.path)

    def _finish(self, deadline: float) -> bool:
        if self._ended is None:
            machine = self._handle.machine
            with machine.calling(f"wait for a request of {self._handle.path}", self._handle.era):
                self._ended = self._agent.finish(self._name, deadline=deadline)
                if self._ended is not None:
                    machine.devices.requests.pop(self._name, None)
        return self._ended is not None


class WindowsHandle:
    """An open handle of a device; see the Machine protocol."""

    def __init__(self, machine: WindowsMachine, agent: Agent, name: str, path: str) -> None:
        self.machine = machine
        self.era = machine.era
        self.path = path
        self._agent = agent
        self._name: str | None = name
        machine.devices.handles[name] = agent

    def control(self, code: int, data: bytes = b"", output_size: int = 0) -> bytes:
        """DeviceIoControl, synchronous."""
        return self._transfer("control", code=code, data=data, output_size=output_size).output

    def start_control(self, code: int, data: bytes = b"", output_size: int = 0) -> WindowsRequest:
        """DeviceIoControl, overlapped."""
        _check_size(len(data), output_size)
        request = self.machine.devices.new_request(self._agent)
        with self.machine.calling(f"DeviceIoControl 0x{code:X} on {self.path}", self.era):
            self._agent.start(request, self._open("DeviceIoControl"), code, data, output_size)
            self.machine.devices.requests[request] = self._agent
        return WindowsRequest(self, request, self._agent)

    def read(self, size: int) -> bytes:
        """ReadFile."""
        return self._transfer("read", output_size=size).output

    def write(self, data: bytes) -> int:
        """WriteFile: bytes written."""
        return self._transfer("write", data=data).information

    def duplicate(self) -> WindowsHandle:
        """DuplicateHandle: a second handle to the same file object."""
        name = self.machine.devices.new_handle(self._agent)
        with self.machine.calling(f"duplicate the handle of {self.path}", self.era):
            self._agent.duplicate(self._open("DuplicateHandle"), name)
        return WindowsHandle(self.machine, self._agent, name, self.path)

    def close(self) -> None:
        """CloseHandle; closing twice does nothing."""
        name, self._name = self._name, None
        if name is None or self.era != self.machine.era:
            return
        with self.machine.calling(f"close the handle of {self.path}", self.era):
            self._agent.close(name)
            self.machine.devices.handles.pop(name, None)

    def output_of(self, transfer: Transfer, kind: str) -> Transfer:
        """A request that ended well. Raises Win32Error for one that did not."""
        if transfer.win32_error:
            raise error_of(transfer.win32_error, _CALLS[kind], status=transfer.status, detail=self.path)
        return transfer

    def _open(self, call: str) -> str:
        if self._name is None:
            raise error_of(win32.ERROR_INVALID_HANDLE, call, detail=f"the handle of {self.path} was closed")
        return self._name

    def _transfer(
        self, kind: str, *, code: int | None = None, data: bytes | None = None, output_size: int | None = None
    ) -> Transfer:
        _check_size(len(data or b""), output_size or 0)
        seconds = self.machine.patience.request
        with self.machine.calling(f"{_CALLS[kind]} on {self.path}", self.era):
            ended = self._agent.transfer(
                kind, self._open(_CALLS[kind]), deadline=seconds, code=code, data=data, output_size=output_size
            )
        if ended is None:
            raise TimeoutError(f"{_CALLS[kind]} on {self.path} is still pending after {seconds:g} s; it was cancelled")
        return self.output_of(ended, kind)


def _check_size(given: int, wanted: int) -> None:
    if max(given, wanted) > LARGEST_BUFFER:
        raise UnsupportedByMachine(
            f"a device buffer of {max(given, wanted)} bytes: the agent in the guest takes at most {LARGEST_BUFFER}"
        )
