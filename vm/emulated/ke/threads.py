"""Threads, waits and the scheduler.

At any time one thread runs. The *foreground* thread is the one that a user-mode call of the host entered the kernel on;
system threads (PsCreateSystemThread, work items) run when the foreground waits and after it has finished. Scheduling is
deterministic: ready threads run in the order in which they became ready, and time passes only when nothing can run.

A thread that waits has no host frames: its processor state is kept as data, so that a checkpoint holds it. There are
two exceptions, which wait *in place*: the foreground, whose host call waits with it, and a thread whose wait lies below
a handler of the host. When only later host calls can end the foreground's wait, it is *parked*, if its caller agreed,
and its call goes on when it returns from the kernel; the program makes its next calls on another thread.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from vm.emulated.faults import Bugcheck, KernelEvent
from vm.emulated.layout import (
    ETHREAD_KERNEL_APC_DISABLE,
    PRCB_CURRENT_THREAD,
    STACK_SIZE,
    STACK_STRIDE,
    STACKS,
)
from vm.emulated.mm.memory import READ, WRITE
from vm.emulated.processor.cpu import Block, Parked
from vm.emulated.processor.engine import GENERAL_REGISTERS, RSP

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

STATUS_SUCCESS = 0
STATUS_TIMEOUT = 0x102

SYSTEM_PID = 4
_MAXIMUM_SWITCHES = 20_000
_ENDED = "ended wait"
_U64 = struct.Struct("<Q")
_RSP_REGISTER = GENERAL_REGISTERS[RSP]


class Deadlock(KernelEvent):
    """The foreground waits and nothing in the machine can end its wait."""


class ThreadEnded(KernelEvent):
    """PsTerminateSystemThread: unwinds the host's frames of the running system thread."""

    def __init__(self, status: int) -> None:
        super().__init__("thread ended")
        self.status = status


@dataclass
class WaitBlock:
    """What a thread waits for.

    Attributes:
        kind: name of the condition, see `Scheduler.conditions`.
        objects: guest addresses the condition looks at.
        wait_all: for dispatcher objects, all rather than any.
        deadline: interrupt time at which the wait times out, None for never.
        what: words for reports.
        detail: one number more for the condition.
    """

    kind: str
    objects: tuple[int, ...]
    what: str
    wait_all: bool = False
    deadline: int | None = None
    detail: int = 0


@dataclass(slots=True)
class Thread:
    """One kernel thread.

    Attributes:
        tid: thread id.
        pid: process it belongs to.
        object: its ETHREAD.
        apc_at: arena offset of its two APC-disable counts.
        stack: top of its kernel stack, 0 while it has none.
        routine, argument: where a system thread starts.
        context: processor state while it does not run, None before its first run.
        resume_at: where it goes on.
        irql: IRQL while it does not run.
        wait: what it waits for.
        state: `idle` (a user thread in user mode), `ready`, `running`, `waiting`, `waiting in place` or `ended`.
        continuation: name and argument of what the host does when a parked thread comes back.
        account: whose call it makes while that is not its process's account, else None.
    """

    tid: int
    pid: int
    object: int
    apc_at: int = 0
    stack: int = 0
    routine: int = 0
    argument: int = 0
    context: bytes | None = None
    resume_at: int = 0
    irql: int = 0
    wait: WaitBlock | None = None
    state: str = "idle"
    continuation: tuple[str, int] | None = None
    exit_status: int = 0
    previous_mode: int = 0
    account: str | None = None


@dataclass
class SchedulerState:
    """What a checkpoint keeps."""

    threads: dict[int, Thread] = field(default_factory=dict)
    by_object: dict[int, int] = field(default_factory=dict)
    queue: list[int] = field(default_factory=list)
    """Tids of system and parked threads that have not ended, in the order in which they are looked at."""
    current: int = 0
    foreground_stack: int = 0
    free_stacks: list[int] = field(default_factory=list)
    stacks: int = 0


Condition: TypeAlias = Callable[[Thread, WaitBlock], "int | None"]
"""Tries to end a wait: the wait status when it could be satisfied (with its side effects done), else None."""


class Scheduler:
    """Who runs, who waits, and for what.

    Attributes:
        conditions: kinds of waits, registered by the parts of the kernel that know them.
        continuations: what happens in the host when a parked thread returns, by name: called with the continuation's
            argument and the routine's result.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.state = SchedulerState()
        self.conditions: dict[str, Condition] = {_ENDED: lambda _thread, wait: wait.detail}
        self.continuations: dict[str, Callable[[int, int], None]] = {}
        self._arena = kernel.mem.arena
        self._current_at = kernel.pcr_offset + PRCB_CURRENT_THREAD
        self._in_place: list[Thread] = []
        self._base = 0
        """Calls into guest code that were under way when the running thread was switched to."""
        self.state.foreground_stack = self._take_stack()

    # Threads and stacks

    def _take_stack(self) -> int:
        state = self.state
        if state.free_stacks:
            return state.free_stacks.pop()
        state.stacks += 1
        base = STACKS + state.stacks * STACK_STRIDE
        self._kernel.mem.map(base, STACK_SIZE, READ | WRITE)
        return base + STACK_SIZE

    def stack_of(self, address: int) -> tuple[int, int] | None:
        """Lowest and highest address of the kernel stack whose slot holds an address (its guard page included)."""
        if not STACKS <= address < STACKS + self.state.stacks * STACK_STRIDE + STACK_SIZE:
            return None
        base = address - (address - STACKS) % STACK_STRIDE
        if address - base >= STACK_SIZE:
            base += STACK_STRIDE
        return base, base + STACK_SIZE

    def create(self, tid: int, pid: int, body: int) -> Thread:
        """A thread that does not run kernel code yet; `body` is its ETHREAD."""
        thread = Thread(tid, pid, body, apc_at=self._kernel.mem.locate(body + ETHREAD_KERNEL_APC_DISABLE))
        self.state.threads[tid] = thread
        self.state.by_object[thread.object] = tid
        return thread

    def remove(self, tid: int) -> None:
        """Forget a thread; its ETHREAD goes with the last reference to it."""
        thread = self.state.threads.pop(tid)
        self.state.by_object.pop(thread.object, None)

    @property
    def current(self) -> Thread:
        """The running thread."""
        return self.state.threads[self.state.current]

    def set_current(self, thread: Thread) -> None:
        """Make a thread the one that PsGetCurrentThread names, without switching stacks."""
        if self.state.current != thread.tid:
            self.state.current = thread.tid
            _U64.pack_into(self._arena, self._current_at, thread.object)

    def start_system_thread(self, thread: Thread, routine: int, argument: int) -> None:
        """Make a thread ready to run `routine(argument)` in kernel mode."""
        thread.routine, thread.argument = routine, argument
        thread.state = "ready"
        self.state.queue.append(thread.tid)

    def end_current(self, status: int) -> None:
        """PsTerminateSystemThread: the running system thread ends here."""
        raise ThreadEnded(status)

    # Waiting

    def wait(self, wait: WaitBlock) -> int:
        """Wait from an export handler: the wait status at once, or the thread blocks and it is the call's result."""
        satisfied = self.conditions[wait.kind](self.current, wait)
        if satisfied is not None:
            return satisfied
        if wait.deadline is not None and wait.deadline <= self._kernel.clock.interrupt_time():
            return STATUS_TIMEOUT
        irql = self._kernel.irql
        if irql >= 2:
            raise Bugcheck(
                0xA, wait.objects[0] if wait.objects else 0, irql, 0, self._kernel.caller(),
                reason=f"the driver waits for {wait.what} at IRQL {irql}",
            )  # fmt: skip
        raise Block(wait)

    def block(self, wait: WaitBlock, resume_at: int, rsp: int) -> int:
        """Put the running thread to sleep at a trap stub; returns where to resume once its wait has ended.

        Raises:
            Parked: the thread's host call ends here; it goes on by itself later.
            Deadlock: nothing can end the wait.
        """
        kernel = self._kernel
        thread = self.current
        kernel.cpu.engine.write(_RSP_REGISTER, rsp)
        self._suspend(thread, resume_at)
        thread.wait = wait
        if thread.tid in self.state.queue and kernel.cpu.depth == self._base + 1:
            thread.state = "waiting"
            raise Parked
        status = self._run_others_until_satisfied(thread)
        self._resume(thread)
        kernel.cpu.set_result(status)
        return resume_at

    def _run_others_until_satisfied(self, thread: Thread) -> int:
        wait = thread.wait
        assert wait is not None
        thread.state = "waiting in place"
        self._in_place.append(thread)
        try:
            for _ in range(_MAXIMUM_SWITCHES):
                satisfied = self._try(thread)
                if satisfied is not None:
                    return satisfied
                if not self._run_one() and not self._let_time_pass():
                    break
            else:
                raise Deadlock(f"waits for {wait.what} while other threads run without end")
        finally:
            self._in_place.remove(thread)
        if thread.continuation is not None and self._kernel.cpu.depth == self._base + 1:
            self._park_foreground(thread)
            raise Parked
        raise Deadlock(f"waits for {wait.what}, which nothing in the machine can bring about")

    def _park_foreground(self, thread: Thread) -> None:
        """Leave a thread to itself; the program goes on with a stack of its own."""
        thread.state = "waiting"
        self.state.queue.append(thread.tid)
        thread.stack = self.state.foreground_stack
        self.state.foreground_stack = self._take_stack()
        self._kernel.irql = 0
        self.enter_foreground()

    def _try(self, thread: Thread) -> int | None:
        wait = thread.wait
        assert wait is not None
        satisfied = self.conditions[wait.kind](thread, wait)
        if satisfied is None and wait.deadline is not None and wait.deadline <= self._kernel.clock.interrupt_time():
            return STATUS_TIMEOUT
        return satisfied

    def _next_event(self) -> int | None:
        """Interrupt time of the next timeout or timer, None when nothing is due at any time."""
        threads = self.state.threads
        waits = [threads[tid].wait for tid in self.state.queue]
        waits += [thread.wait for thread in self._in_place]
        due = [wait.deadline for wait in waits if wait is not None and wait.deadline is not None]
        timer = self._kernel.timers.next_due()
        if timer is not None:
            due.append(timer)
        return min(due, default=None)

    def _let_time_pass(self) -> bool:
        """Advance the clock to the next moment at which something happens; False when there is none."""
        due = self._next_event()
        if due is None:
            return False
        self._kernel.clock.advance_to(due)
        self._kernel.timers.expire()
        return True

    def pass_time(self, end: int) -> bool:
        """For a program that waits: advance the clock to the next moment at which something happens, at most to `end`.

        Returns:
            False when nothing happens before `end`, which is then the time.
        """
        due = self._next_event()
        if due is None or due > end:
            self._kernel.clock.advance_to(end)
            return False
        self._kernel.clock.advance_to(due)
        self._kernel.timers.expire()
        return True

    # Running

    def run_ready(self) -> None:
        """Run system threads until each waits or has ended; at the end of every user-mode call."""
        if not self.state.queue:
            return
        for _ in range(_MAXIMUM_SWITCHES):
            if not self._run_one():
                return
        raise Deadlock("system threads keep each other busy without end")

    def run_until(self, done: Callable[[], bool]) -> bool:
        """Run other threads, and let time pass when none can run, until `done`; False when that never comes."""
        for _ in range(_MAXIMUM_SWITCHES):
            if done():
                return True
            if not self._run_one() and not self._let_time_pass():
                break
        return done()

    def _run_one(self) -> bool:
        """Let the first thread that can run do so; False when none can."""
        for tid in self.state.queue:
            thread = self.state.threads[tid]
            if thread.state == "ready":
                self._run(thread, None)
                return True
            if thread.state == "waiting":
                status = self._try(thread)
                if status is not None:
                    self._run(thread, status)
                    return True
        return False

    def _run(self, thread: Thread, wait_status: int | None) -> None:
        cpu = self._kernel.cpu
        interrupted = self.state.current
        interrupted_irql = self._kernel.irql
        interrupted_stack = cpu.engine.read(_RSP_REGISTER)
        interrupted_base, self._base = self._base, cpu.depth
        self.state.queue.remove(thread.tid)
        self.state.queue.append(thread.tid)
        if wait_status is None:
            thread.stack = self._take_stack()
            thread.state = "running"
            self.set_current(thread)
            self._kernel.irql = 0
            cpu.engine.write(_RSP_REGISTER, thread.stack - 0x40)
            cpu.prepare(thread.routine, thread.argument)
            address = cpu.stubs.invoke
        else:
            self._resume(thread)
            cpu.set_result(wait_status)
            address = thread.resume_at
        try:
            cpu.resume(address)
        except Parked:
            pass
        except ThreadEnded as ended:
            self._ended(thread, ended.status)
        else:
            self._ended(thread, STATUS_SUCCESS)
        self._base = interrupted_base
        cpu.engine.write(_RSP_REGISTER, interrupted_stack)
        self.set_current(self.state.threads[interrupted])
        self._kernel.irql = interrupted_irql

    def _ended(self, thread: Thread, status: int) -> None:
        thread.state = "ended"
        thread.exit_status = status
        thread.wait = None
        self.state.queue.remove(thread.tid)
        self.state.free_stacks.append(thread.stack)
        thread.stack = 0
        if thread.continuation is not None:
            name, argument = thread.continuation
            thread.continuation = None
            thread.account = None
            thread.state = "idle"
            self.continuations[name](argument, self._kernel.cpu.call_result())
            return
        self._check_end(thread)
        self._kernel.ps.system_thread_ended(thread)

    def _check_end(self, thread: Thread) -> None:
        """A system thread ends at PASSIVE_LEVEL with APCs enabled (Microsoft Learn, "Bug Check 0x20")."""
        irql = self._kernel.irql
        kernel_apc, special_apc = struct.unpack("<ii", self.apc_state(thread))
        if irql or kernel_apc or special_apc:
            raise Bugcheck(
                0x20, 0, (kernel_apc or special_apc) & 0xFFFFFFFF, irql,
                reason=f"a system thread ended at IRQL {irql} with APC-disable counts {kernel_apc} and {special_apc}",
                rip=thread.routine,
            )  # fmt: skip

    def _suspend(self, thread: Thread, resume_at: int) -> None:
        thread.context = self._kernel.cpu.engine.save()
        thread.resume_at = resume_at
        thread.irql = self._kernel.irql

    def _resume(self, thread: Thread) -> None:
        assert thread.context is not None
        self._kernel.cpu.engine.load(thread.context)
        self._kernel.irql = thread.irql
        thread.context = None
        thread.wait = None
        thread.state = "running"
        self.set_current(thread)

    def is_free(self, thread: Thread) -> bool:
        """True for a thread of a program that no earlier call keeps in the kernel."""
        return thread.tid not in self.state.queue

    def enter_foreground(self) -> None:
        """Point the processor at the foreground's empty stack; at the start of a user-mode call."""
        self._kernel.cpu.engine.write(_RSP_REGISTER, self.state.foreground_stack - 0x40)

    def apc_state(self, thread: Thread) -> bytes:
        """The two APC-disable counts of a thread, for comparison before and after a callback."""
        return self._arena[thread.apc_at : thread.apc_at + 8]

    def change_apc_disable(self, thread: Thread, change: int) -> None:
        """Enter (-1) or leave (+1) a critical region on behalf of a thread."""
        cell = thread.object + ETHREAD_KERNEL_APC_DISABLE
        self._kernel.mem.set_u32(cell, self._kernel.mem.i32(cell) + change)

    def wake_waiters(self, address: int) -> None:
        """End the waits that one dispatcher object ends now: a signal takes effect even if it does not last."""
        if not self.state.queue and not self._in_place:
            return
        for thread in (*(self.state.threads[tid] for tid in self.state.queue), *self._in_place):
            if thread.wait is not None and address in thread.wait.objects:
                status = self._try(thread)
                if status is not None:
                    thread.wait = WaitBlock(_ENDED, (), thread.wait.what, detail=status)

    def rebind(self) -> None:
        """Forget waits that had frames of the host: a checkpoint is taken when there are none."""
        self._in_place.clear()
        self._base = 0
