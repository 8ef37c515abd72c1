"""The ways to put a slot's domain back, one class each: a golden save, an internal snapshot, a cold boot."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from vm.errors import MachineBroken
from vm.windows.hypervisor.golden_sets import GoldenSet, GoldenSets
from vm.windows.hypervisor.libvirt_errors import MemoryStays, NoRoom, OperationRefused
from vm.windows.hypervisor.mark import Mark
from vm.windows.hypervisor.reset import Capabilities, Plan, Strategy, plan
from vm.windows.hypervisor.slot_machine import SlotMachine

_LOG = logging.getLogger(__name__)

SNAPSHOT: Final = "golden"

Settle = Callable[[], None]
"""Brings a guest that was just started into the state that tests begin in."""
Tell = Callable[[str], None]
"""Takes a line of progress."""


class WayBack(Protocol):
    """A way to put a domain back. Each call may raise MachineBroken."""

    def prepare(self, settle: Settle) -> None:
        """Bring the domain into the golden state for the first time.

        Raises:
            OperationRefused: the hypervisor cannot go this way with this machine.
        """

    def revert(self, settle: Settle) -> None:
        """Bring it there again, whatever it does now."""


class GoldenSaveWay:
    """A saved memory and an overlay of the disk that belongs to it.

    Args:
        machine: the domain.
        sets: the golden sets of its slot.
        key: which one.
        mark: the mark of a set that is made.
        tell: is told what takes long.
    """

    def __init__(self, machine: SlotMachine, sets: GoldenSets, key: str, mark: Mark, tell: Tell) -> None:
        self._machine = machine
        self._sets = sets
        self._key = key
        self._mark = mark
        self._tell = tell
        self._golden: GoldenSet | None = None

    def is_made(self) -> bool:
        """Whether the golden set is there already, so that no room is needed for it.

        Raises:
            MachineBroken: the hypervisor failed.
        """
        return self._sets.find(self._key) is not None

    def prepare(self, settle: Settle) -> None:
        """Restore the golden set, which is made where there is none or it cannot be restored any more."""
        golden = self._sets.find(self._key)
        if golden is not None:
            try:
                self._machine.restore(golden)
            except NoRoom:
                # It is not the set that failed, and to make it again takes the same room.
                raise
            except MachineBroken as error:
                self._machine.require_hypervisor()
                _LOG.warning("slot %s: its saved memory is made again: %s", self._machine.name, error)
                self._sets.discard(golden)
            else:
                self._golden = golden
                return
        golden = self._make(settle)
        try:
            self._machine.restore(golden)
        except OperationRefused:
            # The next lease would find it, fail on it and make it again.
            self._sets.discard(golden)
            raise
        self._golden = golden

    def revert(self, settle: Settle) -> None:
        """End the domain and restore it."""
        del settle
        assert self._golden is not None
        self._machine.end()
        self._machine.restore(self._golden)

    def _make(self, settle: Settle) -> GoldenSet:
        golden = self._sets.at(self._key)
        name = self._machine.name
        self._sets.begin(golden, self._mark)
        try:
            self._tell(f"{name}: first use of this slot: the guest is started to save its memory")
            self._machine.start_for_golden(golden)
            settle()
            self._tell(f"{name}: the guest has settled; its memory is saved")
            self._machine.save(golden)
            self._sets.complete(golden)
        except BaseException:
            self._abandon(golden)
            raise
        return golden

    def _abandon(self, golden: GoldenSet) -> None:
        try:
            self._machine.end()
            self._sets.discard(golden)
        except MachineBroken as error:
            # Without its description it is no set; the next one of this slot takes its place.
            _LOG.warning("slot %s: an unfinished golden set stays: %s", self._machine.name, error)


class SnapshotWay:
    """A snapshot of memory and disk inside the overlay; it lasts as long as the lease.

    Args:
        machine: the domain.
        tell: is told what takes long.
    """

    def __init__(self, machine: SlotMachine, tell: Tell) -> None:
        self._machine = machine
        self._tell = tell

    def prepare(self, settle: Settle) -> None:
        """Start the guest and take the snapshot."""
        self._tell(f"{self._machine.name}: the guest is started to take a snapshot of it")
        self._machine.start_from_image(persistent=True)
        settle()
        self._machine.take_snapshot(SNAPSHOT)

    def revert(self, settle: Settle) -> None:
        """Go back to the snapshot."""
        del settle
        self._machine.revert_to_snapshot(SNAPSHOT)


class ColdBootWay:
    """A new overlay of the image's disk, and a start of the guest.

    Args:
        machine: the domain.
        tell: is told what takes long.
    """

    def __init__(self, machine: SlotMachine, tell: Tell) -> None:
        self._machine = machine
        self._tell = tell

    def prepare(self, settle: Settle) -> None:
        """Start the guest."""
        self._tell(f"{self._machine.name}: the guest is started")
        self._machine.start_from_image()
        settle()

    def revert(self, settle: Settle) -> None:
        """End the guest and start it again from the image's disk."""
        self._machine.end()
        self.prepare(settle)


@dataclass(frozen=True)
class Ways:
    """The three ways for one domain."""

    golden_save: GoldenSaveWay
    snapshot: SnapshotWay
    cold_boot: ColdBootWay

    def of(self, strategy: Strategy) -> WayBack:
        """The way that a strategy names."""
        match strategy:
            case Strategy.GOLDEN_SAVE:
                return self.golden_save
            case Strategy.INTERNAL_SNAPSHOT:
                return self.snapshot
            case Strategy.COLD_BOOT:
                return self.cold_boot


def prepare(
    machine: SlotMachine, ways: Ways, capabilities: Capabilities, settle: Settle, *, forced: Strategy | None = None
) -> tuple[WayBack, Plan]:
    """Bring a domain into its golden state by the fastest way that works.

    Args:
        machine: the domain.
        ways: the ways.
        capabilities: what is known to be possible; a way that the hypervisor refuses is not tried again.
        settle: brings the started guest into that state.
        forced: a way that was asked for.

    Returns:
        The way, and why it was chosen.

    Raises:
        MachineBroken: the way that was chosen failed, other than by being refused.
    """
    while True:
        chosen = plan(capabilities, forced=forced)
        way = ways.of(chosen.strategy)
        try:
            way.prepare(settle)
        except OperationRefused as error:
            # A definition that stayed would keep the next way from starting a domain of that name.
            machine.clear_away()
            if forced is not None or chosen.strategy is Strategy.COLD_BOOT:
                raise
            _LOG.warning("%s: no %s: %s", machine.name, chosen.strategy.value, error)
            capabilities = _without(capabilities, chosen.strategy, error)
        else:
            return way, chosen


def _without(capabilities: Capabilities, strategy: Strategy, refusal: OperationRefused) -> Capabilities:
    why = str(refusal)
    if isinstance(refusal, MemoryStays):
        return replace(capabilities, save_refused=why, snapshot_refused=why)
    if strategy is Strategy.GOLDEN_SAVE:
        return replace(capabilities, save_refused=why)
    return replace(capabilities, snapshot_refused=why)
