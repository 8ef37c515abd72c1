"""How faults reach pytest's reports: each on the side of its owner.

a fault of the driver under test   a failure, whichever phase it came in, with the crash report in full
a machine that failed              an error; later tests on that machine skip with this first cause
an ability the machine lacks       a skip with its reason

What shows the fault is kept in the test's folder of artefacts; of a failure without a crash too, what the test saw of
the driver, since no second run on Windows brings it back. It is listed in the report, and in the junit file as
properties of the test: ``machine`` and ``facts`` of every test, ``bugcheck`` or ``hang``, and each ``artefact``.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from harness.errors import BuildError, HarnessError
from harness.lease import HistoryDiscrepancy, Lease, WitnessDisagrees
from harness.machines import DriverUnusable, UncleanUnload
from harness.pytest_run import one_line
from harness.station import StationUnusable
from vm.errors import (
    DriverFault,
    DriverHung,
    MachineBroken,
    MachineConfigurationError,
    MachineCrashed,
    MachineError,
    MissingExport,
    UnsupportedByMachine,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from _pytest._code.code import ExceptionChainRepr, ReprExceptionInfo

LEASE: Final = pytest.StashKey[Lease]()
"""What an item does with its station."""
WITNESS_NOTE: Final = "witness"
"""Property of a test of which the witness did not see everything."""

_DRIVER_OWNED: Final = (DriverFault, DriverUnusable, UncleanUnload, HistoryDiscrepancy, WitnessDisagrees)
_MACHINE_OWNED: Final = (MachineBroken, MachineConfigurationError, BuildError)


def encodable(value: Any) -> Any:
    """The same data, with each code unit that UTF-8 cannot hold written as an escape sequence in its texts."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode("utf-8")
        case dict():
            return {encodable(key): encodable(one) for key, one in value.items()}
        case list() | tuple():
            return type(value)(map(encodable, value))
        case _:
            return value


@contextmanager
def skipping() -> Iterator[None]:
    """Turn what the machine cannot do, or no longer can, into a skip with its reason."""
    try:
        yield
    except UnsupportedByMachine as error:
        pytest.skip(f"the machine cannot do this: {error}")
    except StationUnusable as error:
        first, *_ = str(error).splitlines() or [""]
        pytest.skip(f"not run after an earlier error: {first}")


def place_on_owner(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Give a failed report the phase and the text that fit the owner of the fault.

    pytest, its junit file and xdist tell failures from errors by the phase alone: what goes wrong in the call is a
    failure, in the setup an error.
    """
    if call.excinfo is None or not report.failed:
        return
    error = call.excinfo.value
    lease = item.stash.get(LEASE, None)
    fault = _fault_of(error, lease)
    if lease is not None:
        lease.station.distrust()
    if isinstance(error, _DRIVER_OWNED):
        if report.when == "setup":
            report.when = "call"
    elif isinstance(error, _MACHINE_OWNED):
        if report.when == "call":
            report.when = "setup"
        # A file that one test names wrongly, or an export that its driver asks for, says nothing of the next test.
        if lease is not None and isinstance(error, MachineBroken) and not isinstance(error, MissingExport):
            lease.station.note_failure(error)
    if isinstance(error, (MachineError, HarnessError)):
        report.longrepr = _short(item, call.excinfo)
    evidence = list(_evidence(error, fault, lease))
    report.sections += evidence
    if fault is not None or isinstance(error, MachineBroken) or (lease is not None and lease.seen):
        text = f"{item.nodeid}\n\n{type(error).__name__}: {error}\n"
        text += "".join(f"\n{title}:\n{content}\n" for title, content in evidence)
        _keep(item, report, lease, fault, text)


def add_facts(item: pytest.Item) -> None:
    """Let report files tell on which machine a test ran."""
    lease = item.stash.get(LEASE, None)
    facts = None if lease is None else lease.station.facts
    if lease is not None and facts is not None:
        item.user_properties += [("machine", facts.machine), ("facts", one_line(facts))]
        item.user_properties += [(WITNESS_NOTE, note) for note in lease.notes]


def witness_lines(reports: Iterable[object]) -> list[str]:
    """What the witness could not see in a run, for its end: each kind of it once."""
    notes = [
        str(value)
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "teardown"
        for name, value in report.user_properties
        if name == WITNESS_NOTE
    ]
    counted = Counter(note.rpartition(": ")[2] for note in notes)
    return [f"ntproof: witness: {note} ({count} times)" for note, count in counted.items()]


def _fault_of(error: BaseException, lease: Lease | None) -> DriverFault | None:
    """The bugcheck or the hang behind a failure; a scenario's verdict tells of one without raising it."""
    for cause in _causes(error):
        if isinstance(cause, DriverFault):
            return cause
    if lease is None or lease.fault is not None:
        return None if lease is None else lease.fault
    crash = None if lease.machine is None else lease.machine.crash
    return None if crash is None else MachineCrashed(crash)


def _evidence(error: BaseException, fault: DriverFault | None, lease: Lease | None) -> Iterator[tuple[str, str]]:
    """What to print with a failure: the bugcheck behind it, and the verdicts that are not its message already."""
    if isinstance(fault, MachineCrashed):
        yield "bugcheck", fault.report.render()
    for verdict in () if lease is None else lease.reached():
        if (text := verdict.render()) not in str(error):
            yield "verdict", text


def _keep(
    item: pytest.Item, report: pytest.TestReport, lease: Lease | None, fault: DriverFault | None, text: str
) -> None:
    """Keep what shows a fault, and tell where in the report and in the test's properties."""
    if lease is None:
        return
    kept: list[Path] = []
    if isinstance(fault, MachineCrashed):
        crash = fault.report
        parameters = ", ".join(f"0x{one:X}" for one in crash.parameters)
        item.user_properties.append(("bugcheck", f"0x{crash.code:X} {crash.name} ({parameters})"))
        kept += crash.artefacts
    elif fault is not None:
        item.user_properties.append(("hang", str(fault)))
        kept += fault.artefacts if isinstance(fault, DriverHung) else ()
    try:
        kept += _write(lease, text)
    except OSError as failure:
        report.sections.append(("artefacts", f"not all could be kept: {failure}"))
    item.user_properties += [("artefact", str(path)) for path in kept]
    if kept:
        report.sections.append(("artefacts", "\n".join(map(str, kept))))


def _write(lease: Lease, text: str) -> list[Path]:
    kept = [lease.artefacts.write_report(text), *lease.artefacts.write_captures(lease.captures)]
    if lease.machine is not None and lease.read:
        kept.append(lease.artefacts.write_read(lease.machine.facts, lease.read))
    return [*kept, *lease.artefacts.write_logs(lease.logs)]


def _short(item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException]) -> ReprExceptionInfo | ExceptionChainRepr:
    """The test's own lines, then the message: how the harness noticed is of no use to the reader.

    The message is what pytest repeats in its summary and a junit file has first.
    """
    message = f"{type(excinfo.value).__name__}: {excinfo.value}"
    shown = excinfo.getrepr(style="native")
    lines = []
    for entry in excinfo.traceback:
        if entry.path == item.path:
            lines.append(f"{item.nodeid.split('::')[0]}:{entry.lineno + 1}: in {entry.name}")
            lines.append(f"    {str(entry.statement).strip()}")
            if shown.reprcrash is not None:
                shown.reprcrash.path, shown.reprcrash.lineno = str(entry.path), entry.lineno + 1
    lines += [f"E   {line}" for line in message.splitlines()]
    for text in shown.reprtraceback.reprentries:
        text.lines = [f"{line}\n" for line in lines]
    if shown.reprcrash is not None:
        shown.reprcrash.message = message
    return shown


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from; nothing keeps an error from being its own cause."""
    met: set[int] = set()
    seen: BaseException | None = error
    while seen is not None and id(seen) not in met:
        met.add(id(seen))
        yield seen
        seen = seen.__cause__
