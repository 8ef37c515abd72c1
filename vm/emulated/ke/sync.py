"""Dispatcher objects (events, semaphores, mutexes) and the functions that wait for them.

Objects live in the driver's memory with the layout of DISPATCHER_HEADER (wdm.h): type at 0, signal state at 4, wait
list at 8. Waits and their results are as Microsoft Learn describes KeWaitForSingleObject and
KeWaitForMultipleObjects, wrong waits as "Bug Check 0xC4" does (0xE1, 0x120 to 0x122).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vm.emulated.exports import APC_LEVEL, DISPATCH_LEVEL, ExportTable
from vm.emulated.faults import Bugcheck, NtException
from vm.emulated.ke.threads import Thread, WaitBlock
from vm.emulated.ke.timers import TIMER_NOTIFICATION, TIMER_SYNCHRONIZATION, due_time
from vm.emulated.layout import PCR, PCR_IRQL

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

STATUS_SEMAPHORE_LIMIT_EXCEEDED = 0xC0000047
STATUS_MUTANT_NOT_OWNED = 0xC0000046
_MAXIMUM_WAIT_OBJECTS = 64

EVENT_NOTIFICATION, EVENT_SYNCHRONIZATION, MUTANT, PROCESS, SEMAPHORE, THREAD = 0, 1, 2, 3, 5, 6
_NAMES = {
    EVENT_NOTIFICATION: "notification event",
    EVENT_SYNCHRONIZATION: "synchronization event",
    MUTANT: "mutex",
    PROCESS: "process",
    SEMAPHORE: "semaphore",
    THREAD: "thread",
    TIMER_NOTIFICATION: "timer",
    TIMER_SYNCHRONIZATION: "timer",
}

SIGNAL_STATE = 4
_WAIT_LIST = 8
_SEMAPHORE_LIMIT = 0x18
_MUTANT_OWNER = 0x28
_DISPATCHER = "dispatcher objects"
_DELAY = "delay"


def initialise(kernel: Kernel, address: int, kind: int, size_in_longs: int, state: int) -> None:
    """Write a DISPATCHER_HEADER."""
    head = address + _WAIT_LIST
    kernel.mem.write(address, struct.pack("<BBBBiQQ", kind, 0, size_in_longs, 0, state, head, head))


def register_waits(kernel: Kernel) -> None:
    """Tell the scheduler how waits for dispatcher objects and delays end."""
    conditions = kernel.threads.conditions
    conditions[_DISPATCHER] = lambda thread, wait: _try_dispatcher(kernel, thread, wait)
    conditions[_DELAY] = lambda _thread, wait: _try_delay(kernel, wait)


def _describe(kernel: Kernel, address: int) -> str:
    return f"{_NAMES.get(kernel.mem.u8(address), 'object')} 0x{address:X}"


def _try_dispatcher(kernel: Kernel, thread: Thread, wait: WaitBlock) -> int | None:
    """End a wait for dispatcher objects if their state allows it."""
    ready = [index for index, va in enumerate(wait.objects) if _is_signalled(kernel, thread, va)]
    if wait.wait_all:
        if len(ready) < len(wait.objects):
            return None
        for va in wait.objects:
            _consume(kernel, thread, va)
        return 0
    if not ready:
        return None
    _consume(kernel, thread, wait.objects[ready[0]])
    return ready[0]


def _is_signalled(kernel: Kernel, thread: Thread, address: int) -> bool:
    state = kernel.mem.i32(address + SIGNAL_STATE)
    if kernel.mem.u8(address) == MUTANT:
        return state > 0 or kernel.mem.u64(address + _MUTANT_OWNER) == thread.object
    return state > 0


def _consume(kernel: Kernel, thread: Thread, address: int) -> None:
    kind = kernel.mem.u8(address)
    state = kernel.mem.i32(address + SIGNAL_STATE)
    if kind in (EVENT_SYNCHRONIZATION, TIMER_SYNCHRONIZATION):
        kernel.mem.set_u32(address + SIGNAL_STATE, 0)
    elif kind == SEMAPHORE:
        kernel.mem.set_u32(address + SIGNAL_STATE, state - 1)
    elif kind == MUTANT:
        kernel.mem.set_u32(address + SIGNAL_STATE, state - 1)
        if state > 0:
            kernel.mem.set_u64(address + _MUTANT_OWNER, thread.object)
            kernel.threads.change_apc_disable(thread, -1)


def _try_delay(kernel: Kernel, wait: WaitBlock) -> int | None:
    """A delay ends with success when its time has come."""
    return 0 if wait.deadline is not None and wait.deadline <= kernel.clock.interrupt_time() else None


def _deadline(kernel: Kernel, timeout: int) -> int | None:
    return due_time(kernel, kernel.mem.i64(timeout)) if timeout else None


def _check_wait(kernel: Kernel, objects: tuple[int, ...], timeout: int) -> None:
    irql = kernel.irql
    blocks = not timeout or kernel.mem.i64(timeout) != 0
    if blocks and irql >= DISPATCH_LEVEL:
        kind = 0x120 if irql > DISPATCH_LEVEL else 0x122 if timeout else 0x121
        raise Bugcheck(
            0xC4, kind, PCR + PCR_IRQL, objects[0], timeout,
            reason=f"the driver waits at IRQL {irql} for {_describe(kernel, objects[0])}",
        )  # fmt: skip
    for address in objects:
        if kernel.mem.u8(address) & 0x7F not in _NAMES:
            raise Bugcheck(
                0xC4, 0xE1, address, reason=f"wait for 0x{address:X}, which is no initialised dispatcher object"
            )


@EXPORTS.function("KeWaitForSingleObject", args="ptr u32 u8 bool ptr")
def ke_wait_for_single_object(
    kernel: Kernel, address: int, _reason: int, _mode: int, _alertable: int, timeout: int
) -> int:
    """Microsoft Learn, KeWaitForSingleObject."""
    _check_wait(kernel, (address,), timeout)
    what = _describe(kernel, address)
    return kernel.threads.wait(WaitBlock(_DISPATCHER, (address,), what, deadline=_deadline(kernel, timeout)))


@EXPORTS.function("KeWaitForMutexObject", args="ptr u32 u8 bool ptr")
def ke_wait_for_mutex_object(kernel: Kernel, address: int, reason: int, mode: int, alertable: int, timeout: int) -> int:
    """Microsoft Learn, KeWaitForMutexObject."""
    return ke_wait_for_single_object(kernel, address, reason, mode, alertable, timeout) or 0


@EXPORTS.function("KeWaitForMultipleObjects", args="u32 ptr u32 u32 u8 bool ptr ptr")
def ke_wait_for_multiple_objects(
    kernel: Kernel, count: int, array: int, kind: int, _reason: int, _mode: int, _alertable: int, timeout: int,
    blocks: int,
) -> int:  # fmt: skip
    """Microsoft Learn, KeWaitForMultipleObjects: WaitAll is 0, WaitAny 1; more than 3 objects need wait blocks."""
    if count > _MAXIMUM_WAIT_OBJECTS or (count > 3 and not blocks) or count == 0:
        raise Bugcheck(0xC, reason=f"wait for {count} objects, more than allowed (MAXIMUM_WAIT_OBJECTS_EXCEEDED)")
    objects = tuple(kernel.mem.u64(array + 8 * index) for index in range(count))
    _check_wait(kernel, objects, timeout)
    what = f"{'all' if kind == 0 else 'any'} of {count} objects"
    wait = WaitBlock(_DISPATCHER, objects, what, wait_all=kind == 0, deadline=_deadline(kernel, timeout))
    return kernel.threads.wait(wait)


@EXPORTS.function("KeDelayExecutionThread", args="u8 bool ptr", irql=APC_LEVEL)
def ke_delay_execution_thread(kernel: Kernel, _mode: int, _alertable: int, interval: int) -> int:
    """Microsoft Learn, KeDelayExecutionThread: STATUS_SUCCESS after the delay."""
    wait = WaitBlock(_DELAY, (), "a delay", deadline=due_time(kernel, kernel.mem.i64(interval)))
    return kernel.threads.wait(wait)


@EXPORTS.function("KeInitializeEvent", args="ptr u32 bool")
def ke_initialize_event(kernel: Kernel, event: int, kind: int, state: int) -> None:
    """Microsoft Learn, KeInitializeEvent."""
    initialise(kernel, event, kind & 1, 6, int(bool(state)))


def set_event(kernel: Kernel, event: int) -> int:
    """Signal an event; returns its earlier state."""
    before = kernel.mem.i32(event + SIGNAL_STATE)
    kernel.mem.set_u32(event + SIGNAL_STATE, 1)
    kernel.threads.wake_waiters(event)
    return before


@EXPORTS.function("KeSetEvent", args="ptr u32 bool", irql=DISPATCH_LEVEL)
def ke_set_event(kernel: Kernel, event: int, _increment: int, _wait: int) -> int:
    """Microsoft Learn, KeSetEvent: returns the earlier signal state."""
    return set_event(kernel, event)


@EXPORTS.function("KePulseEvent", args="ptr u32 bool", irql=DISPATCH_LEVEL)
def ke_pulse_event(kernel: Kernel, event: int, _increment: int, _wait: int) -> int:
    """Microsoft Learn, KePulseEvent: wakes who waits now, leaves the event clear."""
    before = set_event(kernel, event)
    kernel.mem.set_u32(event + SIGNAL_STATE, 0)
    return before


@EXPORTS.function("KeResetEvent", args="ptr", irql=DISPATCH_LEVEL)
def ke_reset_event(kernel: Kernel, event: int) -> int:
    """Microsoft Learn, KeResetEvent: returns the earlier signal state."""
    before = kernel.mem.i32(event + SIGNAL_STATE)
    kernel.mem.set_u32(event + SIGNAL_STATE, 0)
    return before


@EXPORTS.function("KeClearEvent", args="ptr", irql=DISPATCH_LEVEL)
def ke_clear_event(kernel: Kernel, event: int) -> None:
    """Microsoft Learn, KeClearEvent."""
    kernel.mem.set_u32(event + SIGNAL_STATE, 0)


@EXPORTS.function("KeReadStateEvent", "KeReadStateSemaphore", args="ptr", irql=DISPATCH_LEVEL)
def ke_read_state(kernel: Kernel, event: int) -> int:
    """Microsoft Learn, KeReadStateEvent, KeReadStateSemaphore."""
    return kernel.mem.i32(event + SIGNAL_STATE)


@EXPORTS.function("KeInitializeSemaphore", args="ptr i32 i32")
def ke_initialize_semaphore(kernel: Kernel, semaphore: int, count: int, limit: int) -> None:
    """Microsoft Learn, KeInitializeSemaphore."""
    initialise(kernel, semaphore, SEMAPHORE, 8, count)
    kernel.mem.set_u32(semaphore + _SEMAPHORE_LIMIT, limit)


@EXPORTS.function("KeReleaseSemaphore", args="ptr u32 i32 bool", irql=DISPATCH_LEVEL)
def ke_release_semaphore(kernel: Kernel, semaphore: int, _increment: int, adjustment: int, _wait: int) -> int:
    """Microsoft Learn, KeReleaseSemaphore: raises STATUS_SEMAPHORE_LIMIT_EXCEEDED past the limit."""
    before = kernel.mem.i32(semaphore + SIGNAL_STATE)
    after = before + adjustment
    if after > kernel.mem.i32(semaphore + _SEMAPHORE_LIMIT) or after < before:
        raise NtException(STATUS_SEMAPHORE_LIMIT_EXCEEDED)
    kernel.mem.set_u32(semaphore + SIGNAL_STATE, after)
    for _ in range(adjustment):
        kernel.threads.wake_waiters(semaphore)
    return before


@EXPORTS.function("KeInitializeMutex", args="ptr u32")
def ke_initialize_mutex(kernel: Kernel, mutex: int, _level: int) -> None:
    """Microsoft Learn, KeInitializeMutex."""
    initialise(kernel, mutex, MUTANT, 14, 1)
    kernel.mem.set_u64(mutex + _MUTANT_OWNER, 0)


@EXPORTS.function("KeReleaseMutex", args="ptr bool", irql=DISPATCH_LEVEL)
def ke_release_mutex(kernel: Kernel, mutex: int, _wait: int) -> int:
    """Microsoft Learn, KeReleaseMutex: only the owner may; the status is raised, not returned."""
    if kernel.mem.u64(mutex + _MUTANT_OWNER) != kernel.current_thread.object:
        raise NtException(STATUS_MUTANT_NOT_OWNED)
    before = kernel.mem.i32(mutex + SIGNAL_STATE)
    kernel.mem.set_u32(mutex + SIGNAL_STATE, before + 1)
    if before + 1 > 0:
        kernel.mem.set_u64(mutex + _MUTANT_OWNER, 0)
        kernel.threads.change_apc_disable(kernel.current_thread, 1)
        kernel.threads.wake_waiters(mutex)
    return before


@EXPORTS.function("KeReadStateMutex", args="ptr", irql=DISPATCH_LEVEL)
def ke_read_state_mutex(kernel: Kernel, mutex: int) -> int:
    """Microsoft Learn, KeReadStateMutex."""
    return kernel.mem.i32(mutex + SIGNAL_STATE)
