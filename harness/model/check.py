"""Judges a capture: each notification against ground truth, and the whole against what is true of every history.

The checker is fed item by item. It holds what is due, the processes that run and the rules in force, so its memory
grows with live processes and never with the length of the capture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from harness import capture as captured
from harness.abi import Statistics
from harness.capture import Capture, CaptureHeader, CaptureItem
from harness.errors import InputError
from harness.model import compare
from harness.model.counters import Reported, check_statistics
from harness.model.due import DueNotifications
from harness.model.ground_truth import require_launch
from harness.model.observe import Observer, Sequence
from harness.model.predict import CAPABILITY_SUBSYSTEM_PROCESSES, ExpectedCreate, ExpectedExit, predict_launch
from harness.model.progress import Progress
from harness.model.rules import MAXIMUM_RULES, RuleSet, is_valid, upcase
from harness.model.tolerances import CLONE_NOTIFIED
from harness.model.windows import ERROR_INVALID_PARAMETER
from harness.notification import Create, Exit, Gap, Notification, canonical_text
from harness.scenario import Clone, Launch, Scenario
from harness.verdict import SPEC, Discrepancy, Findings, Kind, Verdict, show_error, show_text
from vm.machine import ImageKind

ABI_VERSION: Final = 1
CAPABILITY_DENY: Final = 0x1
CAPABILITY_GAPS: Final = 0x2

_RULES = "procnotify.h: a set is refused whole with STATUS_INVALID_PARAMETER when any part of it is off"
_DUE = f"{SPEC} sections 1 and 3: the routine runs in the creating call, and before the process is gone"
_GAP = "procnotify.h PROCNOTIFY_GAP: Count notifications were lost"


def check(scenario: Scenario | None, capture: Capture) -> Verdict:
    """Judge a capture.

    Args:
        scenario: what was done. None: the capture's own ground truth is used, as far as it goes; a history that
            holds notifications alone is judged by the invariants of every history (observe mode).
        capture: what was captured; its items are walked through once.

    Raises:
        InputError: the capture is malformed or not of this scenario.
    """
    checker = Checker(capture.header, scenario)
    for item in capture.items:
        checker.feed(item)
    return checker.finish()


@dataclass(frozen=True, slots=True)
class _Process:
    """A process that runs, by ground truth."""

    pid: int
    step: int | None
    clone: bool
    subsystem: bool


class Checker:
    """Judges one capture as it streams by: `feed` each item, then `finish`."""

    def __init__(self, header: CaptureHeader, scenario: Scenario | None = None) -> None:
        self._header = header
        self._scenario = scenario
        self._findings = Findings()
        self._noted = Findings(limit=8)
        self._observer = Observer(Sequence.CONTIGUOUS if header.contiguous else Sequence.INCREASING, self._noted)
        self._progress = Progress(header, scenario)
        self._due = DueNotifications()
        self._processes: dict[str, _Process] = {}
        self._images: dict[str, ImageKind] = {}
        self._rules = RuleSet()
        self._earlier_rules: list[RuleSet] = []
        self._capabilities = 0
        self._running = False
        self._gap_budget = 0
        self._base: tuple[Statistics, int, int, int] | None = None
        self._denied = 0
        self._rule_sets = 0
        self._drained = False
        self._launches = 0
        self._over = False
        self._handlers: Mapping[type[CaptureItem], Callable[..., None]] = {
            captured.Launched: self._launched,
            captured.Resumed: _nothing,
            captured.Ended: self._ended,
            captured.ImageProvided: self._image_provided,
            captured.DriverStarted: self._driver_started,
            captured.DriverStopped: self._driver_stopped,
            captured.RulesSet: self._rules_set,
            captured.RulesRead: self._rules_read,
            captured.StatisticsRead: self._statistics_read,
            captured.Drained: self._drained_now,
            captured.Skipped: self._skipped,
            captured.CallFailed: self._call_failed,
            captured.OutputViolated: self._output_violated,
            captured.Faulted: self._faulted,
            captured.Completed: self._completed,
        }

    def feed(self, item: CaptureItem) -> None:
        """Judge the next item. Raises InputError when it cannot belong to the scenario."""
        kind = type(item)
        if kind is Create or kind is Exit or kind is Gap:
            self._notification(item)  # type: ignore[arg-type]
        else:
            self._progress.follow(item)
            self._handlers[kind](item)

    def finish(self) -> Verdict:
        """The verdict; the capture ends here."""
        if self._progress.has_truth and not self._over:
            expected, seen = "a capture that ends with the scenario", "its end is missing"
            self._report(Kind.INCOMPLETE, expected, seen, None, "", "harness.capture: Completed ends a capture")
        elif self._running:
            self._settle(final=True, step=None)
        statistics = {"launches": self._launches, **self._observer.statistics()}
        return self._findings.verdict(statistics, self._header.scenario or self._header.machine)

    # Notifications

    def _notification(self, notification: Notification) -> None:
        before = self._findings.total
        if isinstance(notification, Create):
            self._create(notification)
        elif isinstance(notification, Exit):
            self._exit(notification)
        else:
            self._gap_budget += notification.count
        self._observer.feed(notification)
        if self._noted.total:
            # What the model has explained already is not told a second time.
            if self._findings.total == before:
                for found in self._noted.discrepancies:
                    self._findings.add(found)
            self._noted.discrepancies.clear()
            self._noted.total = 0

    def _create(self, create: Create) -> None:
        if create.status is not None and create.status & 0x80000000:
            self._denied += 1
        taken = self._due.take_create(create) if self._due else None
        if taken is None:
            self._unforeseen_create(create)
            return
        assert isinstance(taken.expected, ExpectedCreate)
        if taken.expected.tolerance is not None:
            self._findings.tolerated[taken.expected.tolerance.row] += 1
        for found in compare.create(taken.expected, create, overtaken=taken.overtaken):
            self._findings.add(found)

    def _exit(self, exit_: Exit) -> None:
        taken = self._due.take_exit(exit_) if self._due else None
        if taken is None:
            if self._header.closed_world:
                again = self._observer.is_gone(exit_.pid)
                kind = Kind.DUPLICATE_EXIT if again else Kind.UNEXPECTED_EXIT
                self._surprise(kind, "no exit here", f"an exit of pid {exit_.pid}", exit_)
            return
        assert isinstance(taken.expected, ExpectedExit)
        for found in compare.exit_(taken.expected, exit_, overtaken=taken.overtaken):
            self._findings.add(found)

    def _unforeseen_create(self, create: Create) -> None:
        if self._header.closed_world:
            kind = Kind.DUPLICATE_CREATE if self._observer.is_live(create.pid) else Kind.UNEXPECTED_CREATE
            seen = f"a creation of pid {create.pid}, {show_text(create.image_name)}"
            self._surprise(kind, "no creation here", seen, create)
        elif self._running and create.status is not None:
            # Another program's process: its cause is unknown, but the rules hold for it as for any.
            allowed = {rules.status_for(create.image_name) or 0 for rules in (self._rules, *self._earlier_rules)}
            for found in compare.foreign_denial(allowed, create):
                self._findings.add(found)

    def _surprise(self, kind: Kind, expected: str, seen: str, notification: Create | Exit) -> None:
        process = f"pid {notification.pid}"
        self._findings.add(Discrepancy(kind, expected, seen, None, process, notification.sequence, _DUE))

    # Processes

    def _launched(self, item: captured.Launched) -> None:
        self._drained = False
        self._launches += 1
        result = item.result
        if self._scenario is not None and item.step is not None:
            step = self._scenario.steps[item.step]
            assert isinstance(step, (Launch, Clone))
            require_launch(item, step, lambda label: self._processes[label].pid)
        if result.succeeded and result.pid is not None:
            self._processes[item.label] = _Process(result.pid, item.step, item.clone, item.subsystem)
        if not self._running or not result.notified:
            return
        kind = self._images.get(_file_key(item.image), ImageKind.NORMAL)
        prediction = predict_launch(item, self._rules, kind, self._capabilities)
        if prediction.create is not None:
            self._due.push(prediction.create)
        if result.pid is not None and (prediction.create is None or item.clone):
            self._observer.allow_unreported(result.pid)
        if not result.succeeded:
            exit_ = prediction.exit
            if exit_ is None and prediction.create is not None:
                exit_ = ExpectedExit(item.step, item.label, result.pid, result.status, may_be_late=True)
            if exit_ is not None:
                self._due.push(exit_)
        for found in compare.caller(item, prediction):
            self._findings.add(found)

    def _ended(self, item: captured.Ended) -> None:
        self._drained = False
        process = self._processes.pop(item.label, None)
        if process is None:
            raise InputError(f"capture: process {item.label!r} ends in step {item.step} but never started")
        if not self._running or (process.subsystem and not self._capabilities & CAPABILITY_SUBSYSTEM_PROCESSES):
            return
        tolerance = CLONE_NOTIFIED if process.clone else None
        self._due.push(ExpectedExit(item.step, item.label, item.pid, item.status, tolerance=tolerance))

    def _image_provided(self, item: captured.ImageProvided) -> None:
        self._images[_file_key(item.path)] = item.kind

    def _skipped(self, item: captured.Skipped) -> None:
        if item.label in self._processes:
            raise InputError(f"capture: step {item.step} was skipped although {item.label!r} runs")

    # The driver

    def _driver_started(self, item: captured.DriverStarted) -> None:
        if item.error:
            self._over = True
            self._control("the driver starts", show_error(item.error), item.step)
            return
        self._running = True
        self._drained = True
        self._rules = RuleSet(item.rules or ())
        self._earlier_rules.clear()
        self._rule_sets = 0
        known = self._header.closed_world and item.statistics is not None
        following = item.statistics.next_sequence if known and item.statistics else 0 if item.attached else 1
        self._observer.begin(following)
        if item.version is not None:
            self._capabilities = item.version.capabilities
            wanted = CAPABILITY_DENY | CAPABILITY_GAPS
            said = (item.version.abi_version, item.version.maximum_rules, item.version.capabilities & wanted)
            if said != (ABI_VERSION, MAXIMUM_RULES, wanted):
                expected = f"interface version {ABI_VERSION}, {MAXIMUM_RULES} rules, denial and gaps"
                self._control(expected, str(item.version), item.step)
        if item.statistics is not None:
            self._base = (item.statistics, self._observer.creates, self._observer.exits, self._observer.lost)
            self._denied = 0
            if self._header.closed_world and not item.attached:
                self._check_fresh(item.statistics, item.step)

    def _check_fresh(self, statistics: Statistics, step: int | None) -> None:
        said = (statistics.created, statistics.exited, statistics.denied, statistics.dropped, statistics.next_sequence)
        if said != (0, 0, 0, 0, 1) or statistics.rule_count:
            expected = "a driver that starts with nothing counted and no rules"
            self._report(Kind.STATISTICS, expected, str(statistics), step, "", "procnotify.h: the first number is 1")

    def _driver_stopped(self, item: captured.DriverStopped) -> None:
        if item.error:
            self._control("the driver stops", show_error(item.error), item.step)
            return
        self._settle(final=True, step=item.step)
        self._running = False
        self._base = None
        self._observer.begin(0)

    def _rules_set(self, item: captured.RulesSet) -> None:
        self._drained = False
        valid = is_valid(item.rules)
        accepted = item.error == 0
        if accepted and valid:
            self._earlier_rules.append(self._rules)
            self._rules = RuleSet(item.rules)
        if accepted:
            self._rule_sets += 1
        if valid != accepted or (not valid and item.error != ERROR_INVALID_PARAMETER):
            expected = "the valid set accepted" if valid else f"the invalid set refused with {ERROR_INVALID_PARAMETER}"
            self._report(Kind.RULES, expected, show_error(item.error), item.step, "", _RULES)

    def _rules_read(self, item: captured.RulesRead) -> None:
        if RuleSet(item.rules).rules != self._rules.rules:
            expected = f"the {len(self._rules.rules)} rules in force"
            seen = f"{len(item.rules)}, others or in another order"
            self._report(Kind.RULES, expected, seen, item.step, "", "procnotify.h: GET_RULES answers the set in force")

    def _statistics_read(self, item: captured.StatisticsRead) -> None:
        if self._base is None:
            return
        base, creates, exits, lost = self._base
        reported = Reported(
            base,
            self._observer.creates - creates,
            self._observer.exits - exits,
            self._denied,
            self._observer.lost - lost,
            self._rules,
            self._rule_sets,
            self._drained,
        )
        closed = self._header.closed_world
        for found in check_statistics(item.statistics, reported, item.step, closed_world=closed):
            self._findings.add(found)

    def _drained_now(self, item: captured.Drained) -> None:
        self._settle(final=False, step=item.step)
        self._drained = True
        self._earlier_rules.clear()
        if self._observer.has_unreported:
            owners = self._processes.values()
            self._observer.keep_unreported({owner.pid for owner in owners if owner.clone or owner.subsystem})

    def _settle(self, *, final: bool, step: int | None) -> None:
        """What was due until now must have come; a gap explains as many missing ones as it counts."""
        for expected in self._due.settle(late_too=final):
            if expected.tolerance is not None:
                self._findings.tolerated[expected.tolerance.row] += 1
            elif self._gap_budget:
                self._gap_budget -= 1
            else:
                self._findings.add(compare.missing(expected))
        if self._gap_budget and self._header.closed_world and self._running:
            self._gap_budget -= self._due.drop(self._gap_budget)
            if self._gap_budget:
                expected_text, seen = "gaps that count what is missing", f"{self._gap_budget} more counted than missing"
                self._report(Kind.GAP, expected_text, seen, step, "", _GAP)
            self._gap_budget = 0

    def _call_failed(self, item: captured.CallFailed) -> None:
        self._drained = False
        self._due.clear()
        self._control("every call to succeed", item.message, item.step)

    def _output_violated(self, item: captured.OutputViolated) -> None:
        self._drained = False
        self._base = None
        self._due.clear()
        self._observer.begin(0)
        seen = f"at offset {item.offset}: {item.what}"
        self._report(Kind.MALFORMED_OUTPUT, "output as the public header says", seen, item.step, "", "procnotify.h")

    def _faulted(self, item: captured.Faulted) -> None:
        self._over = True
        self._running = False
        self._due.clear()
        expected = "a driver that does nothing that ends the machine"
        source = f"{SPEC} section 7"
        found = Discrepancy(
            Kind.DRIVER_FAULT,
            expected,
            item.message,
            item.step,
            source=source,
            driver_line=item.driver_line,
            details=item.details,
        )
        self._findings.add(found)

    def _completed(self, _item: captured.Completed) -> None:
        self._over = True
        if self._running:
            self._settle(final=True, step=None)

    def _control(self, expected: str, seen: str, step: int | None) -> None:
        self._report(Kind.DRIVER_CONTROL, expected, seen, step, "", "procnotify.h and vm.machine")

    def _report(self, kind: Kind, expected: str, seen: str, step: int | None, process: str, source: str) -> None:
        self._findings.add(Discrepancy(kind, expected, seen, step, process, None, source))


def _nothing(_item: captured.Resumed) -> None:
    """Resuming a process is not notified."""


def _file_key(path: str) -> str:
    r"""One name for a file however its path is written: DOS, ``\\?\`` or ``\??\``."""
    text = canonical_text(path)
    for prefix in ("\\\\?\\", "\\??\\"):
        text = text.removeprefix(prefix)
    return upcase(text)
