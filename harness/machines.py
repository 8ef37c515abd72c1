"""Machines of a test run, each brought to a known stage for every test.

A test must not see what the test before it left behind. Where a machine can be restored, each stage is reached once and
restored from then on; elsewhere the driver is stopped, deleted and installed anew. The first cause that makes a machine
useless is kept, so that later tests can skip with it instead of failing in its wake.
"""

from __future__ import annotations

import enum
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.abi import load_abi
from harness.driver_file import sha256_of
from harness.errors import HarnessError
from vm.errors import (
    DriverFault,
    MachineBroken,
    MachineConfigurationError,
    MachineCrashed,
    MachineError,
    UnsupportedByMachine,
    Win32Error,
)
from vm.machine import Checkpoint, LaunchRequest, Machine, RegistryValue, ServiceState
from vm.win32 import ERROR_FILE_NOT_FOUND, ERROR_SERVICE_NOT_ACTIVE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
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


class StationUnusable(HarnessError):
    """The machine or the driver's build failed earlier in this run: owner infrastructure. The message is its cause."""


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


class Station:
    """One machine of the run with the driver under test.

    Attributes:
        name: the machine's name as given to ``--vm``.
        unusable: the first cause that made the station useless, or None.
    """

    def __init__(self, name: str, create: Callable[[], Machine], driver: Callable[[], DriverImage]) -> None:
        self.name = name
        self.unusable: str | None = None
        self._create = create
        self._driver = driver
        self._machine: Machine | None = None
        self._checkpoints: dict[Stage, Checkpoint] = {}
        self._restorable = True
        self._refusal: MachineError | None = None

    @property
    def machine(self) -> Machine:
        """The machine, created when first asked for."""
        if self._machine is None:
            self._machine = self._create()
        return self._machine

    def prepare(self, stage: Stage, parameters: Mapping[str, RegistryValue] | None = None) -> Machine:
        """Bring the machine to `stage`, without a trace of the test before.

        Args:
            stage: how far.
            parameters: values for the driver's Parameters key.

        Raises:
            StationUnusable: the station is useless since an earlier test.
            DriverUnusable: the driver does not start.
            MachineBroken, MachineConfigurationError: the machine failed, or cannot be had.
        """
        if self.unusable is not None:
            raise StationUnusable(self.unusable)
        if stage is Stage.RUNNING and not parameters and self._refusal is not None:
            raise DriverUnusable(f"the driver does not start: {self._refusal}") from self._refusal
        try:
            return self._prepare(stage, dict(parameters or {}))
        except (MachineBroken, MachineConfigurationError) as error:
            self.give_up(str(error))
            raise
        except (OSError, HarnessError) as error:
            if not isinstance(error, DriverUnusable):
                self.give_up(str(error))
            raise

    def give_up(self, cause: str) -> None:
        """Note that the station is useless from now on; the first cause stays."""
        if self.unusable is None:
            self.unusable = cause

    def close(self) -> None:
        """Give the machine up."""
        machine, self._machine = self._machine, None
        self._checkpoints.clear()
        if machine is not None:
            machine.close()

    def _prepare(self, stage: Stage, parameters: dict[str, RegistryValue]) -> Machine:
        known = None if parameters else self._checkpoints.get(stage)
        if known is not None:
            self.machine.restore(known)
            return self.machine
        if stage is Stage.CLEAN:
            self._clean()
        elif stage is Stage.INSTALLED:
            self._prepare(Stage.CLEAN, {})
            self.machine.install_driver(_service(), self._driver().path, parameters=parameters)
        else:
            self._prepare(Stage.INSTALLED, parameters)
            self._start(keep_refusal=not parameters)
        if not parameters:
            self._remember(stage)
        return self.machine

    def _start(self, *, keep_refusal: bool) -> None:
        try:
            self.machine.start_driver(_service())
        except (DriverFault, Win32Error) as error:
            if keep_refusal:
                self._refusal = error
            raise DriverUnusable(f"the driver does not start: {error}") from error

    def _remember(self, stage: Stage) -> None:
        if self._restorable:
            try:
                self._checkpoints[stage] = self.machine.checkpoint()
            except UnsupportedByMachine:
                self._restorable = False

    def _clean(self) -> None:
        """Reach the clean stage without a checkpoint."""
        machine = self.machine
        if machine.crash is not None:
            self.close()
            machine = self.machine
        for pid in machine.running_processes():
            machine.terminate_process(pid)
        remove_driver(machine, _service())


def remove_driver(machine: Machine, service: str) -> None:
    """Stop and delete a service; a service that is not there or does not run is no error."""
    with suppress(Win32Error):
        machine.stop_driver(service)
    with suppress(Win32Error):
        machine.delete_driver(service)


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
        state = machine.driver_state(_service())
    except Win32Error:
        return
    try:
        _unload_and_look(machine, state)
    except DriverFault as error:
        raise UncleanUnload(f"the test came to its end, but not the unload of the driver after it: {error}") from error


def _unload_and_look(machine: Machine, state: ServiceState) -> None:
    if state is ServiceState.RUNNING:
        _stop(machine)
    if (state := machine.driver_state(_service())) is not ServiceState.STOPPED:
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
        machine.stop_driver(_service())
    except Win32Error as error:
        if error.code != ERROR_SERVICE_NOT_ACTIVE:
            raise UncleanUnload(f"the driver cannot be stopped: {error}") from error


def _service() -> str:
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


def describe_run(machines: Sequence[str], profile: str, image: DriverImage) -> list[str]:
    """What a run tests, for its header: a line for each machine."""
    source = "built from the sources" if image.built else str(image.path)
    driver = f"driver {image.path.name} sha256 {image.sha256[:16]} ({source})"
    named = (f"machine {name}, profile {profile}" if name == "emulated" else f"machine {name}" for name in machines)
    return [f"ntproof: {machine}, {driver}" for machine in named]
