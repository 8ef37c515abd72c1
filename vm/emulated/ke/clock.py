"""Time inside the emulated machine: a counter that only the machine's own activity advances.

There is no wall clock: the same calls give the same times. Drivers read time from KUSER_SHARED_DATA (ntddk.h), which is
kept up to date here, or through the Ke time exports.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vm.emulated.exports import ExportTable
from vm.emulated.layout import SHARED_USER_DATA
from vm.emulated.mm.memory import READ

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

BOOT_TIME = 133_485_408_000_000_000
"""2024-01-01 00:00 UTC in 100 ns units since 1601."""
TICK = 156_250
"""Units of a clock interrupt: 15.625 ms, what KeQueryTimeIncrement reports on x64."""
OPERATION = 1_000
"""How much every user-mode operation moves the clock: 100 us."""
PERFORMANCE_FREQUENCY = 10_000_000

_TIMES = struct.Struct("<IiiIii")
_TICKS = struct.Struct("<Q")
_INTERRUPT_TIME = 0x8
_TICK_COUNT = 0x320
_SYSTEM_ROOT = 0x30
_NT_MAJOR_VERSION = 0x26C


@dataclass
class ClockState:
    """Interrupt time: 100 ns units since boot."""

    now: int = 0


class Clock:
    """The machine's clock and the page that shows it to drivers."""

    def __init__(self, kernel: Kernel) -> None:
        self.state = ClockState(now=60 * 10_000_000)
        self._arena = kernel.mem.arena
        self._page = kernel.mem.map(SHARED_USER_DATA, 0x1000, READ)
        root = "C:\\Windows".encode("utf-16-le")
        self._arena[self._page + _SYSTEM_ROOT : self._page + _SYSTEM_ROOT + len(root)] = root
        struct.pack_into("<II", self._arena, self._page + _NT_MAJOR_VERSION, 10, 0)
        self._show()

    def rebind(self) -> None:
        """After a restore the shared page comes back with the arena; nothing is cached."""

    def advance(self, units: int = OPERATION) -> None:
        """Let time pass."""
        self.state.now += units
        self._show()

    def advance_to(self, interrupt_time: int) -> None:
        """Let time pass until `interrupt_time`, if that is ahead."""
        if interrupt_time > self.state.now:
            self.state.now = interrupt_time
            self._show()

    def interrupt_time(self) -> int:
        """100 ns units since boot."""
        return self.state.now

    def system_time(self) -> int:
        """100 ns units since 1601 UTC."""
        return BOOT_TIME + self.state.now

    def _show(self) -> None:
        now = self.state.now
        system = BOOT_TIME + now
        high, system_high = now >> 32, system >> 32
        _TIMES.pack_into(
            self._arena, self._page + _INTERRUPT_TIME, now & 0xFFFFFFFF, high, high,
            system & 0xFFFFFFFF, system_high, system_high,
        )  # fmt: skip
        _TICKS.pack_into(self._arena, self._page + _TICK_COUNT, now // TICK)


@EXPORTS.function("KeQuerySystemTimePrecise", args="ptr")
def ke_query_system_time_precise(kernel: Kernel, current_time: int) -> None:
    """Microsoft Learn, KeQuerySystemTimePrecise: any IRQL."""
    kernel.mem.set_u64(current_time, kernel.clock.system_time())


@EXPORTS.function("KeQueryInterruptTime")
def ke_query_interrupt_time(kernel: Kernel) -> int:
    """Microsoft Learn, KeQueryInterruptTime: any IRQL."""
    return kernel.clock.interrupt_time()


@EXPORTS.function("KeQueryInterruptTimePrecise", "KeQueryUnbiasedInterruptTimePrecise", args="ptr")
def ke_query_interrupt_time_precise(kernel: Kernel, counter: int) -> int:
    """Microsoft Learn, KeQueryInterruptTimePrecise: also stores the performance counter."""
    if counter:
        kernel.mem.set_u64(counter, kernel.clock.interrupt_time())
    return kernel.clock.interrupt_time()


@EXPORTS.function("KeQueryUnbiasedInterruptTime")
def ke_query_unbiased_interrupt_time(kernel: Kernel) -> int:
    """Microsoft Learn, KeQueryUnbiasedInterruptTime: the machine never sleeps."""
    return kernel.clock.interrupt_time()


@EXPORTS.function("KeQueryPerformanceCounter", args="ptr")
def ke_query_performance_counter(kernel: Kernel, frequency: int) -> int:
    """Microsoft Learn, KeQueryPerformanceCounter."""
    if frequency:
        kernel.mem.set_u64(frequency, PERFORMANCE_FREQUENCY)
    return kernel.clock.interrupt_time()


@EXPORTS.function("KeQueryTimeIncrement")
def ke_query_time_increment(_kernel: Kernel) -> int:
    """Microsoft Learn, KeQueryTimeIncrement: 100 ns units per clock interrupt."""
    return TICK
