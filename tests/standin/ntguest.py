"""ntguest.exe of a SmallWindows: the plan protocol of docs/reference/guest-programs.md over its emulated machine.

Needs nothing but vm and the standard library, so that it also runs inside a small guest. `serve` is one program from
its first line to its last; any number of them may run side by side.
"""

from __future__ import annotations

import contextlib
import errno
import json
import queue
import threading

from tests.standin.plan_devices import DeviceOperations
from tests.standin.plan_lines import NAME_UNITS, BadRequest, Failed, Request
from tests.standin.plan_processes import ProcessOperations
from tests.standin.plan_services import ServiceOperations
from tests.standin.system import Stopped
from tests.standin.windows import Refused
from vm.errors import MachineBroken, Win32Error
from vm.machine import Account

ERROR_IO_DEVICE = 1117
DISK_ERRORS = {errno.ENAMETOOLONG: 206, errno.ENOSPC: 112}
"""ERROR_FILENAME_EXCED_RANGE and ERROR_DISK_FULL (winerror.h)."""


class Plan(ServiceOperations, ProcessOperations, DeviceOperations):
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
            request = Request(line)
            identity = request.member("id")
            if identity is not None:
                body["id"] = request.number("id", (1 << 63) - 1)
            operation = request.optional_text("op", NAME_UNITS)
            if operation == "quit":
                request.complete()
                self._send({**body, "ok": True})
                return False
            answer = self._run(operation, request)
            self._send({**body, **answer, "ok": True})
        except BadRequest as mistake:
            self._send({**body, "ok": False, "error": "bad-request", "message": str(mistake)})
        except Failed as failure:
            self._send({**body, **failure.answer, "ok": False, "error": failure.error})
        except MachineBroken as error:
            # The stand-in's own limit: an export that the emulated kernel lacks.
            self._send({**body, "ok": False, "error": "not-emulated", "message": str(error)})
        return True

    def _run(self, operation, request):
        run = OPERATIONS.get(operation)
        if run is None:
            raise BadRequest("unknown operation in 'op'")
        try:
            return run(self, request)
        except Refused as refused:
            return {"win32_error": refused.code}
        except OSError as error:
            # The disk that this Windows keeps its files on has limits of its own.
            return {"win32_error": DISK_ERRORS.get(error.errno, ERROR_IO_DEVICE)}
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
        with self.using() as machine:
            self._end_all(machine, 0)

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


OPERATIONS = {
    name: getattr(Plan, name)
    for name in (
        "hello", "time", "launch", "resume", "describe", "exit", "terminate", "terminate_all", "wait", "release",
        "open", "duplicate", "close", "control", "read", "write", "start", "finish", "cancel", "stream", "stop",
        "create_service", "delete_service", "start_service", "stop_service", "query_service", "clear_parameters",
        "set_parameter", "provide", "remove",
    )
}  # fmt: skip


def program_of(windows):
    """The program as SmallWindows.programs has it: its input as lines, its output as an iterator of lines."""

    def run(_arguments, lines):
        written = queue.SimpleQueue()

        def obey():
            serve(windows, (line.encode() for line in lines), written.put)
            written.put(None)

        threading.Thread(target=obey, daemon=True).start()
        while (line := written.get()) is not None:
            yield line.decode().rstrip("\n")
        return 0

    return run


def serve(windows, lines, write, *, account=Account.ADMINISTRATOR):
    """Run one ntguest.exe.

    Args:
        windows: the SmallWindows that it runs on.
        lines: what it reads, without line feeds.
        write: takes bytes that it writes.
        account: who runs it.
    """
    Plan(windows, write, account=account).run(lines)
