"""One test's use of a station: the handles it opened, what it observed, the verdicts it reached, how it must end."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from harness.errors import ConfigurationError, HarnessError
from harness.machines import check_unload
from harness.model.observe import Observer
from harness.observed import ObservedProcNotify
from vm.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from harness.artefacts import Artefacts
    from harness.audit import Audit
    from harness.capture import Capture, CaptureItem
    from harness.machines import Stage
    from harness.notification import Notification
    from harness.scenario import Scenario
    from harness.station import Station
    from harness.verdict import Verdict
    from vm.errors import DriverFault
    from vm.machine import Machine, RegistryValue, WitnessedLog


_READ: Final = "what the test read"
_LAST: Final = 1000
"""Notifications that are kept to be shown."""


class HistoryDiscrepancy(HarnessError):
    """What a test read from the driver is no history that Windows can produce: owner driver."""


class WitnessDisagrees(HarnessError):
    """The machine's own record of processes contradicts what the driver reported: owner driver."""


class Lease:
    """What one test does with a station.

    Attributes:
        station: the machine and the driver.
        machine: the machine once it has been prepared.
        observer: judges whatever the test reads directly.
        read: the last notifications that the test read itself.
        captures: of scenarios that the test ran, in order.
        verdicts: on these captures.
        logs: what the machine's own record said, for each time that it was asked.
        fault: what the driver did that ended a scenario, None when it did nothing of the kind.
        notes: what the comparison with the machine's own record could not see.
        artefacts: what is kept of the test when it fails.
        witness: whether the machine's own record is held against what the driver reports.
    """

    def __init__(self, station: Station, artefacts: Artefacts, *, witness: bool = False) -> None:
        self.station = station
        self.machine: Machine | None = None
        self.observer = Observer()
        # The witness is held against all of them.
        self.read: deque[Notification] = deque(maxlen=None if witness else _LAST)
        self.captures: list[Capture] = []
        self.verdicts: list[Verdict] = []
        self.logs: list[WitnessedLog] = []
        self.fault: DriverFault | None = None
        self.notes: list[str] = []
        self.artefacts = artefacts
        self.witness = witness
        self._audit: Audit | None = None
        self._stage: Stage | None = None
        self._handles: list[ObservedProcNotify] = []

    def open(self, machine: Machine, **arguments: Any) -> ObservedProcNotify:
        """Open the driver's device; the handle is closed when the test ends. Arguments as for `ProcNotify`."""
        opened = ObservedProcNotify(machine, self._observe, **arguments)
        self._handles.append(opened)
        return opened

    def run_scenario(self, scenario: Scenario, image: Path) -> tuple[Capture, Verdict]:
        """Run a scenario on the prepared machine and judge it.

        Returns:
            The capture, and the verdict on it: the model's, else that of a witness which disagrees.

        Raises:
            As `harness.runner.run_scenario`, and as `harness.audit.Audit`.
        """
        from harness.capture import Capture
        from harness.model.check import check
        from harness.runner import Runner

        if self.machine is None:
            raise HarnessError("a scenario needs a machine that has been prepared")
        self._mark(self.machine)
        runner = Runner(scenario, self.machine, image=image)
        capture = Capture(runner.header(), tuple(runner.items()))
        self.fault = self.fault or runner.fault
        self.captures.append(capture)
        verdict = check(scenario, capture)
        self.verdicts.append(verdict)
        witnessed = self._ask_witness(list(capture.items), scenario.name, launches_known=True)
        return capture, next((one for one in (verdict, *witnessed) if not one.passed), verdict)

    def prepare(self, stage: Stage, parameters: Mapping[str, RegistryValue], *, fresh: bool = False) -> Machine:
        """Bring the machine to a stage; a test has one machine in one stage. Raises as `Station.prepare`."""
        if self._stage not in {None, stage}:
            message = "a test has one machine: ask for one fixture of clean_machine, bare_machine and machine, not two"
            raise ConfigurationError(message)
        if self.machine is None:
            self._stage = stage
            self.machine = self.station.prepare(stage, parameters, fresh=fresh, when_clean=self._mark)
        return self.machine

    def finish(self, *, crash_expected: bool) -> None:
        """End a test that has passed: judge what it read, close its handles and hold the driver to unload cleanly.

        Raises:
            HistoryDiscrepancy: what was read contradicts itself.
            WitnessDisagrees: the machine's own record contradicts it.
            UncleanUnload, DriverFault: the driver left something behind.
        """
        observed = self.observer.verdict(_READ)
        if not observed.passed:
            raise HistoryDiscrepancy(observed.render())
        if self.read:
            for verdict in self._ask_witness(list(self.read), _READ, launches_known=False):
                if not verdict.passed:
                    raise WitnessDisagrees(verdict.render())
        self.close_handles()
        if self.machine is not None and not crash_expected:
            check_unload(self.machine)

    def close_handles(self) -> None:
        """Close every handle that the test opened through `open`."""
        while self._handles:
            self._handles.pop().close()

    def give_back(self) -> None:
        """Leave the station as far as that is possible: the next test restores or revives the machine anyway."""
        with suppress(MachineError):
            self.close_handles()

    def _mark(self, machine: Machine) -> None:
        """From here on the machine's own record is that of this test, or of the scenario that it runs next."""
        if self.witness:
            from harness.audit import Audit

            self._audit = Audit(machine)

    def _ask_witness(self, items: Sequence[CaptureItem], subject: str, *, launches_known: bool) -> tuple[Verdict, ...]:
        """What the machine's own record says of it; a machine that crashed has none any more."""
        if self._audit is None or self.machine is None or self.machine.crash is not None:
            return ()
        logs = self._audit.logs()
        self.logs += logs
        judged = self._audit.judge(logs, items, subject, launches_known=launches_known)
        self.notes += judged.notes
        self.verdicts += judged.verdicts
        return judged.verdicts

    def _observe(self, found: Sequence[Notification]) -> None:
        self.observer.feed_all(found)
        self.read.extend(found)

    @property
    def seen(self) -> bool:
        """Whether there is anything that the test saw of the driver."""
        return bool(self.captures or self.read)

    def reached(self) -> list[Verdict]:
        """The verdicts to show with a failure: of scenarios, and of what was read directly."""
        observed = self.observer.verdict(_READ)
        seen = any(observed.statistics.values()) or not observed.passed
        return [*self.verdicts, observed] if seen else self.verdicts
