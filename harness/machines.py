"""The driver under test on the machines of a run: its image, the stages it is brought to, how its unload is checked."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.abi import load_abi
from harness.driver_file import sha256_of
from harness.errors import HarnessError
from vm.errors import DriverFault, MachineCrashed, Win32Error
from vm.machine import LaunchRequest, Machine, ServiceState
from vm.win32 import ERROR_FILE_NOT_FOUND, ERROR_SERVICE_NOT_ACTIVE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DRIVER_NAME: Final = "procnotify"
"""The driver under test in driver/drivers.toml."""
WITNESS_IMAGE: Final = "C:\\ntproof\\witness.exe"


class Stage(enum.Enum):
    """How far a machine is prepared."""

    CLEAN = "clean"
    """No driver of the run is installed."""
    INSTALLED = "installed"
    RUNNING = "running"


class DriverUnusable(HarnessError):
    """The driver under test cannot be started or opened: owner driver. The cause says why."""


class UncleanUnload(HarnessError):
    """The driver under test left something behind when it was stopped: owner driver."""


@dataclass(frozen=True)
class DriverImage:
    """The image under test.

    Attributes:
        path: the file.
        sha256: its hash, in hexadecimal.
        built: whether this run built it from the sources.
    """

    path: Path
    sha256: str
    built: bool


def check_unload(machine: Machine) -> None:
    """Stop the driver under test, if it runs, and hold it to have left nothing behind.

    The machine sees leaked memory and pending work by itself and bugchecks. This adds what only a caller sees: the
    service stops, its name is gone, and a process can come and go without the driver being called.

    Raises:
        UncleanUnload: something is left, the machine bugchecked, or the unload routine hung.
        MachineCrashed: the machine had crashed before.
    """
    if machine.crash is not None:
        raise MachineCrashed(machine.crash)
    try:
        state = machine.driver_state(service_name())
    except Win32Error:
        return
    try:
        _unload_and_look(machine, state)
    except DriverFault as error:
        raise UncleanUnload(f"the test came to its end, but not the unload of the driver after it: {error}") from error


def _unload_and_look(machine: Machine, state: ServiceState) -> None:
    if state is ServiceState.RUNNING:
        _stop(machine)
    if (state := machine.driver_state(service_name())) is not ServiceState.STOPPED:
        raise UncleanUnload(f"the driver was stopped and is {state.value}: a handle or a reference to it is still open")
    try:
        machine.open_device(load_abi().text("WIN32_NAME")).close()
    except Win32Error as error:
        if error.code != ERROR_FILE_NOT_FOUND:
            raise UncleanUnload(f"the driver is unloaded, but its name is still there: {error}") from error
    else:
        raise UncleanUnload("the driver is unloaded, but its device can still be opened")
    machine.provide_image(WITNESS_IMAGE)
    launched = machine.launch(LaunchRequest(WITNESS_IMAGE, "witness"))
    if launched.pid is not None and launched.succeeded:
        machine.exit_process(launched.pid)


def _stop(machine: Machine) -> None:
    try:
        machine.stop_driver(service_name())
    except Win32Error as error:
        if error.code != ERROR_SERVICE_NOT_ACTIVE:
            raise UncleanUnload(f"the driver cannot be stopped: {error}") from error


def service_name() -> str:
    """Name of the service of the driver under test."""
    return load_abi().text("SERVICE_NAME")


def find_driver_image(given: Path | None, toolchain: str | None = None) -> DriverImage:
    """The image under test: `given`, or one built from the sources with a toolchain, by default the project's.

    Raises:
        BuildError: the sources do not build.
        ConfigurationError: the toolchain cannot be used.
    """
    if given is not None:
        return DriverImage(given, sha256_of(given), built=False)
    from harness.build import build_driver
    from harness.build.toolchains import project_toolchain

    built = build_driver(DRIVER_NAME, toolchain=project_toolchain(toolchain))
    return DriverImage(built.image, built.sha256, built=True)


def describe_run(machines: Sequence[str], profile: str, image: DriverImage | None) -> list[str]:
    """What a run tests, for its header: a line for each machine.

    Args:
        machines: their names.
        profile: behaviour profile of emulated ones.
        image: the driver under test; None where every test brings its own.
    """
    named = (f"machine {name}, profile {profile}" if name == "emulated" else f"machine {name}" for name in machines)
    if image is None:
        return [f"ntproof: {machine}" for machine in named]
    source = "built from the sources" if image.built else str(image.path)
    driver = f"driver {image.path.name} sha256 {image.sha256[:16]} ({source})"
    return [f"ntproof: {machine}, {driver}" for machine in named]
