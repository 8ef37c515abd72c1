"""One machine of a test run with the driver under test, brought to a known stage for every test.

A test must not see what the test before it left behind. Where a machine can be restored, each stage is reached once and
restored from then on; elsewhere each test begins with the machine's own reset.

A machine that fails is made anew once in a run, whatever fails after that is final:

    sound -- fails --> discarded -- next use --> made anew -- fails --> unusable: later tests skip with the first cause

A fault of the driver is no failure of its machine and counts for nothing here.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.machines import DriverUnusable, Stage, service_name
from vm.errors import (
    DriverFault,
    MachineBroken,
    MachineConfigurationError,
    MachineError,
    UnsupportedByMachine,
    Win32Error,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.machines import DriverImage
    from vm.machine import Checkpoint, Machine, MachineFacts, RegistryValue


class StationUnusable(HarnessError):
    """The machine or the driver's build failed earlier in this run: owner infrastructure. The message is its cause."""


def _leave_alone(_machine: Machine) -> None:
    """Do nothing with a machine."""


def _tell_nobody(_facts: MachineFacts) -> None:
    """Say nothing of a machine."""


class Station:
    """One machine of the run with the driver under test.

    Args:
        name: the machine's name as given to ``--vm``.
        create: makes the machine.
        driver: gives the image under test.
        introduce: is told what the machine is as soon as it is made, before a driver is started on it.

    Attributes:
        name: the machine's name as given to ``--vm``.
        facts: what the machine said of itself when it was made, None before.
        unusable: the cause that made the station useless, or None.
    """

    def __init__(
        self,
        name: str,
        create: Callable[[], Machine],
        driver: Callable[[], DriverImage],
        introduce: Callable[[MachineFacts], None] = _tell_nobody,
    ) -> None:
        self.name = name
        self.facts: MachineFacts | None = None
        self.unusable: str | None = None
        self._create = create
        self._driver = driver
        self._introduce = introduce
        self._machine: Machine | None = None
        self._used = False
        self._suspect = False
        self._checkpoints: dict[Stage, Checkpoint] = {}
        self._restorable = True
        self._refusal: MachineError | None = None
        self._first_failure: str | None = None
        self._noted: MachineBroken | None = None

    @property
    def machine(self) -> Machine:
        """The machine, made when first asked for.

        Raises:
            MachineBroken, MachineConfigurationError: it cannot be had.
        """
        if self._machine is None:
            self._machine = self._create()
            self._used = False
            self.facts = self._machine.facts
            self._introduce(self.facts)
        return self._machine

    def prepare(
        self,
        stage: Stage,
        parameters: Mapping[str, RegistryValue] | None = None,
        *,
        fresh: bool = False,
        when_clean: Callable[[Machine], None] = _leave_alone,
    ) -> Machine:
        """Bring the machine to `stage`, without a trace of the test before.

        Args:
            stage: how far.
            parameters: values for the driver's Parameters key.
            fresh: whether the machine must be one that nothing of the run has touched, whatever that costs.
            when_clean: is called with the machine once nothing of a test before is on it, and no driver either. A
                machine that is restored to a later stage was clean when that stage was reached first.

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
            return self._prepare_or_recover(stage, dict(parameters or {}), lambda: self._clean(when_clean, fresh=fresh))
        except MachineConfigurationError as error:
            self.give_up(str(error))
            raise
        except (OSError, HarnessError) as error:
            if not isinstance(error, DriverUnusable):
                self.give_up(str(error))
            raise

    def note_failure(self, error: MachineBroken) -> None:
        """Note that the machine failed: the first time it is discarded, so that the next use makes it anew."""
        if error is self._noted:
            return
        self._noted = error
        if self._first_failure is None:
            self._first_failure = str(error)
            # What is wrong with the machine is known; that it also cannot be put away adds nothing to that.
            with suppress(MachineError):
                self.close()
        else:
            again = "" if str(error) == self._first_failure else f" (made anew once, then: {error})"
            self.give_up(f"{self._first_failure}{again}")

    def distrust(self) -> None:
        """Note that a test failed: what it left on the machine is not known, so that the next one gets a fresh one."""
        self._suspect = True

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

    def _prepare_or_recover(
        self, stage: Stage, parameters: dict[str, RegistryValue], clean: Callable[[], None]
    ) -> Machine:
        while True:
            try:
                return self._prepare(stage, parameters, clean)
            except MachineBroken as error:
                self.note_failure(error)
                if self.unusable is not None:
                    raise

    def _prepare(self, stage: Stage, parameters: dict[str, RegistryValue], clean: Callable[[], None]) -> Machine:
        # Going back to a checkpoint leaves nothing of the run, so it is fresh in any case.
        known = None if parameters else self._checkpoints.get(stage)
        if known is not None:
            self.machine.restore(known)
            return self.machine
        if stage is Stage.CLEAN:
            clean()
        elif stage is Stage.INSTALLED:
            self._prepare(Stage.CLEAN, {}, clean)
            self.machine.install_driver(service_name(), self._driver().path, parameters=parameters)
        else:
            self._prepare(Stage.INSTALLED, parameters, clean)
            self._start(keep_refusal=not parameters)
        if not parameters:
            self._remember(stage)
        return self.machine

    def _clean(self, when_clean: Callable[[Machine], None], *, fresh: bool) -> None:
        machine = self.machine
        if self._used:
            machine.reset(fresh=fresh or self._suspect)
        self._used = True
        self._suspect = False
        when_clean(machine)

    def _start(self, *, keep_refusal: bool) -> None:
        try:
            self.machine.start_driver(service_name())
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
