"""Turns a recorded history into a scenario, and holds what a machine made of it against the history.

Processes older than the window run before the driver starts; so do parents that the window does not show. Each creation
is made by its parent, each process ends with the status recorded. A creation that ended with
STATUS_ELEVATION_REQUIRED or STATUS_INVALID_IMAGE_FORMAT gets an image that makes it fail so again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from harness.capture import CaptureItem, Launched
from harness.histories import History
from harness.model.windows import STATUS_ELEVATION_REQUIRED, STATUS_INVALID_IMAGE_FORMAT
from harness.notification import Create, Exit
from harness.scenario import ExitProcess, Launch, Preexisting, ProvideImage, Scenario, Step
from harness.verdict import Discrepancy, Kind, show_status, show_text
from vm.machine import ImageKind

UNKNOWN_IMAGE: Final = "C:\\Windows\\System32\\unknown.exe"
"""Image of a process whose image the window does not show."""

_NT_PREFIX = "\\??\\"
_FAILING: Final[Mapping[int | None, ImageKind]] = {
    STATUS_ELEVATION_REQUIRED: ImageKind.REQUIRES_ELEVATION,
    STATUS_INVALID_IMAGE_FORMAT: ImageKind.INVALID,
}


@dataclass(frozen=True)
class ProcessRecord:
    """One process of a history, or what a capture shows of it; None where it is not known or did not happen.

    Attributes:
        parent: label of its parent.
        exited: its exit is within the window.
    """

    parent: str | None = None
    image: str | None = None
    command_line: str | None = None
    exit_status: int | None = None
    exited: bool = False


@dataclass(frozen=True)
class Replay:
    """A history as a scenario.

    Attributes:
        scenario: what to run.
        processes: what each process must look like, by label.
    """

    scenario: Scenario
    processes: Mapping[str, ProcessRecord]


def replay_history(history: History) -> Replay:
    """Turn a history into a scenario."""
    return _Conversion(history).run()


class _Conversion:
    """Walks through a history with the label that each pid has at that point."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._labels: dict[int, str] = {}
        self._older: list[Preexisting] = []
        self._steps: list[Step] = []
        self._records: dict[str, ProcessRecord] = {}
        self._provided: dict[str, ImageKind] = {}
        self._failing = self._failing_creations()
        self._older_images = self._images_of_older()

    def run(self) -> Replay:
        for index, event in enumerate(self._history.events):
            if isinstance(event, Create):
                self._create(event, self._failing.get(index, ImageKind.NORMAL))
            else:
                self._exit(event)
        name = f"history {self._history.id}"
        return Replay(Scenario(name, tuple(self._steps), tuple(self._older)), self._records)

    def _failing_creations(self) -> dict[int, ImageKind]:
        """Indices of the creations that fail after their notification, by the status of the exit that follows."""
        created: dict[int, int] = {}
        failing = {}
        for index, event in enumerate(self._history.events):
            if isinstance(event, Create):
                created[event.pid] = index
            else:
                at = created.pop(event.pid, None)
                if at is not None and event.status in _FAILING:
                    failing[at] = _FAILING[event.status]
        return failing

    def _images_of_older(self) -> dict[int, str]:
        """Images of processes older than the window, as far as their exit tells."""
        images: dict[int, str] = {}
        created: set[int] = set()
        for event in self._history.events:
            if isinstance(event, Create):
                created.add(event.pid)
            elif event.pid not in created and event.image_name is not None:
                images.setdefault(event.pid, event.image_name)
        return images

    def _label(self, pid: int) -> str:
        """The label of a process that runs now; one that the window has not shown is older."""
        label = self._labels.get(pid)
        if label is None:
            label = f"older-{pid}-{len(self._older)}"
            self._labels[pid] = label
            image = self._older_images.get(pid, UNKNOWN_IMAGE)
            self._older.append(Preexisting(label, image))
            self._records[label] = ProcessRecord(image=image)
        return label

    def _create(self, event: Create, kind: ImageKind) -> None:
        image = event.image_name or UNKNOWN_IMAGE
        parent = self._label(event.parent_pid)
        label = f"p{event.sequence}-{event.pid}"
        if self._provided.get(image) is not kind:
            self._steps.append(ProvideImage(image, kind))
            self._provided[image] = kind
        self._steps.append(Launch(label, image, event.command_line, creator=parent))
        self._labels[event.pid] = label
        self._records[label] = ProcessRecord(parent, image, event.command_line)

    def _exit(self, event: Exit) -> None:
        label = self._label(event.pid)
        del self._labels[event.pid]
        known = replace(self._records[label], exit_status=event.status, exited=True)
        self._records[label] = known
        fails_by_itself = known.parent is not None and event.status in _FAILING
        if not fails_by_itself:
            self._steps.append(ExitProcess(label, event.status or 0))


def compare_tree(replay: Replay, items: Iterable[CaptureItem]) -> Iterator[Discrepancy]:
    """Hold the tree, texts and statuses of a capture against the history. Each difference is one discrepancy."""
    seen = observe_tree(items)
    for label, wanted in replay.processes.items():
        found = seen.get(label, ProcessRecord())
        yield from _compare(label, wanted, found)
    for label in seen.keys() - replay.processes.keys():
        yield Discrepancy(Kind.TREE, "no such process", str(seen[label]), process=label)


def observe_tree(items: Iterable[CaptureItem]) -> dict[str, ProcessRecord]:
    """What a capture's notifications show of each process, by the label that ground truth gives its pid."""
    labels: dict[int, str] = {}
    running: dict[int, str] = {}
    records: dict[str, ProcessRecord] = {}
    for item in items:
        if isinstance(item, Launched) and item.result.pid is not None:
            labels[item.result.pid] = item.label
            if item.step is None:
                running[item.result.pid] = item.label
                records[item.label] = ProcessRecord(image=item.image)
        elif isinstance(item, Create):
            label = labels.get(item.pid, f"pid {item.pid}")
            running[item.pid] = label
            parent = running.get(item.parent_pid, f"pid {item.parent_pid}")
            image = None if item.image_name is None else item.image_name.removeprefix(_NT_PREFIX)
            records[label] = ProcessRecord(parent, image, item.command_line)
        elif isinstance(item, Exit):
            label = running.pop(item.pid, f"pid {item.pid}")
            known = records.get(label, ProcessRecord())
            records[label] = replace(known, exit_status=item.status, exited=True)
    return records


def _compare(label: str, wanted: ProcessRecord, found: ProcessRecord) -> Iterator[Discrepancy]:
    source = "the recorded history"
    if wanted.parent != found.parent:
        yield Discrepancy(Kind.TREE, f"parent {wanted.parent}", f"{found.parent}", process=label, source=source)
    if wanted.image != found.image:
        shown = show_text(wanted.image), show_text(found.image)
        yield Discrepancy(Kind.IMAGE_NAME, *shown, process=label, source=source)
    if wanted.command_line is not None and wanted.command_line != found.command_line:
        shown = show_text(wanted.command_line), show_text(found.command_line)
        yield Discrepancy(Kind.COMMAND_LINE, *shown, process=label, source=source)
    if wanted.exited != found.exited:
        ends = {True: "an exit", False: "no exit"}
        yield Discrepancy(Kind.TREE, ends[wanted.exited], ends[found.exited], process=label, source=source)
    elif wanted.exit_status is not None and wanted.exit_status != found.exit_status:
        shown = show_status(wanted.exit_status), show_status(found.exit_status)
        yield Discrepancy(Kind.EXIT_STATUS, *shown, process=label, source=source)
