"""Instructions that no driver should execute: each ends in one clear error, quickly, and never in a traceback."""

from __future__ import annotations

import pytest

from tests.fixtures.misuse import FAULTS
from vm.errors import DriverHung, MissingExport


@pytest.mark.parametrize(
    ("function", "argument", "code", "first", "word"),
    [
        ("Break", 0, 0x1E, 0x80000003, "exception"),
        ("Undefined", 0, 0x1E, 0xC000001D, "exception"),
        ("Divide", 0, 0x1E, 0xC0000094, "exception"),
        ("FastFail", 2, 0x139, 2, "STACK_COOKIE"),
        ("FastFail", 3, 0x139, 3, "CORRUPT_LIST_ENTRY"),
        ("JumpTo", 0, 0x1E, 0xC0000005, "null pointer"),
        ("JumpTo", 0x1234_5678, 0x1E, 0xC0000005, "user address"),
        ("JumpTo", 0xFFFF_9000_0000_0000, 0x50, 0xFFFF_9000_0000_0000, "execution"),
        ("JumpTo", 0x1234_0000_0000_0000, 0x1E, 0xC0000005, "no address"),
        ("JumpToData", 0, 0xFC, None, "execution"),
        ("WriteConstant", 0, 0xBE, None, "write"),
        ("Recurse", 0, 0x7F, 8, "double fault"),
        ("RecurseThroughExport", 0, 0x7F, 8, "double fault"),
        ("Read8", 0, 0x1E, 0xC0000005, "null pointer"),
        ("AssertFails", 0, 0x1E, 0xC0000420, "1 == 2"),
        ("FaultInCallback", 0xFFFF_9000_0000_0000, 0x50, 0xFFFF_9000_0000_0000, "read"),
        ("FaultInCallback", 16, 0x1E, 0xC0000005, "null pointer"),
    ],
)
def test_a_wrong_instruction_stops_the_machine_at_its_line(misuse, function, argument, code, first, word):
    report = misuse.crash(function, argument)
    assert report.code == code
    assert first is None or report.parameters[0] == first
    assert word in report.reason
    named = [frame.function for frame in report.frames]
    culprit = {"FaultInCallback": "QueryFaults", "RecurseThroughExport": "QueryAgain"}.get(function, function)
    assert culprit in named
    assert any(frame.file and frame.line for frame in report.frames)
    assert "DeviceIoControl" in report.activity


def test_division_goes_on_where_it_can(misuse):
    assert misuse.run("Divide", 2) == 3


@pytest.mark.parametrize(
    ("function", "word"),
    [("Halt", "halted the processor"), ("LoopForEver", "basic blocks"), ("LoopWithCalls", "basic blocks")],
)
def test_a_driver_that_does_not_come_back_is_hung(misuse, function, word):
    text = misuse.hang(function)
    assert word in text
    assert f"misuse!{function} (drivers/misuse/faults.c:" in text


def test_ports_without_a_device_read_as_ones_and_swallow_writes(misuse):
    for port in (0x70, 0xE0, 0x3F8):
        assert misuse.run("PortIn", port) == 0xFF
        assert misuse.run("PortOut", port, 5) == 1
    assert misuse.run("PortInImmediate") == 0xFF
    assert misuse.run("Nothing", 1) == 1


def test_a_driver_stops_the_machine_with_its_own_code(misuse):
    report = misuse.crash("BugCheck", 0xDEADDEAD, 1, 2)
    assert (report.code, report.parameters) == (0xDEADDEAD, (1, 2, 3, 4))
    assert report.frames[0].function == "BugCheck"


def test_a_plain_bug_check_has_no_parameters(misuse):
    report = misuse.crash("BugCheckPlain", 0xE2)
    assert (report.code, report.name, report.parameters) == (0xE2, "MANUALLY_INITIATED_CRASH", (0, 0, 0, 0))


def test_a_missing_export_is_named_with_the_line_that_calls_it(misuse):
    with pytest.raises(MissingExport) as caught:
        misuse.run("CallMissing")
    text = str(caught.value)
    assert "ntoskrnl.exe!KeFlushEntireTb" in text
    assert "misuse!CallMissing (drivers/misuse/faults.c:" in text
    with pytest.raises(MissingExport):
        misuse.launch()


def test_the_error_that_stopped_a_machine_is_repeated_by_every_later_call(misuse):
    misuse.hang("Halt")
    for call in (misuse.launch, misuse.stop, lambda: misuse.machine.driver_state("misuse")):
        with pytest.raises(DriverHung, match="halted"):
            call()


def test_the_time_stamp_counter_follows_the_machines_clock(misuse):
    first = misuse.run("TimeStamp")
    assert misuse.run("TimeStamp") > first


def test_the_processors_are_one(misuse):
    assert misuse.run("Processors") == 0x1011


@pytest.mark.parametrize("function", ["Recurse", "Halt", "Break", "LoopWithCalls", "JumpTo"])
def test_after_a_fault_a_restored_machine_works(misuse, function):
    with pytest.raises(FAULTS):
        misuse.run(function)
    misuse.machine.restore(misuse.checkpoint)
    assert misuse.launch().succeeded
