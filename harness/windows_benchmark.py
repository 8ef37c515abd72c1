"""Takes every figure of `ntproof bench --vm NAME`, several times each, under the stable keys that its JSON uses."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from harness.abi import load_abi
from harness.benchmark import BenchmarkError, Figure
from harness.driver import ProcNotify
from harness.machines import DriverImage, Stage, check_unload
from harness.notification import Gap, Notification
from harness.station import Station
from vm.errors import MachineConfigurationError
from vm.machine import LaunchRequest
from vm.windows import benchmark

if TYPE_CHECKING:
    from vm.machine import Machine, MachineFacts
    from vm.registry import MachineOptions
    from vm.windows.machine.link import GuestLink

LAUNCHES: Final = 1000
"""Processes that fill the driver's queue, two notifications each."""
PROGRAM: Final = "C:\\ntproof\\benchmark.exe"

FIGURES: Final = (
    Figure("revert_s", "revert to first remote answer", "s", "at most 2, better 1"),
    Figure("deploy_mb_per_s", "deploy of a driver package of 5 MB", "MB/s", "at least 30"),
    Figure("bare_sftp_mb_per_s", "the same bytes over SFTP alone", "MB/s"),
    Figure("unchanged_package_bytes", "deploy of an unchanged package", "bytes", "0"),
    Figure("remote_call_ms", "a remote call", "ms", "at most 30"),
    Figure("bare_remote_call_ms", "a cmdlet that does nothing", "ms"),
    Figure("agent_call_ms", "a call of the agent", "ms"),
    Figure("four_clones_s", "four clones reachable", "s", "at most 5"),
    Figure("test_overhead_ms", "overhead of a test beside the revert", "ms", "at most 50"),
    Figure("driver_cycle_ms", "install, start, stop and remove the driver", "ms"),
    Figure("streamed_notifications_per_s", "notifications streamed", "/s", "at least 20,000"),
    Figure("lost_notifications", "notifications lost meanwhile", "", "0"),
)


@dataclass(frozen=True)
class Spread:
    """A figure that was taken several times.

    Attributes:
        median, lowest, highest: of the values.
        count: how many there are.
    """

    median: float
    lowest: float
    highest: float
    count: int


Spreads: TypeAlias = Mapping[str, Spread]
Receive: TypeAlias = Callable[[int], tuple[list[Notification], float]]


def measure(
    name: str,
    options: MachineOptions,
    driver: DriverImage,
    *,
    rounds: int,
    progress: Callable[[str], None],
    make: Callable[[str, MachineOptions], Machine],
) -> tuple[MachineFacts, dict[str, Spread]]:
    """Take every figure on a Windows machine; that of SFTP is left out where the guest has no SSH server.

    Args:
        name: the machine's name.
        options: how it is made.
        driver: the driver's image.
        rounds: how often each figure is taken; calls are taken twenty times as often.
        progress: told what is being measured.
        make: makes a machine of a name.

    Raises:
        MachineConfigurationError: it is no Windows machine.
        BenchmarkError: a part failed, so that its figures would mean nothing.
        MachineError: the machine failed.
    """
    # Four clones take four slots, whatever a test run may take.
    options = replace(options, slots=max(options.slots, benchmark.CLONES))
    figures: dict[str, Spread] = {}
    with closing(make(name, options)) as machine:
        facts = machine.facts
        if facts.kind != "windows":
            raise MachineConfigurationError(f"--vm {name}: these figures are of Windows machines; leave --vm out")
        for words, part in _parts(machine, driver, rounds):
            progress(words)
            figures.update(part())
    progress(f"{benchmark.CLONES} clones at once")
    taken = benchmark.clones(lambda worker: make(name, replace(options, worker=worker)), rounds)
    figures["four_clones_s"] = spread(taken)
    return facts, {figure.key: figures[figure.key] for figure in FIGURES if figure.key in figures}


def spread(values: Iterable[float], scale: float = 1.0) -> Spread:
    """Median and range of values, each times `scale`."""
    scaled = [value * scale for value in values]
    return Spread(statistics.median(scaled), min(scaled), max(scaled), len(scaled))


def _parts(machine: Machine, driver: DriverImage, rounds: int) -> tuple[tuple[str, Callable[[], Spreads]], ...]:
    from vm.windows.machine.machine import WindowsMachine

    if not isinstance(machine, WindowsMachine):
        raise MachineConfigurationError(f"{machine.facts.machine} is not of this project; its calls cannot be measured")
    link = machine.link
    return (
        ("reverts", lambda: {"revert_s": spread(benchmark.reverts(machine, rounds))}),
        ("remote calls", lambda: {"remote_call_ms": spread(benchmark.remote_calls(link, 20 * rounds), 1e3)}),
        (
            "cmdlets that do nothing",
            lambda: {"bare_remote_call_ms": spread(benchmark.bare_calls(link, 20 * rounds), 1e3)},
        ),
        ("calls of the agent", lambda: {"agent_call_ms": spread(benchmark.agent_calls(link, 20 * rounds), 1e3)}),
        (f"deployment of random bytes, seed {benchmark.SEED}", lambda: _deployments(machine, rounds)),
        ("overhead of a test", lambda: _overheads(machine, driver, rounds)),
        ("notifications", lambda: _streams(machine, driver, rounds, _stream_of(link))),
    )


def _deployments(machine: Machine, rounds: int) -> Spreads:
    from vm.windows.machine.machine import WindowsMachine

    assert isinstance(machine, WindowsMachine)
    with tempfile.TemporaryDirectory(prefix="ntproof-bench-") as scratch:
        found = benchmark.deployments(machine.link, Path(scratch), rounds)
    figures = {"deploy_mb_per_s": spread(found.rates, 1e-6), "unchanged_package_bytes": spread([found.unchanged])}
    if found.bare_rates:
        figures["bare_sftp_mb_per_s"] = spread(found.bare_rates, 1e-6)
    return figures


def _overheads(machine: Machine, driver: DriverImage, rounds: int) -> Spreads:
    """What the harness adds to a test that launches a process, and what bringing the driver costs."""
    station = Station(machine.facts.machine, lambda: machine, lambda: driver)
    station.prepare(Stage.CLEAN)
    idle, cycles = [], []
    for _ in range(rounds):
        launch_and_end(machine, 1)
        begin = time.perf_counter()
        check_unload(machine)
        station.prepare(Stage.CLEAN)
        idle.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        station.prepare(Stage.RUNNING)
        check_unload(machine)
        station.prepare(Stage.CLEAN)
        cycles.append(time.perf_counter() - begin)
    return {"test_overhead_ms": spread(idle, 1e3), "driver_cycle_ms": spread(cycles, 1e3)}


def _streams(machine: Machine, driver: DriverImage, rounds: int, receive: Receive) -> Spreads:
    """How fast a full queue arrives, and how much of what the driver counted does not.

    Args:
        machine: the machine.
        driver: the driver's image.
        rounds: how often.
        receive: gets this many notifications, and says in how many seconds.
    """
    abi = load_abi()
    parameters = {abi.text("PARAMETER_QUEUE_BYTES"): abi.integer("QUEUE_BYTES_MAXIMUM")}
    station = Station(machine.facts.machine, lambda: machine, lambda: driver)
    station.prepare(Stage.CLEAN)
    rates, lost = [], 0
    for _ in range(rounds):
        station.prepare(Stage.RUNNING, parameters)
        launch_and_end(machine, LAUNCHES)
        with ProcNotify(machine) as opened:
            due = opened.statistics()
            found, seconds = receive(due.queued - due.delivered)
            counted = opened.statistics()
        arrived = sum(not isinstance(one, Gap) for one in found)
        if arrived < 2 * LAUNCHES - counted.dropped:
            raise BenchmarkError(f"{LAUNCHES} processes came and went, and {arrived} notifications arrived")
        lost += counted.dropped + max(counted.delivered - arrived, 0)
        rates.append(arrived / seconds)
    station.prepare(Stage.CLEAN)
    return {"streamed_notifications_per_s": spread(rates), "lost_notifications": spread([lost])}


def _stream_of(link: GuestLink) -> Receive:
    """Receives by a stream of the agent."""
    abi = load_abi()

    def receive(count: int) -> tuple[list[Notification], float]:
        found: list[Notification] = []

        def enough(output: bytes) -> bool:
            found.extend(abi.decode_notifications(output))
            return len(found) >= count

        read = abi.integer("IOCTL_PROCNOTIFY_READ"), abi.encode_read(no_wait=False)
        return found, benchmark.streamed(link, abi.text("WIN32_NAME"), *read, enough)

    return receive


def launch_and_end(machine: Machine, count: int) -> None:
    """Have processes come and go.

    Raises:
        BenchmarkError: one could not be made.
    """
    machine.provide_image(PROGRAM)
    for number in range(count):
        launched = machine.launch(LaunchRequest(PROGRAM, f"benchmark {number}"))
        if launched.pid is None or not launched.succeeded:
            raise BenchmarkError(f"process {number} was not made: Win32 error {launched.win32_error}")
        machine.exit_process(launched.pid)
