"""A plan's operations on processes."""

from __future__ import annotations

from tests.standin.plan_lines import PROCESSES, BadRequest, Failed
from tests.standin.system import dos
from vm import win32
from vm.machine import Account, LaunchRequest


class Process:
    def __init__(self, result, request):
        self.pid = result.pid
        self.image = request.image
        self.command_line = result.command_line
        self.suspended = request.suspended
        self.created = 0
        self.ended = 0
        self.exit_code = None


class ProcessOperations:
    """What a Plan does with processes."""

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
            "status": 0 if result.succeeded else result.status,
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
            "in_job": self._system.take_into(self, result.pid),
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

    def terminate_all(self, request):
        status = request.number("status", 0xFFFF_FFFF, 1)
        request.seconds()
        request.complete()
        with self.using() as machine:
            self._end_all(machine, status)
            remaining = self._all(machine)
            self._processes = {label: one for label, one in self._processes.items() if one.pid in remaining}
        return {"win32_error": 0, "remaining": len(remaining)}

    def _all(self, machine):
        """What runs in the job, and what was launched and could not be brought into it, with their images."""
        running = machine.running_processes()
        held = {one.pid for one in self._processes.values() if not self._look(machine, one)}
        return {**self._system.members(machine, self), **{pid: running[pid] for pid in held}}

    def _end_all(self, machine, status):
        for pid, image in self._all(machine).items():
            self._system.end(machine, pid, status, terminate=True, image=image)

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
