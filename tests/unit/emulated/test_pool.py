"""Pool memory: special pool finds every misuse and names the block."""

from __future__ import annotations

import pytest

from tests.fixtures.misuse import crash

TEST = int.from_bytes(b"Test", "little")
OTHER = int.from_bytes(b"Othr", "little")


def test_fresh_memory_is_filled_and_can_be_written(misuse):
    block = misuse.run("Allocate", 48)
    assert block % 16 == 0
    assert misuse.run("Read8", block) == 0xCD
    misuse.run("Write8", block + 47, 5)
    assert misuse.run("Read8", block + 47) == 5
    misuse.run("Free", block)


def test_an_overrun_within_the_alignment_is_found_at_free(misuse):
    block = misuse.run("Allocate", 41)
    misuse.run("Write8", block + 43, 0)
    report = misuse.crash("Free", block)
    assert (report.code, report.parameters[0], report.parameters[1]) == (0xC1, block, block + 43)
    assert report.parameters[3] == 0x24
    assert "41 bytes, offset 43, allocated at misuse!" in report.notes[0]
    assert "freed" not in report.notes[0]


@pytest.mark.parametrize(("function", "access"), [("Read8", 0), ("Write8", 1)])
def test_an_access_beyond_the_block_faults_at_once(misuse, function, access):
    block = misuse.run("Allocate", 48)
    report = misuse.crash(function, block + 48)
    assert (report.code, report.parameters[:2]) == (0xD6, (block + 48, access))
    assert report.frames[0].function == function
    assert "48 bytes, offset 48" in report.notes[0]


@pytest.mark.parametrize(("function", "access"), [("Read8", 0), ("Write8", 1)])
def test_use_after_free_faults_and_names_who_freed(misuse, function, access):
    block = misuse.run("Allocate", 100)
    misuse.run("Free", block)
    report = misuse.crash(function, block + 4)
    assert (report.code, report.parameters[:2]) == (0xD5, (block + 4, access))
    assert "freed at misuse!Free (drivers/misuse/pool.c:" in report.notes[0]


def test_blocks_are_distinct_and_addresses_are_not_reused(misuse):
    seen = set()
    for _ in range(20):
        block = misuse.run("Allocate", 32)
        assert block not in seen
        seen.add(block)
        misuse.run("Free", block)


@pytest.mark.parametrize(
    ("tag", "code", "kind"), [(0, 0xC2, 7), (OTHER, 0xC2, 7)], ids=["twice", "twice with another tag"]
)
def test_a_double_free_is_a_bad_pool_call(misuse, tag, code, kind):
    block = misuse.run("Allocate", 32)
    misuse.run("Free", block)
    report = misuse.crash("Free", block, tag)
    assert (report.code, report.parameters[0], report.parameters[3]) == (code, kind, block)


def test_a_free_with_another_tag_names_both(misuse):
    block = misuse.run("Allocate", 32)
    report = misuse.crash("Free", block, OTHER)
    assert (report.code, report.parameters) == (0xC2, (0xA, block, TEST, OTHER))
    assert "'Test'" in report.reason
    assert "'Othr'" in report.reason


@pytest.mark.parametrize("offset", [1, 16])
def test_a_free_inside_a_block_is_a_bad_pool_call(misuse, offset):
    block = misuse.run("Allocate", 64)
    report = misuse.crash("Free", block + offset)
    assert (report.code, report.parameters[:2]) == (0xC2, (0x46, block + offset))


def test_a_leak_is_found_when_the_driver_unloads(misuse):
    misuse.run("Allocate", 100)
    misuse.run("Allocate", 200, 1)
    report = crash(misuse.stop)
    assert (report.code, report.parameters[0], report.parameters[3]) == (0xC4, 0x62, 2)
    assert misuse.kernel.mem.wide(report.parameters[1]) == "misuse"
    assert "300 bytes" in report.reason


def test_a_driver_that_freed_everything_unloads(misuse):
    misuse.run("Free", misuse.run("Allocate", 100))
    misuse.stop()


@pytest.mark.parametrize("how", ["TouchTwice", "TouchUnderSpinLock"])
def test_paged_pool_may_not_be_touched_at_dispatch_level_even_when_just_touched_below(misuse, how):
    block = misuse.run("Allocate", 64, 1)
    assert misuse.run("TouchTwice", block, 1) == 2 * 0xCD
    report = misuse.crash(how, block, 2)
    assert (report.code, report.parameters[:3]) == (0xD1, (block, 2, 0))
    assert "paged pool block 'Test'" in report.notes[0]


def test_nonpaged_pool_may_be_touched_at_any_level(misuse):
    block = misuse.run("Allocate", 64)
    assert misuse.run("TouchTwice", block, 2) == 2 * 0xCD
    assert misuse.run("TouchUnderSpinLock", block) == 3 * 0xCD


def test_pageable_code_may_not_run_at_dispatch_level(misuse):
    assert misuse.run("CallPageable", 1) == 2
    report = misuse.crash("CallPageable", 2)
    assert (report.code, report.parameters[1], report.parameters[2]) == (0xD1, 2, 8)
    assert report.parameters[0] == misuse.address("Pageable")


@pytest.mark.parametrize(
    ("irql", "paged", "size", "kind"), [(2, 1, 8, 1), (3, 0, 8, 2), (0, 0, 0, 0)], ids=["paged", "nonpaged", "empty"]
)
def test_an_allocation_at_a_wrong_irql_or_of_nothing_is_a_violation(misuse, irql, paged, size, kind):
    report = misuse.crash("AllocateAt", irql, paged, size)
    assert (report.code, report.parameters) == (0xC4, (kind, irql, report.parameters[2], size))


def test_paged_pool_may_not_be_freed_at_dispatch_level(misuse):
    block = misuse.run("Allocate", 64, 1)
    report = misuse.crash("FreeAt", 2, block)
    assert (report.code, report.parameters) == (0xC4, (0x11, 2, 1, block))


def test_a_block_too_large_for_the_machine_is_refused(misuse):
    assert misuse.run("Allocate", 1 << 40) == 0


@pytest.mark.parametrize("paged", [0, 1])
def test_lookaside_lists_give_blocks_through_the_inline_functions(misuse, paged):
    assert misuse.run("Lookaside", paged, 4, 0) >= 12
    misuse.stop()


@pytest.mark.parametrize(("own", "calls"), [(0, 0), (1, 2 * 16 + 2)])
def test_a_lookaside_list_calls_its_own_routines(misuse, own, calls):
    assert misuse.run("LookasideEx", own) == calls


def test_a_lookaside_list_that_is_not_deleted_is_found_at_unload(misuse):
    misuse.run("Lookaside", 0, 2, 1)
    report = crash(misuse.stop)
    assert (report.code, report.parameters[0]) == (0xC4, 0xCC)
    assert "misuse!Lookaside" in report.reason


def test_a_lookaside_list_initialised_twice_is_a_violation(misuse):
    misuse.run("Lookaside", 0, 2, 1)
    report = misuse.crash("Lookaside", 0, 2, 1)
    assert (report.code, report.parameters[0]) == (0xC4, 0xCA)
