"""Tests of the figures of Windows machines: what needs no Windows is taken on the emulated machine."""

from __future__ import annotations

import argparse
import time

import pytest

from harness import cli, windows_benchmark
from harness.benchmark import BenchmarkError
from harness.commands import bench
from harness.driver import ProcNotify
from harness.exit_codes import ExitCode
from harness.machines import find_driver_image
from harness.windows_benchmark import FIGURES, LAUNCHES, Spread, launch_and_end, spread
from tests.unit.harness.fake_machine import FakeMachine
from vm.errors import MachineConfigurationError
from vm.registry import MachineOptions, create_machine


@pytest.fixture(scope="module")
def driver():
    return find_driver_image(None)


@pytest.fixture
def machine():
    made = create_machine("emulated")
    yield made
    made.close()


def test_a_spread_has_the_median_and_both_ends():
    assert spread([0.3, 0.1, 0.2, 0.5], 1000) == Spread(250.0, 100.0, 500.0, 4)


def reading(machine):
    """Receives by reading, where there is no agent that streams."""

    def receive(count):
        begin = time.perf_counter()
        with ProcNotify(machine) as opened:
            found = opened.read_available()
        assert len(found) == count
        return found, time.perf_counter() - begin

    return receive


def test_every_notification_of_a_full_queue_is_counted(machine, driver):
    figures = windows_benchmark._streams(machine, driver, 2, reading(machine))

    assert figures["lost_notifications"].median == 0
    assert figures["streamed_notifications_per_s"].count == 2
    assert figures["streamed_notifications_per_s"].lowest > LAUNCHES


def test_notifications_that_are_lost_make_no_figure(driver):
    machine = FakeBenchMachine()

    with pytest.raises(BenchmarkError, match="1000 processes came and went"):
        windows_benchmark._streams(machine, driver, 1, reading(machine))


def test_the_overhead_of_a_test_is_taken_without_the_drivers(machine, driver):
    figures = windows_benchmark._overheads(machine, driver, 3)

    assert figures["test_overhead_ms"].count == figures["driver_cycle_ms"].count == 3
    assert 0 < figures["test_overhead_ms"].median < figures["driver_cycle_ms"].median


def test_a_process_that_cannot_be_made_ends_it():
    class Refusing(FakeMachine):
        def provide_image(self, path, kind=None):
            pass

    with pytest.raises(BenchmarkError, match="process 0 was not made: Win32 error 2"):
        launch_and_end(Refusing(), 1)


def test_the_emulated_machine_has_no_such_figures(driver):
    with pytest.raises(MachineConfigurationError, match="--vm emulated: these figures are of Windows machines"):
        windows_benchmark.measure(
            "emulated", MachineOptions(), driver, rounds=1, progress=lambda _: None, make=create_machine
        )


def test_keys_are_stable_and_each_has_words():
    assert [figure.key for figure in FIGURES] == [
        "revert_s",
        "deploy_mb_per_s",
        "bare_sftp_mb_per_s",
        "unchanged_package_bytes",
        "remote_call_ms",
        "bare_remote_call_ms",
        "agent_call_ms",
        "four_clones_s",
        "test_overhead_ms",
        "driver_cycle_ms",
        "streamed_notifications_per_s",
        "lost_notifications",
    ]
    assert all(figure.label for figure in FIGURES)


def test_a_row_shows_the_spread_and_the_target():
    figures = {"revert_s": Spread(0.912, 0.8, 1.4, 5), "unchanged_package_bytes": Spread(0, 0, 0, 1)}

    assert bench.spread_row(FIGURES[0], figures) == (
        "revert to first remote answer",
        "0.91 s",
        "0.80 s to 1.40 s",
        "at most 2, better 1",
    )
    assert bench.spread_row(FIGURES[3], figures)[1:] == ("0 bytes", "", "0")


@pytest.mark.parametrize("given", ["0", "1001", "-1", "two", ""])
def test_a_number_of_rounds_that_cannot_be_is_refused(given):
    with pytest.raises(argparse.ArgumentTypeError, match="give 1 to 1000"):
        bench._rounds(given)


def test_rounds_are_of_windows_machines(capsys):
    assert cli.main(["bench", "--rounds", "3"]) == ExitCode.USER_ERROR
    assert "--rounds: only figures of Windows machines" in capsys.readouterr().err


class FakeBenchMachine(FakeMachine):
    """A fake whose driver forgets exits."""

    def reset(self, *, fresh=False):
        self.installed, self.driver = False, None

    def checkpoint(self):
        from vm.errors import UnsupportedByMachine

        raise UnsupportedByMachine("none")

    def exit_process(self, pid, status=0):
        self.processes.pop(pid)
        self.free.append(pid)
