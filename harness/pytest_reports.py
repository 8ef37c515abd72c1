"""How faults reach pytest's reports: each on the side of its owner.

a fault of the driver under test   a failure, whichever phase it came in, with the crash report in full
a machine that failed              an error; later tests on that machine skip with this first cause
an ability the machine lacks       a skip with its reason
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

from harness.errors import BuildError, HarnessError
from harness.lease import HistoryDiscrepancy, Lease
from harness.machines import DriverUnusable, StationUnusable, UncleanUnload
from vm.errors import (
    DriverFault,
    MachineBroken,
    MachineConfigurationError,
    MachineCrashed,
    MachineError,
    UnsupportedByMachine,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

LEASE: Final = pytest.StashKey[Lease]()
"""What an item does with its station."""

_DRIVER_OWNED: Final = (DriverFault, DriverUnusable, UncleanUnload, HistoryDiscrepancy)
_MACHINE_OWNED: Final = (MachineBroken, MachineConfigurationError, BuildError)


@contextmanager
def skipping() -> Iterator[None]:
    """Turn what the machine cannot do, or no longer can, into a skip with its reason."""
    try:
        yield
    except UnsupportedByMachine as error:
        pytest.skip(f"the machine cannot do this: {error}")
    except StationUnusable as error:
        pytest.skip(f"not run after an earlier error: {error}")


def place_on_owner(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Give a failed report the phase and the text that fit the owner of the fault.

    pytest, its junit file and xdist tell failures from errors by the phase alone: what goes wrong in the call is a
    failure, in the setup an error.
    """
    if call.excinfo is None or not report.failed:
        return
    error = call.excinfo.value
    lease = item.stash.get(LEASE, None)
    if isinstance(error, _DRIVER_OWNED):
        if report.when == "setup":
            report.when = "call"
    elif isinstance(error, _MACHINE_OWNED):
        report.when = "setup"
        if lease is not None:
            lease.station.give_up(str(error))
    if isinstance(error, (MachineError, HarnessError)):
        report.longrepr = _short(item, call.excinfo)
    report.sections += _evidence(error, lease)


def _evidence(error: BaseException, lease: Lease | None) -> Iterator[tuple[str, str]]:
    """What to print with a failure: the bugcheck behind it, and the verdicts that are not its message already."""
    crashed = next((cause for cause in _causes(error) if isinstance(cause, MachineCrashed)), None)
    if crashed is not None:
        yield "bugcheck", crashed.report.render()
    for verdict in () if lease is None else lease.reached():
        if (text := verdict.render()) not in str(error):
            yield "verdict", text


def _short(item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException]) -> str:
    """The test's own lines, then the message: how the harness noticed is of no use to the reader."""
    lines = []
    for entry in excinfo.traceback:
        if entry.path == item.path:
            lines.append(f"{item.nodeid.split('::')[0]}:{entry.lineno + 1}: in {entry.name}")
            lines.append(f"    {str(entry.statement).strip()}")
    lines += [f"E   {line}" for line in f"{type(excinfo.value).__name__}: {excinfo.value}".splitlines()]
    return "\n".join(lines)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__
