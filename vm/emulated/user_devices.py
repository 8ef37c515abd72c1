"""Device handles and overlapped requests of programs on the emulated machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vm.emulated.ntstatus import NtStatusError
from vm.emulated.services import from_status, win32_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from vm.emulated.io.requests import Request
    from vm.emulated.machine import EmulatedMachine

ERROR_INVALID_HANDLE = 6
UNITS_PER_SECOND = 10_000_000
_CALL_OF = {"control": "DeviceIoControl", "read": "ReadFile", "write": "WriteFile"}


def _failed(status: int) -> bool:
    """Overlapped calls fail for errors and warnings alike, but a warning's output has been copied."""
    return bool(status & 0x8000_0000)


class EmulatedRequest:
    """An overlapped request."""

    def __init__(self, machine: EmulatedMachine, request: Request, call: str, path: str) -> None:
        self._machine = machine
        self._kernel_request = request
        self._call = call
        self._path = path
        self._made = machine.history.now()

    def _request(self) -> Request:
        if not self._machine.history.includes(self._made):
            raise win32_error(ERROR_INVALID_HANDLE, self._call, detail="the machine was restored since")
        # A restore brings the request back as it was then; one that was done at once is not kept.
        return self._machine.kernel.io.state.requests.get(self._kernel_request.id, self._kernel_request)

    @property
    def done(self) -> bool:
        """True once the driver has completed it."""
        return self._request().done

    def wait(self, deadline: float = 10.0) -> bytes:
        """The output, after waiting at most `deadline` seconds of the machine's time."""
        with self._machine.user_call(f"wait for {self._call} on {self._path}") as kernel:
            end = kernel.clock.interrupt_time() + int(deadline * UNITS_PER_SECOND)
            kernel.threads.run_ready()
            while not self._request().done and kernel.threads.pass_time(end):
                kernel.threads.run_ready()
        request = self._request()
        if not request.done:
            raise TimeoutError(
                f"{self._call} on {self._path} is still pending after {deadline:g} s of the machine's time"
            )
        if _failed(request.status):
            raise from_status(request.status, self._call, self._path)
        return request.output

    @property
    def information(self) -> int:
        """IoStatus.Information of a completed request."""
        return self._request().information

    def cancel(self) -> None:
        """CancelIoEx; a request that is done already stays as it is."""
        request = self._request()
        with self._machine.user_call(f"cancel {self._call} on {self._path}") as kernel:
            if not request.done:
                kernel.io.cancel(request)


class EmulatedHandle:
    """An open handle of a device."""

    def __init__(self, machine: EmulatedMachine, number: int, path: str) -> None:
        self._machine = machine
        self._number: int | None = number
        self._path = path
        self._opened = machine.history.now()

    def _handle(self, call: str) -> int:
        if self._number is None or not self._machine.history.includes(self._opened):
            raise win32_error(ERROR_INVALID_HANDLE, call, detail=f"the handle of {self._path} was closed")
        return self._number

    def _begin(self, kind: str, send: Callable[[int], Request]) -> EmulatedRequest:
        call = _CALL_OF[kind]
        handle = self._handle(call)
        with self._machine.user_call(f"{call} on {self._path}"):
            try:
                request = send(handle)
            except NtStatusError as error:
                raise from_status(error.status, call, self._path) from None
        return EmulatedRequest(self._machine, request, call, self._path)

    def _finish(self, request: EmulatedRequest) -> bytes:
        try:
            return request.wait()
        except TimeoutError:
            request.cancel()
            raise

    def control(self, code: int, data: bytes = b"", output_size: int = 0) -> bytes:
        """DeviceIoControl, synchronous."""
        return self._finish(self.start_control(code, data, output_size))

    def start_control(self, code: int, data: bytes = b"", output_size: int = 0) -> EmulatedRequest:
        """DeviceIoControl, overlapped."""
        io = self._machine.kernel.io
        return self._begin("control", lambda handle: io.device_control(handle, code, data, output_size))

    def read(self, size: int) -> bytes:
        """ReadFile."""
        io = self._machine.kernel.io
        return self._finish(self._begin("read", lambda handle: io.read(handle, size)))

    def write(self, data: bytes) -> int:
        """WriteFile: bytes written."""
        io = self._machine.kernel.io
        request = self._begin("write", lambda handle: io.write(handle, data))
        self._finish(request)
        return request.information

    def duplicate(self) -> EmulatedHandle:
        """DuplicateHandle: a second handle to the same file object."""
        handle = self._handle("DuplicateHandle")
        with self._machine.user_call(f"duplicate the handle of {self._path}") as kernel:
            return EmulatedHandle(self._machine, kernel.io.duplicate(handle), self._path)

    def close(self) -> None:
        """CloseHandle; closing twice does nothing."""
        if self._number is None or not self._machine.history.includes(self._opened):
            self._number = None
            return
        number, self._number = self._number, None
        with self._machine.user_call(f"close the handle of {self._path}") as kernel:
            kernel.io.close(number)
