"""The bounded queue: budget, overflow and gaps (procnotify.h: PROCNOTIFY_PARAMETER_QUEUE_BYTES, PROCNOTIFY_GAP).

Losing notifications must never go unnoticed: each lost one takes a sequence number, and the gap record tells them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.abi import Match, Rule, load_abi
from harness.conformance.acts import APP, SERVICE, TOOL, attempt, nt_name, run_to_exit, scenario, start
from harness.notification import Create, Exit, Gap
from harness.scenario import Drain, ExitProcess, Launch, ReadStatistics, SetRules, StartDriver

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.abi import Statistics
    from harness.capture import Capture
    from harness.driver import ProcNotify
    from harness.machines import DriverImage
    from harness.scenario import Step
    from vm.machine import Machine

MINIMUM = load_abi().integer("QUEUE_BYTES_MINIMUM")
DEFAULT = load_abi().integer("QUEUE_BYTES_DEFAULT")
MAXIMUM = load_abi().integer("QUEUE_BYTES_MAXIMUM")

SMALL_QUEUE = pytest.mark.driver_parameters(QueueBytes=MINIMUM)
LONG = "L" * 32_767
"""A command line that makes a record of about 65,600 bytes: three fit into the smallest queue, a fourth does not."""


def size_of_create(image: str, command_line: str) -> int:
    """Bytes of the record of such a creation."""
    seen = Create(1, 0, 8, 4, 4, 12, 0, nt_name(image), command_line, file_open_name_available=True)
    return len(load_abi().encode_notification(seen))


def fill(machine: Machine, driver: ProcNotify) -> Statistics:
    """Create processes until a record is lost although it is short: the statistics then."""
    dropped = driver.statistics().dropped
    while (statistics := driver.statistics()).dropped == dropped:
        free = driver.version().queue_bytes - statistics.queued_bytes
        start(machine, APP, "F" * max(1, min(32_767, (free - size_of_create(APP, "")) // 2)))
    return statistics


def test_the_queue_has_its_default_budget(driver: ProcNotify) -> None:
    assert driver.version().queue_bytes == DEFAULT


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (0, MINIMUM),
        (1, MINIMUM),
        (MINIMUM - 1, MINIMUM),
        (MINIMUM, MINIMUM),
        (MINIMUM + 8, MINIMUM + 8),
        (DEFAULT + 4096, DEFAULT + 4096),
        (MAXIMUM, MAXIMUM),
        (MAXIMUM + 1, MAXIMUM),
        (0x80000000, MAXIMUM),
        (0xFFFFFFFF, MAXIMUM),
    ],
)
def test_the_budget_is_the_configured_one_within_its_limits(
    clean_machine: Machine,
    driver_image: DriverImage,
    open_driver: Callable[..., ProcNotify],
    asked: int,
    granted: int,
) -> None:
    clean_machine.install_driver(SERVICE, driver_image.path, parameters={"QueueBytes": asked})
    clean_machine.start_driver(SERVICE)
    assert open_driver(clean_machine).version().queue_bytes == granted


@pytest.mark.parametrize("value", ["262144", b"\x00\x00\x04\x00", b"\x00\x00\x04"], ids=["text", "binary", "short"])
def test_a_budget_of_another_type_is_ignored(
    clean_machine: Machine, driver_image: DriverImage, open_driver: Callable[..., ProcNotify], value: str | bytes
) -> None:
    clean_machine.install_driver(SERVICE, driver_image.path, parameters={"QueueBytes": value})
    clean_machine.start_driver(SERVICE)
    assert open_driver(clean_machine).version().queue_bytes == DEFAULT


@SMALL_QUEUE
def test_what_does_not_fit_is_counted_as_dropped(machine: Machine, driver: ProcNotify) -> None:
    for _ in range(5):
        start(machine, APP, LONG)
    statistics = driver.statistics()
    assert (statistics.created, statistics.queued, statistics.dropped) == (5, 3, 2)
    assert statistics.next_sequence == 6


@SMALL_QUEUE
def test_a_gap_tells_how_many_were_lost_and_where(machine: Machine, driver: ProcNotify) -> None:
    for _ in range(7):
        start(machine, APP, LONG)
    *kept, gap = driver.read_available()
    assert [(type(one), one.sequence) for one in kept] == [(Create, 1), (Create, 2), (Create, 3)]
    assert isinstance(gap, Gap)
    assert (gap.sequence, gap.count) == (4, 4)


@SMALL_QUEUE
def test_a_gap_comes_before_the_next_record_that_fits(machine: Machine, driver: ProcNotify) -> None:
    pids = [start(machine, APP, LONG) for _ in range(5)]
    machine.exit_process(pids[4], 9)
    *_, gap, exit_ = driver.read_available()
    assert isinstance(gap, Gap)
    assert (gap.sequence, gap.count) == (4, 2)
    assert isinstance(exit_, Exit)
    assert (exit_.sequence, exit_.pid, exit_.status) == (6, pids[4], 9)


@SMALL_QUEUE
def test_a_gap_has_the_time_of_the_first_lost_notification(machine: Machine, driver: ProcNotify) -> None:
    for _ in range(3):
        start(machine, APP, LONG)
    before = machine.system_time()
    start(machine, APP, LONG)
    between = machine.system_time()
    start(machine, APP, LONG)
    gap = driver.read_available()[-1]
    assert isinstance(gap, Gap)
    assert gap.time is not None
    assert before <= gap.time <= between


@SMALL_QUEUE
def test_a_gap_is_told_once(machine: Machine, driver: ProcNotify) -> None:
    for _ in range(5):
        start(machine, APP, LONG)
    assert sum(isinstance(one, Gap) for one in driver.read_available()) == 1
    start(machine, APP, "after")
    (after,) = driver.read_available()
    assert (type(after), after.sequence) == (Create, 6)


@SMALL_QUEUE
def test_two_overflows_leave_two_gaps(machine: Machine, driver: ProcNotify) -> None:
    pids = [start(machine, APP, LONG) for _ in range(4)]
    machine.exit_process(pids[0])
    start(machine, APP, LONG)
    start(machine, APP, LONG)
    machine.exit_process(pids[1])
    seen = driver.read_available()
    assert [(one.sequence, one.count) for one in seen if isinstance(one, Gap)] == [(4, 1), (6, 2)]
    assert [one.sequence for one in seen] == [1, 2, 3, 4, 5, 6, 8]


@SMALL_QUEUE
def test_exits_are_lost_and_counted_like_creations(machine: Machine, driver: ProcNotify) -> None:
    victims = [start(machine, APP, "victim") for _ in range(3)]
    fill(machine, driver)
    # Less than a gap and an exit need is free now.
    free = driver.version().queue_bytes - driver.statistics().queued_bytes
    assert free < 64
    dropped = driver.statistics().dropped
    for pid in victims:
        machine.exit_process(pid)
    assert driver.statistics().dropped == dropped + 3
    assert driver.statistics().exited == 3
    gap = driver.read_available()[-1]
    assert isinstance(gap, Gap)
    assert gap.count == dropped + 3


@SMALL_QUEUE
def test_a_full_queue_does_not_keep_a_rule_from_denying(machine: Machine, driver: ProcNotify) -> None:
    driver.set_rules([Rule(Match.SUFFIX, "tool.exe", 0xC0000906)])
    fill(machine, driver)
    denied = attempt(machine, TOOL, LONG)
    assert not denied.succeeded
    assert denied.status in {0xC0000906, None}
    assert attempt(machine, APP, LONG).succeeded
    assert driver.statistics().denied == 1


@SMALL_QUEUE
def test_a_record_that_fits_exactly_is_kept(machine: Machine, driver: ProcNotify) -> None:
    for _ in range(3):
        start(machine, APP, LONG)
    free = driver.version().queue_bytes - driver.statistics().queued_bytes
    units = (free - size_of_create(APP, "")) // 2
    while size_of_create(APP, "E" * units) > free:
        units -= 1
    start(machine, APP, "E" * units)
    statistics = driver.statistics()
    assert statistics.dropped == 0
    assert statistics.queued_bytes == driver.version().queue_bytes
    assert [one.sequence for one in driver.read_available()] == [1, 2, 3, 4]


@SMALL_QUEUE
def test_a_record_eight_bytes_too_long_is_lost(machine: Machine, driver: ProcNotify) -> None:
    for _ in range(3):
        start(machine, APP, LONG)
    free = driver.version().queue_bytes - driver.statistics().queued_bytes
    units = (free - size_of_create(APP, "")) // 2
    while size_of_create(APP, "E" * units) <= free:
        units += 1
    start(machine, APP, "E" * units)
    assert driver.statistics().dropped == 1


@SMALL_QUEUE
def test_the_queue_never_holds_more_than_its_budget(machine: Machine, driver: ProcNotify) -> None:
    for index in range(30):
        start(machine, APP, "x" * (index * 1001))
        statistics = driver.statistics()
        assert statistics.queued_bytes <= statistics.high_water_bytes <= MINIMUM
    assert driver.statistics().dropped > 0


@SMALL_QUEUE
def test_the_high_water_mark_stays_when_the_queue_is_read(machine: Machine, driver: ProcNotify) -> None:
    start(machine, APP, LONG)
    start(machine, APP, LONG)
    high = driver.statistics().high_water_bytes
    assert high == driver.statistics().queued_bytes == 2 * size_of_create(APP, LONG)
    driver.read_available()
    start(machine, APP, "short")
    assert driver.statistics().high_water_bytes == high


@SMALL_QUEUE
def test_the_longest_record_fits_into_the_smallest_queue(machine: Machine, driver: ProcNotify) -> None:
    path = "\\\\?\\C:\\" + "\\".join(["d" * 181] * 179) + "\\x.exe"
    start(machine, path, LONG)
    (seen,) = driver.read_available()
    assert isinstance(seen, Create)
    assert seen.command_line == LONG
    assert driver.statistics().dropped == 0


@pytest.mark.parametrize("units", [1, 37, 1000, 12_345])
def test_records_survive_the_end_of_the_ring(run_scenario: Callable[..., Capture], units: int) -> None:
    """The queue is smaller than what goes through it, so records begin at many places and wrap around its end."""
    steps: list[Step] = []
    rounds = max(12, min(150, 400_000 // (2 * units + 200)))
    for index in range(rounds):
        steps += [Launch(f"{index}", APP, f"{index} " + "r" * (units + index % 7)), ExitProcess(f"{index}", index)]
        steps += [Drain()] if index % 4 == 3 else []
    run_scenario(scenario("ring", StartDriver(queue_bytes=MINIMUM), *steps, ReadStatistics(), drain_each_step=False))


@pytest.mark.parametrize("units", [500, 32_767])
def test_the_model_explains_every_loss(run_scenario: Callable[..., Capture], units: int) -> None:
    steps: list[Step] = []
    for index in range(30):
        steps += [Launch(f"{index}", APP, "x" * (units - index)), Launch(f"short {index}", APP, f"{index}")]
        steps += [ExitProcess(f"short {index}", index)]
        steps += [Launch(f"denied {index}", TOOL, "x" * units)]
        steps += [Drain()] if index % 11 == 10 else []
    rules = SetRules((Rule(Match.SUFFIX, "tool.exe"),))
    capture = run_scenario(
        scenario("losses", StartDriver(queue_bytes=MINIMUM), rules, *steps, ReadStatistics(), drain_each_step=False)
    )
    assert any(isinstance(item, Gap) for item in capture.items) is (units == 32_767)


@SMALL_QUEUE
def test_after_an_overflow_the_queue_works_as_before(machine: Machine, driver: ProcNotify) -> None:
    for overflows in (1, 2, 3):
        fill(machine, driver)
        assert sum(isinstance(one, Gap) for one in driver.read_available()) == 1
        pid = run_to_exit(machine, TOOL, f"after {overflows}")
        create, exit_ = driver.read_available()
        assert isinstance(create, Create)
        assert isinstance(exit_, Exit)
        assert (create.pid, create.command_line, exit_.pid) == (pid, f"after {overflows}", pid)


@SMALL_QUEUE
def test_every_number_is_either_delivered_or_in_a_gap(machine: Machine, driver: ProcNotify) -> None:
    told = 0
    for index in range(40):
        start(machine, APP, "x" * (index * 977 % 32_767))
        if index % 9 == 8:
            told += sum(one.count if isinstance(one, Gap) else 1 for one in driver.read_available())
    told += sum(one.count if isinstance(one, Gap) else 1 for one in driver.read_available())
    statistics = driver.statistics()
    assert told == 40 == statistics.next_sequence - 1
    assert statistics.delivered + statistics.dropped == 40
    assert statistics.queued == statistics.delivered
