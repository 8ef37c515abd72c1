"""Where a run keeps what shows why a test failed: one folder for each test of which something is kept.

    ARTEFACTS/test_denial.py.test_it-win11.3fa9c1d2/report.txt        what the report says of the fault
                                                    scenario-1.jsonl  the capture of each scenario, for `ntproof check`
                                                    read.jsonl        the last notifications that the test read itself
                                                    witness-1-Security.xml  what the machine itself recorded meanwhile
                                                    .../              what the machine adds: dump, screen, serial log

Nothing is made before there is something to keep.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from harness.build.layout import build_directory
from harness.capture import Capture, CaptureHeader
from harness.capture_json import write_capture

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from harness.notification import Notification
    from vm.machine import MachineFacts, WitnessedLog

FOLDER: Final = "artefacts"
KEPT_RUNS: Final = 5
"""Runs whose artefacts stay in the default folder: a dump is as large as a guest's memory."""
_RUN: Final = "run-"
_LONGEST: Final = 80
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9._]+")


def default_folder(run: str) -> Path:
    """The folder of a run that was given none, below the build folder.

    Args:
        run: the run's name, of which a later one sorts behind an earlier one.
    """
    return build_directory() / FOLDER / f"{_RUN}{run}"


def prune(run: Path) -> None:
    """Remove the artefacts of the oldest runs beside a run in the default folder."""
    runs = sorted(path for path in run.parent.glob(f"{_RUN}*") if path.is_dir())
    for path in runs[:-KEPT_RUNS]:
        shutil.rmtree(path, ignore_errors=True)


def folder_name(test: str) -> str:
    """The name of a test's folder: readable, and different for every test.

    Args:
        test: its node id.
    """
    words = _NOT_PLAIN.sub("-", test.rpartition("/")[2].replace("::", ".")).strip("-.")
    digest = hashlib.sha256(test.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{words[-_LONGEST:]}.{digest}"


class Artefacts:
    """The artefacts of one process of a run.

    Attributes:
        root: the folder of the run.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._occasion = "machine"

    def begin(self, test: str) -> None:
        """A test begins; what an earlier run kept of it stays beside what this one keeps."""
        name = folder_name(test)
        earlier = 1
        self._occasion = name
        while (self.root / self._occasion).exists():
            earlier += 1
            self._occasion = f"{name}.{earlier}"

    def occasion(self) -> str:
        """The name of the folder for what happens now."""
        return self._occasion

    def write_report(self, text: str) -> Path:
        """Keep the text of a report. Raises OSError."""
        path = self._folder() / "report.txt"
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        return path

    def write_captures(self, captures: Sequence[Capture]) -> list[Path]:
        """Keep the captures of the scenarios that a test ran. Raises OSError."""
        return [self._write(f"scenario-{number}.jsonl", capture) for number, capture in enumerate(captures, 1)]

    def write_read(self, facts: MachineFacts, read: Iterable[Notification]) -> Path:
        """Keep the notifications that a test read itself. Raises OSError."""
        header = CaptureHeader(facts.machine, facts.kind, facts.build, facts.profile, dict(facts.details))
        return self._write("read.jsonl", Capture(header, tuple(read)))

    def write_logs(self, logs: Sequence[WitnessedLog]) -> list[Path]:
        """Keep what the machine itself recorded, for ``ntproof check --witness``. Raises OSError."""
        return [self._write_log(number, log) for number, log in enumerate(logs, 1)]

    def kept(self) -> tuple[Path, ...]:
        """The folders of tests of which something is kept, by whichever process of the run."""
        with suppress(OSError):
            return tuple(sorted(path for path in self.root.iterdir() if path.is_dir()))
        return ()

    def _write(self, name: str, capture: Capture) -> Path:
        path = self._folder() / name
        with path.open("w", encoding="utf-8") as stream:
            write_capture(capture, stream)
        return path

    def _write_log(self, number: int, log: WitnessedLog) -> Path:
        path = self._folder() / f"witness-{number}-{_NOT_PLAIN.sub('-', log.name)}.xml"
        text = "\n".join(["<Events>", *log.records, "</Events>", ""])
        path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
        return path

    def _folder(self) -> Path:
        folder = self.root / self._occasion
        folder.mkdir(parents=True, exist_ok=True)
        return folder
