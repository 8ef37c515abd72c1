"""EmulatedMachine: the Machine protocol on the emulated kernel.

Each method is one user-mode call: it enters the kernel on the calling program's thread, lets time pass, runs what
became ready, and turns the kernel's events into the errors of vm.errors.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vm import ntstatus
from vm.emulated import verifier_options
from vm.emulated.debug import crash_report
from vm.emulated.faults import Bugcheck, KernelEvent, PageFault
from vm.emulated.ke.threads import Deadlock, Thread
from vm.emulated.kernel import Kernel, KernelCheckpoint, KernelOptions
from vm.emulated.mm import memory_faults
from vm.emulated.ntstatus import NtStatusError
from vm.emulated.processor.cpu import BudgetExceeded, MissingImport
from vm.emulated.ps.manager import Process
from vm.emulated.services import from_status, win32_error
from vm.emulated.user_devices import EmulatedHandle
from vm.emulated.user_mode import History, UserMode
from vm.errors import (
    DriverFault,
    DriverHung,
    MachineBroken,
    MachineConfigurationError,
    MachineCrashed,
    MissingExport,
    Win32Error,
)
from vm.machine import (
    Account,
    Checkpoint,
    CrashReport,
    DeviceAccess,
    ImageKind,
    LaunchRequest,
    LaunchResult,
    MachineFacts,
    RegistryValue,
    ServiceState,
)

ERROR_FILE_NOT_FOUND = 2
ERROR_PATH_NOT_FOUND = 3
ERROR_INVALID_PARAMETER = 87
ERROR_FILENAME_EXCED_RANGE = 206

_FAILURES = {ImageKind.REQUIRES_ELEVATION: 0xC000042C, ImageKind.INVALID: 0xC000007B}
_CLOSED = "the machine was closed; make a new one"
PROFILES = ("observed", "documented")
STOPPING = (Bugcheck, MissingImport, BudgetExceeded, Deadlock, PageFault)
"""Events after which the machine does not go on."""


@dataclass(frozen=True, eq=False)
class EmulatedCheckpoint:
    """A whole emulated machine at rest."""

    kernel: KernelCheckpoint
    history: History


def _too_long(text: str | None) -> bool:
    """More than a UNICODE_STRING can hold: 32,767 units (Microsoft Learn, CreateProcessW)."""
    return text is not None and len(text.encode("utf-16-le", "surrogatepass")) > 0xFFFE


class _UserCall:
    """Context of one user-mode call."""

    __slots__ = ("_activity", "_machine")

    def __init__(self, machine: EmulatedMachine, activity: Sequence[object]) -> None:
        self._machine = machine
        self._activity = activity

    def __enter__(self) -> Kernel:
        try:
            return self._machine.enter()
        except STOPPING as event:
            raise self._machine.stop(event, self._activity) from None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is None or isinstance(error, Win32Error):
            try:
                self._machine.leave()
            except STOPPING as event:
                raise self._machine.stop(event, self._activity) from None
        elif isinstance(error, STOPPING):
            raise self._machine.stop(error, self._activity) from None


class EmulatedMachine:
    """A Windows system for drivers, emulated in this process.

    Args:
        name: its name as given to ``--vm``.
        options: how its kernel behaves.
    """

    def __init__(self, name: str = "emulated", options: KernelOptions | None = None) -> None:
        options = options or KernelOptions()
        if options.profile not in PROFILES:
            raise MachineConfigurationError(
                f"unknown behaviour profile {options.profile!r}: choose one of {', '.join(PROFILES)}"
            )
        if options.verifier is not None:
            verifier_options.check_supported(options.verifier)
        self._name = name
        self._closed = False
        self._lines = 0
        self._checkpoints: weakref.WeakSet[EmulatedCheckpoint] = weakref.WeakSet()
        self._boot(options)

    def _boot(self, options: KernelOptions) -> None:
        self.kernel = Kernel(options)
        self._user = UserMode(self.kernel)
        self.kernel.add_part(self._user)
        self._crash: CrashReport | None = None
        self._stopped: DriverFault | MachineBroken | None = None
        # A line that no handle was opened on.
        self._lines += 1
        self._history = History(self._lines)

    # What it is

    @property
    def facts(self) -> MachineFacts:
        """What this machine is."""
        options = self.kernel.options
        details = {
            "processors": "1",
            "pool": "special pool for every block",
            "signature": "its digest is checked, its signer is not",
        }
        if options.verifier is not None:
            details["verifier"] = verifier_options.describe(options.verifier)
        return MachineFacts(self._name, "emulated", options.build, options.profile, details)

    @property
    def agent_pid(self) -> int:
        """The process that makes launches with no creator of their own."""
        return self._user.state.agent

    @property
    def crash(self) -> CrashReport | None:
        """The bugcheck that ended the current run of the machine, or None."""
        return self._crash

    # Entering the kernel

    def user_call(self, *activity: object) -> _UserCall:
        """One user-mode call: everything that may run driver code goes through here.

        Args:
            activity: words for reports, put together only when there is something to report.
        """
        return _UserCall(self, activity)

    def enter(self) -> Kernel:
        """Enter the kernel on the agent's thread. Raises what stopped the machine, if something has."""
        self._check_usable()
        kernel = self.kernel
        kernel.clock.advance()
        kernel.threads.set_current(self._user.thread())
        kernel.timers.expire()
        return kernel

    def _check_usable(self) -> None:
        if self._closed:
            raise MachineConfigurationError(_CLOSED)
        if self._stopped is not None:
            raise self._stopped

    def leave(self) -> None:
        """Run what became ready, before the program goes on, also when its call failed."""
        self.kernel.ps.end_doomed()
        self.kernel.threads.run_ready()
        self.kernel.services.unload_idle()

    def stop(self, event: KernelEvent, activity: Sequence[object]) -> DriverFault | MachineBroken:
        """The machine stops because of an event; the error that this and every later call raises."""
        words = "; ".join((" ".join(str(word) for word in activity), *getattr(event, "__notes__", ())))
        if isinstance(event, PageFault):
            event = memory_faults.bugcheck_outside_drivers(self.kernel, event)
        if isinstance(event, Bugcheck):
            self._crash = self._report(event, words)
            self._stopped = MachineCrashed(self._crash)
        else:
            self._stopped = self._fault(event, words)
        return self._stopped

    def _report(self, event: Bugcheck, activity: str) -> CrashReport:
        rip, registers = (event.site.rip, event.site.registers) if event.site else (0, (0,) * 16)
        return crash_report.build_report(self.kernel, event, event.rip or rip, registers, activity=activity)

    def _where(self, event: KernelEvent) -> str:
        """Words to follow what happened; none for what happened outside the driver's code."""
        if event.site is None:
            return ""
        frames = crash_report.stack(self.kernel, event.site.rip, event.site.registers)
        return ", at " + (" < ".join(str(frame) for frame in frames) or f"0x{event.site.rip:X}")

    def _fault(self, event: KernelEvent, activity: str) -> DriverHung | MissingExport:
        where = self._where(event)
        if isinstance(event, MissingImport):
            return MissingExport(
                f"the driver calls {event.module}!{event.name}, which the emulated kernel does not implement{where} "
                f"(while: {activity}). Add a function named {event.name} to the export table of the part of "
                "vm/emulated that it belongs to, see docs/how-to/add-an-export.md, or run on a Windows machine"
            )
        return DriverHung(f"the driver {event}{where} (while: {activity})")

    # Services

    def install_driver(
        self, service: str, image: Path, *, parameters: Mapping[str, RegistryValue] | None = None
    ) -> None:
        """CreateService for a kernel driver, see the Machine protocol."""
        with self.user_call(f"install service {service}") as kernel:
            kernel.services.create(service, image, parameters or {})

    def start_driver(self, service: str) -> None:
        """StartService, see the Machine protocol."""
        with self.user_call(f"start service {service}") as kernel:
            kernel.services.start(service)

    def stop_driver(self, service: str) -> None:
        """ControlService(STOP), see the Machine protocol."""
        with self.user_call(f"stop service {service}") as kernel:
            kernel.services.stop(service)

    def delete_driver(self, service: str) -> None:
        """DeleteService, see the Machine protocol."""
        with self.user_call(f"delete service {service}") as kernel:
            kernel.services.delete(service)

    def driver_state(self, service: str) -> ServiceState:
        """QueryServiceStatus, see the Machine protocol."""
        with self.user_call(f"query service {service}") as kernel:
            return kernel.services.query(service)

    # Devices

    def open_device(
        self,
        path: str,
        access: DeviceAccess = DeviceAccess.READ | DeviceAccess.WRITE,
        *,
        account: Account = Account.ADMINISTRATOR,
    ) -> EmulatedHandle:
        """CreateFile on a device, see the Machine protocol."""
        with self.user_call(f"open {path} as {account.value}") as kernel:
            wanted = (0x8000_0000 if DeviceAccess.READ in access else 0) | (
                0x4000_0000 if DeviceAccess.WRITE in access else 0
            )
            try:
                number = kernel.io.open(kernel.files.open_name(path), wanted, account)
            except NtStatusError as error:
                raise from_status(error.status, "CreateFileW", path) from None
        return EmulatedHandle(self, number, path)

    # Processes

    def provide_image(self, path: str, kind: ImageKind = ImageKind.NORMAL) -> None:
        """Make an executable exist, see the Machine protocol."""
        with self.user_call(f"write {path}") as kernel:
            kernel.files.provide(path, kind)

    def launch(self, request: LaunchRequest) -> LaunchResult:
        """CreateProcess, see the Machine protocol."""
        with self.user_call("launch", request.image) as kernel:
            creator = self._running(request.creator or self.agent_pid, "CreateProcessW")
            parent = self._running(request.parent or creator.pid, "CreateProcessW")
            files = kernel.files
            kind = files.kind(request.image)
            code = 0
            if _too_long(request.command_line) or _too_long(files.open_name(request.image)):
                code = ERROR_FILENAME_EXCED_RANGE
            elif kind is None:
                code = ERROR_FILE_NOT_FOUND if files.folder_exists(request.image) else ERROR_PATH_NOT_FOUND
            if code or kind is None:
                return LaunchResult(
                    None, None, parent.pid, creator.pid, self._thread_of(kernel, creator).tid,
                    files.open_name(request.image), request.command_line, code, notified=False,
                )  # fmt: skip
            process = kernel.ps.new_process(
                files.open_name(request.image),
                files.file_name(request.image),
                None if request.two_step else request.command_line,
                parent_pid=parent.pid,
                subsystem=request.subsystem,
                open_name_available=not request.two_step,
            )
            process.suspended = request.suspended
            return self._start(kernel, process, creator, _FAILURES.get(kind, 0))

    def _start(self, kernel: Kernel, process: Process, creator: Process, failure: int) -> LaunchResult:
        thread = self._thread_of(kernel, creator)
        status = kernel.ps.start(process, thread)
        tid = process.first_thread
        if status == 0 and failure:
            status = failure
            kernel.ps.end(process, status)
        if status == 0:
            self._user.state.launched[process.pid] = process.image_name
            self._run_first_thread(kernel, process)
        return LaunchResult(
            process.pid, tid, process.parent_pid, creator.pid, thread.tid,
            process.image_name if process.open_name_available else process.file_name,
            process.command_line, ntstatus.to_win32(status) if status else 0, status,
        )  # fmt: skip

    def _thread_of(self, kernel: Kernel, process: Process) -> Thread:
        """The thread that makes a call for a process."""
        if process.pid == self.agent_pid:
            return kernel.threads.current
        return kernel.threads.state.threads[process.first_thread]

    def clone(self, pid: int) -> LaunchResult:
        """RtlCloneUserProcess, see the Machine protocol."""
        with self.user_call(f"clone process {pid}") as kernel:
            original = self._running(pid, "RtlCloneUserProcess")
            process = kernel.ps.new_process(
                original.image_name, original.file_name, None, parent_pid=pid, open_name_available=False
            )
            return self._start(kernel, process, original, 0)

    def resume(self, pid: int) -> None:
        """ResumeThread on the first thread, see the Machine protocol."""
        with self.user_call(f"resume process {pid}") as kernel:
            process = self._running(pid, "ResumeThread")
            if process.suspended:
                process.suspended = False
                self._run_first_thread(kernel, process)

    @staticmethod
    def _run_first_thread(kernel: Kernel, process: Process) -> None:
        """What the kernel does in a program's first thread before the program itself begins."""
        if not process.suspended and process.doomed is None:
            kernel.events.program_started(process, kernel.threads.state.threads[process.first_thread])

    def exit_process(self, pid: int, status: int = 0) -> None:
        """ExitProcess, see the Machine protocol."""
        with self.user_call("exit of process", pid) as kernel:
            process = self._launched(pid, "ExitProcess")
            if process.suspended:
                raise win32_error(
                    ERROR_INVALID_PARAMETER, "ExitProcess", detail=f"process {pid} is suspended; resume it first"
                )
            self._end(kernel, process, status)

    def terminate_process(self, pid: int, status: int = 1) -> None:
        """TerminateProcess, see the Machine protocol."""
        with self.user_call(f"termination of process {pid}") as kernel:
            self._end(kernel, self._launched(pid, "TerminateProcess"), status)

    def _end(self, kernel: Kernel, process: Process, status: int) -> None:
        self._user.state.launched.pop(process.pid, None)
        kernel.ps.end(process, status & 0xFFFFFFFF)

    def _running(self, pid: int, call: str) -> Process:
        process = self.kernel.ps.running(pid)
        if process is None:
            raise win32_error(ERROR_INVALID_PARAMETER, call, detail=f"no process {pid} is running")
        return process

    def _launched(self, pid: int, call: str) -> Process:
        if pid not in self._user.state.launched:
            detail = f"no process {pid} was launched here and still runs"
            raise win32_error(ERROR_INVALID_PARAMETER, call, detail=detail)
        return self._running(pid, call)

    def running_processes(self) -> Mapping[int, str]:
        """Processes launched through this object that still run."""
        ps = self.kernel.ps
        return {pid: image for pid, image in self._user.state.launched.items() if ps.running(pid)}

    def system_time(self) -> int:
        """100 ns units since 1601 UTC."""
        return self.kernel.clock.system_time()

    # Fault injection

    def fail_call(self, export: str, *, call: int = 1, result: int) -> None:
        """Let the `call`-th call from now on of an export fail: it returns `result` and does nothing else.

        Raises:
            MachineConfigurationError: the export is unknown or cannot fail.
        """
        self.kernel.faults.fail(export, call=call, result=result)

    @property
    def failures_pending(self) -> int:
        """Failures asked for that have not happened yet."""
        return self.kernel.faults.pending()

    # Whole machine

    def reset(self, *, fresh: bool = False) -> None:  # noqa: ARG002 - there is one way, and it leaves nothing
        """Start the kernel anew, see the Machine protocol. Checkpoints made before can no longer be restored."""
        if self._closed:
            raise MachineConfigurationError(_CLOSED)
        options = self.kernel.options
        self.kernel.close()
        self._checkpoints.clear()
        self._boot(options)

    def debug_output(self) -> list[str]:
        """What drivers printed since the last call."""
        return self.kernel.debug.take()

    def checkpoint(self) -> EmulatedCheckpoint:
        """Remember the whole machine's state."""
        self._check_usable()
        made = EmulatedCheckpoint(self.kernel.checkpoint(), self._history.copy())
        self._checkpoints.add(made)
        return made

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a remembered state of this machine."""
        if self._closed:
            raise MachineConfigurationError(_CLOSED)
        if not isinstance(checkpoint, EmulatedCheckpoint) or checkpoint not in self._checkpoints:
            raise MachineConfigurationError("a checkpoint can only be restored on the machine that made it")
        self.kernel.restore(checkpoint.kernel)
        self._crash = None
        self._stopped = None
        self._lines += 1
        self._history = checkpoint.history.branch(self._lines)

    @property
    def history(self) -> History:
        """Tells which handles exist: a restore takes back what was opened since."""
        return self._history

    def close(self) -> None:
        """Give the machine up."""
        if not self._closed:
            self._closed = True
            self.kernel.close()
