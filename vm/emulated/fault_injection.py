"""Fault injection: a chosen call of a chosen export fails without being executed.

What a driver does when memory is short or a service refuses is seen on Windows only by luck or under Driver Verifier's
low-resources simulation. Here the n-th call of an export returns a given result instead, and a checkpoint keeps what
was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm.errors import MachineConfigurationError

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel


@dataclass
class InjectionState:
    """What a checkpoint keeps: by export, the result of each call to come that fails, counted from 1."""

    failures: dict[str, dict[int, int]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)


class FaultInjector:
    """Which calls fail."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.state = InjectionState()
        self._interposed: set[str] = set()

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

    def _result(self, export: str) -> int | None:
        """The result of the call under way when it is to fail."""
        state = self.state
        if export not in state.failures:
            return None
        state.calls[export] += 1
        return state.failures[export].pop(state.calls[export], None)
