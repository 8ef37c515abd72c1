"""Services: what the service control manager answers, and what becomes of a driver that is stopped."""

from __future__ import annotations

import pytest

from tests.fixtures import guinea_pigs
from tests.fixtures import misuse as fixture
from tests.fixtures.misuse import DEVICE, Misuse
from vm.emulated.machine import EmulatedMachine
from vm.errors import MachineBroken, MachineConfigurationError, Win32Error
from vm.machine import ServiceState


@pytest.fixture
def machine():
    made = EmulatedMachine()
    yield made
    made.close()


def refused(call, *arguments):
    with pytest.raises(Win32Error) as caught:
        call(*arguments)
    return caught.value.code


def test_a_service_is_created_started_stopped_and_deleted(machine):
    machine.install_driver("m", fixture.image())
    assert machine.driver_state("m") == ServiceState.STOPPED
    machine.start_driver("M")
    assert machine.driver_state("m") == ServiceState.RUNNING
    machine.stop_driver("m")
    assert machine.driver_state("m") == ServiceState.STOPPED
    machine.delete_driver("m")
    assert refused(machine.driver_state, "m") == 1060


def test_each_wrong_call_has_its_error(machine):
    machine.install_driver("m", fixture.image())
    assert refused(machine.install_driver, "M", fixture.image()) == 1073
    assert refused(machine.install_driver, "a\\b", fixture.image()) == 123
    assert refused(machine.stop_driver, "m") == 1062
    machine.start_driver("m")
    assert refused(machine.start_driver, "m") == 1056
    machine.delete_driver("m")
    assert refused(machine.delete_driver, "m") == 1072
    assert refused(machine.install_driver, "m", fixture.image()) == 1072
    machine.stop_driver("m")
    for call in (machine.start_driver, machine.stop_driver, machine.delete_driver, machine.driver_state):
        assert refused(call, "m") == 1060


def test_a_driver_in_use_stops_when_its_last_handle_is_closed(machine):
    machine.install_driver("m", fixture.image())
    machine.start_driver("m")
    handle = machine.open_device(DEVICE)
    second = handle.duplicate()
    machine.stop_driver("m")
    assert machine.driver_state("m") == ServiceState.STOP_PENDING
    handle.close()
    assert machine.driver_state("m") == ServiceState.STOP_PENDING
    second.close()
    assert machine.driver_state("m") == ServiceState.STOPPED


def test_a_failing_entry_point_leaves_the_service_stopped(machine):
    machine.install_driver("m", fixture.image("entry_fails"))
    assert refused(machine.start_driver, "m") == 1450
    assert machine.driver_state("m") == ServiceState.STOPPED
    assert machine.kernel.images == []


def test_a_driver_without_signature_is_refused(machine, tmp_path):
    machine.install_driver("m", guinea_pigs.build("io_probe"))
    assert refused(machine.start_driver, "m") == 577


def test_a_file_that_is_no_driver_is_the_users_mistake(machine, tmp_path):
    file = tmp_path / "x.sys"
    file.write_bytes(b"MZ" + bytes(100))
    for path in (file, tmp_path / "missing.sys"):
        with pytest.raises(MachineConfigurationError, match=path.name):
            machine.install_driver("m", path)


def test_many_starts_and_stops_leak_nothing_that_counts():
    misuse = Misuse()
    misuse.stop()
    live = len(misuse.kernel.heap.state.sizes)
    objects = len(misuse.kernel.ob.state.objects)
    for _ in range(20):
        misuse.machine.start_driver("misuse")
        misuse.machine.stop_driver("misuse")
    assert len(misuse.kernel.ob.state.objects) == objects
    assert len(misuse.kernel.heap.state.sizes) == live
    misuse.machine.close()


def test_kernel_memory_that_is_used_up_is_the_machines_error_and_says_why(machine):
    heap = machine.kernel.heap
    with pytest.raises(MachineBroken, match="own memory, 64 MB, is used up"):
        sum(heap.allocate(1 << 20) for _ in range(100))


def test_a_closed_handle_is_refused(machine):
    machine.install_driver("m", fixture.image())
    machine.start_driver("m")
    handle = machine.open_device(DEVICE)
    handle.close()
    assert refused(handle.control, fixture.CONTROL) == 6
    assert refused(machine.open_device, "\\\\.\\Nothing") == 2


def test_an_mdl_that_an_unloaded_driver_did_not_free_is_remarked_on(misuse):
    assert misuse.run("KeepMdl")
    misuse.machine.debug_output()
    misuse.stop()
    (line,) = [line for line in misuse.machine.debug_output() if "MDL" in line]
    assert line.startswith("left behind by misuse: MDL 0x")
    assert "KeepMdl" in line
