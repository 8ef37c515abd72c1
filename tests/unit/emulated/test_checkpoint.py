"""Checkpoints: the same calls after a restore have the same results, times, ids and instruction counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures import misuse as fixture
from tests.fixtures.misuse import CMD, Misuse, crash
from vm.emulated.layout import DRIVER_IMAGES
from vm.emulated.machine import EmulatedMachine
from vm.errors import MachineConfigurationError, MachineCrashed, Win32Error

ROOT = Path(__file__).resolve().parents[3]


def count(misuse):
    """Instructions from here on."""
    return misuse.kernel.cpu.engine.counters.instructions


def scenario(misuse):
    """Everything that a run may depend on, as one comparable value."""
    before = count(misuse)
    seen = [misuse.run("Register", 1), misuse.machine.system_time()]
    misuse.hook("OnCreate", "Record")
    misuse.hook("OnExit", "Record")
    for index in range(3):
        result = misuse.launch(CMD, f"cmd {index}")
        seen += [result, misuse.cells(0, 14)]
        misuse.machine.exit_process(result.pid, index)
        seen.append(misuse.cells(0, 7))
    block = misuse.run("Allocate", 100, 1)
    seen += [block, misuse.run("Read8", block), misuse.run("TimeStamp"), misuse.run("StartCounter", 1)]
    misuse.run("SetEvent", 0)
    misuse.run("QueueDpc", 0, 7)
    seen += [misuse.cells(0, 7), misuse.run("Delay", 5000), misuse.run("StopThread"), misuse.machine.debug_output()]
    misuse.run("Free", block)
    seen += [misuse.machine.system_time(), count(misuse) - before]
    return seen


@pytest.fixture(scope="module")
def counted():
    found = Misuse()
    found.kernel.cpu.engine.count_instructions(DRIVER_IMAGES, DRIVER_IMAGES + (1 << 24))
    yield found
    found.machine.close()


def test_a_restored_machine_repeats_what_it_did_to_the_instruction(counted):
    saved = counted.machine.checkpoint()
    first = scenario(counted)
    for _ in range(3):
        counted.machine.restore(saved)
        assert scenario(counted) == first
    assert first[-1] > 500
    counted.machine.restore(saved)


def test_another_process_sees_the_same(counted):
    program = (
        "from tests.unit.emulated.test_checkpoint import *\n"
        "found = Misuse()\n"
        "found.kernel.cpu.engine.count_instructions(DRIVER_IMAGES, DRIVER_IMAGES + (1 << 24))\n"
        "print(repr(scenario(found)))\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
        for _ in range(2)
    ]
    assert runs[0].returncode == 0, runs[0].stderr
    assert runs[0].stdout == runs[1].stdout
    here = Misuse()
    here.kernel.cpu.engine.count_instructions(DRIVER_IMAGES, DRIVER_IMAGES + (1 << 24))
    assert repr(scenario(here)) == runs[0].stdout.rstrip("\n")
    here.machine.close()


def test_waiting_calls_and_threads_come_back(misuse):
    misuse.run("StartCounter", 1)
    misuse.run("SetEvent", 0)
    waiting = misuse.start("WaitWithPattern", 3, 0x5555)
    saved = misuse.machine.checkpoint()
    for _ in range(3):
        assert not waiting.done
        assert misuse.cell(0) == 1
        misuse.run("SetEvent", 0)
        misuse.run("SetEvent", 3)
        assert misuse.cell(0) == 2
        assert int.from_bytes(waiting.wait(), "little") == 0
        assert misuse.run("StopThread") == 3
        misuse.machine.restore(saved)


def test_handles_of_the_past_live_on_and_those_opened_since_are_void(misuse):
    saved = misuse.machine.checkpoint()
    later = misuse.machine.open_device(fixture.DEVICE)
    waiting = misuse.start("WaitForEvent", 0)
    misuse.machine.restore(saved)
    assert misuse.run("Nothing", 1, 2, 3) == 6
    for call in (lambda: later.control(fixture.CONTROL, b"", 8), waiting.wait, lambda: waiting.done, later.duplicate):
        with pytest.raises(Win32Error) as caught:
            call()
        assert caught.value.code == 6
    later.close()
    later.close()
    misuse.stop()


def test_a_crashed_machine_lives_again_and_remembers_nothing(misuse):
    saved = misuse.machine.checkpoint()
    expected = misuse.run("Nothing", 20)
    misuse.machine.restore(saved)
    for function in ("Recurse", "JumpTo", "TakeSpinLockTwice", "Halt", "LoopWithCalls"):
        with pytest.raises(fixture.FAULTS):
            misuse.run(function)
        with pytest.raises(fixture.FAULTS):
            misuse.launch()
        misuse.machine.restore(saved)
        assert misuse.machine.crash is None
        assert misuse.run("Nothing", 20) == expected
        assert misuse.launch().succeeded
        misuse.machine.restore(saved)


def test_exports_bound_after_a_checkpoint_stay_right_after_a_restore():
    machine = EmulatedMachine()
    machine.install_driver("misuse", fixture.image())
    machine.install_driver("unforced", fixture.image("unforced"))
    saved = machine.checkpoint()
    for service in ("unforced", "misuse", "unforced", "misuse"):
        machine.start_driver(service)
        machine.stop_driver(service)
        machine.restore(saved)
        machine.start_driver(service)
        handle = machine.open_device(fixture.DEVICE)
        handle.close()
        machine.stop_driver(service)
        machine.restore(saved)
    machine.close()


def test_code_of_another_driver_at_the_same_place_is_not_mistaken_for_the_old():
    machine = EmulatedMachine()
    for variant in ("misuse", "unforced", "entry_fails"):
        machine.install_driver(variant, fixture.image(variant))
    saved = machine.checkpoint()
    machine.start_driver("misuse")
    machine.restore(saved)
    with pytest.raises(Win32Error):
        machine.start_driver("entry_fails")
    machine.restore(saved)
    machine.start_driver("unforced")
    machine.open_device(fixture.DEVICE).close()
    machine.stop_driver("unforced")
    machine.close()


def test_only_the_machine_that_made_a_checkpoint_restores_it(misuse):
    other = EmulatedMachine()
    with pytest.raises(MachineConfigurationError, match="machine that made it"):
        other.restore(misuse.machine.checkpoint())
    other.close()


def test_a_crashed_machine_has_no_checkpoint_and_a_closed_one_nothing(misuse):
    crash(lambda: misuse.run("TakeSpinLockTwice"))
    with pytest.raises(MachineCrashed):
        misuse.machine.checkpoint()
    other = EmulatedMachine()
    saved = other.checkpoint()
    other.close()
    other.close()
    for call in (other.checkpoint, lambda: other.restore(saved), lambda: other.open_device("\\\\.\\X")):
        with pytest.raises(MachineConfigurationError, match="closed"):
            call()


def test_pageable_memory_is_watched_after_a_restore_as_before(misuse):
    block = misuse.run("Allocate", 64, 1)
    misuse.run("Read8", block)
    saved = misuse.machine.checkpoint()
    for _ in range(2):
        assert misuse.crash("TouchTwice", block, 2).code == 0xD1
        misuse.machine.restore(saved)


def test_a_reset_leaves_no_driver_no_handle_and_no_checkpoint_of_before():
    found = Misuse()
    saved = found.machine.checkpoint()
    found.run("Nothing", 1, 2, 3)
    found.machine.reset()
    with pytest.raises(Win32Error) as refused:
        found.handle.control(fixture.CONTROL, b"", 8)
    assert refused.value.code == 6
    with pytest.raises(MachineConfigurationError, match="checkpoint"):
        found.machine.restore(saved)
    with pytest.raises(Win32Error) as unknown:
        found.machine.driver_state("misuse")
    assert unknown.value.code == 1060
    found.machine.install_driver("misuse", fixture.image())
    found.machine.start_driver("misuse")
    found.handle = found.machine.open_device(fixture.DEVICE)
    assert found.run("Nothing", 1, 2, 3) == 6
    found.machine.close()
    with pytest.raises(MachineConfigurationError, match="closed"):
        found.machine.reset()


def test_a_reset_revives_a_crashed_machine():
    found = Misuse()
    with pytest.raises(MachineCrashed):
        found.run("Allocate", 0, 1)
    found.machine.reset(fresh=True)
    assert found.machine.crash is None
    assert found.machine.running_processes() == {}
    found.machine.close()
