"""What it means when a guest does not answer: a crash, a hang, or trouble of the infrastructure.

The hypervisor is asked first. A guest that panicked crashed, whatever the connection said. A domain that is off, a
guest that answers again, another certificate: the machine broke, not the driver. What is left is a guest that runs and
does not come back; with a driver loaded that is a hang, which an NMI turns into a bugcheck, so that there is a dump.
"""

from __future__ import annotations

from typing import Final

from vm.errors import DriverFault, DriverHung, MachineBroken, MachineCrashed
from vm.machine import CrashReport
from vm.windows.agent.errors import STUCK, AgentRefused, AgentTimedOut
from vm.windows.hypervisor.crash import GuestPanic, crash_report
from vm.windows.leased_domain import DomainState, LeasedDomain
from vm.windows.machine.access import Patience
from vm.windows.machine.evidence import Evidence, has_dump
from vm.windows.machine.link import GuestLink
from vm.windows.remoting.errors import (
    ConnectionFailed,
    ConnectionLost,
    GuestNotResponding,
    GuestRestarted,
    RemotingError,
    RequestRefused,
)

TOLD_WITHIN: Final = 1.0
"""Seconds by which a panic may be told later than the connection broke over it."""
_OTHER_WAY: Final = 15.0
"""Seconds for remoting to answer where SSH did not, although the guest had all the time it may take for that."""
_SILENT: Final = (AgentTimedOut, GuestNotResponding)
"""Nothing came back in time. A command of remoting that does not end is none of these: the guest says so itself."""
_GONE: Final = (ConnectionLost, ConnectionFailed)


class Diagnosis:
    """Tells what happened to one machine.

    Args:
        domain: is asked first.
        link: is tried again.
        evidence: keeps what shows it.
        patience: for how long.
    """

    def __init__(self, domain: LeasedDomain, link: GuestLink, evidence: Evidence, patience: Patience) -> None:
        self._domain = domain
        self._link = link
        self._evidence = evidence
        self._patience = patience

    def of(self, error: MachineBroken, activity: str, *, driver_loaded: bool) -> DriverFault | MachineBroken:
        """What an error means.

        Args:
            error: what a call met.
            activity: what it was doing.
            driver_loaded: whether a driver was started since the machine was put back.
        """
        if not isinstance(error, RemotingError):
            return error
        try:
            if (ended := self._ended(error, activity)) is not None:
                return ended
            if isinstance(error, AgentRefused) and error.error == STUCK:
                return self.hang("the driver neither returns nor completes what it was asked", activity)
            if isinstance(error, _SILENT) or (isinstance(error, _GONE) and not self._answers(error)):
                # Trying again takes long enough for the guest to end meanwhile.
                return self._ended(error, activity) or self._silent(error, activity, driver_loaded=driver_loaded)
        except MachineBroken as worse:
            return MachineBroken(f"{worse} (found out after: {error})")
        return MachineBroken(f"{error} (while: {activity})")

    def hang(self, reason: str, activity: str) -> DriverFault:
        """A driver that does not come back: interrupt the guest and keep what shows it. Raises MachineBroken."""
        self._domain.inject_nmi()
        panic = self._domain.wait_for_panic(self._patience.panic)
        folder, files = self._evidence.collect("hang", activity)
        if panic is not None and not has_dump(files) and folder is not None:
            _, more = self._evidence.from_dump(panic, folder)
            files += more
        answered = f"an NMI stopped it with {crash_report(panic).summary()}" if panic else "it did not react to an NMI"
        return DriverHung(f"{reason} (while: {activity}); {answered}", files)

    def _ended(self, error: RemotingError, activity: str) -> DriverFault | MachineBroken | None:
        """What the hypervisor says: a crash, a domain that is off or stands still; None for a guest that runs."""
        panic = self._panic(error)
        if panic is not None:
            return MachineCrashed(self._crashed(panic, activity))
        state = self._domain.state()
        if state is DomainState.RUNNING:
            return None
        ended = self._domain.details.get("ended", "see the hypervisor's log")
        return MachineBroken(
            f"{self._domain.name} is {state.value}, and nobody asked for it ({ended}; while: {activity})"
        )

    def _panic(self, error: RemotingError) -> GuestPanic | None:
        """The guest's panic; where the connection broke, it may be told a moment later."""
        panic, state = self._domain.panic(), self._domain.state()
        if panic is not None or state is DomainState.OFF:
            return panic
        if state is DomainState.CRASHED:
            return self._domain.wait_for_panic(self._patience.panic) or GuestPanic(None, (0, 0, 0, 0), "domain state")
        if isinstance(error, _GONE) and not isinstance(error, GuestRestarted):
            return self._domain.wait_for_panic(min(self._patience.panic, TOLD_WITHIN))
        return None

    def _crashed(self, panic: GuestPanic, activity: str) -> CrashReport:
        folder, files = self._evidence.collect("crash", activity)
        if panic.code is None or (folder is not None and not has_dump(files)):
            panic, more = self._evidence.from_dump(panic, folder)
            files += more
        return crash_report(panic, activity=activity, artefacts=files)

    def _silent(self, error: RemotingError, activity: str, *, driver_loaded: bool) -> DriverFault | MachineBroken:
        if not driver_loaded:
            return MachineBroken(f"the guest does not answer, and no driver of the run is loaded: {error}")
        return self.hang(f"the guest does not come back: {error}", activity)

    def _answers(self, error: RemotingError) -> bool:
        """Whether the guest can be reached again, so that it did not hang: a connection broke, or it restarted."""
        if isinstance(error, GuestRestarted):
            return True
        self._link.drop(keep_lines=True)
        try:
            self._link.wait_ready(self._patience.again, alive=lambda: None)
        except _GONE:
            return self._answers_remoting()
        except AgentRefused:
            return True
        return True

    def _answers_remoting(self) -> bool:
        """Whether the guest can be reached the other way: then it is its SSH server that is gone."""
        try:
            self._link.session_when_ready(min(self._patience.again, _OTHER_WAY))
        except RequestRefused:
            return True
        except (*_GONE, GuestNotResponding):
            return False
        return True
