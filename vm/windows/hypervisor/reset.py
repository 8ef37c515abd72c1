"""How a machine is put back, and whether it has to be: decisions as data, with their reasons."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

PFLASH_SNAPSHOT_SINCE: Final = (10, 10, 0)
"""The libvirt that first makes internal snapshots of machines with UEFI variables."""


class Strategy(enum.Enum):
    """Ways to put a machine back, the fastest first."""

    GOLDEN_SAVE = "golden save"
    """New overlay on the golden disk, then restore the saved memory with the overlay's path in its XML."""
    INTERNAL_SNAPSHOT = "internal snapshot"
    """Revert to a snapshot of memory and disk inside the qcow2 file."""
    COLD_BOOT = "cold boot"
    """New overlay, then start Windows."""


@dataclass(frozen=True)
class Capabilities:
    """What a hypervisor and a machine allow.

    Attributes:
        libvirt: version of the hypervisor's libvirt.
        uefi: whether the machine has UEFI firmware.
        save_refused: what the hypervisor said when it was asked to save or restore this machine, empty when it did not
            refuse.
        snapshot_refused: likewise for an internal snapshot.
        memory_mib: memory of the machine.
        free_mib: space for a saved memory on the hypervisor's host; None when it is not known.
    """

    libvirt: tuple[int, int, int]
    uefi: bool
    save_refused: str = ""
    snapshot_refused: str = ""
    memory_mib: int = 0
    free_mib: int | None = None


@dataclass(frozen=True)
class Plan:
    """The way that was chosen.

    Attributes:
        strategy: the way.
        reason: why, for headers and reports.
        rejected: the faster ways, and why not.
    """

    strategy: Strategy
    reason: str
    rejected: tuple[tuple[Strategy, str], ...] = ()


def plan(capabilities: Capabilities, *, forced: Strategy | None = None) -> Plan:
    """Choose how a machine is put back.

    Args:
        capabilities: what is possible.
        forced: a way that the user asked for; taken also when it is expected to fail, which then says why.
    """
    if forced is not None:
        return Plan(forced, "asked for")
    rejected: list[tuple[Strategy, str]] = []
    for strategy, obstacle in (
        (Strategy.GOLDEN_SAVE, _against_save(capabilities)),
        (Strategy.INTERNAL_SNAPSHOT, _against_snapshot(capabilities)),
    ):
        if obstacle is None:
            reason = "the fastest" if not rejected else f"the fastest that works: {rejected[0][1]}"
            return Plan(strategy, reason, tuple(rejected))
        rejected.append((strategy, obstacle))
    return Plan(Strategy.COLD_BOOT, "; ".join(f"no {one.value}: {why}" for one, why in rejected), tuple(rejected))


def _against_save(capabilities: Capabilities) -> str | None:
    if capabilities.save_refused:
        return f"the hypervisor refused: {capabilities.save_refused}"
    return _against_room(capabilities)


def _against_room(capabilities: Capabilities) -> str | None:
    """Either way keeps the memory on the hypervisor's disk, in a file of its own or inside the overlay."""
    if capabilities.free_mib is not None and capabilities.free_mib < capabilities.memory_mib:
        return f"{capabilities.free_mib} MiB free, {capabilities.memory_mib} needed for the saved memory"
    return None


def _against_snapshot(capabilities: Capabilities) -> str | None:
    if capabilities.snapshot_refused:
        return f"the hypervisor refused: {capabilities.snapshot_refused}"
    if capabilities.uefi and capabilities.libvirt < PFLASH_SNAPSHOT_SINCE:
        return f"with UEFI it needs libvirt {'.'.join(map(str, PFLASH_SNAPSHOT_SINCE))}"
    return _against_room(capabilities)


class Trace(enum.Enum):
    """What a test left on a machine, or did to it."""

    SERVICE_CREATED = "a service was created"
    DRIVER_STARTED = "the driver was started"
    DEVICE_OPENED = "a device was opened"
    PROCESSES_LAUNCHED = "processes were launched"
    IMAGE_PROVIDED = "a file was put on the machine"
    CRASHED = "the guest crashed"
    HUNG = "the guest or the driver did not come back"
    DRIVER_STUCK = "the driver does not unload"
    CLEANUP_FAILED = "something could not be removed"
    PROCESSES_LEFT = "a process does not end"
    SERVICE_CHANGED = "a service of the guest's own was started, stopped or deleted"
    VERIFIER_CHANGED = "Driver Verifier's settings changed"
    CONNECTION_LOST = "the connection to the guest broke"


UNDONE_BY_UNLOAD: Final = frozenset(
    {
        Trace.SERVICE_CREATED,
        Trace.DRIVER_STARTED,
        Trace.DEVICE_OPENED,
        Trace.PROCESSES_LAUNCHED,
        Trace.IMAGE_PROVIDED,
    }
)
"""What stopping and deleting the driver's service, ending the processes and removing the files undoes."""


@dataclass(frozen=True)
class Decision:
    """Whether a machine is put back before the next test.

    Attributes:
        revert: whether it is.
        reasons: why, empty when it is not.
    """

    revert: bool
    reasons: tuple[str, ...] = ()


def decide(traces: Iterable[Trace], *, fresh: bool = False) -> Decision:
    """Whether a machine is put back before the next test; what undoing leaves nothing of does not ask for it.

    Args:
        traces: what happened on it since it was put back last.
        fresh: whether the next test asks for a machine that nothing ran on.
    """
    found = set(traces)
    reasons = [trace.value for trace in Trace if trace in found and trace not in UNDONE_BY_UNLOAD]
    if fresh and found:
        reasons.append("the next test asks for a fresh machine")
    return Decision(bool(reasons), tuple(reasons))
