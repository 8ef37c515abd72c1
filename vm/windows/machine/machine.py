"""WindowsMachine: the Machine protocol on a Windows guest in a leased domain.

What happens often goes as a line to the agent in the guest; what is administrative goes over PowerShell Remoting. When
the hypervisor tells of a panic, every connection is cut, so that a call that waits for the guest ends at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vm import win32
from vm.errors import DriverFault, MachineBroken, MachineConfigurationError, MachineCrashed, UnsupportedByMachine
from vm.machine import (
    Account,
    Checkpoint,
    CrashReport,
    DeviceAccess,
    ImageKind,
    LaunchRequest,
    LaunchResult,
    MachineFacts,
    RegistryValue,
    ServiceState,
    WitnessedLog,
)
from vm.verifier import VerifierSettings
from vm.windows.agent.errors import AgentRefused
from vm.windows.agent.operations import error_of
from vm.windows.hypervisor.reset import Trace, decide
from vm.windows.leased_domain import LeasedDomain
from vm.windows.machine.access import GuestAccess, Patience
from vm.windows.machine.devices import DeviceTable, WindowsHandle
from vm.windows.machine.drivers import Drivers
from vm.windows.machine.evidence import Evidence
from vm.windows.machine.facts import machine_facts
from vm.windows.machine.faults import TOLD_WITHIN, Diagnosis
from vm.windows.machine.images import Images
from vm.windows.machine.link import GuestLink
from vm.windows.machine.processes import Processes
from vm.windows.machine.undo import Remains, undo
from vm.windows.machine.witness import newest_records, records_since
from vm.windows.remoting.errors import ConnectionFailed, ConnectionLost, RemotingError
from vm.windows.remoting.guest import GuestFacts

logger = logging.getLogger(__name__)

_CLOSED = "the machine was closed; make a new one"


class WindowsMachine:
    """A Windows guest for drivers.

    Args:
        name: its name as given to ``--vm``.
        domain: the guest's, in its golden state and running; closed with this.
        access: how the guest is reached.
        profile: the profile of its image.
        patience: how long things may take.
        artefacts: folder for evidence of faults; None to keep nothing.
        occasion: names the folder in it for what is kept now.
        verifier: what Driver Verifier does with each driver.
        progress: is told in a line what takes long.

    Attributes:
        link: every connection to the guest.
        patience: how long things may take.
        devices: what is open in the agents.
        era: counts how often the machine was put back; what was opened in an earlier one is void.

    Raises:
        MachineBroken: the guest cannot be reached.
    """

    def __init__(
        self,
        name: str,
        domain: LeasedDomain,
        access: GuestAccess,
        *,
        profile: str,
        patience: Patience | None = None,
        artefacts: Path | None = None,
        occasion: Callable[[], str] = lambda: "machine",
        verifier: VerifierSettings | None = None,
        progress: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.patience = patience or Patience()
        self.devices = DeviceTable()
        self.era = 0
        self._name = name
        self._profile = profile
        self._domain = domain
        self._progress = progress
        self.link = GuestLink(domain, access, self.patience)
        evidence = Evidence(
            domain, self.link, self.patience, lambda: None if artefacts is None else artefacts / occasion(), progress
        )
        self._diagnosis = Diagnosis(domain, self.link, evidence, self.patience)
        self._processes = Processes(self.link)
        self._images = Images(self.link)
        self._drivers = Drivers(self.link, self.patience, verifier)
        self._traces: set[Trace] = set()
        self._facts: GuestFacts | None = None
        self._agent_pid = 0
        self._stopped: DriverFault | MachineBroken | None = None
        self._closed = False
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    # What it is

    @property
    def facts(self) -> MachineFacts:
        """What this machine is."""
        return machine_facts(self._name, self._profile, self._guest_facts(), self._domain.details, self._drivers.hashes)

    @property
    def agent_pid(self) -> int:
        """The process that makes launches with no creator of their own."""
        return self._agent_pid

    @property
    def crash(self) -> CrashReport | None:
        """The bugcheck that ended the current run of the machine, or None."""
        if self._stopped is None and not self._closed and self.link.is_cut:
            # The hypervisor told of it while no call was under way.
            self._stop(ConnectionLost("the guest is gone", endpoint=self._domain.name), "no call was under way")
        return self._stopped.report if isinstance(self._stopped, MachineCrashed) else None

    @property
    def round_trips(self) -> int:
        """How many times an answer of an agent was waited for since the machine was put back, for measurements."""
        return sum(agent.client.calls for agent in self.link.agents())

    # Calls, and what becomes of them

    @contextmanager
    def calling(self, activity: str, era: int | None = None) -> Iterator[None]:
        """One call to the guest: errors of the connection become what they mean.

        Args:
            activity: words for reports.
            era: since which put-back what is called on is good; Win32Error ERROR_INVALID_HANDLE 6 if there was another.
        """
        self._check_usable()
        if era is not None and era != self.era:
            raise error_of(win32.ERROR_INVALID_HANDLE, "DuplicateHandle", detail="the machine was put back since")
        try:
            yield
        except MachineBroken as error:
            found = self._stop(error, activity)
            if found is error:
                raise
            raise found from error

    def _check_usable(self) -> None:
        if self._closed:
            raise MachineConfigurationError(_CLOSED)
        if self._stopped is not None:
            raise self._stopped

    def _stop(self, error: MachineBroken, activity: str) -> DriverFault | MachineBroken:
        """The machine stops; the error that this and every later call raises until it is put back."""
        found = self._diagnosis.of(error, activity, driver_loaded=Trace.DRIVER_STARTED in self._traces)
        if isinstance(found, MachineCrashed):
            self._traces.add(Trace.CRASHED)
        else:
            self._traces.add(Trace.HUNG if isinstance(found, DriverFault) else Trace.CONNECTION_LOST)
        self._stopped = found
        logger.info("%s: %s", self._name, found)
        return found

    def _attach(self) -> None:
        """Reach the guest in its golden state, and watch its domain."""
        self._domain.when_stopped(None)
        self.link.drop()
        self._domain.when_stopped(self.link.cut)
        try:
            agent = self.link.wait_ready(self.patience.connect, self._alive)
            self._agent_pid = agent.hello().pid
        except (ConnectionFailed, ConnectionLost) as error:
            raise MachineBroken(f"{self._name}: the guest cannot be reached: {error}") from error

    def _alive(self) -> None:
        if self.link.is_cut:
            raise MachineBroken(f"{self._domain.name} is {self._domain.state().value} while it should come up")

    def _guest_facts(self) -> GuestFacts:
        if self._facts is None:
            with self.calling("read what the guest says of itself"):
                self._facts = self.link.guest().facts()
        return self._facts

    # Services

    def install_driver(
        self, service: str, image: Path, *, parameters: Mapping[str, RegistryValue] | None = None
    ) -> None:
        """Send a driver and create its service, see the Machine protocol."""
        with self.calling(f"install service {service}"):
            self._traces.add(Trace.SERVICE_CREATED)
            self._drivers.install(service, image, parameters or {})

    def start_driver(self, service: str) -> None:
        """StartService, see the Machine protocol. Raises MachineConfigurationError where no driver can be started."""
        facts = self._guest_facts()
        with self.calling(f"start service {service}"):
            self._traces.add(Trace.DRIVER_STARTED)
            self._drivers.start(service, facts)

    def stop_driver(self, service: str) -> None:
        """ControlService(STOP), see the Machine protocol."""
        with self.calling(f"stop service {service}"):
            self._drivers.stop(service)

    def delete_driver(self, service: str) -> None:
        """DeleteService, see the Machine protocol."""
        with self.calling(f"delete service {service}"):
            self._drivers.delete(service)

    def driver_state(self, service: str) -> ServiceState:
        """QueryServiceStatus, see the Machine protocol."""
        with self.calling(f"query service {service}"):
            return self._drivers.state(service)

    # Devices

    def open_device(
        self,
        path: str,
        access: DeviceAccess = DeviceAccess.READ | DeviceAccess.WRITE,
        *,
        account: Account = Account.ADMINISTRATOR,
    ) -> WindowsHandle:
        """CreateFile on a device, see the Machine protocol."""
        with self.calling(f"open {path} as {account.value}"):
            self._traces.add(Trace.DEVICE_OPENED)
            agent = self.link.agent(account)
            name = self.devices.new_handle(agent)
            agent.open(name, path, read=DeviceAccess.READ in access, write=DeviceAccess.WRITE in access)
        return WindowsHandle(self, agent, name, path)

    # Processes

    def provide_image(self, path: str, kind: ImageKind = ImageKind.NORMAL) -> None:
        """Make an executable exist, see the Machine protocol."""
        with self.calling(f"write {path}"):
            self._traces.add(Trace.IMAGE_PROVIDED)
            self._images.provide(path, kind)

    def launch(self, request: LaunchRequest) -> LaunchResult:
        """CreateProcess, see the Machine protocol."""
        with self.calling(f"launch {request.image}"):
            self._traces.add(Trace.PROCESSES_LAUNCHED)
            return self._processes.launch(request, self._agent_pid, self._images.kind_of(request.image))

    def clone(self, pid: int) -> LaunchResult:
        """Raises UnsupportedByMachine."""
        self._check_usable()
        raise UnsupportedByMachine(
            f"process {pid} cannot be cloned: RtlCloneUserProcess clones its caller, and child.exe has no order for it"
        )

    def resume(self, pid: int) -> None:
        """ResumeThread on the first thread, see the Machine protocol."""
        with self.calling(f"resume process {pid}"):
            self._processes.resume(pid)

    def exit_process(self, pid: int, status: int = 0) -> None:
        """ExitProcess, see the Machine protocol."""
        with self.calling(f"exit of process {pid}"):
            self._processes.exit(pid, status)

    def terminate_process(self, pid: int, status: int = 1) -> None:
        """TerminateProcess, see the Machine protocol."""
        with self.calling(f"termination of process {pid}"):
            self._processes.terminate(pid, status)

    def running_processes(self) -> Mapping[int, str]:
        """Processes launched through this object that still run."""
        with self.calling("look which processes run"):
            return self._processes.running()

    def system_time(self) -> int:
        """100 ns units since 1601 UTC."""
        with self.calling("read the clock"):
            return self.link.agent().time()

    # Witness

    def witness_mark(self) -> Mapping[str, int]:
        """The newest record of each of the guest's logs, see WitnessedMachine."""
        with self.calling("mark the event logs"):
            return newest_records(self.link.guest())

    def witnessed(self, mark: Mapping[str, int]) -> tuple[WitnessedLog, ...]:
        """What the guest recorded of processes since a mark, see WitnessedMachine."""
        with self.calling("read the event logs"):
            return records_since(self.link.guest(), mark)

    # Whole machine

    def reset(self, *, fresh: bool = False) -> None:
        """Undo what was done, or put the guest back where that is not enough, see the Machine protocol."""
        if self._closed:
            raise MachineConfigurationError(_CLOSED)
        if self._stopped is None and (crash := self.crash) is not None:
            raise MachineCrashed(crash)
        self._note_settings()
        decision = decide(self._traces, fresh=fresh)
        if not decision.revert and self._traces:
            self._traces |= self._undo()
            decision = decide(self._traces)
        if decision.revert:
            logger.info("%s is put back: %s", self._name, "; ".join(decision.reasons))
            self._put_back()
        self._forget(reverted=decision.revert)

    def debug_output(self) -> list[str]:
        """Nothing: without a debugger nobody outside sees what drivers print."""
        return []

    def checkpoint(self) -> Checkpoint:
        """Raises UnsupportedByMachine."""
        raise UnsupportedByMachine("a Windows machine keeps one state, the one it was handed out in: use reset")

    def restore(self, checkpoint: Checkpoint) -> None:  # noqa: ARG002 - there are none
        """Raises UnsupportedByMachine."""
        raise UnsupportedByMachine("a Windows machine keeps one state, the one it was handed out in: use reset")

    def close(self) -> None:
        """Give the machine up."""
        if self._closed:
            return
        self._closed = True
        try:
            self._domain.when_stopped(None)
            # The domain is destroyed at once: nobody in it needs to be told.
            self.link.cut()
            self.link.close()
        finally:
            self._domain.close()

    def _note_settings(self) -> None:
        if self._drivers.verifies():
            self._traces.add(Trace.VERIFIER_CHANGED)
        if self._drivers.changed_others:
            self._traces.add(Trace.SERVICE_CHANGED)

    def _undo(self) -> set[Trace]:
        """Undo everything step by step; what could not be."""
        try:
            remains = Remains(
                self.link.agent(),
                self.link.release_others(),
                self.devices.requests,
                self.devices.handles,
                tuple(self._drivers.services()),
                tuple(self._images.provided()),
            )
            return undo(remains, deadline=self.patience.driver)
        except RemotingError as error:
            stuck = isinstance(error, AgentRefused)
            if stuck or self._domain.wait_for_panic(min(self.patience.panic, TOLD_WITHIN)) is not None:
                raise self._stop(error, "undo what the run left") from error
            logger.warning("%s: while a run was undone: %s", self._name, error)
            return {Trace.CONNECTION_LOST}

    def _put_back(self) -> None:
        """Revert the domain; tried once more where it or the way to its guest fails."""
        for last in (False, True):
            try:
                self._domain.when_stopped(None)
                self.link.drop()
                self._domain.revert()
                self._attach()
            except MachineBroken as error:
                if last:
                    self._traces.add(Trace.CONNECTION_LOST)
                    self._stopped = error
                    raise
                logger.warning("%s: %s; trying once more", self._name, error)
            else:
                return

    def _forget(self, *, reverted: bool) -> None:
        self.era += 1
        self._stopped = None
        self._traces.clear()
        self.devices.clear()
        self._processes.clear()
        self._images.clear()
        self._drivers.clear(reverted=reverted)
