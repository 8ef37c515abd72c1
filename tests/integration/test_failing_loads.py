"""Each call that procnotify makes while it loads fails in turn: the load has to fail and leave nothing behind."""

from __future__ import annotations

import pytest

from harness.abi import Match, Rule, load_abi
from harness.build import build_driver
from harness.driver import ProcNotify
from vm.emulated.machine import EmulatedMachine
from vm.errors import MachineConfigurationError, Win32Error
from vm.machine import LaunchRequest, ServiceState

STATUS_INSUFFICIENT_RESOURCES = 0xC000009A
STATUS_OBJECT_NAME_NOT_FOUND = 0xC0000034
ERROR_NO_SYSTEM_RESOURCES = 1450
ERROR_FILE_NOT_FOUND = 2
CMD = "C:\\Windows\\System32\\cmd.exe"

LOAD_CALLS = (
    ("ExAllocatePoolWithTag", 1, 0),
    ("IoCreateDevice", 1, STATUS_INSUFFICIENT_RESOURCES),
    ("RtlCreateSecurityDescriptor", 1, STATUS_INSUFFICIENT_RESOURCES),
    ("RtlCreateAcl", 1, STATUS_INSUFFICIENT_RESOURCES),
    ("RtlAddAccessAllowedAce", 1, STATUS_INSUFFICIENT_RESOURCES),
    ("RtlAddAccessAllowedAce", 2, STATUS_INSUFFICIENT_RESOURCES),
    ("RtlSetDaclSecurityDescriptor", 1, STATUS_INSUFFICIENT_RESOURCES),
    ("ObOpenObjectByPointer", 1, STATUS_INSUFFICIENT_RESOURCES),
    ("ZwSetSecurityObject", 1, STATUS_INSUFFICIENT_RESOURCES),
    ("IoCreateSymbolicLink", 1, STATUS_INSUFFICIENT_RESOURCES),
    ("PsSetCreateProcessNotifyRoutineEx", 1, STATUS_INSUFFICIENT_RESOURCES),
)


@pytest.fixture
def machine():
    made = EmulatedMachine()
    made.install_driver("procnotify", build_driver("procnotify").image)
    yield made
    made.close()


@pytest.mark.parametrize(("export", "call", "result"), LOAD_CALLS)
def test_a_load_that_fails_anywhere_leaves_nothing_behind(machine, export, call, result):
    machine.fail_call(export, call=call, result=result)
    with pytest.raises(Win32Error) as failed:
        machine.start_driver("procnotify")
    assert failed.value.code == ERROR_NO_SYSTEM_RESOURCES
    assert machine.failures_pending == 0
    assert machine.driver_state("procnotify") is ServiceState.STOPPED
    with pytest.raises(Win32Error) as refused:
        machine.open_device("\\\\.\\ProcNotify")
    assert refused.value.code == ERROR_FILE_NOT_FOUND
    launched = machine.launch(LaunchRequest(CMD, "cmd"))
    machine.exit_process(launched.pid)
    assert machine.debug_output() == []

    machine.start_driver("procnotify")
    machine.stop_driver("procnotify")


@pytest.mark.parametrize("export", ["ZwOpenKey", "ZwQueryValueKey"])
def test_a_load_without_its_registry_value_goes_on_with_the_default(machine, export):
    machine.fail_call(export, result=STATUS_OBJECT_NAME_NOT_FOUND)
    machine.start_driver("procnotify")
    assert machine.failures_pending == 0
    assert ProcNotify(machine).version().queue_bytes == load_abi().integer("QUEUE_BYTES_DEFAULT")


def test_rules_that_find_no_memory_are_refused_and_the_old_ones_stay(machine):
    machine.start_driver("procnotify")
    driver = ProcNotify(machine)
    driver.set_rules((Rule(Match.SUFFIX, "blocked.exe"),))
    before = machine.checkpoint()
    machine.fail_call("ExAllocatePoolWithTag", result=0)
    with pytest.raises(Win32Error) as refused:
        driver.set_rules((Rule(Match.EXACT, "\\??\\C:\\other.exe"),))
    assert refused.value.code == ERROR_NO_SYSTEM_RESOURCES
    assert [(rule.match, rule.pattern) for rule in driver.get_rules()] == [(Match.SUFFIX, "blocked.exe")]
    machine.restore(before)
    driver.set_rules((Rule(Match.EXACT, "\\??\\C:\\other.exe"),))


def test_a_failure_is_asked_for_by_the_name_of_an_export_that_can_fail(machine):
    with pytest.raises(MachineConfigurationError, match="memcpy: it runs as machine code and cannot fail"):
        machine.fail_call("memcpy", result=0)
    with pytest.raises(MachineConfigurationError, match="ZwNothing: it is not implemented here"):
        machine.fail_call("ZwNothing", result=0)
    with pytest.raises(MachineConfigurationError, match="calls count from 1"):
        machine.fail_call("IoCreateDevice", call=0, result=0)


def test_only_the_call_that_was_named_fails(machine):
    machine.fail_call("IoCreateDevice", call=2, result=STATUS_INSUFFICIENT_RESOURCES)
    machine.start_driver("procnotify")
    machine.stop_driver("procnotify")
    with pytest.raises(Win32Error):
        machine.start_driver("procnotify")
    machine.start_driver("procnotify")
    assert machine.failures_pending == 0


def test_a_restore_takes_back_what_was_asked_for_since(machine):
    before = machine.checkpoint()
    machine.fail_call("IoCreateDevice", result=STATUS_INSUFFICIENT_RESOURCES)
    machine.restore(before)
    machine.start_driver("procnotify")
