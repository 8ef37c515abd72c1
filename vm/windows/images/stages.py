"""Resumable stages: each is done once for its inputs, logged and timed, and done again when they changed.

What is done is kept in a file in the build's folder. A stage counts as done while its inputs have the same hash and its
files are as it left them; one that is done again makes those after it be done again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from vm.errors import MachineBroken

FILE_NAME: Final = "state.json"
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a stage leaves.

    Attributes:
        files: names of files in the build's folder.
        facts: what later stages need to know, JSON.
    """

    files: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A step of a build.

    Attributes:
        name: its name.
        title: what it does, for people.
        inputs: what it depends on besides the stages before it, JSON.
        run: does it.
    """

    name: str
    title: str
    inputs: Callable[[], Mapping[str, Any]]
    run: Callable[[], Outcome]


class StageListener(Protocol):
    """Is told how a build goes on."""

    def stage_started(self, stage: Stage) -> None:
        """A stage began."""

    def stage_ended(self, stage: Stage, seconds: float, *, again: bool) -> None:
        """A stage is done; `again` is False when it was done before and stays."""

    def stage_failed(self, stage: Stage, seconds: float) -> None:
        """A stage failed; the error follows."""


@dataclass(frozen=True)
class Record:
    """What is kept of a stage that is done.

    Attributes:
        inputs: hash of its inputs and of the stages before it.
        run: random identity of this doing of it.
        seconds: how long it took.
        files: size and time of last change in nanoseconds, by name.
        facts: what it found.
    """

    inputs: str
    run: str
    seconds: float
    files: Mapping[str, tuple[int, int]]
    facts: Mapping[str, Any]


class StageRunner:
    """Runs stages in a folder that nothing else changes meanwhile (`vm.windows.images.store.ImageStore.building`)."""

    def __init__(self, folder: Path, listener: StageListener, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._listener = listener
        self._clock = clock
        self._records: dict[str, Record] = {}

    def facts(self, stage: str) -> Mapping[str, Any]:
        """What a stage found that is done."""
        return self._records[stage].facts

    def seconds(self) -> Mapping[str, float]:
        """How long each stage took that is done."""
        return {name: record.seconds for name, record in self._records.items()}

    def run(self, stages: Sequence[Stage]) -> None:
        """Do what is not done yet, in order.

        Raises:
            MachineError: a stage failed; those before it stay done.
            MachineBroken: the folder's state cannot be written.
        """
        kept = self._load()
        before: list[str] = []
        self._records = {}
        for stage in stages:
            inputs = _digest({"stage": stage.name, "inputs": stage.inputs(), "before": before})
            record = kept.get(stage.name)
            if record is None or record.inputs != inputs or not self._intact(record):
                record = self._do(stage, inputs)
            else:
                _LOG.info("stage %s: done before", stage.name)
                self._listener.stage_ended(stage, record.seconds, again=False)
            self._records[stage.name] = record
            before.append(record.run)
            # Records of later stages stay: they count only while this one's run is the one that they followed.
            self._save({**kept, **self._records})

    def _do(self, stage: Stage, inputs: str) -> Record:
        _LOG.info("stage %s: %s", stage.name, stage.title)
        self._listener.stage_started(stage)
        start = self._clock()
        try:
            outcome = stage.run()
            files = {name: self._status(name) for name in outcome.files}
        except BaseException:
            seconds = self._clock() - start
            _LOG.info("stage %s: failed after %.1f s", stage.name, seconds)
            self._listener.stage_failed(stage, seconds)
            raise
        seconds = self._clock() - start
        _LOG.info("stage %s: done in %.1f s", stage.name, seconds)
        self._listener.stage_ended(stage, seconds, again=True)
        return Record(inputs, uuid.uuid4().hex, seconds, files, outcome.facts)

    def _status(self, name: str) -> tuple[int, int]:
        try:
            status = (self._folder / name).stat()
        except OSError as error:
            raise MachineBroken(f"{self._folder / name}: {error.strerror}; the stage did not leave it") from error
        return status.st_size, status.st_mtime_ns

    def _intact(self, record: Record) -> bool:
        try:
            return all(self._status(name) == tuple(known) for name, known in record.files.items())
        except MachineBroken:
            return False

    def _load(self) -> dict[str, Record]:
        """What is done; nothing when the file is missing or of no use, which only costs time."""
        try:
            value = json.loads((self._folder / FILE_NAME).read_text(encoding="utf-8"))
            return {
                name: Record(
                    str(one["inputs"]),
                    str(one["run"]),
                    float(one["seconds"]),
                    {str(file): (int(size), int(changed)) for file, (size, changed) in one["files"].items()},
                    dict(one["facts"]),
                )
                for name, one in value.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            _LOG.warning("%s: %s; every stage is done again", self._folder / FILE_NAME, type(error).__name__)
            return {}

    def _save(self, records: Mapping[str, Record]) -> None:
        value = {name: vars(record) for name, record in records.items()}
        path = self._folder / FILE_NAME
        unfinished = path.with_name(path.name + ".partial")
        try:
            with unfinished.open("w", encoding="utf-8") as stream:
                json.dump(value, stream, indent=2)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(path)
        except OSError as error:
            raise MachineBroken(f"{path}: {error.strerror}; the stage is done again next time") from error


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()
