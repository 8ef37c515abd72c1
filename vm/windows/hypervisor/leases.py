"""Leases: which worker has which slot of a hypervisor, so that no two ever run machines on the same one.

    free -- acquire --> held -- release --> free
                        held -- its process is gone, or its time is over --> reclaimed by the next `acquire`

A lease is kept on the hypervisor, where every user and computer that shares it looks.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from vm.errors import MachineBroken
from vm.windows.hypervisor.lease_records import LeaseStore, Versioned
from vm.windows.hypervisor.mark import Mark, Owner, Role, Term
from vm.windows.hypervisor.owners import Liveness, OwnerProbe

LIFETIME_MS: Final = 60_000
"""How long a lease holds without a heartbeat."""
HEARTBEAT_MS: Final = 15_000
"""How often it is to be renewed: three may fail."""
SKEW_MS: Final = 30_000
"""How far the clocks of two computers may be apart."""


class LeaseLost(MachineBroken):
    """The slot is no longer this owner's: nothing more may be done with it."""


class NoFreeSlot(MachineBroken):
    """Every slot is taken."""


class Standing(enum.Enum):
    """What a slot's record says."""

    FREE = "free"
    HELD = "held"
    ORPHANED = "orphaned"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Judgement:
    """A slot's standing, and why in words."""

    standing: Standing
    reason: str


@dataclass(frozen=True)
class Held:
    """A slot that this owner has.

    Attributes:
        slot: its name.
        record: what the hypervisor keeps.
        term: until when.
    """

    slot: str
    record: Versioned
    term: Term


def judge(record: Versioned | None, now_ms: int, probe: OwnerProbe, *, skew_ms: int = SKEW_MS) -> Judgement:
    """What a record says.

    A process that can be seen to run keeps its slot however late its heartbeat is. One that cannot be seen loses it
    when its time is over by every clock that is not further off than `skew_ms`.

    Args:
        record: the record of a slot.
        now_ms: the time in milliseconds since 1970 UTC, by this computer's clock.
        probe: looks for owners.
        skew_ms: how far clocks may be apart.
    """
    if record is None:
        return Judgement(Standing.FREE, "never taken")
    mark = record.mark
    if mark is None or mark.term is None or mark.role is not Role.LEASE:
        return Judgement(Standing.FOREIGN, "a domain of this name carries no lease of this project")
    if mark.term.released:
        return Judgement(Standing.FREE, f"released by {mark.owner}")
    liveness = probe.liveness(mark.owner)
    if liveness is Liveness.GONE:
        return Judgement(Standing.ORPHANED, f"{mark.owner} is gone")
    overdue = now_ms - mark.term.ends_ms
    if liveness is Liveness.UNKNOWN and overdue > skew_ms:
        return Judgement(Standing.ORPHANED, f"{mark.owner} is {overdue / 1000:.0f} s late")
    if mark.term.heartbeat_ms > now_ms + skew_ms:
        return Judgement(Standing.HELD, f"held by {mark.owner}, whose clock is ahead; compare the clocks")
    return Judgement(Standing.HELD, f"held by {mark.owner}")


def _always(_slot: str) -> bool:
    """Every slot of this process is in use."""
    return True


class Leases:
    """The leases of one owner.

    Args:
        store: the records.
        owner: who this is.
        probe: looks for other owners.
        clock: milliseconds since 1970 UTC.
        created_by: program and version, for the mark.
        image: the image that the slots are of, for the mark.
        lifetime_ms: how long a lease holds without a heartbeat.
        skew_ms: how far clocks may be apart.
        in_use: whether this process still uses a slot that is recorded as its own. One that it lost with a connection,
            and could not give back, it may take again.
    """

    def __init__(
        self,
        store: LeaseStore,
        owner: Owner,
        probe: OwnerProbe,
        clock: Callable[[], int],
        *,
        created_by: str,
        image: str | None = None,
        lifetime_ms: int = LIFETIME_MS,
        skew_ms: int = SKEW_MS,
        in_use: Callable[[str], bool] = _always,
    ) -> None:
        self._in_use = in_use
        self._store = store
        self._owner = owner
        self._probe = probe
        self._clock = clock
        self._created_by = created_by
        self._image = image
        self._lifetime_ms = lifetime_ms
        self._skew_ms = skew_ms

    def acquire(self, slots: Iterable[str]) -> Held:
        """Take the first slot that is free or orphaned.

        Args:
            slots: names of slots in order of preference.

        Raises:
            NoFreeSlot: all are taken; names who has each.
            MachineBroken: the hypervisor failed.
        """
        taken = []
        for slot in slots:
            record = self._store.read(slot)
            found = judge(record, self._clock(), self._probe, skew_ms=self._skew_ms)
            if found.standing is Standing.HELD and self._is_left_behind(slot, record):
                found = Judgement(Standing.ORPHANED, "this process itself could not give it back")
            if found.standing in {Standing.FREE, Standing.ORPHANED}:
                held = self._take(slot, record)
                if held is not None:
                    return held
                found = Judgement(Standing.HELD, "taken by another at this moment")
            taken.append(f"{slot}: {found.reason}")
        raise NoFreeSlot(
            f"no free slot ({'; '.join(taken) or 'none is configured'}); wait for one, or allow more slots"
        )

    def renew(self, held: Held) -> Held:
        """Send a heartbeat; also after the time is over, when nobody has taken the slot meanwhile.

        Raises:
            LeaseLost: the slot was taken over.
            MachineBroken: the hypervisor failed; the lease holds until its time is over.
        """
        term = self._term()
        return replace(self._written(held, term), term=term)

    def release(self, held: Held) -> None:
        """Give a slot back; one that was lost already is not touched.

        Raises:
            MachineBroken: the hypervisor failed; the slot is reclaimed when its time is over.
        """
        try:
            self._written(held, replace(held.term, released=True))
        except LeaseLost:
            return

    def holds(self, held: Held) -> bool:
        """Whether the slot may be used now, by this owner's clock."""
        return self._clock() < held.term.ends_ms

    def _term(self) -> Term:
        return Term(heartbeat_ms=self._clock(), lifetime_ms=self._lifetime_ms)

    def _mark(self, slot: str, term: Term, created: int) -> Mark:
        return Mark(
            role=Role.LEASE,
            created_by=self._created_by,
            created=created,
            image=self._image,
            slot=slot,
            owner=self._owner,
            term=term,
        )

    def _take(self, slot: str, record: Versioned | None) -> Held | None:
        # The term begins before the record is written, so that this owner never holds longer than others believe.
        term = self._term()
        mark = self._mark(slot, term, term.heartbeat_ms // 1000)
        if not self._store.write(slot, record, mark):
            return None
        return Held(slot, Versioned(1 if record is None else record.version + 1, mark), term)

    def _written(self, held: Held, term: Term) -> Held:
        before = held.record.mark
        assert before is not None
        mark = self._mark(held.slot, term, before.created)
        expected: Versioned | None = held.record
        if not self._store.write(held.slot, expected, mark):
            # An earlier write may have arrived although the connection broke before its answer did.
            expected = self._store.read(held.slot)
            if not self._is_of(before, expected) or not self._store.write(held.slot, expected, mark):
                raise LeaseLost(f"slot {held.slot}: another owner has taken it over; nothing more may be done with it")
        assert expected is not None
        return replace(held, record=Versioned(expected.version + 1, mark))

    def _is_left_behind(self, slot: str, record: Versioned | None) -> bool:
        mark = None if record is None else record.mark
        if mark is None or self._in_use(slot):
            return False
        return replace(mark.owner, worker="") == replace(self._owner, worker="")

    def _is_of(self, lease: Mark, record: Versioned | None) -> bool:
        """Whether a record is of a lease that this owner took then, and not of a later one on the same slot."""
        mark = None if record is None else record.mark
        if mark is None or mark.term is None or mark.term.released:
            return False
        return (mark.owner, mark.created) == (self._owner, lease.created)
