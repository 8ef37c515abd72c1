"""Timers and deferred procedure calls.

KTIMER, KDPC: layout of wdm.h for x64. A DPC that is queued below DISPATCH_LEVEL runs at once, one queued at or above it
when IRQL falls; timers expire when the clock passes their due time.

Sources: Microsoft Learn, "KeSetTimerEx", "KeInsertQueueDpc", "Bug Check 0xC7: TIMER_OR_DPC_INVALID".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm.emulated.exports import DISPATCH_LEVEL, PASSIVE_LEVEL, ExportTable
from vm.emulated.faults import Bugcheck
from vm.emulated.ke.irql import DPC_PENDING, IN_DPC, wrong_irql_after
from vm.emulated.layout import PCR_SLOW_IRQL

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

TIMER_NOTIFICATION = 8
TIMER_SYNCHRONIZATION = 9
_SIGNAL_STATE = 4
_DUE_TIME = 0x18
_TIMER_SIZE = 0x40

_DPC_TYPE = 0x13
_DPC_ROUTINE = 0x18
_DPC_CONTEXT = 0x20
_DPC_ARGUMENT1 = 0x28
_DPC_ARGUMENT2 = 0x30
_DPC_SIZE = 0x40

UNITS_PER_MILLISECOND = 10_000


@dataclass
class Armed:
    """A timer that runs: due in interrupt time, period in 100 ns units (0 for one shot), DPC or 0."""

    due: int
    period: int
    dpc: int


@dataclass
class TimersState:
    """What a checkpoint keeps."""

    armed: dict[int, Armed] = field(default_factory=dict)
    dpcs: list[int] = field(default_factory=list)
    of_timers: set[int] = field(default_factory=set)
    """Those of the queued DPCs that a timer queued."""


class Timers:
    """Armed timers and queued DPCs."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.state = TimersState()

    def rebind(self) -> None:
        """Nothing is cached."""

    def next_due(self) -> int | None:
        """Interrupt time at which the next timer expires, None when none runs."""
        return min((timer.due for timer in self.state.armed.values()), default=None)

    def expire(self) -> None:
        """Signal every timer whose time has come and run its DPC."""
        armed = self.state.armed
        if not armed:
            return
        now = self._kernel.clock.interrupt_time()
        for address in sorted((a for a, timer in armed.items() if timer.due <= now), key=lambda a: armed[a].due):
            timer = armed.get(address)
            if timer is None or timer.due > now:
                continue  # a DPC of an earlier one cancelled it or set it anew
            if timer.period:
                timer.due += timer.period
            else:
                del armed[address]
            self._kernel.mem.set_u32(address + _SIGNAL_STATE, 1)
            self._kernel.threads.wake_waiters(address)
            if timer.dpc:
                self.state.of_timers.add(timer.dpc)
                self.queue(timer.dpc, 0, 0)

    def set(self, address: int, due: int, period: int, dpc: int) -> bool:
        """Arm a timer; True when it was armed already."""
        was = address in self.state.armed
        self._kernel.mem.set_u32(address + _SIGNAL_STATE, 0)
        self._kernel.mem.set_u64(address + _DUE_TIME, due)
        self.state.armed[address] = Armed(due, period, dpc)
        return was

    def cancel(self, address: int) -> bool:
        """Disarm a timer; True when it was armed."""
        return self.state.armed.pop(address, None) is not None

    def queue(self, dpc: int, argument1: int, argument2: int) -> bool:
        """Queue a DPC; False when it is queued already."""
        if dpc in self.state.dpcs:
            return False
        self._kernel.mem.set_u64(dpc + _DPC_ARGUMENT1, argument1)
        self._kernel.mem.set_u64(dpc + _DPC_ARGUMENT2, argument2)
        self.state.dpcs.append(dpc)
        if self._kernel.irql < DISPATCH_LEVEL:
            self.run_dpcs()
        else:
            self._set_flag(DPC_PENDING, on=True)
        return True

    def remove(self, dpc: int) -> bool:
        """Take a DPC out of the queue; False when it is not there."""
        if dpc not in self.state.dpcs:
            return False
        self.state.dpcs.remove(dpc)
        self._set_flag(DPC_PENDING, on=bool(self.state.dpcs))
        return True

    def run_dpcs(self) -> None:
        """Run queued DPCs at DISPATCH_LEVEL."""
        kernel = self._kernel
        self._set_flag(DPC_PENDING, on=False)
        before = kernel.irql
        while self.state.dpcs:
            kernel.irql = DISPATCH_LEVEL
            kernel.cpu.irql_was_raised()
            self._run_dpc(self.state.dpcs.pop(0))
        kernel.irql = before

    def _run_dpc(self, dpc: int) -> None:
        kernel = self._kernel
        memory, thread = kernel.mem, kernel.current_thread
        routine = memory.u64(dpc + _DPC_ROUTINE)
        of_timer = dpc in self.state.of_timers
        self.state.of_timers.discard(dpc)
        apcs = kernel.threads.apc_state(thread)
        self._set_flag(IN_DPC, on=True)
        kernel.call(
            routine, dpc, memory.u64(dpc + _DPC_CONTEXT), memory.u64(dpc + _DPC_ARGUMENT1),
            memory.u64(dpc + _DPC_ARGUMENT2),
        )  # fmt: skip
        self._set_flag(IN_DPC, on=False)
        if kernel.irql != DISPATCH_LEVEL:
            raise wrong_irql_after(routine, kernel.irql, DISPATCH_LEVEL, "a DPC")
        after = kernel.threads.apc_state(thread)
        if after != apcs:
            counts = [int.from_bytes(state[:4], "little", signed=True) for state in (apcs, after)]
            raise Bugcheck(
                0xC7, 5 if of_timer else 4, routine, counts[0] & 0xFFFFFFFF, counts[1] & 0xFFFFFFFF,
                reason="a DPC entered or left a critical or guarded region", rip=routine,
            )  # fmt: skip

    def _set_flag(self, flag: int, *, on: bool) -> None:
        flags = self._kernel.pcr_u8(PCR_SLOW_IRQL)
        flags = flags | flag if on else flags & ~flag
        self._kernel.set_pcr_bytes(PCR_SLOW_IRQL, bytes([flags]))

    def check_gone(self, first: int, size: int) -> None:
        """No armed timer and no queued DPC may lie in memory that goes away. Raises Bugcheck 0xC7."""
        for kind, name, addresses in ((0, "an armed timer", self.state.armed), (1, "a queued DPC", self.state.dpcs)):
            for address in addresses:
                if first <= address < first + size:
                    raise Bugcheck(
                        0xC7, kind, address, first, first + size,
                        reason=f"memory that holds {name}, 0x{address:X}, was freed or unloaded",
                    )  # fmt: skip
        for timer in self.state.armed.values():
            routine = self._kernel.mem.u64(timer.dpc + _DPC_ROUTINE) if timer.dpc else 0
            if first <= routine < first + size:
                raise Bugcheck(
                    0xC7, 2, routine, first, first + size,
                    reason=f"a timer is armed whose DPC routine 0x{routine:X} was unloaded",
                )  # fmt: skip


def due_time(kernel: Kernel, value: int) -> int:
    """Interrupt time of a DueTime argument: negative is relative, else absolute system time."""
    if value < 0:
        return kernel.clock.interrupt_time() - value
    return kernel.clock.interrupt_time() + max(0, value - kernel.clock.system_time())


@EXPORTS.function("KeInitializeTimer", args="ptr", irql=DISPATCH_LEVEL)
def ke_initialize_timer(kernel: Kernel, timer: int) -> None:
    """Microsoft Learn, KeInitializeTimer."""
    ke_initialize_timer_ex(kernel, timer, 0)


@EXPORTS.function("KeInitializeTimerEx", args="ptr u32", irql=DISPATCH_LEVEL)
def ke_initialize_timer_ex(kernel: Kernel, timer: int, kind: int) -> None:
    """Microsoft Learn, KeInitializeTimerEx."""
    if timer in kernel.timers.state.armed:
        raise Bugcheck(
            0xC7, 0, timer, timer, timer + _TIMER_SIZE, reason=f"timer 0x{timer:X} is initialised while it is armed"
        )
    kernel.mem.write(timer, bytes(_TIMER_SIZE))
    kernel.mem.set_u8(timer, TIMER_SYNCHRONIZATION if kind else TIMER_NOTIFICATION)
    kernel.mem.set_u64(timer + 8, timer + 8)
    kernel.mem.set_u64(timer + 16, timer + 8)


@EXPORTS.function("KeSetTimer", args="ptr i64 ptr", irql=DISPATCH_LEVEL)
def ke_set_timer(kernel: Kernel, timer: int, due: int, dpc: int) -> int:
    """Microsoft Learn, KeSetTimer."""
    return kernel.timers.set(timer, due_time(kernel, due), 0, dpc)


@EXPORTS.function("KeSetTimerEx", args="ptr i64 i32 ptr", irql=DISPATCH_LEVEL)
def ke_set_timer_ex(kernel: Kernel, timer: int, due: int, period: int, dpc: int) -> int:
    """Microsoft Learn, KeSetTimerEx: the period is in milliseconds."""
    return kernel.timers.set(timer, due_time(kernel, due), period * UNITS_PER_MILLISECOND, dpc)


@EXPORTS.function("KeSetCoalescableTimer", args="ptr i64 u32 u32 ptr", irql=DISPATCH_LEVEL)
def ke_set_coalescable_timer(kernel: Kernel, timer: int, due: int, period: int, _tolerance: int, dpc: int) -> int:
    """Microsoft Learn, KeSetCoalescableTimer: this machine has no reason to coalesce."""
    return kernel.timers.set(timer, due_time(kernel, due), period * UNITS_PER_MILLISECOND, dpc)


@EXPORTS.function("KeCancelTimer", args="ptr", irql=DISPATCH_LEVEL)
def ke_cancel_timer(kernel: Kernel, timer: int) -> int:
    """Microsoft Learn, KeCancelTimer."""
    return kernel.timers.cancel(timer)


@EXPORTS.function("KeReadStateTimer", args="ptr", irql=DISPATCH_LEVEL)
def ke_read_state_timer(kernel: Kernel, timer: int) -> int:
    """Microsoft Learn, KeReadStateTimer."""
    return kernel.mem.u32(timer + _SIGNAL_STATE)


@EXPORTS.function("KeInitializeDpc", args="ptr ptr ptr")
def ke_initialize_dpc(kernel: Kernel, dpc: int, routine: int, context: int) -> None:
    """Microsoft Learn, KeInitializeDpc."""
    kernel.mem.write(dpc, bytes(_DPC_SIZE))
    kernel.mem.set_u8(dpc, _DPC_TYPE)
    kernel.mem.set_u64(dpc + _DPC_ROUTINE, routine)
    kernel.mem.set_u64(dpc + _DPC_CONTEXT, context)


@EXPORTS.function("KeInsertQueueDpc", args="ptr ptr ptr")
def ke_insert_queue_dpc(kernel: Kernel, dpc: int, argument1: int, argument2: int) -> int:
    """Microsoft Learn, KeInsertQueueDpc."""
    return kernel.timers.queue(dpc, argument1, argument2)


@EXPORTS.function("KeRemoveQueueDpc", args="ptr")
def ke_remove_queue_dpc(kernel: Kernel, dpc: int) -> int:
    """Microsoft Learn, KeRemoveQueueDpc."""
    return kernel.timers.remove(dpc)


@EXPORTS.function("KeFlushQueuedDpcs", irql=PASSIVE_LEVEL)
def ke_flush_queued_dpcs(kernel: Kernel) -> None:
    """Microsoft Learn, KeFlushQueuedDpcs."""
    kernel.timers.run_dpcs()


@EXPORTS.function("KeSetImportanceDpc", args="ptr u32")
def ke_set_importance_dpc(_kernel: Kernel, _dpc: int, _importance: int) -> None:
    """Microsoft Learn, KeSetImportanceDpc: order of DPCs on one processor; queue order is one that is allowed."""


@EXPORTS.function("KeSetTargetProcessorDpc", args="ptr u8")
def ke_set_target_processor_dpc(_kernel: Kernel, _dpc: int, _number: int) -> None:
    """Microsoft Learn, KeSetTargetProcessorDpc: there is one processor."""
