"""Leases under every order of events: no slot ever has two owners, and what belongs to others stays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vm.errors import MachineBroken
from vm.windows.hypervisor.lease_records import LeaseRecords, Versioned, parse_record_name, record_name
from vm.windows.hypervisor.leases import LeaseLost, Leases, NoFreeSlot, Standing, judge
from vm.windows.hypervisor.mark import Mark, Owner, Role, Term
from vm.windows.hypervisor.owners import Liveness

SLOTS = ("win11-0", "win11-1")
LIFETIME = 60_000
SKEW = 30_000


class Hypervisor:
    """Domains in memory: unique names, and somebody else who may act before any call."""

    def __init__(self):
        self.domains = {}
        self.pending = []

    def step(self):
        if self.pending and (action := self.pending.pop(0)) is not None:
            action()

    def names(self):
        self.step()
        return list(self.domains)

    def create(self, name, mark):
        self.step()
        if name in self.domains:
            return False
        # As XML, as it is kept.
        self.domains[name] = mark.to_xml()
        return True

    def marked(self, name):
        self.step()
        if name not in self.domains:
            return False, None
        xml = self.domains[name]
        return True, None if xml is None else Mark.from_xml(xml)

    def remove(self, name):
        self.step()
        self.domains.pop(name, None)


@dataclass
class Actor:
    """A process on one of two computers."""

    owner: Owner
    skew: int
    leases: Leases | None = None
    alive: bool = True
    held: list = field(default_factory=list)


@dataclass(frozen=True)
class Eyes:
    """Sees the processes of one computer."""

    world: World
    host: str

    def liveness(self, owner):
        if owner.host != self.host:
            return Liveness.UNKNOWN
        alive = any(actor.owner == owner and actor.alive for actor in self.world.actors)
        return Liveness.ALIVE if alive else Liveness.GONE


class World(RuleBasedStateMachine):
    """Four processes on two computers whose clocks differ, one hypervisor with two slots."""

    @initialize(skews=st.lists(st.sampled_from([0, 1000, SKEW]), min_size=2, max_size=2), foreign=st.booleans())
    def begin(self, skews, foreign):
        self.now = 1_000_000
        self.hypervisor = Hypervisor()
        self.actors = []
        self.spawned = 0
        self.skews = skews
        self.foreign = {}
        if foreign:
            self.foreign = {"vm-of-someone": None, "ntproof-lease-odd": None, record_name(SLOTS[0], 3): None}
            self.hypervisor.domains.update(self.foreign)
        for _ in range(4):
            self.spawn()

    def spawn(self):
        self.spawned += 1
        host = self.spawned % 2
        owner = Owner(host=f"host{host}", boot="b", pid_namespace="n", user="u", pid=self.spawned, started=1)
        actor = Actor(owner, self.skews[host])
        actor.leases = Leases(
            LeaseRecords(self.hypervisor),
            owner,
            Eyes(self, owner.host),
            lambda: self.now + actor.skew,
            created_by="test",
            lifetime_ms=LIFETIME,
            skew_ms=SKEW,
        )
        self.actors.append(actor)

    def living(self, number):
        alive = [actor for actor in self.actors if actor.alive]
        return alive[number % len(alive)] if alive else None

    def acquire(self, actor):
        if actor is None or not actor.alive:
            return
        try:
            held = actor.leases.acquire(SLOTS)
        except NoFreeSlot:
            return
        actor.held.append(held)

    def renew(self, actor):
        if actor is None or not actor.alive or not actor.held:
            return
        held = actor.held.pop(0)
        try:
            actor.held.append(actor.leases.renew(held))
        except LeaseLost:
            return

    def release(self, actor):
        if actor is None or not actor.alive or not actor.held:
            return
        actor.leases.release(actor.held.pop(0))

    def act(self, action, number):
        getattr(self, action)(self.living(number))

    @rule(action=st.sampled_from(["acquire", "renew", "release"]), number=st.integers(0, 9))
    def one_acts(self, action, number):
        self.act(action, number)

    @rule(
        action=st.sampled_from(["acquire", "renew", "release"]),
        number=st.integers(0, 9),
        others=st.lists(
            st.none() | st.tuples(st.sampled_from(["acquire", "renew", "release"]), st.integers(0, 9)), max_size=8
        ),
    )
    def others_act_in_between(self, action, number, others):
        actor = self.living(number)
        # One process does one thing at a time: it is not among those who act while it does.
        self.hypervisor.pending = [self.interruption(actor, *other) if other else None for other in others]
        if actor is not None:
            getattr(self, action)(actor)
        self.hypervisor.pending = []

    def interruption(self, busy, action, number):
        def act():
            waiting, self.hypervisor.pending = self.hypervisor.pending, []
            other = self.living(number)
            if other is not busy:
                getattr(self, action)(other)
            self.hypervisor.pending = waiting

        return act

    @rule(seconds=st.sampled_from([1, 10, 59, 60, 61, 91, 1000]))
    def time_passes(self, seconds):
        self.now += seconds * 1000

    @precondition(lambda self: any(actor.alive for actor in self.actors))
    @rule(number=st.integers(0, 9))
    def one_dies(self, number):
        self.living(number).alive = False
        self.spawn()

    @rule(number=st.integers(0, 9))
    def a_newcomer_gets_a_slot_when_all_holders_are_gone(self, number):
        if any(actor.alive and actor.held for actor in self.actors) or self.foreign:
            return
        self.now += LIFETIME + 2 * SKEW + 1
        newcomer = self.living(number)
        if newcomer is not None:
            newcomer.held.append(newcomer.leases.acquire(SLOTS))

    @invariant()
    def no_slot_has_two_owners(self):
        for slot in SLOTS:
            owners = [
                actor.owner
                for actor in self.actors
                for held in actor.held
                if actor.alive and held.slot == slot and actor.leases.holds(held)
            ]
            assert len(owners) <= 1, f"{slot}: {owners}"

    @invariant()
    def what_others_made_is_untouched(self):
        for name, xml in self.foreign.items():
            assert name in self.hypervisor.domains
            assert self.hypervisor.domains[name] == xml

    @invariant()
    def few_records_are_left(self):
        for slot in SLOTS:
            records = [name for name in self.hypervisor.domains if (parse_record_name(name) or ("", 0))[0] == slot]
            assert len(records) <= 1


World.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestLeases = World.TestCase


OWNER = Owner(host="h", boot="b", pid_namespace="n", user="u", pid=7, started=9, worker="gw0")
OTHER = replace(OWNER, pid=8)


class Says:
    def __init__(self, liveness):
        self.answer = liveness

    def liveness(self, _owner):
        return self.answer


def leases(hypervisor, owner=OWNER, liveness=Liveness.ALIVE, now=1_000_000):
    return Leases(LeaseRecords(hypervisor), owner, Says(liveness), lambda: now, created_by="test")


def record(**changes):
    term = Term(heartbeat_ms=1_000_000, lifetime_ms=LIFETIME)
    mark = Mark(role=Role.LEASE, created_by="test", created=1000, slot="s", owner=OWNER, term=term)
    return Versioned(4, replace(mark, **changes))


@pytest.mark.parametrize(
    ("found", "liveness", "late", "standing"),
    [
        (None, Liveness.UNKNOWN, 0, Standing.FREE),
        (record(), Liveness.ALIVE, 0, Standing.HELD),
        (record(), Liveness.ALIVE, 10_000_000, Standing.HELD),
        (record(), Liveness.GONE, 0, Standing.ORPHANED),
        (record(), Liveness.UNKNOWN, LIFETIME + SKEW, Standing.HELD),
        (record(), Liveness.UNKNOWN, LIFETIME + SKEW + 1, Standing.ORPHANED),
        (record(), Liveness.UNKNOWN, -10_000_000, Standing.HELD),
        (record(term=Term(heartbeat_ms=0, lifetime_ms=1, released=True)), Liveness.ALIVE, 0, Standing.FREE),
        (record(role=Role.CLONE), Liveness.GONE, 10_000_000, Standing.FOREIGN),
        (record(term=None), Liveness.GONE, 10_000_000, Standing.FOREIGN),
        (Versioned(1, None), Liveness.GONE, 10_000_000, Standing.FOREIGN),
    ],
)
def test_a_record_is_judged_by_its_owner_and_its_time(found, liveness, late, standing):
    assert judge(found, 1_000_000 + late, Says(liveness), skew_ms=SKEW).standing is standing


def test_two_workers_get_two_slots_and_a_third_is_told_who_has_them():
    hypervisor = Hypervisor()

    first = leases(hypervisor).acquire(SLOTS)
    second = leases(hypervisor, OTHER).acquire(SLOTS)

    assert (first.slot, second.slot) == SLOTS
    with pytest.raises(NoFreeSlot, match=r"win11-0: held by u@h, process 7, worker gw0; win11-1: .*process 8"):
        leases(hypervisor, replace(OWNER, pid=9)).acquire(SLOTS)


def test_a_slot_whose_owner_is_gone_or_gave_it_back_is_taken():
    hypervisor = Hypervisor()
    leases(hypervisor).acquire(SLOTS)
    other = leases(hypervisor, OTHER, Liveness.GONE)

    reclaimed = other.acquire(SLOTS)
    other.release(reclaimed)

    assert reclaimed.slot == SLOTS[0]
    assert leases(hypervisor).acquire(SLOTS).slot == SLOTS[0]


def test_an_owner_learns_that_its_slot_was_taken_over():
    hypervisor = Hypervisor()
    mine = leases(hypervisor)
    held = mine.acquire(SLOTS)
    leases(hypervisor, OTHER, Liveness.GONE).acquire(SLOTS)

    with pytest.raises(LeaseLost, match="win11-0"):
        mine.renew(held)
    before = dict(hypervisor.domains)
    mine.release(held)
    assert hypervisor.domains == before, "a slot of another is not released"


def test_a_heartbeat_whose_answer_was_lost_does_not_lose_the_slot():
    class Breaks(Hypervisor):
        broken = False

        def create(self, name, mark):
            done = super().create(name, mark)
            if self.broken:
                self.broken = False
                raise MachineBroken("connection lost")
            return done

    hypervisor = Breaks()
    mine = leases(hypervisor)
    held = mine.acquire(SLOTS)
    hypervisor.broken = True
    with pytest.raises(MachineBroken):
        mine.renew(held)

    assert mine.renew(held).record.version == 3


def test_a_writer_that_fell_asleep_does_not_bring_an_old_version_back():
    hypervisor = Hypervisor()
    store = LeaseRecords(hypervisor)
    mark = record().mark
    assert store.write("s", None, mark)
    old = store.read("s")
    assert store.write("s", old, mark)
    assert store.write("s", store.read("s"), mark)

    assert not store.write("s", old, mark), "version 2 was written and removed meanwhile"
    assert store.read("s").version == 3
    assert set(hypervisor.domains) == {record_name("s", 3)}


def test_a_domain_of_someone_else_is_not_written_over():
    hypervisor = Hypervisor()
    hypervisor.domains[record_name("s", 3)] = None
    store = LeaseRecords(hypervisor)

    assert not store.write("s", store.read("s"), record().mark)
    assert hypervisor.domains == {record_name("s", 3): None}


@pytest.mark.parametrize("late", [0, SKEW])
def test_an_owner_whose_clock_is_behind_keeps_its_slot_until_its_own_time_is_over(late):
    hypervisor = Hypervisor()
    mine = leases(hypervisor)
    held = mine.acquire(SLOTS[:1])

    with pytest.raises(NoFreeSlot):
        leases(hypervisor, OTHER, Liveness.UNKNOWN, now=held.term.ends_ms + late).acquire(SLOTS[:1])
    leases(hypervisor, OTHER, Liveness.UNKNOWN, now=held.term.ends_ms + late + SKEW + 1).acquire(SLOTS[:1])


def test_a_slot_whose_name_contains_another_is_another():
    hypervisor = Hypervisor()
    store = LeaseRecords(hypervisor)
    store.write("a-v1", None, record().mark)

    assert store.read("a") is None
    assert parse_record_name(record_name("a-v1", 12)) == ("a-v1", 12)


def test_a_record_that_never_rests_is_an_error_and_no_endless_loop():
    class Vanishing(Hypervisor):
        def marked(self, name):
            return False, None

    hypervisor = Vanishing()
    hypervisor.domains[record_name("s", 1)] = None
    with pytest.raises(MachineBroken, match="changed 100 times"):
        LeaseRecords(hypervisor).read("s")


def test_a_lease_that_was_lost_is_not_renewed_by_a_later_one_of_the_same_owner():
    hypervisor, late = Hypervisor(), 200_000
    lost = leases(hypervisor).acquire(SLOTS[:1])
    leases(hypervisor, OTHER, Liveness.UNKNOWN, 1_000_000 + late).acquire(SLOTS[:1])
    mine = leases(hypervisor, OWNER, Liveness.UNKNOWN, 1_000_000 + 2 * late)
    later = mine.acquire(SLOTS[:1])

    with pytest.raises(LeaseLost):
        mine.renew(lost)
    mine.release(lost)

    assert mine.renew(later).slot == SLOTS[0]
