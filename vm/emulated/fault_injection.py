"""Fault injection: a chosen call of a chosen export fails without being executed.

What a driver does when memory is short or a service refuses is seen on Windows only by luck or under Driver Verifier's
low resources simulation. Here the n-th call of an export returns a given result instead, and a checkpoint keeps what
was asked for.

Low resources simulation is here as well: calls that take memory ask `memory_is_short`, each where its checks are done,
and fail as they do without memory. Which fail follows from the seed and from how many asked before. They are those that
Microsoft names (Microsoft Learn, "Low Resources Simulation") as far as they exist here: the pool's allocations, IRPs,
MDLs, work items, the buffers of Rtl strings, IoSetCompletionRoutineEx, MmProbeAndLockPages and
MmMapLockedPagesSpecifyCache. Alertable waits, which Windows may end as well, are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm.errors import MachineConfigurationError
from vm.verifier import CHANCES

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

_64_BITS = (1 << 64) - 1


@dataclass
class InjectionState:
    """What a checkpoint keeps.

    Attributes:
        failures: by export, the result of each call to come that fails, counted from 1.
        calls: by export, how many were made since the first of them was asked for.
        asked: how many calls asked whether memory is short.
        starved: how many of them heard that it is.
    """

    failures: dict[str, dict[int, int]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    asked: int = 0
    starved: int = 0


class FaultInjector:
    """Which calls fail."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.state = InjectionState()
        self._interposed: set[str] = set()
        settings = kernel.options.verifier
        chances = settings.chances if settings is not None else None
        self._limit = 0 if chances is None else (chances << 64) // CHANCES
        self._seed = settings.seed if settings is not None else 0
        tag = settings.pool_tag if settings is not None else None
        self._tag = None if tag is None else int.from_bytes(tag.encode("ascii"), "little")

    def rebind(self) -> None:
        """Nothing is cached: an export once interposed asks the state."""

    def fail(self, export: str, *, call: int, result: int) -> None:
        """Let a call fail.

        Args:
            export: name of the export.
            call: which call from now on, counted from 1.
            result: what it returns: an NTSTATUS, or 0 for an allocation.

        Raises:
            MachineConfigurationError: the export is unknown, or runs as guest code and cannot fail.
        """
        kernel = self._kernel
        if export not in kernel.exports.functions or kernel.guest.export(export) is not None:
            known = "runs as machine code and cannot fail" if kernel.guest.export(export) else "is not implemented here"
            raise MachineConfigurationError(f"cannot inject a fault into {export}: it {known}")
        if call < 1:
            raise MachineConfigurationError(f"cannot inject a fault into call {call} of {export}: calls count from 1")
        if export not in self._interposed:
            kernel.resolve_export(export)
            kernel.cpu.interpose(export, lambda: self._result(export))
            self._interposed.add(export)
        made = self.state.calls.setdefault(export, 0)
        self.state.failures.setdefault(export, {})[made + call] = result

    def pending(self) -> int:
        """Failures asked for that have not happened yet."""
        return sum(len(calls) for calls in self.state.failures.values())

    def memory_is_short(self, call: str, tag: int | None = None) -> bool:
        """Whether the call under way fails for want of memory.

        Args:
            call: name of the export, for the debug log.
            tag: its pool tag, None for what takes no pool of the driver's.
        """
        if not self._limit or (self._tag is not None and tag != self._tag):
            return False
        state = self.state
        state.asked += 1
        if _mixed(self._seed, state.asked) >= self._limit:
            return False
        state.starved += 1
        kernel = self._kernel
        kernel.debug.line(f"low resources: {call} fails, called from {kernel.describe_code(kernel.caller())}")
        return True

    def _result(self, export: str) -> int | None:
        """The result of the call under way when it is to fail."""
        state = self.state
        if export not in state.failures:
            return None
        state.calls[export] += 1
        return state.failures[export].pop(state.calls[export], None)


def _mixed(seed: int, count: int) -> int:
    """64 bits that look random: the `count`-th number of SplitMix64 (Steele, Lea and Flood, 2014) from a seed."""
    value = (seed + count * 0x9E3779B97F4A7C15) & _64_BITS
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _64_BITS
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _64_BITS
    return value ^ value >> 31
