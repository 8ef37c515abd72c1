"""The Machine protocol: what a harness may ask of anything that runs a Windows driver.

Nothing here is specific to one kind of machine. A machine knows services, device handles, processes, crashes and
checkpoints; it knows nothing of notifications, scenarios or pytest.

Processes are named by pid. A machine reports the ground truth of each operation from its own side, so that what a
driver reports can be checked against what happened.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

RegistryValue: TypeAlias = int | str | bytes
"""A service parameter: int is REG_DWORD, str REG_SZ, bytes REG_BINARY."""


class Account(enum.Enum):
    """Who makes a user-mode call."""

    ADMINISTRATOR = "administrator"
    STANDARD_USER = "standard user"


class DeviceAccess(enum.Flag):
    """Access asked for when a device is opened: GENERIC_READ and GENERIC_WRITE."""

    READ = enum.auto()
    WRITE = enum.auto()


class ImageKind(enum.Enum):
    """What becomes of a process made from an executable file."""

    NORMAL = "normal"
    REQUIRES_ELEVATION = "requires elevation"
    """Its manifest asks for elevation: notified, then fails with STATUS_ELEVATION_REQUIRED, 0xC000042C."""
    INVALID = "invalid"
    """Not a valid image for this system: notified, then fails with STATUS_INVALID_IMAGE_FORMAT, 0xC000007B."""


class ServiceState(enum.Enum):
    """State of a kernel driver service."""

    STOPPED = "stopped"
    RUNNING = "running"
    STOP_PENDING = "stop pending"
    """Stop was asked of a driver that has no unload routine or is still referenced."""


@dataclass(frozen=True)
class MachineFacts:
    """What a machine says of itself before a driver is started on it.

    Attributes:
        machine: its name as given to ``--vm``.
        kind: ``emulated`` or ``windows``.
        build: Windows build number that it is or stands for.
        profile: behaviour profile of an emulated machine (``documented`` or ``observed``), else the image profile.
        details: further facts for headers and reports, in order of presentation.
    """

    machine: str
    kind: str
    build: int
    profile: str
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LaunchRequest:
    """A process to create.

    Attributes:
        image: DOS path of the executable, ``C:\\\\Windows\\\\System32\\\\cmd.exe``, or an NT or ``\\\\\\\\?\\\\`` path.
        command_line: the command line, or None to pass none. Lone surrogates are allowed (surrogatepass).
        parent: pid of the process that becomes the parent (PROC_THREAD_ATTRIBUTE_PARENT_PROCESS), None for the
            creator.
        creator: pid of the process whose thread makes the call, None for the machine's own agent process.
        suspended: create the first thread suspended (CREATE_SUSPENDED).
        two_step: create the process object first and a thread later (NtCreateProcessEx, then a thread).
        subsystem: a subsystem (Pico) process, which only Ex2 registrations see.
    """

    image: str
    command_line: str | None = None
    parent: int | None = None
    creator: int | None = None
    suspended: bool = False
    two_step: bool = False
    subsystem: bool = False


@dataclass(frozen=True)
class LaunchResult:
    """Ground truth of one attempt to create a process, as the creating side saw it.

    Attributes:
        pid: the pid, or None when the attempt ended before a process object existed. A denied or failed process has a
            pid where the machine can know it (an emulated one does); on Windows it may be None.
        tid: its first thread, or None likewise.
        parent_pid: the process it inherits from.
        creator_pid: the process whose thread made the call.
        creator_tid: that thread.
        image_name: the name passed to the open of the image (an NT path such as ``\\\\??\\\\C:\\\\...``), None if
            unknown.
        command_line: the command line as the new process has it, None for none.
        win32_error: 0 for success, else what CreateProcess set (winerror.h).
        status: NTSTATUS of the creation as unsigned 32 bits where the machine knows it, else None.
        notified: False when the attempt failed before any notification could be due (file not found).
    """

    pid: int | None
    tid: int | None
    parent_pid: int
    creator_pid: int
    creator_tid: int
    image_name: str | None
    command_line: str | None
    win32_error: int
    status: int | None = None
    notified: bool = True

    @property
    def succeeded(self) -> bool:
        """True when the caller got a process."""
        return self.win32_error == 0


@dataclass(frozen=True)
class StackFrame:
    """One frame of a crash: the innermost comes first."""

    module: str
    offset: int
    function: str | None = None
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        name = f"{self.module}!{self.function}" if self.function else f"{self.module}+0x{self.offset:x}"
        return f"{name} ({self.file}:{self.line})" if self.file else name


@dataclass(frozen=True)
class CrashReport:
    """A bugcheck: code, parameters, and where it happened as far as the machine can tell.

    Attributes:
        code: STOP code (bugcodes.h).
        name: its symbolic name.
        parameters: the four parameters.
        reason: one sentence for people.
        frames: the stack, innermost first; empty when unknown.
        activity: what the machine was doing, such as ``create callback for pid 1234``.
        notes: further facts (the pool block involved, who allocated and who freed it, locks held).
        artefacts: files kept (dump, screenshot, serial log).
    """

    code: int
    name: str
    parameters: tuple[int, int, int, int]
    reason: str
    frames: tuple[StackFrame, ...] = ()
    activity: str = ""
    notes: tuple[str, ...] = ()
    artefacts: tuple[Path, ...] = ()

    def summary(self) -> str:
        """The bugcheck in one line."""
        parameters = ", ".join(f"0x{p:X}" for p in self.parameters)
        where = f" at {self.frames[0]}" if self.frames else ""
        return f"bugcheck 0x{self.code:X} {self.name} ({parameters}): {self.reason}{where}"

    def render(self) -> str:
        """The whole report as plain text lines."""
        lines = [self.summary()]
        if self.activity:
            lines.append(f"  while: {self.activity}")
        lines += [f"  stack: {frame}" for frame in self.frames]
        lines += [f"  note:  {note}" for note in self.notes]
        lines += [f"  kept:  {artefact}" for artefact in self.artefacts]
        return "\n".join(lines)


class PendingRequest(Protocol):
    """A device request under way (overlapped)."""

    @property
    def done(self) -> bool:
        """True once the driver has completed it."""

    def wait(self, deadline: float = 10.0) -> bytes:
        """Wait for completion, at most `deadline` seconds of the machine's time, and return the output.

        Raises:
            Win32Error: the driver completed it with an error.
            TimeoutError: it is still pending when the deadline has passed.
        """

    def cancel(self) -> None:
        """Ask for cancellation (CancelIoEx). `wait` then tells how the request ended."""


class DeviceHandle(Protocol):
    """An open handle of a device."""

    def control(self, code: int, data: bytes = b"", output_size: int = 0) -> bytes:
        """DeviceIoControl, synchronous: the output bytes.

        Raises:
            Win32Error: the driver's failure status, translated.
            TimeoutError: the driver left it pending and nothing will complete it.
        """

    def start_control(self, code: int, data: bytes = b"", output_size: int = 0) -> PendingRequest:
        """DeviceIoControl, overlapped. A request that fails at once is a done PendingRequest whose wait raises."""

    def read(self, size: int) -> bytes:
        """ReadFile. Raises Win32Error."""

    def write(self, data: bytes) -> int:
        """WriteFile: bytes written. Raises Win32Error."""

    def duplicate(self) -> DeviceHandle:
        """A second handle to the same file object (DuplicateHandle); cleanup comes when the last one is closed."""

    def close(self) -> None:
        """Close the handle; closing twice does nothing."""


class Checkpoint(Protocol):
    """An opaque whole-machine state."""


@dataclass(frozen=True)
class WitnessedLog:
    """What a system itself recorded of processes in one of its logs.

    Attributes:
        name: the log.
        records: the records as the system renders them, one Event element each, in the order of the log.
        complete: whether none of them was lost before it could be read.
    """

    name: str
    records: tuple[str, ...]
    complete: bool


@runtime_checkable
class Machine(Protocol):
    """A Windows system, real or emulated, on which drivers are installed and processes run.

    Every method may raise MachineCrashed or DriverHung (the driver's fault) and MachineBroken (the machine's). Pids and
    tids are plain integers.
    """

    @property
    def facts(self) -> MachineFacts:
        """What this machine is."""

    @property
    def agent_pid(self) -> int:
        """The process that makes launches with no creator of their own; it exists as long as the machine runs."""

    @property
    def crash(self) -> CrashReport | None:
        """The bugcheck that ended the current run of the machine, or None."""

    # Services

    def install_driver(
        self, service: str, image: Path, *, parameters: Mapping[str, RegistryValue] | None = None
    ) -> None:
        """Copy the image to the machine and create a demand-start kernel service for it (CreateService).

        `parameters` become values under the service's Parameters key.

        Raises:
            Win32Error: ERROR_SERVICE_EXISTS 1073, ERROR_INVALID_NAME 123, ERROR_SERVICE_MARKED_FOR_DELETE 1072.
            MachineConfigurationError: the file is missing or cannot be a driver for this machine.
        """

    def start_driver(self, service: str) -> None:
        """StartService.

        Raises:
            Win32Error: what the service control manager answers: the entry point's failure translated,
                ERROR_SERVICE_ALREADY_RUNNING 1056, ERROR_INVALID_IMAGE_HASH 577, ERROR_PROC_NOT_FOUND 127 and so on.
        """

    def stop_driver(self, service: str) -> None:
        """ControlService(STOP): runs the unload routine once nothing refers to the driver's devices.

        Raises:
            Win32Error: ERROR_SERVICE_NOT_ACTIVE 1062; ERROR_INVALID_SERVICE_CONTROL 1052 for a driver with no unload
                routine.
        """

    def delete_driver(self, service: str) -> None:
        """DeleteService. Raises Win32Error ERROR_SERVICE_DOES_NOT_EXIST 1060."""

    def driver_state(self, service: str) -> ServiceState:
        """QueryServiceStatus. Raises Win32Error ERROR_SERVICE_DOES_NOT_EXIST 1060."""

    # Devices

    def open_device(
        self,
        path: str,
        access: DeviceAccess = DeviceAccess.READ | DeviceAccess.WRITE,
        *,
        account: Account = Account.ADMINISTRATOR,
    ) -> DeviceHandle:
        """CreateFile on ``\\\\\\\\.\\\\Name``.

        Raises:
            Win32Error: ERROR_FILE_NOT_FOUND 2, ERROR_ACCESS_DENIED 5, or the driver's own failure.
        """

    # Processes

    def provide_image(self, path: str, kind: ImageKind = ImageKind.NORMAL) -> None:
        """Make an executable file exist at a DOS path, behaving as `kind` says.

        Replaces what this put there before, and on an emulated machine whatever was there.

        Raises:
            Win32Error: ERROR_FILE_EXISTS 80 for a file of somebody else's.
            UnsupportedByMachine: no file is known that would behave so on this machine.
        """

    def launch(self, request: LaunchRequest) -> LaunchResult:
        """CreateProcess as `request` says; returns ground truth and never raises for a refused creation.

        An image that does not exist gives win32_error ERROR_FILE_NOT_FOUND 2 (or PATH_NOT_FOUND 3) and notified False.
        """

    def clone(self, pid: int) -> LaunchResult:
        """Clone a running process with a thread (RtlCloneUserProcess). Raises UnsupportedByMachine where impossible."""

    def resume(self, pid: int) -> None:
        """Resume the first thread of a process launched suspended."""

    def exit_process(self, pid: int, status: int = 0) -> None:
        """Have the process end by itself (ExitProcess) with `status`; returns when it is gone.

        Raises Win32Error ERROR_INVALID_PARAMETER 87 for a pid that is not running.
        """

    def terminate_process(self, pid: int, status: int = 1) -> None:
        """TerminateProcess from the agent; returns when the process is gone. Raises as exit_process."""

    def running_processes(self) -> Mapping[int, str]:
        """Pids of the processes that run now and were launched through this object, with their image."""

    def system_time(self) -> int:
        """The machine's clock: 100 ns units since 1601 UTC."""

    # Whole machine

    def reset(self, *, fresh: bool = False) -> None:
        """Bring the machine to the state in which it was handed out: no driver, no process and no file of the run.

        Also revives a crashed machine. Handles opened before are void.

        Args:
            fresh: whether nothing of the run may be left at all, even what undoing each step would not leave.

        Raises:
            MachineCrashed: it crashed after the last call or while it was brought there, which nobody was told yet; the
                next reset revives it.
            DriverHung: an unload routine did not return while it was brought there; likewise.
            MachineBroken: it cannot be brought there; the machine is of no more use.
        """

    def debug_output(self) -> list[str]:
        """What drivers printed (DbgPrint) since the last call, a line each; empty where the machine cannot see it."""

    def checkpoint(self) -> Checkpoint:
        """Remember the whole machine's state. Raises UnsupportedByMachine where impossible."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a remembered state; also revives a crashed machine. Handles opened since are void."""

    def close(self) -> None:
        """Give the machine up; every resource of it is released. Closing twice does nothing."""


@runtime_checkable
class WitnessedMachine(Protocol):
    """A machine whose system records by itself which processes came and went, independently of any driver."""

    def witness_mark(self) -> Mapping[str, int]:
        """Where each log is now; give it to `witnessed` after a run. Raises as Machine's methods."""

    def witnessed(self, mark: Mapping[str, int]) -> tuple[WitnessedLog, ...]:
        """Every process creation and exit recorded since a mark. Raises as Machine's methods."""
