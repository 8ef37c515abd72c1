"""ntguest.exe of a SmallWindows: the plan protocol of docs/reference/guest-programs.md over its emulated machine.

Needs nothing but vm and the standard library, so that it also runs inside a small guest. `serve` is one program from
its first line to its last; any number of them may run side by side.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import threading

from tests.standin.system import Stopped, dos
from tests.standin.windows import Refused
from vm import ntstatus, win32
from vm.errors import MachineBroken, Win32Error
from vm.machine import Account, DeviceAccess, LaunchRequest

LINE_MAXIMUM = 4 << 20
BUFFER_MAXIMUM = 1 << 20
WAIT_MAXIMUM, WAIT_DEFAULT = 600_000, 10_000
NAME_UNITS, TEXT_UNITS = 128, 32_767
MEMBERS, PROCESSES, DEVICES, TRANSFERS, STREAMS, DEPTH = 32, 4096, 64, 256, 8, 16
NAMES = ("process", "device", "request", "stream", "as")


class BadRequest(Exception):
    """A mistake in a line."""


class Failed(Exception):
    """What kept an operation from being tried."""

    def __init__(self, error, **answer):
        super().__init__(error)
        self.error = error
        self.answer = answer


class Request:
    """One line, of which every member must be asked for."""

    def __init__(self, line):
        try:
            text = line.decode("utf-8")
            members = json.loads(text, object_pairs_hook=_flat, parse_float=_no_number, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise BadRequest(str(error)) from error
        if not isinstance(members, dict):
            raise BadRequest("expected an object")
        if len(members) > MEMBERS:
            raise BadRequest("an object has too many members")
        self._members = members
        self._used = set()

    def member(self, key):
        self._used.add(key)
        return self._members.get(key)

    def optional_text(self, key, limit=TEXT_UNITS):
        value = self.member(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise BadRequest(f"expected a text in '{key}'")
        if len(value.encode("utf-16-le", "surrogatepass")) > 2 * limit:
            raise BadRequest(f"the text is too long in '{key}'")
        if "\0" in value:
            raise BadRequest(f"the text holds a NUL in '{key}'")
        return value

    def text(self, key):
        value = self.optional_text(key, NAME_UNITS if key in NAMES else TEXT_UNITS)
        if not value:
            raise BadRequest(f"expected a text that is not empty in '{key}'")
        return value

    def number(self, key, limit, missing=None):
        value = self.member(key)
        if value is None:
            if missing is None:
                raise BadRequest(f"expected an integer in '{key}'")
            return missing
        if type(value) is not int:
            raise BadRequest(f"expected an integer in '{key}'")
        if not 0 <= value <= limit:
            raise BadRequest(f"the integer is out of range in '{key}'")
        return value

    def flag(self, key):
        value = self.member(key)
        if value is not None and type(value) is not bool:
            raise BadRequest(f"expected true or false in '{key}'")
        return bool(value)

    def octets(self, key, limit=BUFFER_MAXIMUM):
        value = self.member(key)
        if value is None:
            return b""
        try:
            data = base64.b64decode(value.encode("ascii"), validate=True) if isinstance(value, str) else None
        except (binascii.Error, UnicodeEncodeError):
            data = None
        if data is None:
            raise BadRequest(f"expected bytes in base64 in '{key}'")
        if len(data) > limit:
            raise BadRequest(f"too many bytes in '{key}'")
        return data

    def seconds(self):
        return self.number("deadline_ms", WAIT_MAXIMUM, WAIT_DEFAULT) / 1000

    def complete(self):
        for key in self._members:
            if key not in self._used:
                raise BadRequest(f"unknown key '{key:.32}'")


def _flat(pairs):
    found = {}
    for key, value in pairs:
        if key in found:
            raise ValueError("a key is given twice")
        if isinstance(value, dict | list):
            raise ValueError("a value must be a text, an integer, true, false or null")  # noqa: TRY004 - as bad JSON
        if type(value) is int and abs(value) >= 1 << 64:
            raise ValueError("an integer has more than 64 bits")
        found[key] = value
    return found


def _no_number(text):
    raise ValueError(f"a number must be an integer: {text:.20}")


class Process:
    def __init__(self, result, request):
        self.pid = result.pid
        self.image = request.image
        self.command_line = result.command_line
        self.suspended = request.suspended
        self.created = 0
        self.ended = 0
        self.exit_code = None


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


class Plan:
    """One running ntguest.exe."""

    def __init__(self, windows, write, *, account=Account.ADMINISTRATOR):
        self._system = windows.system
        self._windows = windows
        self._write = write
        self._writing = threading.Lock()
        self._account = account
        self._generation = windows.system.generation
        self._processes = {}
        self._devices = {}
        self._transfers = {}
        self._streams = {}

    def run(self, lines):
        """Obey lines until they end, or nothing runs any more; then everything of the program is gone."""
        try:
            for number, line in enumerate(lines, 1):
                if not self._obey(line, number):
                    break
        except Stopped:
            pass
        finally:
            with contextlib.suppress(Stopped):
                self._end()

    def _obey(self, line, number):
        body = {"line": number}
        try:
            if len(line) > LINE_MAXIMUM:
                raise BadRequest("the line is too long")
            request = Request(line)
            identity = request.member("id")
            if identity is not None:
                body["id"] = request.number("id", (1 << 63) - 1)
            operation = request.optional_text("op", NAME_UNITS)
            if operation == "quit":
                request.complete()
                self._send({**body, "ok": True})
                return False
            run = OPERATIONS.get(operation)
            if run is None:
                raise BadRequest("unknown operation in 'op'")
            answer = self._run(run, request)
            self._send({**body, **answer, "ok": True})
        except BadRequest as mistake:
            self._send({**body, "ok": False, "error": "bad-request", "message": str(mistake)})
        except Failed as failure:
            self._send({**body, **failure.answer, "ok": False, "error": failure.error})
        except MachineBroken as error:
            # The stand-in's own limit: an export that the emulated kernel lacks.
            self._send({**body, "ok": False, "error": "not-emulated", "message": str(error)})
        return True

    def _run(self, run, request):
        try:
            return run(self, request)
        except Refused as refused:
            return {"win32_error": refused.code}
        except Win32Error as error:
            status = {} if error.status is None else {"status": error.status}
            return {"win32_error": error.code, **status}

    def _send(self, answer):
        with self._writing:
            self._write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")

    def using(self):
        return self._system.using(self._generation)

    def _wait(self, done, pass_time, seconds):
        return self._system.wait(self._generation, done, pass_time, seconds)

    def _end(self):
        """What the system does when a program ends: its handles are closed, and its job ends its processes."""
        for stream in list(self._streams.values()):
            stream.stop()
        for device in self._devices.values():
            with self.using(), contextlib.suppress(Win32Error):
                device.close()
        for process in self._processes.values():
            with self.using() as machine:
                self._look(machine, process)
                if process.exit_code is None:
                    self._system.end(machine, process.pid, 0, terminate=True, image=process.image)

    # Itself

    def hello(self, request):
        request.complete()
        with self.using() as machine:
            return {
                "protocol": 1,
                "pid": machine.agent_pid,
                "tid": machine.agent_pid + 4,
                "build": machine.facts.build,
                "time": machine.system_time(),
            }

    def time(self, request):
        request.complete()
        with self.using() as machine:
            return {"time": machine.system_time()}

    # Services

    def create_service(self, request):
        service, image = request.text("service"), request.text("image")
        request.complete()
        with self.using() as machine:
            self._administrator("OpenSCManagerW")
            self._system.create_service(machine, service, image)
        return {"win32_error": 0}

    def _on_service(self, request, act):
        service = request.text("service")
        request.complete()
        with self.using() as machine:
            self._administrator("OpenSCManagerW")
            return {"win32_error": 0, **(act(machine, service) or {})}

    def _administrator(self, call):
        if self._account is not Account.ADMINISTRATOR:
            raise Refused(win32.ERROR_ACCESS_DENIED, call)

    def delete_service(self, request):
        return self._on_service(request, self._system.delete_service)

    def start_service(self, request):
        return self._on_service(request, self._system.start_service)

    def stop_service(self, request):
        return self._on_service(request, lambda machine, name: {"state": self._system.stop_service(machine, name)})

    def query_service(self, request):
        def query(machine, name):
            state, code = self._system.query_service(machine, name)
            return {"state": state, "exit_code": code}

        return self._on_service(request, query)

    def clear_parameters(self, request):
        return self._on_service(request, self._system.clear_parameters)

    def set_parameter(self, request):
        value = request.text("value")
        given = [
            request.number(key, 0xFFFF_FFFF) if key == "number" else
            request.optional_text(key) if key == "text" else request.octets(key)
            for key in ("number", "text", "data") if request.member(key) is not None
        ]  # fmt: skip
        if len(given) != 1:
            raise BadRequest("expected exactly one of 'number', 'text' and 'data'")
        return self._on_service(
            request, lambda machine, name: self._system.set_parameter(machine, name, value, given[0])
        )

    # Files

    def provide(self, request):
        source, path = request.text("source"), request.text("path")
        request.complete()
        with self.using() as machine:
            self._administrator("CopyFileW")
            self._system.provide(machine, source, path)
        return {"win32_error": 0}

    def remove(self, request):
        path = request.text("path")
        request.complete()
        with self.using() as machine:
            self._administrator("DeleteFileW")
            self._system.remove(machine, path)
        return {"win32_error": 0}

    # Processes

    def _other(self, machine, request, key):
        """The pid that a member names, by label or by pid."""
        named = request.member(key)
        if named is None:
            return None
        if isinstance(named, str):
            if named not in self._processes:
                raise BadRequest(f"there is no such process in '{key}'")
            return self._processes[named].pid
        pid = request.number(key, 0xFFFF_FFFF)
        if pid not in machine.running_processes() and pid != machine.agent_pid:
            raise BadRequest(f"no process with this pid can be opened in '{key}'")
        return pid

    def launch(self, request):
        label = request.text("process")
        image, command_line = request.optional_text("image"), request.optional_text("command_line")
        suspended = request.flag("suspended")
        request.seconds()
        with self.using() as machine:
            parent, creator = (self._other(machine, request, key) for key in ("parent", "creator"))
            if type(request.member("creator")) is int:
                raise BadRequest("expected the label of a process of this plan in 'creator'")
            if image is None:
                raise BadRequest("a launch needs an image here in 'image'")
            if label in self._processes:
                raise BadRequest("a process has this label already; release it first")
            if len(self._processes) == PROCESSES:
                raise BadRequest("too many processes are held; release some first")
            request.complete()
            before = machine.system_time()
            wanted = LaunchRequest(image, command_line, parent, creator, suspended)
            answer = self._create(machine, label, wanted)
            return {"time_before": before, "time_after": machine.system_time(), **answer}

    def _create(self, machine, label, wanted):
        code = self._system.image_error(wanted.image)
        maker = {"creator_pid": wanted.creator or machine.agent_pid, "creator_tid": machine.agent_pid + 4}
        if code:
            status = 0xC000007B if code == win32.ERROR_BAD_EXE_FORMAT else 0xC0000034
            return {"win32_error": code, "status": status, "pid": None, "tid": None, **maker,
                    "image_name": "\\??\\" + dos(wanted.image)}  # fmt: skip
        elevated = self._account is Account.ADMINISTRATOR
        result = self._system.launch(machine, wanted, elevated=elevated)
        answer = {
            "win32_error": result.win32_error,
            "status": result.status or 0,
            "pid": result.pid if result.succeeded else None,
            "tid": result.tid if result.succeeded else None,
            "creator_pid": result.creator_pid,
            "creator_tid": result.creator_tid,
            "image_name": result.image_name,
        }
        if not result.succeeded:
            return answer
        process = self._processes[label] = Process(result, wanted)
        process.created = machine.system_time()
        return {
            **answer,
            "parent_pid": result.parent_pid,
            "native_image": "\\Device\\HarddiskVolume2" + dos(wanted.image)[2:],
            "command_line": result.command_line,
            "command_line_read": True,
            "in_job": True,
            "suspended": wanted.suspended,
        }

    def _process(self, request):
        label = request.text("process")
        if label not in self._processes:
            raise BadRequest("there is no such process in 'process'")
        return self._processes[label]

    def _look(self, machine, process):
        """Note the end of a process that ended without this program's doing."""
        if process.exit_code is None and process.pid not in machine.running_processes():
            process.exit_code, process.ended = 0, machine.system_time()
        return process.exit_code is not None

    def resume(self, request):
        process = self._process(request)
        request.complete()
        if not process.suspended:
            raise BadRequest("the process is not suspended in 'process'")
        with self.using() as machine:
            machine.resume(process.pid)
        process.suspended = False
        return {"win32_error": 0}

    def _ordered(self, machine, process):
        """Only a child that runs takes orders."""
        if self._look(machine, process):
            raise Failed("process-gone", win32_error=1067)
        if process.suspended or not self._system.is_child(process.image):
            raise Failed("process-unreachable", win32_error=121)

    def describe(self, request):
        process = self._process(request)
        request.seconds()
        request.complete()
        with self.using() as machine:
            self._ordered(machine, process)
        return {"win32_error": 0, "pid": process.pid, "command_line": process.command_line}

    def exit(self, request):
        return self._stop_process(request, 0, terminate=False)

    def terminate(self, request):
        return self._stop_process(request, 1, terminate=True)

    def _stop_process(self, request, missing, *, terminate):
        process = self._process(request)
        status = request.number("status", 0xFFFF_FFFF, missing)
        request.seconds()
        request.complete()
        with self.using() as machine:
            if not terminate:
                self._ordered(machine, process)
            elif self._look(machine, process):
                return {"win32_error": win32.ERROR_ACCESS_DENIED, **self._ended(process)}
            self._system.end(machine, process.pid, status, terminate=terminate, image=process.image)
            process.exit_code, process.ended = status, machine.system_time()
        return {"win32_error": 0, **self._ended(process)}

    @staticmethod
    def _ended(process):
        gone = process.exit_code is not None
        return {
            "pid": process.pid,
            "exited": gone,
            "exit_code": process.exit_code,
            "created_time": process.created if gone else None,
            "exit_time": process.ended if gone else None,
        }

    def wait(self, request):
        process = self._process(request)
        seconds = request.seconds()
        request.complete()
        self._wait(lambda machine: self._look(machine, process), lambda machine, time: None, seconds)
        return self._ended(process)

    def release(self, request):
        process = self._process(request)
        request.complete()
        del self._processes[request.text("process")]
        return {"pid": process.pid}

    # Devices

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
        self._streams[name] = Stream(self, name, start, depth)
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


class Stream:
    """Requests kept under way by a thread; each in turn becomes an event."""

    def __init__(self, plan, name, start, depth):
        self._plan = plan
        self._name = name
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

    def _run(self):
        try:
            self._pump()
        except Stopped:
            pass

    def _pump(self):
        plan, failed, last = self._plan, None, None
        while self._transfers:
            transfer = self._transfers.pop(0)
            while not plan.wait_for(
                lambda machine: transfer.done() or self._stopping.is_set(), transfer.pass_time, 3600
            ):
                pass
            if self._stopping.is_set() or failed:
                self._cancel([transfer, *self._transfers])
            with plan.using() as machine:
                answer = transfer.answer(machine)
            last = answer
            if answer["win32_error"] in {0, win32.ERROR_MORE_DATA}:
                self._event("data", answer)
                if not self._stopping.is_set() and not failed:
                    with plan.using():
                        self._transfers.append(Transfer(self._start))
            elif not failed:
                failed = answer
                self._cancel(self._transfers)
        self._event("end", failed or last)

    def _cancel(self, transfers):
        with self._plan.using():
            for transfer in transfers:
                if not transfer.done():
                    transfer.pending.cancel()

    def _event(self, kind, answer):
        self._plan.send_event({"event": kind, "stream": self._name, "index": self._sent, **answer})
        self._sent += kind == "data"


OPERATIONS = {
    name: getattr(Plan, name)
    for name in (
        "hello", "time", "launch", "resume", "describe", "exit", "terminate", "wait", "release", "open", "duplicate",
        "close", "control", "read", "write", "start", "finish", "cancel", "stream", "stop", "create_service",
        "delete_service", "start_service", "stop_service", "query_service", "clear_parameters", "set_parameter",
        "provide", "remove",
    )
}  # fmt: skip


def serve(windows, lines, write, *, account=Account.ADMINISTRATOR):
    """Run one ntguest.exe.

    Args:
        windows: the SmallWindows that it runs on.
        lines: what it reads, without line feeds.
        write: takes bytes that it writes.
        account: who runs it.
    """
    Plan(windows, write, account=account).run(lines)
