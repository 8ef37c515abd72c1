"""Runs a scenario on any machine and captures ground truth and notifications as they become known.

The runner only does and records. Whether what happened is right is for the model: a driver fault, a refused call or a
malformed answer becomes an item of the capture, and only what the machine itself or the user got wrong is raised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from harness import capture as captured
from harness.abi import AbiViolation, Rule, load_abi
from harness.capture import Capture, CaptureHeader, CaptureItem, Drained, Faulted
from harness.driver import ProcNotify
from harness.driver_file import sha256_of
from harness.errors import ConfigurationError
from harness.scenario import (
    Clone,
    Drain,
    ExitProcess,
    Launch,
    ProvideImage,
    ReadRules,
    ReadStatistics,
    Resume,
    Scenario,
    SetRules,
    StartDriver,
    Step,
    StopDriver,
    Terminate,
)
from harness.scenario_json import scenario_hash
from vm.errors import DriverFault, DriverHung, MachineCrashed, UnsupportedByMachine, Win32Error
from vm.machine import LaunchRequest, LaunchResult, Machine, RegistryValue, ServiceState

_SERVICE_DOES_NOT_EXIST = 1060


def run_scenario(
    scenario: Scenario, machine: Machine, *, image: Path | None = None, service: str | None = None
) -> Capture:
    """Run a scenario to its end and return what was captured.

    Args:
        scenario: what to do.
        machine: where. It is left as the scenario leaves it; a driver that the runner installed is removed.
        image: the driver's image, installed when no service of that name exists.
        service: name of the driver's service; by default the one in procnotify.h.

    Raises:
        UnsupportedByMachine: the machine lacks something that the scenario needs.
        ConfigurationError: no driver is installed and no image was given.
        MachineError: the machine failed.
    """
    runner = Runner(scenario, machine, image=image, service=service)
    return Capture(runner.header(), tuple(runner.items()))


class Runner:
    """One run of one scenario; `items` does the work as it is walked through.

    Attributes:
        fault: what the driver did that ended the run, None as long as it did nothing of the kind.
    """

    def __init__(
        self, scenario: Scenario, machine: Machine, *, image: Path | None = None, service: str | None = None
    ) -> None:
        self.fault: DriverFault | None = None
        self._scenario = scenario
        self._machine = machine
        self._image = image
        self._service = service if service is not None else load_abi().text("SERVICE_NAME")
        self._driver: ProcNotify | None = None
        self._pids: dict[str, int] = {}
        self._installed = False
        self._step_index: int | None = None
        self._refused = False

    def header(self) -> CaptureHeader:
        """The header of the capture."""
        facts = self._machine.facts
        digest = None if self._image is None else sha256_of(self._image)
        return CaptureHeader(
            machine=facts.machine,
            kind=facts.kind,
            build=facts.build,
            profile=facts.profile,
            details=dict(facts.details),
            driver_sha256=digest,
            scenario=self._scenario.name,
            scenario_sha256=scenario_hash(self._scenario),
            closed_world=facts.kind == "emulated",
        )

    def items(self) -> Iterator[CaptureItem]:
        """Run, and yield each item when it is known. A driver fault ends the run with a Faulted item."""
        self._require()
        try:
            yield from self._run()
        except MachineCrashed as error:
            self.fault = error
            yield self._crashed(error)
        except DriverFault as error:
            self.fault = error
            kept = error.artefacts if isinstance(error, DriverHung) else ()
            yield Faulted(self._step_index, str(error), details=tuple(f"  kept:  {path}" for path in kept))

    def _require(self) -> None:
        facts, wanted = self._machine.facts, self._scenario.requirements
        if facts.build < wanted.minimum_build:
            message = f"scenario {self._scenario.name!r} needs build {wanted.minimum_build}, this is {facts.build}"
            raise UnsupportedByMachine(message)
        if wanted.kinds and facts.kind not in wanted.kinds:
            message = f"scenario {self._scenario.name!r} is for {', '.join(wanted.kinds)} machines, not {facts.kind}"
            raise UnsupportedByMachine(message)

    def _crashed(self, error: MachineCrashed) -> Faulted:
        lines = tuple(error.report.render().splitlines()[1:])
        sourced = [f"{frame.file}:{frame.line}" for frame in error.report.frames if frame.file]
        return Faulted(self._step_index, error.report.summary(), sourced[0] if sourced else "", lines)

    def _run(self) -> Iterator[CaptureItem]:
        running = self._state() is ServiceState.RUNNING
        if running and (self._scenario.starts_driver_itself or self._scenario.processes):
            self._machine.stop_driver(self._service)
            running = False
        for process in self._scenario.processes:
            self._machine.provide_image(process.image)
            result = self._machine.launch(LaunchRequest(process.image, process.command_line))
            yield self._launched(process.label, process.image, result)
        if running:
            yield from self._open(attached=True)
        elif not self._scenario.starts_driver_itself:
            yield from self._start(None)
        for index, step in enumerate(() if self._refused else self._scenario.steps):
            self._step_index = index
            try:
                yield from self._do(step, index)
            except Win32Error as error:
                yield captured.CallFailed(index, error.code, str(error))
            if self._refused:
                break
            if self._scenario.drain_each_step and not isinstance(step, Drain):
                yield from self._drain()
        yield from self._finish()

    def _finish(self) -> Iterator[CaptureItem]:
        """Read what is left; put away a driver that the runner brought."""
        yield from self._drain()
        yield from self._statistics(None)
        if self._driver is not None and self._installed:
            yield from self._stop(None)
        self._close()
        if self._installed:
            self._machine.delete_driver(self._service)
        if not self._refused:
            yield captured.Completed()

    def _do(self, step: Step, index: int) -> Iterator[CaptureItem]:
        match step:
            case SetRules():
                yield self._set_rules(step.rules, index)
            case ProvideImage():
                self._machine.provide_image(step.path, step.kind)
                yield captured.ImageProvided(index, step.path, step.kind)
            case Launch():
                yield self._launch(step, index)
            case Clone():
                yield self._clone(step, index)
            case Resume():
                yield self._resume(step, index)
            case ExitProcess() | Terminate():
                yield self._end(step, index)
            case StartDriver():
                yield from self._start(step)
            case StopDriver():
                yield from self._drain()
                yield from self._stop(index)
            case Drain():
                yield from self._drain()
            case ReadStatistics():
                yield from self._drain()
                yield from self._statistics(index)
            case ReadRules():
                yield from self._read_rules(index)

    # Processes

    def _launch(self, step: Launch, index: int) -> CaptureItem:
        for label in (step.parent, step.creator):
            if label is not None and label not in self._pids:
                return captured.Skipped(index, label)
        parent = None if step.parent is None else self._pids[step.parent]
        creator = None if step.creator is None else self._pids[step.creator]
        flags = {"suspended": step.suspended, "two_step": step.two_step, "subsystem": step.subsystem}
        request = LaunchRequest(step.image, step.command_line, parent, creator, **flags)
        return self._launched(step.label, step.image, self._machine.launch(request), index, **flags)

    def _clone(self, step: Clone, index: int) -> CaptureItem:
        if step.of not in self._pids:
            return captured.Skipped(index, step.of)
        return self._launched(step.label, "", self._machine.clone(self._pids[step.of]), index, clone=True)

    def _launched(
        self, label: str, image: str, result: LaunchResult, index: int | None = None, **flags: bool
    ) -> captured.Launched:
        if result.succeeded and result.pid is not None:
            self._pids[label] = result.pid
        return captured.Launched(index, label, image, result, **flags)

    def _resume(self, step: Resume, index: int) -> CaptureItem:
        if step.label not in self._pids:
            return captured.Skipped(index, step.label)
        self._machine.resume(self._pids[step.label])
        return captured.Resumed(index, step.label, self._pids[step.label])

    def _end(self, step: ExitProcess | Terminate, index: int) -> CaptureItem:
        pid = self._pids.pop(step.label, None)
        if pid is None:
            return captured.Skipped(index, step.label)
        if isinstance(step, Terminate):
            self._machine.terminate_process(pid, step.status)
        else:
            self._machine.exit_process(pid, step.status)
        return captured.Ended(index, step.label, pid, step.status, isinstance(step, Terminate))

    # The driver

    def _state(self) -> ServiceState | None:
        """State of the driver's service, None when there is no such service."""
        try:
            return self._machine.driver_state(self._service)
        except Win32Error as error:
            if error.code == _SERVICE_DOES_NOT_EXIST:
                return None
            raise

    def _start(self, step: StartDriver | None) -> Iterator[CaptureItem]:
        queue_bytes = None if step is None else step.queue_bytes
        try:
            self._install(queue_bytes)
            self._machine.start_driver(self._service)
        except Win32Error as error:
            # Without the driver nothing that follows means anything.
            self._refused = True
            yield captured.DriverStarted(self._step_index, error.code or 1)
            return
        yield from self._open(attached=False)

    def _install(self, queue_bytes: int | None) -> None:
        """Have the service exist, with these parameters."""
        exists = self._state() is not None
        if self._image is None:
            if not exists:
                message = f"no service {self._service!r} exists on the machine; give the driver's image"
                raise ConfigurationError(message)
            if queue_bytes is not None:
                message = "the scenario sets the driver's queue_bytes, which needs the driver's image to reinstall it"
                raise ConfigurationError(message)
            return
        if exists:
            if queue_bytes is None and not self._installed:
                return
            self._machine.delete_driver(self._service)
        parameters: Mapping[str, RegistryValue] | None = None
        if queue_bytes is not None:
            parameters = {load_abi().text("PARAMETER_QUEUE_BYTES"): queue_bytes}
        self._machine.install_driver(self._service, self._image, parameters=parameters)
        self._installed = True

    def _open(self, *, attached: bool) -> Iterator[CaptureItem]:
        """Open the device and tell what the driver says of itself; what an earlier run left queued is discarded."""
        index = self._step_index
        try:
            self._driver = ProcNotify(self._machine)
            if attached:
                self._driver.read_available()
            version, rules = self._driver.version(), self._driver.get_rules()
            yield captured.DriverStarted(index, 0, attached, version, self._driver.statistics(), rules)
        except AbiViolation as error:
            yield captured.DriverStarted(index, 0, attached)
            yield captured.OutputViolated(index, error.offset, error.what)
        except Win32Error as error:
            yield captured.DriverStarted(index, 0, attached)
            yield captured.CallFailed(index, error.code, str(error))

    def _stop(self, index: int | None) -> Iterator[CaptureItem]:
        self._close()
        try:
            self._machine.stop_driver(self._service)
        except Win32Error as error:
            yield captured.DriverStopped(index, error.code or 1)
            return
        yield captured.DriverStopped(index, 0)

    def _close(self) -> None:
        if self._driver is not None:
            self._driver.close()
            self._driver = None

    def _set_rules(self, rules: tuple[Rule, ...], index: int) -> CaptureItem:
        if self._driver is None:
            return captured.CallFailed(index, 0, "SET_RULES: the driver's device is not open")
        try:
            self._driver.set_rules(rules)
        except Win32Error as error:
            return captured.RulesSet(index, rules, error.code or 1)
        return captured.RulesSet(index, rules, 0)

    def _drain(self) -> Iterator[CaptureItem]:
        if self._driver is None:
            return
        try:
            yield from self._driver.read_available()
        except AbiViolation as error:
            yield captured.OutputViolated(self._step_index, error.offset, error.what)
        except Win32Error as error:
            yield captured.CallFailed(self._step_index, error.code, str(error))
        else:
            yield Drained(self._step_index)

    def _statistics(self, index: int | None) -> Iterator[CaptureItem]:
        if self._driver is None:
            return
        try:
            yield captured.StatisticsRead(index, self._driver.statistics())
        except AbiViolation as error:
            yield captured.OutputViolated(index, error.offset, error.what)
        except Win32Error as error:
            yield captured.CallFailed(index, error.code, str(error))

    def _read_rules(self, index: int) -> Iterator[CaptureItem]:
        if self._driver is None:
            yield captured.CallFailed(index, 0, "GET_RULES: the driver's device is not open")
            return
        try:
            yield captured.RulesRead(index, self._driver.get_rules())
        except AbiViolation as error:
            yield captured.OutputViolated(index, error.offset, error.what)


__all__ = ["Runner", "run_scenario"]
