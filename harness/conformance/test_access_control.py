"""Who may open the device ("Controlling Device Access", FILE_DEVICE_SECURE_OPEN of the driver documentation)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.abi import Match, Rule
from harness.conformance.acts import DEVICE, fails, run_to_exit
from vm.errors import Win32Error
from vm.machine import Account, DeviceAccess
from vm.win32 import ERROR_ACCESS_DENIED

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.driver import ProcNotify
    from vm.machine import Machine

READ, WRITE = DeviceAccess.READ, DeviceAccess.WRITE
EVERY_ACCESS = pytest.mark.parametrize("access", [READ, WRITE, READ | WRITE], ids=["read", "write", "both"])


@EVERY_ACCESS
def test_an_administrator_may_open_the_device(machine: Machine, access: DeviceAccess) -> None:
    machine.open_device(DEVICE, access, account=Account.ADMINISTRATOR).close()


@EVERY_ACCESS
def test_a_standard_user_may_not_open_the_device(machine: Machine, access: DeviceAccess) -> None:
    with fails(ERROR_ACCESS_DENIED):
        machine.open_device(DEVICE, access, account=Account.STANDARD_USER)


@EVERY_ACCESS
@pytest.mark.parametrize("name", ["\\", "\\file", "\\deep\\file"])
def test_a_standard_user_may_not_open_a_name_below_the_device(
    machine: Machine, access: DeviceAccess, name: str
) -> None:
    """Without FILE_DEVICE_SECURE_OPEN the object manager checks the device's DACL for the bare name alone."""
    with fails(ERROR_ACCESS_DENIED):
        machine.open_device(DEVICE + name, access, account=Account.STANDARD_USER)


def test_the_device_stays_closed_to_a_standard_user_while_an_administrator_uses_it(
    machine: Machine, driver: ProcNotify
) -> None:
    driver.read()
    with fails(ERROR_ACCESS_DENIED):
        machine.open_device(DEVICE, READ, account=Account.STANDARD_USER)
    run_to_exit(machine)
    assert len(driver.read_available()) == 2


def test_a_refused_open_leaves_nothing_that_keeps_the_driver_loaded(machine: Machine) -> None:
    for _ in range(5):
        with pytest.raises(Win32Error):
            machine.open_device(DEVICE, READ | WRITE, account=Account.STANDARD_USER)


def test_a_handle_for_reading_may_not_set_rules(machine: Machine, open_driver: Callable[..., ProcNotify]) -> None:
    reader = open_driver(machine, access=READ)
    with fails(ERROR_ACCESS_DENIED):
        reader.set_rules([Rule(Match.SUFFIX, "tool.exe")])
    assert reader.get_rules() == ()
    assert reader.version().abi_version == 1
    assert reader.read() == []


def test_a_handle_for_writing_may_only_set_rules(machine: Machine, open_driver: Callable[..., ProcNotify]) -> None:
    writer = open_driver(machine, access=WRITE)
    writer.set_rules([Rule(Match.SUFFIX, "tool.exe")])
    for call in (writer.version, writer.statistics, writer.read, writer.get_rules):
        with fails(ERROR_ACCESS_DENIED):
            call()
    assert open_driver(machine, access=READ).statistics().rule_count == 1
