"""Every figure of a Windows machine, taken on a guest in this process over real sockets."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.standin.requirements import require_remoting

require_remoting()

from harness import windows_benchmark  # noqa: E402 - it needs what is asked for above
from harness.machine_options import guest_programs  # noqa: E402
from harness.machines import find_driver_image  # noqa: E402
from tests.fixtures.local_machine import make_machine  # noqa: E402
from vm.registry import MachineOptions  # noqa: E402
from vm.windows.benchmark import CLONES  # noqa: E402


@pytest.fixture(scope="module")
def taken():
    made, told = [], []

    def make(_name, options):
        made.append(options)
        return make_machine(options)

    options = MachineOptions(tools=guest_programs, slots=1)
    facts, figures = windows_benchmark.measure(
        "local", options, find_driver_image(None), rounds=1, progress=told.append, make=make
    )
    return facts, figures, made, told


def test_every_figure_is_taken_and_nothing_is_lost(taken):
    _, figures, _, _ = taken

    assert list(figures) == [figure.key for figure in windows_benchmark.FIGURES]
    assert all(
        figure.median > 0
        for key, figure in figures.items()
        if key not in ("unchanged_package_bytes", "lost_notifications")
    )
    assert figures["unchanged_package_bytes"].median == figures["lost_notifications"].median == 0
    assert figures["remote_call_ms"].count == 20


def test_the_machine_is_named_and_the_seed_told(taken):
    facts, _, _, told = taken

    assert facts.kind == "windows"
    assert "deployment of random bytes, seed 4" in told


def test_clones_have_workers_and_slots_of_their_own(taken):
    _, _, made, _ = taken
    first, *clones = made

    assert len(clones) == 2 * CLONES
    assert {options.worker for options in clones} == {f"bench{number}" for number in range(CLONES)}
    assert all(options.slots >= CLONES for options in (first, *clones))


def test_a_guest_without_ssh_has_no_figure_of_it():
    with closing(make_machine(MachineOptions(), ssh=False)) as machine:
        figures = windows_benchmark._deployments(machine, 1)

    assert figures.keys() == {"deploy_mb_per_s", "unchanged_package_bytes"}
    assert figures["deploy_mb_per_s"].median > 0
