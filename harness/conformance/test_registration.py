"""Registering the notify routine (wdm.h documentation: PsSetCreateProcessNotifyRoutineEx, ...Ex2, ...Routine).

The 64 slots of the table are shared by the three flavours of the API; a driver that gets none must fail to load.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from harness.conformance.acts import DEVICE, SERVICE, attempt, fails, nt_name, refused, run_to_exit, start
from harness.conformance.companion import API_EX, API_EX2, API_LEGACY
from harness.notification import Create, Exit
from vm.errors import Win32Error
from vm.machine import ServiceState
from vm.ntstatus import STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER
from vm.win32 import ERROR_FILE_NOT_FOUND, ERROR_INVALID_PARAMETER

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.conformance.companion import Companion
    from harness.driver import ProcNotify
    from harness.machines import DriverImage
    from vm.machine import Machine

EVERY_API = pytest.mark.parametrize("api", [API_LEGACY, API_EX, API_EX2], ids=["legacy", "ex", "ex2"])


def test_the_image_asks_for_the_integrity_check_that_registration_demands(driver_image: DriverImage) -> None:
    from harness.build.pe import load

    force_integrity = 0x0080  # IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY, winnt.h
    assert load(driver_image.path).dll_characteristics & force_integrity


def test_a_started_driver_is_told_of_creations(machine: Machine, driver: ProcNotify) -> None:
    pid = start(machine)
    assert [(type(seen), seen.pid) for seen in driver.read_available() if isinstance(seen, Create)] == [(Create, pid)]


def test_the_driver_finds_the_last_free_slot(
    bare_machine: Machine, install_companion: Callable[..., Companion], open_driver: Callable[..., ProcNotify]
) -> None:
    install_companion(bare_machine, Slots=63).start()
    bare_machine.start_driver(SERVICE)
    driver = open_driver(bare_machine)
    pid = start(bare_machine)
    assert [create.pid for create in driver.read_available() if isinstance(create, Create)] == [pid]


@EVERY_API
def test_a_full_table_fails_the_load_with_the_status_of_the_registration(
    bare_machine: Machine, install_companion: Callable[..., Companion], api: int
) -> None:
    install_companion(bare_machine, Slots=64, Api=api).start()
    with refused(STATUS_INVALID_PARAMETER):
        bare_machine.start_driver(SERVICE)
    assert bare_machine.driver_state(SERVICE) is ServiceState.STOPPED


def test_a_failed_load_leaves_no_device(bare_machine: Machine, install_companion: Callable[..., Companion]) -> None:
    install_companion(bare_machine, Slots=64).start()
    with fails(ERROR_INVALID_PARAMETER):
        bare_machine.start_driver(SERVICE)
    with fails(ERROR_FILE_NOT_FOUND):
        bare_machine.open_device(DEVICE)


def test_a_failed_load_leaves_no_routine_that_is_called(
    bare_machine: Machine, install_companion: Callable[..., Companion]
) -> None:
    companion = install_companion(bare_machine, Slots=64)
    companion.start()
    with fails(ERROR_INVALID_PARAMETER):
        bare_machine.start_driver(SERVICE)
    companion.stop()
    run_to_exit(bare_machine)
    assert bare_machine.crash is None


def test_the_driver_loads_again_after_a_failed_load(
    bare_machine: Machine, install_companion: Callable[..., Companion], open_driver: Callable[..., ProcNotify]
) -> None:
    companion = install_companion(bare_machine, Slots=64)
    companion.start()
    for _ in range(3):
        with fails(ERROR_INVALID_PARAMETER):
            bare_machine.start_driver(SERVICE)
    companion.stop()
    bare_machine.start_driver(SERVICE)
    pid = run_to_exit(bare_machine)
    seen = open_driver(bare_machine).read_available()
    assert [(type(one), one.pid) for one in seen if isinstance(one, Create | Exit)] == [(Create, pid), (Exit, pid)]


def test_a_stopped_driver_gives_its_slot_back(machine: Machine, install_companion: Callable[..., Companion]) -> None:
    companion = install_companion(machine, Slots=64)
    with refused(STATUS_INVALID_PARAMETER):
        companion.start()
    machine.stop_driver(SERVICE)
    companion.start()
    assert companion.query().registered == 64


def test_fifty_loads_take_one_slot_at_a_time(
    bare_machine: Machine, install_companion: Callable[..., Companion]
) -> None:
    install_companion(bare_machine, Slots=63).start()
    for _ in range(50):
        bare_machine.start_driver(SERVICE)
        bare_machine.stop_driver(SERVICE)
    bare_machine.start_driver(SERVICE)
    assert bare_machine.driver_state(SERVICE) is ServiceState.RUNNING


@EVERY_API
def test_drivers_registered_through_every_flavour_see_the_same_processes(
    bare_machine: Machine,
    install_companion: Callable[..., Companion],
    open_driver: Callable[..., ProcNotify],
    api: int,
) -> None:
    companion = install_companion(bare_machine, Api=api)
    companion.start()
    bare_machine.start_driver(SERVICE)
    driver = open_driver(bare_machine)
    for _ in range(3):
        run_to_exit(bare_machine)
    start(bare_machine)
    seen = driver.read_available()
    told = companion.query()
    assert (told.created, told.exited) == (4, 3)
    assert [sum(isinstance(one, kind) for one in seen) for kind in (Create, Exit)] == [4, 3]


def started_or_invalid(companion: Companion) -> bool:
    """Whether the companion started; if not, it must be for STATUS_INVALID_PARAMETER, the other documented answer."""
    with suppress(Win32Error):
        companion.start()
        return True
    with refused(STATUS_INVALID_PARAMETER):
        companion.start()
    return False


def test_a_routine_registered_twice_is_refused_or_called_twice(
    bare_machine: Machine, install_companion: Callable[..., Companion]
) -> None:
    companion = install_companion(bare_machine, Duplicate=1)
    if not started_or_invalid(companion):
        return
    run_to_exit(bare_machine)
    told = companion.query()
    assert (told.registered, told.created, told.exited) == (2, 2, 2)


def test_each_removal_of_a_routine_registered_twice_frees_one_slot(
    bare_machine: Machine, install_companion: Callable[..., Companion]
) -> None:
    companion = install_companion(bare_machine, Duplicate=1)
    if not started_or_invalid(companion):
        return
    companion.stop()
    run_to_exit(bare_machine)
    assert bare_machine.crash is None


def test_another_driver_whose_load_fails_takes_nothing_with_it(
    machine: Machine, driver: ProcNotify, install_companion: Callable[..., Companion]
) -> None:
    with refused(STATUS_INSUFFICIENT_RESOURCES):
        install_companion(machine, Slots=8, FailEntry=STATUS_INSUFFICIENT_RESOURCES).start()
    result = attempt(machine)
    assert [seen.image_name for seen in driver.read_available() if isinstance(seen, Create)] == [
        nt_name("C:\\ntproof\\app.exe")
    ]
    assert result.succeeded
