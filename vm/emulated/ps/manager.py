"""Processes and threads as drivers see them, and how user mode makes and ends them.

A process object lives until the last reference to it goes; its pid is used again only then. The create callbacks run in
the creator's thread when the first thread is inserted, the exit callbacks in the last thread of the process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm.emulated.faults import Bugcheck
from vm.emulated.ke.sync import PROCESS, SIGNAL_STATE, THREAD, initialise
from vm.emulated.ke.threads import SYSTEM_PID, Thread
from vm.emulated.layout import EPROCESS_SIZE, ETHREAD_SIZE
from vm.emulated.ntstatus import STATUS_INVALID_CID, STATUS_SUCCESS, NtStatusError
from vm.emulated.ps.process_ids import IdTable

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel
    from vm.emulated.ob.manager import ObjectRecord

STATUS_PENDING = 0x103
"""Exit status of a process that still runs (STILL_ACTIVE)."""

SYSTEM_IMAGE = "System"


@dataclass(slots=True)
class Process:
    """One process.

    Attributes:
        pid, object: its id and EPROCESS.
        parent_pid: the process it inherits from.
        image_name: the name passed to the open of its image.
        file_name: the image's name on its volume, FILE_OBJECT.FileName.
        command_line: None when it has none.
        open_name_available: the create callbacks see `image_name` rather than `file_name`.
        subsystem: a Pico process.
        first_thread: tid of its first thread, 0 before there is one.
        suspended: its first thread has not been resumed.
        create_time: system time.
        exit_status: STATUS_PENDING while it runs, and also what some programs end with.
        inserted: its first thread was inserted.
        starting: its create callbacks run.
        ended: it has ended; the object lives on while somebody refers to it.
        doomed: the status that it ends with as soon as it can, None while nobody asked for that.
        critical: Windows does not go on without it.
    """

    pid: int
    object: int
    parent_pid: int
    image_name: str
    file_name: str
    command_line: str | None
    open_name_available: bool = True
    subsystem: bool = False
    first_thread: int = 0
    suspended: bool = False
    create_time: int = 0
    exit_status: int = STATUS_PENDING
    inserted: bool = False
    starting: bool = False
    ended: bool = False
    doomed: int | None = None
    critical: bool = False

    @property
    def running(self) -> bool:
        """True until it has ended."""
        return not self.ended


@dataclass
class ProcessState:
    """What a checkpoint keeps."""

    processes: dict[int, Process] = field(default_factory=dict)
    """By pid, until the object is gone."""
    by_object: dict[int, int] = field(default_factory=dict)
    ids: IdTable = field(default_factory=IdTable)
    attached: dict[int, int] = field(default_factory=dict)
    """By tid: the process whose address space a thread has taken."""
    doomed: list[int] = field(default_factory=list)
    """Pids of processes that end when the call under way is over."""


class ProcessManager:
    """Every process and thread id of the machine."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.state = ProcessState()
        self._processes = self.state.processes
        kernel.ob.on_delete("Process", self._process_deleted)
        kernel.ob.on_delete("Thread", self._thread_deleted)
        system = self._new_process(SYSTEM_IMAGE, SYSTEM_IMAGE, None, parent_pid=0)
        assert system.pid == SYSTEM_PID
        system.critical = True
        idle = self.insert_first_thread(system)
        kernel.threads.set_current(idle)

    def rebind(self) -> None:
        """Refresh aliases after a restore."""
        self._processes = self.state.processes

    # Looking up

    def process(self, pid: int) -> Process:
        """A process whose object exists. Raises NtStatusError STATUS_INVALID_CID."""
        try:
            return self._processes[pid]
        except KeyError:
            raise NtStatusError(STATUS_INVALID_CID) from None

    def running(self, pid: int) -> Process | None:
        """A process that runs, or None."""
        process = self._processes.get(pid)
        return process if process is not None and process.running and process.inserted else None

    def of_object(self, body: int) -> Process:
        """The process of an EPROCESS. Raises Bugcheck 0x18 for anything else."""
        pid = self.state.by_object.get(body)
        if pid is None:
            raise Bugcheck(0x18, 0, body, 0, 0, reason=f"0x{body:X} is no process object, or one that is gone")
        return self._processes[pid]

    def thread_of_object(self, body: int) -> Thread:
        """The thread of an ETHREAD. Raises Bugcheck 0x18 for anything else."""
        tid = self._kernel.threads.state.by_object.get(body)
        if tid is None:
            raise Bugcheck(0x18, 0, body, 0, 0, reason=f"0x{body:X} is no thread object, or one that is gone")
        return self._kernel.threads.state.threads[tid]

    def current(self) -> Process:
        """The process that the running thread is attached to, else its own.

        Raises:
            Bugcheck: 0x18, the process it is attached to is gone.
        """
        thread = self._kernel.threads.current
        process = self._processes.get(self.state.attached.get(thread.tid, thread.pid))
        if process is None:
            raise Bugcheck(0x18, 0, thread.object, reason="the thread is attached to a process that is gone")
        return process

    def attached_pid(self) -> int:
        """The process that the running thread is attached to, 0 for none."""
        return self.state.attached.get(self._kernel.threads.current.tid, 0)

    def attach(self, pid: int) -> None:
        """Attach the running thread to a process; 0 detaches it."""
        tid = self._kernel.threads.current.tid
        if pid:
            self.state.attached[tid] = pid
        else:
            self.state.attached.pop(tid, None)

    # Making

    def _new_process(self, image_name: str, file_name: str, command_line: str | None, *, parent_pid: int) -> Process:
        kernel = self._kernel
        body = kernel.ob.create("Process", EPROCESS_SIZE)
        initialise(kernel, body, PROCESS, EPROCESS_SIZE // 4, 0)
        pid = self.state.ids.take()
        process = Process(
            pid, body, parent_pid, image_name, file_name, command_line, create_time=kernel.clock.system_time()
        )
        self._processes[pid] = process
        self.state.by_object[body] = pid
        return process

    def _new_thread(self, pid: int) -> Thread:
        kernel = self._kernel
        body = kernel.ob.create("Thread", ETHREAD_SIZE)
        initialise(kernel, body, THREAD, ETHREAD_SIZE // 4, 0)
        return kernel.threads.create(self.state.ids.take(), pid, body)

    def new_process(
        self,
        image_name: str,
        file_name: str,
        command_line: str | None,
        *,
        parent_pid: int,
        subsystem: bool = False,
        open_name_available: bool = True,
    ) -> Process:
        """A process object without threads; nobody is notified yet."""
        process = self._new_process(image_name, file_name, command_line, parent_pid=parent_pid)
        process.subsystem = subsystem
        process.open_name_available = open_name_available
        return process

    def insert_first_thread(self, process: Process) -> Thread:
        """Give a process its first thread without telling anybody."""
        thread = self._new_thread(process.pid)
        process.first_thread = thread.tid
        process.inserted = True
        return thread

    def start(self, process: Process, creator: Thread) -> int:
        """Insert the first thread and call the create callbacks in the creator's thread.

        Returns:
            STATUS_SUCCESS, or the denying status; then the process has already ended with it.
        """
        thread = self.insert_first_thread(process)
        process.starting = True
        status = self._kernel.notify.process_created(process, creator)
        if status == STATUS_SUCCESS:
            self._kernel.events.thread_created(creator, thread)
        process.starting = False
        if status != STATUS_SUCCESS:
            self.end(process, status)
        return status

    def add_user_thread(self, process: Process) -> Thread:
        """One more thread of a program."""
        thread = self._new_thread(process.pid)
        thread.previous_mode = 1
        return thread

    # Ending

    def end(self, process: Process, status: int) -> None:
        """End a process: exit callbacks in its last thread, then its handles, threads and own reference go."""
        kernel = self._kernel
        process.exit_status = status
        process.ended = True
        if process.inserted:
            before = kernel.threads.current
            thread = kernel.threads.state.threads[process.first_thread]
            kernel.events.thread_ended(thread)
            kernel.notify.process_exited(process, thread)
            if process.pid in kernel.ob.state.tables:
                kernel.threads.set_current(thread)
                kernel.ob.handles.close_all(process.pid)
            kernel.threads.set_current(before)
            kernel.mem.set_u32(thread.object + SIGNAL_STATE, 1)
            thread.state = "ended"
            kernel.ob.unpin(kernel.ob.record(thread.object))
        kernel.mem.set_u32(process.object + SIGNAL_STATE, 1)
        kernel.ob.unpin(kernel.ob.record(process.object))

    def terminate(self, process: Process, status: int) -> None:
        """End a process on behalf of a driver: at once, unless a routine of a driver runs in one of its threads.

        A thread ends when it leaves the kernel, so that a process which is being created, or whose own thread asks,
        ends at the end of the user-mode call under way.

        Raises:
            Bugcheck: 0xEF CRITICAL_PROCESS_DIED (Microsoft: Bug Check 0xEF).
        """
        if process.critical:
            raise Bugcheck(0xEF, process.object, reason=f"the driver ended {process.image_name}, a critical process")
        if not process.running or process.doomed is not None:
            return
        pid = process.pid
        if process.starting or self._kernel.current_thread.pid == pid or self._kernel.notify.runs_in(pid):
            process.doomed = status
            self.state.doomed.append(pid)
        else:
            self.end(process, status)

    def end_doomed(self) -> None:
        """End the processes that were to end as soon as their threads leave the kernel."""
        while self.state.doomed:
            process = self._processes.get(self.state.doomed.pop(0))
            if process is not None and process.running and process.doomed is not None:
                self.end(process, process.doomed)

    def _process_deleted(self, record: ObjectRecord) -> None:
        pid = self.state.by_object.pop(record.body)
        del self._processes[pid]
        self.state.ids.release(pid)

    def _thread_deleted(self, record: ObjectRecord) -> None:
        tid = self._kernel.threads.state.by_object[record.body]
        self._kernel.threads.remove(tid)
        self.state.attached.pop(tid, None)
        self.state.ids.release(tid)

    # System threads

    def system_worker(self) -> Thread:
        """The thread of the system process that loads and unloads drivers."""
        return self._kernel.threads.state.threads[self._processes[SYSTEM_PID].first_thread]

    def create_system_thread(self, routine: int, argument: int, *, pid: int = SYSTEM_PID) -> Thread:
        """A kernel-mode thread, ready to run `routine(argument)`; it holds a reference to itself until it ends."""
        thread = self._new_thread(pid)
        self._kernel.threads.start_system_thread(thread, routine, argument)
        return thread

    def system_thread_ended(self, thread: Thread) -> None:
        """What the scheduler reports when a system thread has returned."""
        self._kernel.events.thread_ended(thread)
        self._kernel.mem.set_u32(thread.object + SIGNAL_STATE, 1)
        self._kernel.ob.unpin(self._kernel.ob.record(thread.object))
