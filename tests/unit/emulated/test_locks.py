"""Spin locks, IRQL, critical regions, mutexes, resources and push locks: each misuse has Windows' own bugcheck."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fixtures.misuse import crash
from vm.emulated import layout

PROCESSOR_H = Path(layout.__file__).with_name("guest") / "processor.h"


def test_the_cells_that_guest_and_host_share_lie_at_the_same_places():
    text = PROCESSOR_H.read_text()
    found = re.findall(r"#define (PCR_\w+|ETHREAD_\w+) (\w+)", text)
    defined = {name: int(value.rstrip("ul"), 0) for name, value in found}
    assert defined.pop("PCR_ADDRESS") == layout.PCR
    assert defined.pop("PCR_CURRENT_THREAD") == layout.PRCB_CURRENT_THREAD
    assert defined == {name: getattr(layout, name) for name in defined}
    assert len(defined) >= 7


def test_a_spin_lock_taken_twice_stops_the_machine_and_says_where_it_was_taken(misuse):
    report = misuse.crash("TakeSpinLockTwice")
    assert report.code == 0xF
    assert "taken at misuse!TakeSpinLockTwice (drivers/misuse/sync.c:" in report.reason


@pytest.mark.parametrize(("raised", "code", "kind"), [(1, 0x10, 0), (0, 0xC4, 0x32)])
def test_a_spin_lock_that_is_not_owned_cannot_be_released(misuse, raised, code, kind):
    report = misuse.crash("ReleaseSpinLockNotOwned", raised)
    assert (report.code, report.parameters[0]) == (code, kind)


def test_spin_locks_may_be_released_in_any_order(misuse):
    assert misuse.run("ReleaseOutOfOrder") == 0


def test_the_dpc_level_functions_need_dispatch_level(misuse):
    assert misuse.run("AcquireAtDpcLevel", 2) == 0
    report = misuse.crash("AcquireAtDpcLevel", 1)
    assert (report.code, report.parameters[:2]) == (0xC4, (0x40, 1))


def test_a_spin_lock_may_not_be_acquired_above_dispatch_level(misuse):
    report = misuse.crash("AcquireAbove", 5)
    assert (report.code, report.parameters[:2]) == (0xC4, (0x42, 5))


@pytest.mark.parametrize(
    ("raise_to", "lower_to", "expected"),
    [(1, 2, (0x31, 1, 2, 0)), (16, 0, (0x30, 0, 16, 0)), (2, 3, (0x31, 2, 3, 0))],
)
def test_irql_can_only_be_raised_by_raising_and_lowered_by_lowering(misuse, raise_to, lower_to, expected):
    report = misuse.crash("ChangeIrql", raise_to, lower_to)
    assert (report.code, report.parameters) == (0xC4, expected)


@pytest.mark.parametrize("level", [1, 2, 12, 15])
def test_irql_goes_up_and_down(misuse, level):
    for by_register in (0, 1):
        assert misuse.run("ChangeIrql", level, 0, by_register) == 0


def test_a_dispatch_routine_that_returns_at_raised_irql_stops_the_machine(misuse):
    report = misuse.crash("RaiseTo", 2)
    assert report.code in (0xC8, 0xC9)


@pytest.mark.parametrize(
    ("function", "argument", "code", "parameters"),
    [
        ("RaiseTo", 2, 0xC8, (2 << 16 | 2, None)),
        ("RaiseTo", 1, 0xC8, (1 << 16 | 2, None)),
        ("KeepSpinLock", 0, 0xC8, (2 << 16 | 2, None)),
        ("KeepSpinLock", 1, 0xC4, (0x40009, 0)),
        ("EnterRegion", 0, 0x1, (None, 0, 0xFFFE, 1)),
        ("LeaveRegion", 0, 0x1, (None, 0, 0, 1)),
        ("EnterGuarded", 0, 0x1, (None, 0, 0xFFFF_FFFF, 1)),
        ("Mutexes", 2, 0x1, (None, 0, 0xFFFE, 1)),
    ],
)
def test_a_notify_routine_that_changes_the_processors_state_stops_the_machine(
    misuse, function, argument, code, parameters
):
    misuse.run("Register", 1)
    misuse.kernel.mem.set_u64(misuse.address("OnCreate"), misuse.address("CallWithCell"))
    misuse.set_cell(8, misuse.address(function))
    misuse.set_cell(9, argument)
    report = crash(misuse.launch)
    routine = misuse.address("NotifyEx")
    assert report.code == code
    assert report.parameters[: len(parameters)] == tuple(routine if value is None else value for value in parameters)
    assert "misuse!NotifyEx" in report.reason


def test_a_critical_region_cannot_be_left_outside_one(misuse):
    report = misuse.crash("LeaveRegion")
    assert (report.code, report.parameters) == (0xC4, (0x3E, 0, 0, 0))


def test_a_dispatch_routine_that_stays_in_a_critical_region_stops_the_machine(misuse):
    assert misuse.crash("EnterRegion").code == 0x1


def test_a_fast_mutex_raises_to_apc_level_and_back(misuse):
    assert misuse.run("FastMutexRightly") == 0x01101


@pytest.mark.parametrize("guarded", [0, 1])
def test_a_fast_mutex_taken_twice_is_a_self_deadlock(misuse, guarded):
    report = misuse.crash("FastMutexTwice", guarded)
    assert (report.code, report.parameters[0]) == (0xC4, 0x1000)


@pytest.mark.parametrize(("how", "kind"), [(0, 0x34), (1, 0x1007), (2, 0x33)], ids=["low", "not owned", "high"])
def test_a_fast_mutex_is_used_at_apc_level_by_its_owner(misuse, how, kind):
    report = misuse.crash("FastMutexNotOwned", how)
    assert (report.code, report.parameters[0]) == (0xC4, kind)


def test_a_resource_is_shared_or_exclusive(misuse):
    # Shared once, not convertible to exclusive by waiting, exclusive after the release.
    assert misuse.run("UseResource", 0) == 0x1011


@pytest.mark.parametrize(
    ("how", "code", "kind"),
    [(1, 0xC4, 0x1002), (2, 0xC4, 0xD0), (3, 0xC4, 0x37), (4, 0xE3, None), (5, 0xC4, 0x1000), (6, 0xC4, 0x100B),
     (7, 0xC4, 0xD1)],
    ids=["uninitialised", "twice", "APCs on", "not owned", "self-deadlock", "deleted owned", "deleted twice"],
)  # fmt: skip
def test_each_misuse_of_a_resource_has_its_violation(misuse, how, code, kind):
    report = misuse.crash("UseResource", how)
    assert report.code == code
    assert kind is None or report.parameters[0] == kind


def test_a_resource_in_freed_memory_is_found_at_free(misuse):
    report = misuse.crash("ResourceInPool")
    assert (report.code, report.parameters[0], report.parameters[3]) == (0xC4, 0xD2, 0x68)


@pytest.mark.parametrize(("how", "kind"), [(1, 0xEA), (2, 0x1007), (3, 0x1000)])
def test_each_misuse_of_a_push_lock_has_its_violation(misuse, how, kind):
    report = misuse.crash("UsePushLock", how)
    assert (report.code, report.parameters[0]) == (0xC4, kind)


def test_a_push_lock_works_inside_a_critical_region(misuse):
    assert misuse.run("UsePushLock", 0) == 1


def test_a_semaphore_counts(misuse):
    assert misuse.run("Semaphores", 0) == 0x2011


def test_a_semaphore_released_past_its_limit_raises(misuse):
    report = misuse.crash("Semaphores", 1)
    assert (report.code, report.parameters[0]) == (0x1E, 0xC0000047)


def test_a_mutex_is_recursive_and_disables_apcs_while_owned(misuse):
    assert misuse.run("Mutexes", 0) == 0x01111


def test_a_mutex_released_by_another_raises(misuse):
    report = misuse.crash("Mutexes", 1)
    assert (report.code, report.parameters[0]) == (0x1E, 0xC0000046)
