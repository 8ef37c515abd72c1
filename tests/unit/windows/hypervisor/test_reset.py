"""How a machine is put back follows from what is possible, and whether it is from what a test left."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vm.windows.hypervisor.reset import UNDONE_BY_UNLOAD, Capabilities, Strategy, Trace, decide, plan

UEFI = Capabilities(libvirt=(9, 0, 0), uefi=True, memory_mib=4096, free_mib=100_000)
BIOS = replace(UEFI, uefi=False)
NO_SAVE = {"save_refused": "no room"}


@pytest.mark.parametrize(
    ("capabilities", "strategy", "words"),
    [
        (UEFI, Strategy.GOLDEN_SAVE, "the fastest"),
        (BIOS, Strategy.GOLDEN_SAVE, "the fastest"),
        (replace(UEFI, free_mib=None), Strategy.GOLDEN_SAVE, "the fastest"),
        (replace(BIOS, **NO_SAVE), Strategy.INTERNAL_SNAPSHOT, "refused: no room"),
        (replace(BIOS, free_mib=4095), Strategy.COLD_BOOT, "4095 MiB free, 4096 needed"),
        (replace(UEFI, **NO_SAVE), Strategy.COLD_BOOT, "with UEFI it needs libvirt 10.10.0"),
        (replace(UEFI, libvirt=(10, 10, 0), **NO_SAVE), Strategy.INTERNAL_SNAPSHOT, "refused: no room"),
        (replace(BIOS, snapshot_refused="busy", **NO_SAVE), Strategy.COLD_BOOT, "refused: busy"),
    ],
)
def test_the_fastest_way_that_works_is_taken_and_why(capabilities, strategy, words):
    chosen = plan(capabilities)

    assert chosen.strategy is strategy
    assert words in chosen.reason


def test_each_faster_way_is_named_with_its_obstacle():
    assert [strategy for strategy, _ in plan(replace(UEFI, **NO_SAVE)).rejected] == [
        Strategy.GOLDEN_SAVE,
        Strategy.INTERNAL_SNAPSHOT,
    ]


def test_what_the_user_asks_for_is_taken():
    chosen = plan(UEFI, forced=Strategy.COLD_BOOT)

    assert (chosen.strategy, chosen.reason) == (Strategy.COLD_BOOT, "asked for")


@pytest.mark.parametrize("trace", sorted(UNDONE_BY_UNLOAD, key=lambda one: one.value))
def test_what_unloading_undoes_needs_no_reset(trace):
    assert not decide([trace]).revert


@pytest.mark.parametrize("trace", sorted(set(Trace) - UNDONE_BY_UNLOAD, key=lambda one: one.value))
def test_everything_else_needs_one(trace):
    decision = decide([Trace.DRIVER_STARTED, trace])

    assert decision.revert
    assert decision.reasons == (trace.value,)


def test_nothing_done_needs_none_even_for_a_test_that_asks_for_a_fresh_machine():
    assert not decide([]).revert
    assert not decide([], fresh=True).revert


def test_a_test_that_asks_for_a_fresh_machine_gets_one_after_any_other():
    decision = decide([Trace.DRIVER_STARTED], fresh=True)

    assert decision.revert
    assert decision.reasons == ("the next test asks for a fresh machine",)
