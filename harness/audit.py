"""Holds what a test saw of its driver against what the machine itself recorded of processes meanwhile.

The records are taken from a mark on, which is set before the test's driver starts, so that nothing has to be matched by
time (`harness.witness.cross_check`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.capture import CaptureItem, DriverStarted
from harness.errors import ConfigurationError, InputError
from harness.notification import Create, Exit, Gap
from harness.verdict import Verdict
from harness.witness.cross_check import cross_check
from harness.witness.event_xml import read_event_texts
from harness.witness.logs import collect_logs
from vm.errors import MachineBroken
from vm.machine import Machine, WitnessedLog, WitnessedMachine


@dataclass(frozen=True)
class Judged:
    """What came of a comparison.

    Attributes:
        verdicts: one for each log.
        notes: what the comparison could not see, a sentence each.
    """

    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]


class Audit:
    """The machine's own record of one test or one scenario, from now on.

    Args:
        machine: the machine.

    Raises:
        ConfigurationError: it keeps none.
        MachineError: it failed.
    """

    def __init__(self, machine: Machine) -> None:
        if not isinstance(machine, WitnessedMachine):
            raise ConfigurationError(f"--witness: {machine.facts.machine} keeps no record of processes; leave it out")
        self._machine: WitnessedMachine = machine
        self._name = machine.facts.machine
        self._mark: Mapping[str, int] = machine.witness_mark()

    def logs(self) -> tuple[WitnessedLog, ...]:
        """What the machine recorded since the mark. Raises MachineBroken."""
        return self._machine.witnessed(self._mark)

    def judge(
        self, logs: Iterable[WitnessedLog], items: Sequence[CaptureItem], subject: str, *, launches_known: bool
    ) -> Judged:
        """Compare what the driver reported since the mark.

        Args:
            logs: what the machine recorded meanwhile.
            items: a capture, or notifications alone.
            subject: what is judged.
            launches_known: whether the items tell of every launch.

        Raises:
            MachineBroken: what the machine gives is no record of events.
        """
        always = _ran_all_the_time(items)
        verdicts, notes = [], []
        if not always:
            notes.append(f"{subject}: the driver did not run all the time, so that nobody is accused of missing events")
        for log in logs:
            if not log.complete:
                notes.append(f"{subject}: the log {log.name} lost records, so that nobody is accused of missing events")
            try:
                found = collect_logs(read_event_texts(log.records, f"{self._name}: log {log.name}"), log.name)
            except InputError as error:
                raise MachineBroken(f"what the machine gives as its record cannot be read: {error}") from error
            for witness in found:
                whole = replace(witness, complete=log.complete and always)
                verdicts.append(cross_check(items, whole, subject, launches_known=launches_known))
        return Judged(tuple(verdicts), tuple(notes))


def _ran_all_the_time(items: Iterable[CaptureItem]) -> bool:
    """Whether one run of the driver reported all of it: each starts to count at 1 again."""
    seen = list(items)
    sequences = [one.sequence for one in seen if isinstance(one, (Create, Exit, Gap))]
    starts = sum(isinstance(one, DriverStarted) for one in seen)
    return starts <= 1 and all(one < other for one, other in itertools.pairwise(sequences))
