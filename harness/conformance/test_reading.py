"""Reading notifications: waiting, cancelling, batches, one consumer (procnotify.h: IOCTL_PROCNOTIFY_READ).

The I/O side is documented in "Cancel-Safe IRP Queues" and "IRP_MJ_CLEANUP" of the Windows driver documentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.abi import Match, Rule
from harness.conformance.acts import APP, SERVICE, TOOL, attempt, refused, run_to_exit, start
from harness.notification import Create, Exit, Gap
from vm.machine import ServiceState
from vm.ntstatus import STATUS_BUFFER_TOO_SMALL, STATUS_CANCELLED, STATUS_SHARING_VIOLATION

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.driver import ProcNotify
    from vm.machine import Machine


def test_an_empty_queue_answers_at_once_when_told_not_to_wait(driver: ProcNotify) -> None:
    assert driver.read() == []


@pytest.mark.parametrize("size", [0, 1, 23, 24])
def test_an_empty_queue_needs_no_room(driver: ProcNotify, size: int) -> None:
    assert driver.read(size) == []


def test_a_waiting_read_is_completed_by_a_creation(machine: Machine, driver: ProcNotify) -> None:
    pending = driver.start_read()
    done = [pending.done]
    pid = start(machine)
    assert [*done, pending.done] == [False, True]
    (seen,) = pending.wait()
    assert isinstance(seen, Create)
    assert seen.pid == pid


def test_a_waiting_read_is_completed_by_an_exit(machine: Machine, driver: ProcNotify) -> None:
    pid = start(machine)
    driver.read_available()
    pending = driver.start_read()
    machine.exit_process(pid, 3)
    (seen,) = pending.wait()
    assert isinstance(seen, Exit)
    assert (seen.pid, seen.status) == (pid, 3)


def test_a_waiting_read_is_completed_by_a_denied_creation(machine: Machine, driver: ProcNotify) -> None:
    driver.set_rules([Rule(Match.SUFFIX, "tool.exe")])
    pending = driver.start_read()
    attempt(machine, TOOL)
    (create,) = pending.wait()
    (exit_,) = driver.read_available()
    assert isinstance(create, Create)
    assert isinstance(exit_, Exit)


def test_a_read_that_may_wait_does_not_when_records_are_there(machine: Machine, driver: ProcNotify) -> None:
    run_to_exit(machine)
    pending = driver.start_read()
    assert pending.done
    assert len(pending.wait()) == 2


def test_a_read_without_input_waits(machine: Machine, driver: ProcNotify) -> None:
    code = driver.abi.integer("IOCTL_PROCNOTIFY_READ")
    pending = driver.handle.start_control(code, b"", 4096)
    assert not pending.done
    start(machine)
    assert len(driver.abi.decode_notifications(pending.wait())) == 1


def test_waiting_reads_are_served_in_the_order_they_came(machine: Machine, driver: ProcNotify) -> None:
    pending = [driver.start_read() for _ in range(4)]
    pids = []
    for index in range(4):
        pids.append(start(machine))
        assert [read.done for read in pending] == [position <= index for position in range(4)]
    assert [one.pid for read in pending for one in read.wait() if isinstance(one, Create)] == pids


def test_a_cancelled_read_ends_as_cancelled(driver: ProcNotify) -> None:
    pending = driver.start_read()
    pending.cancel()
    assert pending.done
    with refused(STATUS_CANCELLED):
        pending.wait()


def test_cancelling_one_read_leaves_the_others_waiting(machine: Machine, driver: ProcNotify) -> None:
    first, second, third = (driver.start_read() for _ in range(3))
    second.cancel()
    assert [read.done for read in (first, second, third)] == [False, True, False]
    start(machine)
    start(machine)
    assert [one.sequence for read in (first, third) for one in read.wait()] == [1, 2]


def test_a_cancelled_read_takes_nothing_with_it(machine: Machine, driver: ProcNotify) -> None:
    pending = driver.start_read()
    pending.cancel()
    pid = run_to_exit(machine)
    assert [(type(one), getattr(one, "pid", None)) for one in driver.read_available()] == [(Create, pid), (Exit, pid)]


def test_cancelling_a_completed_read_changes_nothing(machine: Machine, driver: ProcNotify) -> None:
    pending = driver.start_read()
    start(machine)
    pending.cancel()
    assert len(pending.wait()) == 1


def test_reads_can_wait_and_be_cancelled_over_and_over(machine: Machine, driver: ProcNotify) -> None:
    for _ in range(40):
        pending = driver.start_read()
        pending.cancel()
        with refused(STATUS_CANCELLED):
            pending.wait()
    start(machine)
    assert len(driver.read_available()) == 1


def test_closing_the_handle_cancels_its_reads(machine: Machine, open_driver: Callable[..., ProcNotify]) -> None:
    driver = open_driver(machine)
    pending = [driver.start_read() for _ in range(3)]
    driver.close()
    for read in pending:
        assert read.done
        with refused(STATUS_CANCELLED):
            read.wait()


def test_closing_another_handle_leaves_the_reads_waiting(
    machine: Machine, open_driver: Callable[..., ProcNotify]
) -> None:
    consumer, other = open_driver(machine), open_driver(machine)
    pending = consumer.start_read()
    other.close()
    assert not pending.done
    start(machine)
    assert len(pending.wait()) == 1


def test_a_read_takes_as_many_whole_records_as_fit(machine: Machine, driver: ProcNotify) -> None:
    for _ in range(6):
        start(machine)
    size = driver.statistics().next_record_size
    assert [len(driver.read(3 * size + size - 1)), len(driver.read(size)), len(driver.read(10 * size))] == [3, 1, 2]


def test_a_read_of_the_exact_size_gets_the_record(machine: Machine, driver: ProcNotify) -> None:
    start(machine, APP, "an argument")
    assert len(driver.read(driver.statistics().next_record_size)) == 1
    assert driver.statistics().next_record_size == 0


@pytest.mark.parametrize("missing", [1, 7, 8, 56, None], ids=lambda missing: f"{missing or 'all'} missing")
def test_a_buffer_too_small_for_the_next_record_loses_nothing(
    machine: Machine, driver: ProcNotify, missing: int | None
) -> None:
    pid = run_to_exit(machine)
    size = driver.statistics().next_record_size
    before = driver.statistics()
    for _ in range(3):
        with refused(STATUS_BUFFER_TOO_SMALL):
            driver.read(0 if missing is None else size - missing)
    assert driver.statistics() == before
    assert [(type(one), getattr(one, "pid", None)) for one in driver.read_available()] == [(Create, pid), (Exit, pid)]


def test_a_waiting_read_that_is_too_small_fails_and_loses_nothing(machine: Machine, driver: ProcNotify) -> None:
    pending = driver.start_read(40)
    pid = start(machine)
    with refused(STATUS_BUFFER_TOO_SMALL):
        pending.wait()
    (seen,) = driver.read_available()
    assert isinstance(seen, Create)
    assert seen.pid == pid


@pytest.mark.driver_parameters(QueueBytes=0x40000)
def test_a_buffer_too_small_for_a_gap_loses_nothing(machine: Machine, driver: ProcNotify) -> None:
    for _ in range(5):
        start(machine, APP, "L" * 32_767)
    size = driver.statistics().next_record_size
    assert [len(driver.read(size)) for _ in range(3)] == [1, 1, 1]
    assert driver.statistics().next_record_size == 32
    with refused(STATUS_BUFFER_TOO_SMALL):
        driver.read(31)
    (gap,) = driver.read(32)
    assert isinstance(gap, Gap)
    assert (gap.sequence, gap.count) == (4, 2)


def test_a_large_batch_comes_in_one_read(machine: Machine, driver: ProcNotify) -> None:
    for index in range(200):
        run_to_exit(machine, command_line=f"{index}")
    assert len(driver.read()) == 400


def test_delivered_counts_what_went_out(machine: Machine, driver: ProcNotify) -> None:
    for _ in range(3):
        run_to_exit(machine)
    assert driver.statistics().delivered == 0
    driver.read(driver.statistics().next_record_size)
    assert driver.statistics().delivered == 1
    driver.read_available()
    statistics = driver.statistics()
    assert (statistics.delivered, statistics.queued, statistics.queued_bytes) == (6, 6, 0)


def test_a_completed_waiting_read_counts_as_delivered(machine: Machine, driver: ProcNotify) -> None:
    pending = driver.start_read()
    start(machine)
    pending.wait()
    assert driver.statistics().delivered == 1


@pytest.mark.parametrize("no_wait", [True, False], ids=["no-wait", "waiting"])
def test_a_second_consumer_is_refused(machine: Machine, open_driver: Callable[..., ProcNotify], no_wait: bool) -> None:
    first, second = open_driver(machine), open_driver(machine)
    first.read()
    run_to_exit(machine)
    with refused(STATUS_SHARING_VIOLATION):
        second.read() if no_wait else second.start_read().wait()
    assert len(first.read_available()) == 2


def test_the_consumer_is_chosen_by_reading_and_not_by_opening(
    machine: Machine, open_driver: Callable[..., ProcNotify]
) -> None:
    first, second = open_driver(machine), open_driver(machine)
    first.statistics()
    first.set_rules([])
    second.read()
    with refused(STATUS_SHARING_VIOLATION):
        first.read()


def test_everything_but_reading_is_open_to_other_handles(
    machine: Machine, open_driver: Callable[..., ProcNotify]
) -> None:
    consumer, other = open_driver(machine), open_driver(machine)
    consumer.read()
    other.set_rules([Rule(Match.SUFFIX, "tool.exe")])
    assert len(other.get_rules()) == 1
    assert other.statistics() == consumer.statistics()
    assert other.version() == consumer.version()


def test_a_waiting_read_keeps_the_consumer(machine: Machine, open_driver: Callable[..., ProcNotify]) -> None:
    first, second = open_driver(machine), open_driver(machine)
    pending = first.start_read()
    with refused(STATUS_SHARING_VIOLATION):
        second.read()
    pending.cancel()
    with refused(STATUS_SHARING_VIOLATION):
        second.read()


def test_the_next_consumer_follows_when_the_first_closes(
    machine: Machine, open_driver: Callable[..., ProcNotify]
) -> None:
    first, second = open_driver(machine), open_driver(machine)
    start(machine)
    assert len(first.read()) == 1
    start(machine)
    first.close()
    assert [one.sequence for one in second.read_available()] == [2]


def test_a_refused_reader_that_closes_does_not_end_the_consumer(
    machine: Machine, open_driver: Callable[..., ProcNotify]
) -> None:
    first, second, third = (open_driver(machine) for _ in range(3))
    first.read()
    with refused(STATUS_SHARING_VIOLATION):
        second.read()
    second.close()
    with refused(STATUS_SHARING_VIOLATION):
        third.read()


def test_a_duplicated_handle_is_the_same_consumer(machine: Machine, open_driver: Callable[..., ProcNotify]) -> None:
    driver, other = open_driver(machine), open_driver(machine)
    driver.read()
    code, no_wait = driver.abi.integer("IOCTL_PROCNOTIFY_READ"), driver.abi.encode_read(no_wait=True)
    duplicate = driver.handle.duplicate()
    start(machine)
    assert len(driver.abi.decode_notifications(duplicate.control(code, no_wait, 4096))) == 1
    driver.close()
    with refused(STATUS_SHARING_VIOLATION):
        other.read()
    duplicate.close()
    assert other.read() == []


def test_a_duplicated_handle_keeps_reads_waiting_until_it_is_closed(
    machine: Machine, open_driver: Callable[..., ProcNotify]
) -> None:
    driver = open_driver(machine)
    duplicate = driver.handle.duplicate()
    pending = driver.start_read()
    driver.close()
    assert not pending.done
    duplicate.close()
    with refused(STATUS_CANCELLED):
        pending.wait()


def test_what_nobody_reads_waits_for_the_first_reader(machine: Machine, open_driver: Callable[..., ProcNotify]) -> None:
    pids = [run_to_exit(machine) for _ in range(10)]
    seen = open_driver(machine).read_available()
    assert [one.pid for one in seen if isinstance(one, Exit)] == pids


def test_stopping_waits_for_the_handle_and_its_reads_are_cancelled(
    machine: Machine, open_driver: Callable[..., ProcNotify]
) -> None:
    driver = open_driver(machine)
    pending = driver.start_read()
    machine.stop_driver(SERVICE)
    assert machine.driver_state(SERVICE) is ServiceState.STOP_PENDING
    driver.close()
    with refused(STATUS_CANCELLED):
        pending.wait()
    assert machine.driver_state(SERVICE) is ServiceState.STOPPED


def test_reads_that_wait_while_many_processes_run_lose_nothing(machine: Machine, driver: ProcNotify) -> None:
    numbers: list[int] = []
    for _ in range(50):
        pending = driver.start_read()
        run_to_exit(machine)
        numbers += [one.sequence for one in pending.wait()]
        numbers += [one.sequence for one in driver.read_available()]
    assert numbers == list(range(1, 101))
