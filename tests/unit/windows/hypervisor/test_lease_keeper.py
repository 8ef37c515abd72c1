"""A keeper that was paused asks before it does anything; one whose process lost its connection takes its slot again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.windows.hypervisor.test_leases import Hypervisor
from vm.windows.hypervisor.lease_keeper import hold_slot, slots_in_use
from vm.windows.hypervisor.lease_records import LeaseRecords
from vm.windows.hypervisor.leases import LeaseLost, Leases, NoFreeSlot
from vm.windows.hypervisor.owners import Liveness, current_owner

URI = "test:///keeper"
NEVER = 10_000.0


class Clock:
    """Milliseconds, as the test says."""

    now = 1_000_000

    def __call__(self):
        return self.now


class Unseen:
    """Nobody can be looked at: only clocks count."""

    def liveness(self, _owner):
        return Liveness.UNKNOWN


class Seen:
    """Everybody runs."""

    def liveness(self, _owner):
        return Liveness.ALIVE


@pytest.fixture
def store():
    return LeaseRecords(Hypervisor())


def leases(store, clock, *, worker="main", host=None, probe=None):
    owner = replace(current_owner(worker), **({} if host is None else {"host": host}))
    return Leases(
        store,
        owner,
        probe or Seen(),
        clock,
        created_by="tests",
        in_use=lambda slot: slots_in_use().has(URI, slot),
    )


def hold(mine, seconds=0.0):
    return hold_slot(URI, mine, ("a-1",), seconds, lambda _line: None, heartbeat=NEVER)


def test_after_a_pause_in_which_nobody_came_the_lease_goes_on(store):
    clock = Clock()
    keeper = hold(leases(store, clock))
    clock.now += 3_600_000

    keeper.require()

    assert not keeper.is_lost()
    keeper.release()


def test_after_a_pause_in_which_another_computer_took_the_slot_it_is_lost(store):
    clock, told = Clock(), []
    keeper = hold(leases(store, clock))
    keeper.when_lost(told.append)
    clock.now += 3_600_000
    other = leases(store, clock, host="another", probe=Unseen())
    held = other.acquire(("a-1",))

    with pytest.raises(LeaseLost, match="another owner has taken it over"):
        keeper.require()

    assert keeper.is_lost()
    assert len(told) == 1
    keeper.release()
    assert other.renew(held), "what the other one has was not touched"


def keeper_whose_slot_was_taken_while_its_clock_stood_still(store):
    """As after a pause of the whole computer."""
    clock = Clock()
    keeper = hold(leases(store, clock))
    before = clock.now
    clock.now += 3_600_000
    leases(store, clock, host="another", probe=Unseen()).acquire(("a-1",))
    clock.now = before
    return keeper


def test_a_clock_that_was_set_back_hides_no_new_owner_from_what_would_harm_it(store):
    keeper = keeper_whose_slot_was_taken_while_its_clock_stood_still(store)
    keeper.require()

    with pytest.raises(LeaseLost, match="another owner has taken it over"):
        keeper.confirm()

    assert keeper.is_lost()
    keeper.release()


def test_whoever_gives_a_slot_up_asks_whether_it_has_it(store):
    keeper = keeper_whose_slot_was_taken_while_its_clock_stood_still(store)

    assert keeper.is_lost()
    keeper.release()


def test_a_slot_in_use_is_not_taken_again_by_its_own_process_and_one_left_behind_is(store):
    clock = Clock()
    keeper = hold(leases(store, clock, worker="gw0"))
    with pytest.raises(NoFreeSlot):
        hold(leases(store, clock, worker="gw0"))

    # As when the connection is gone: it is not given back, but nobody uses it any more.
    slots_in_use().discard(URI, "a-1")

    again = hold(leases(store, clock, worker="gw0"))
    again.release()
    assert keeper.slot == again.slot
    keeper._released.set()


def test_a_slot_that_another_thread_took_as_soon_as_it_was_given_back_stays_in_use(store):
    clock, second = Clock(), []
    first = leases(store, clock, worker="gw0")
    keeper = hold(first)
    give_back = first.release

    def give_back_and_lose_the_processor(held):
        give_back(held)
        second.append(hold(leases(store, clock, worker="gw1")))

    first.release = give_back_and_lose_the_processor
    keeper.release()

    with pytest.raises(NoFreeSlot):
        hold(leases(store, clock, worker="gw2"))
    second[0].release()
    assert not slots_in_use().has(URI, "a-1")
