"""Each way in which a guest can go wrong ends in the verdict that it deserves, and leaves nothing behind."""

from __future__ import annotations

import os
import struct
import threading
from dataclasses import replace

import pytest

from harness.build import build_driver
from harness.machine_options import guest_programs
from tests.fixtures import misuse
from tests.integration.standin.orders import order
from tests.standin.guest.crash_dump import NMI_HARDWARE_FAILURE
from vm.errors import DriverHung, MachineBroken, MachineCrashed
from vm.machine import LaunchRequest
from vm.registry import MachineOptions, create_machine
from vm.windows.machine.dump_header import parse_dump_header

CMD = r"C:\Windows\System32\cmd.exe"
PROGRAM = r"C:\work\program.exe"
SERVICE = "procnotify"
REVERTS = int(os.environ.get("NTPROOF_REVERTS", "20"))
"""ci/nightly asks for more."""


@pytest.fixture(scope="module")
def driver():
    return build_driver(SERVICE).image


@pytest.fixture
def make(host, monkeypatch, tmp_path, nothing_left):
    """Makes machines of the stand-in; they are closed before what is left is counted."""
    for name, value in host.environment.items():
        monkeypatch.setenv(name, value)
    made = []

    def create(**changes):
        options = MachineOptions(connect=host.daemon.uri, artefacts=tmp_path / "artefacts", tools=guest_programs)
        machine = create_machine("standin", replace(options, **changes))
        made.append(machine)
        return machine

    yield create
    for machine in made:
        machine.close()


@pytest.fixture
def machine(make):
    return make()


def start(machine, driver):
    machine.install_driver(SERVICE, driver)
    machine.start_driver(SERVICE)


def works_again(machine, driver):
    """The machine is put back, and does its work."""
    machine.reset()
    start(machine, driver)
    machine.stop_driver(SERVICE)
    machine.delete_driver(SERVICE)


def calls(machine):
    """Call the guest until a call fails."""
    while True:
        machine.launch(LaunchRequest(CMD, CMD))


def codes_of_dumps(artefacts):
    """The bugcheck codes in the headers of the dumps."""
    dumps = [path for path in artefacts if path.suffix.lower() == ".dmp"]
    return [parse_dump_header(path.read_bytes()).bugcheck_code for path in dumps]


def test_a_panic_is_a_crash_with_code_parameters_and_dump(host, machine, driver):
    start(machine, driver)
    order(host, machine._domain, "panic 0xd1 0x10 2 0 0xfffff80000001234")

    with pytest.raises(MachineCrashed) as caught:
        calls(machine)
    report = caught.value.report
    assert (report.code, report.name) == (0xD1, "DRIVER_IRQL_NOT_LESS_OR_EQUAL")
    assert report.parameters == (0x10, 2, 0, 0xFFFFF80000001234)
    assert 0xD1 in codes_of_dumps(report.artefacts)
    works_again(machine, driver)


def test_a_bugcheck_of_the_driver_is_a_crash_of_the_guest(machine, driver):
    """The emulated kernel meets it, and the guest's own kernel panics."""
    machine.install_driver("misuse", misuse.image())
    machine.start_driver("misuse")
    handle = machine.open_device(misuse.DEVICE)
    with pytest.raises(MachineCrashed) as caught:
        # It calls whatever address it is given.
        handle.control(misuse.CONTROL, struct.pack("<4Q", 0x10, 0, 0, 0), 8)
    assert caught.value.report.code != 0
    works_again(machine, driver)


def test_a_frozen_guest_with_a_driver_is_a_hang(host, machine, driver):
    start(machine, driver)
    order(host, machine._domain, "freeze")

    with pytest.raises(DriverHung) as caught:
        calls(machine)
    assert "an NMI stopped it" in str(caught.value)
    assert NMI_HARDWARE_FAILURE in codes_of_dumps(caught.value.artefacts)
    works_again(machine, driver)


def test_a_frozen_guest_without_a_driver_is_no_fault_of_a_driver(host, machine, driver):
    order(host, machine._domain, "freeze")

    with pytest.raises(MachineBroken, match="no driver of the run is loaded"):
        calls(machine)
    works_again(machine, driver)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("reset", "while:"),
        ("reboot", "while:"),
        ("power-off", "is off, and nobody asked for it"),
    ],
)
def test_what_goes_on_outside_of_the_driver_is_no_fault_of_it(host, machine, driver, text, told):
    start(machine, driver)
    teller = threading.Timer(0.5, order, (host, machine._domain, text))
    teller.start()
    try:
        with pytest.raises(MachineBroken, match=told):
            calls(machine)
    finally:
        teller.join()
    works_again(machine, driver)


def test_a_guest_that_dies_while_it_is_copied_to_is_no_fault_of_the_driver(host, machine, driver, tmp_path):
    large = tmp_path / "large.sys"
    large.write_bytes(driver.read_bytes() + bytes(range(256)) * (96 << 10))
    order(host, machine._domain, f"die-when-copied-to {4 << 20}")

    with pytest.raises(MachineBroken):
        machine.install_driver(SERVICE, large)
    works_again(machine, driver)


def test_a_full_disk_is_told_with_its_cause(host, machine, driver):
    order(host, machine._domain, "fill-disk")

    with pytest.raises(MachineBroken, match=r"(?i)space|disk|full|refuses"):
        machine.install_driver(SERVICE, driver)
    works_again(machine, driver)


def test_another_certificate_is_told_and_nothing_is_sent_to_it(host, machine, driver):
    order(host, machine._domain, "certificate")
    machine.link.drop()

    with pytest.raises(MachineBroken, match="certificate"):
        # Files are put in place over remoting.
        machine.install_driver(SERVICE, driver)
    works_again(machine, driver)


@pytest.mark.parametrize("text", ["skew 86400", "skew -86400", "slow 300"])
def test_a_wrong_clock_and_slow_answers_break_nothing(host, machine, driver, text):
    order(host, machine._domain, text)

    start(machine, driver)
    machine.provide_image(PROGRAM)
    assert machine.launch(LaunchRequest(PROGRAM, PROGRAM)).succeeded
    machine.stop_driver(SERVICE)
    works_again(machine, driver)


def test_a_machine_goes_back_as_often_as_it_is_asked_to(machine, driver):
    for _ in range(REVERTS):
        machine._domain.revert()
        machine._attach()
    works_again(machine, driver)
