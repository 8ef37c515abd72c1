"""A plan's operations on devices: transfers, overlapped requests, streams."""

from __future__ import annotations

import base64
import contextlib
import threading

from tests.standin.plan_lines import (
    BUFFER_MAXIMUM,
    DEPTH,
    DEVICES,
    STREAMS,
    TRANSFERS,
    WAIT_DEFAULT,
    BadRequest,
    Failed,
)
from tests.standin.system import Stopped
from vm import ntstatus, win32
from vm.errors import Win32Error
from vm.machine import DeviceAccess


class Transfer:
    """A device request; `pending` is the emulated machine's, None where it failed at once."""

    def __init__(self, start):
        self.pending, self.error = None, None
        try:
            self.pending = start()
        except Win32Error as error:
            self.error = error

    def done(self, _machine=None):
        return self.error is not None or self._state().done

    def _state(self):
        return self.pending._request()

    def pass_time(self, _machine, seconds):
        with contextlib.suppress(TimeoutError, Win32Error):
            self.pending.wait(seconds)

    def answer(self, machine):
        if self.error is not None:
            status, information, output = self.error.status or 0, 0, b""
            code = self.error.code
        else:
            state = self._state()
            status, information, output = state.status, state.information, state.output
            code = ntstatus.to_win32(status) if status & 0x8000_0000 else 0
        return {
            "win32_error": code,
            "status": status,
            "information": information,
            "time": machine.system_time(),
            "output": base64.b64encode(output).decode(),
        }


class Stream:
    """Requests kept under way by a thread; each in turn becomes an event."""

    def __init__(self, plan, name, device, start, depth):
        self._plan = plan
        self._name = name
        self._device = device
        self._asking = True
        self._start = start
        self._stopping = threading.Event()
        self._sent = 0
        self._transfers = []
        with plan.using():
            for _ in range(depth):
                self._transfers.append(Transfer(start))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self):
        self._stopping.set()
        self._thread.join()

    def runs_on(self, device):
        return self._device is device and self._asking

    def _run(self):
        with contextlib.suppress(Stopped):
            self._pump()

    def _pump(self):
        plan, failed = self._plan, None
        while self._transfers:
            transfer = self._transfers.pop(0)
            self._wait_for(transfer)
            if self._stopping.is_set() or failed:
                self._cancel([transfer, *self._transfers])
            with plan.using() as machine:
                answer = transfer.answer(machine)
            if answer["win32_error"] in {0, win32.ERROR_MORE_DATA}:
                self._event("data", answer)
                if not self._stopping.is_set() and not failed:
                    with plan.using():
                        self._transfers.append(Transfer(self._start))
            elif not failed:
                failed = answer
                self._cancel(self._transfers)
        self._asking = False
        self._event("end", {key: failed[key] if failed else 0 for key in ("win32_error", "status")})

    def _wait_for(self, transfer):
        """Until it is done, or the stream is told to stop."""
        while not self._plan.wait_for(
            lambda _machine: transfer.done() or self._stopping.is_set(), transfer.pass_time, 3600
        ):
            pass

    def _cancel(self, transfers):
        with self._plan.using():
            for transfer in transfers:
                if not transfer.done():
                    transfer.pending.cancel()

    def _event(self, kind, answer):
        self._plan.send_event({"event": kind, "stream": self._name, "index": self._sent, **answer})
        self._sent += kind == "data"


class DeviceOperations:
    """What a Plan does with devices."""

    def _may_open(self, request, key):
        name = request.text(key)
        if name in self._devices:
            raise BadRequest("a device has this name already; close it first")
        if len(self._devices) == DEVICES:
            raise BadRequest("too many devices are open; close some first")
        return name

    def _device(self, request):
        name = request.text("device")
        if name not in self._devices:
            raise BadRequest("there is no such device in 'device'")
        return self._devices[name]

    def open(self, request):
        name, path = self._may_open(request, "device"), request.text("path")
        access = DeviceAccess(0)
        for key, right in (("read", DeviceAccess.READ), ("write", DeviceAccess.WRITE)):
            if request.flag(key):
                access |= right
        request.complete()
        with self.using() as machine:
            self._devices[name] = machine.open_device(path, access, account=self._account)
        return {"win32_error": 0, "status": 0}

    def duplicate(self, request):
        device, name = self._device(request), self._may_open(request, "as")
        request.complete()
        with self.using():
            self._devices[name] = device.duplicate()
        return {"win32_error": 0}

    def close(self, request):
        device = self._device(request)
        if any(stream.runs_on(device) for stream in self._streams.values()):
            raise BadRequest("a stream runs on the device; stop it first")
        request.complete()
        with self.using():
            device.close()
        del self._devices[request.text("device")]
        return {"win32_error": 0}

    def transfer(self, request, kind):
        """A request that is ready to be started: a function."""
        device = self._device(request)
        code = request.number("code", 0xFFFF_FFFF) if kind == "control" else 0
        size = 0 if kind == "write" else request.number("output_size", BUFFER_MAXIMUM, 0)
        data = b"" if kind == "read" else request.octets("input")
        if kind == "control":
            return lambda: device.start_control(code, data, size)
        io = self._system._machine.kernel.io
        if kind == "read":
            return lambda: device._begin("read", lambda handle: io.read(handle, size))
        return lambda: device._begin("write", lambda handle: io.write(handle, data))

    def _to_end(self, request, kind):
        start, seconds = self.transfer(request, kind), request.seconds()
        request.complete()
        with self.using():
            transfer = Transfer(start)
        timed_out = not self._wait(transfer.done, transfer.pass_time, seconds)
        if timed_out:
            with self.using():
                transfer.pending.cancel()
            if not self._wait(transfer.done, transfer.pass_time, WAIT_DEFAULT / 1000):
                raise Failed("stuck", timed_out=True)
        with self.using() as machine:
            return {"timed_out": timed_out, **transfer.answer(machine)}

    def control(self, request):
        return self._to_end(request, "control")

    def read(self, request):
        return self._to_end(request, "read")

    def write(self, request):
        return self._to_end(request, "write")

    def start(self, request):
        name = request.text("request")
        if name in self._transfers:
            raise BadRequest("a request has this name already; finish it first")
        if len(self._transfers) == TRANSFERS:
            raise BadRequest("too many requests are under way; finish some first")
        start = self.transfer(request, "control")
        request.complete()
        with self.using():
            transfer = self._transfers[name] = Transfer(start)
            return {"done": transfer.done()}

    def _transfer(self, request):
        name = request.text("request")
        if name not in self._transfers:
            raise BadRequest("there is no such request in 'request'")
        return name, self._transfers[name]

    def finish(self, request):
        name, transfer = self._transfer(request)
        seconds = request.seconds()
        request.complete()
        if not self._wait(transfer.done, transfer.pass_time, seconds):
            return {"done": False}
        del self._transfers[name]
        with self.using() as machine:
            return {"done": True, **transfer.answer(machine)}

    def cancel(self, request):
        _, transfer = self._transfer(request)
        request.complete()
        with self.using():
            if transfer.done():
                return {"win32_error": win32.ERROR_NOT_FOUND}
            transfer.pending.cancel()
        return {"win32_error": 0}

    # Streams

    def stream(self, request):
        name = request.text("stream")
        depth = request.number("depth", DEPTH, 1)
        if name in self._streams:
            raise BadRequest("a stream has this name already; stop it first")
        if len(self._streams) == STREAMS:
            raise BadRequest("too many streams run; stop some first")
        if not depth:
            raise BadRequest("the integer is out of range in 'depth'")
        start = self.transfer(request, "control")
        request.complete()
        self._streams[name] = Stream(self, name, self._device(request), start, depth)
        return {"depth": depth}

    def stop(self, request):
        name = request.text("stream")
        if name not in self._streams:
            raise BadRequest("there is no such stream in 'stream'")
        request.complete()
        self._streams.pop(name).stop()
        return {}

    def send_event(self, event):
        self._send(event)

    def wait_for(self, done, pass_time, seconds):
        return self._wait(done, pass_time, seconds)
