"""Takes every figure of `ntproof bench`, each by its own function, under the stable keys that its JSON uses."""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from harness.errors import HarnessError
from harness.model.observe import Observer
from harness.notification import Create, Exit, Notification

Figures: TypeAlias = Mapping[str, float]

HISTORY_LENGTH = 1_000_000
_CHUNK = 20_000
_LIVE = 400
"""Processes that run at any time in the generated history, as on a busy desktop."""
_KIB_PER_MIB = 1024
_INSTRUCTION_PROCESSES = 3


class BenchmarkError(HarnessError):
    """A part of the benchmark failed, so that its figures would mean nothing."""


@dataclass(frozen=True)
class Figure:
    """How a figure is shown.

    Attributes:
        key: its name in the JSON.
        label: words.
        unit: unit of the value.
        target: what the project holds itself to, in words; empty when there is none.
    """

    key: str
    label: str
    unit: str
    target: str = ""


FIGURES = (
    Figure("notifications_per_s", "notifications through the driver's callback", "/s", "at least 50,000"),
    Figure("bare_unicorn_notifications_per_s", "the same driver code, every import a guest return", "/s"),
    Figure("instructions_per_create", "driver instructions in a create callback", ""),
    Figure("instructions_per_exit", "driver instructions in an exit callback", ""),
    Figure("restore_ms", "restore a checkpoint", "ms", "at most 1"),
    Figure("start_ms", "new kernel to running driver", "ms", "at most 20"),
    Figure("history_notifications_per_s", "history check", "/s", "at least 300,000"),
    Figure("history_peak_mb", f"memory growth over {HISTORY_LENGTH:,} notifications", "MiB", "flat"),
    Figure("suite_s", "whole conformance suite", "s", "at most 15"),
)


def measure(driver: Path, *, progress: Callable[[str], None]) -> dict[str, float]:
    """Take every figure.

    Args:
        driver: signed .sys of the driver.
        progress: told what is being measured.

    Raises:
        BenchmarkError: a part failed.
    """
    parts: tuple[tuple[str, Callable[[], Figures]], ...] = (
        ("callback rates", lambda: _rates(driver)),
        ("instruction counts in three processes", lambda: _instructions(driver)),
        ("restore and start", lambda: _times(driver)),
        ("history check", _history),
        ("conformance suite", lambda: _suite(driver)),
    )
    figures: dict[str, float] = {}
    for words, part in parts:
        progress(words)
        figures.update(part())
    return figures


def _rates(driver: Path) -> Figures:
    from vm.emulated import benchmark

    rates = benchmark.rates(driver)
    return {
        "notifications_per_s": rates.notifications_per_s,
        "bare_unicorn_notifications_per_s": rates.bare_unicorn_notifications_per_s,
    }


def _times(driver: Path) -> Figures:
    from vm.emulated import benchmark

    return {"restore_ms": benchmark.restore_ms(driver), "start_ms": benchmark.start_ms(driver)}


def _instructions(driver: Path) -> Figures:
    """Exact counts, which have to be the same in every process."""
    command = [sys.executable, "-m", "vm.emulated.benchmark", str(driver)]
    outputs = {_run(command) for _ in range(_INSTRUCTION_PROCESSES)}
    if len(outputs) != 1:
        raise BenchmarkError(f"instruction counts differ between processes: {' '.join(sorted(outputs))}")
    counts = json.loads(outputs.pop())
    return {"instructions_per_create": counts["create"], "instructions_per_exit": counts["exit"]}


def _history() -> Figures:
    """In a process of its own, so that its peak of memory is that of the check."""
    return dict(json.loads(_run([sys.executable, "-m", "harness.benchmark"])))


def _suite(driver: Path) -> Figures:
    begin = time.perf_counter()
    _run([
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "harness.conformance",
        "--vm", "emulated", "--driver", str(driver),
    ])  # fmt: skip
    return {"suite_s": time.perf_counter() - begin}


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise BenchmarkError(f"{' '.join(command[1:4])} ended with {done.returncode}:\n{tail}")
    return done.stdout.strip()


def generated_history(length: int) -> Iterator[Notification]:
    """A desktop session: processes come, the oldest of many goes, its pid is used again."""
    free = [4 * (index + 100) for index in range(_LIVE + 1)]
    live: deque[int] = deque()
    for sequence in range(1, length + 1):
        if len(live) < _LIVE:
            pid = free.pop()
            live.append(pid)
            yield Create(
                sequence, None, pid, 4, 4, 8, 0, "\\??\\C:\\Windows\\System32\\svchost.exe", "svchost.exe -k netsvcs"
            )
        else:
            pid = live.popleft()
            free.append(pid)
            yield Exit(sequence, None, pid, 0)


def measure_history(length: int = HISTORY_LENGTH) -> Figures:
    """Rate of the check alone, and how much memory the process grew while it went through the history."""
    observer = Observer()
    source = generated_history(length)
    spent = 0.0
    before = 0
    for position in range(0, length, _CHUNK):
        chunk = list(itertools.islice(source, _CHUNK))
        begin = time.perf_counter()
        observer.feed_all(chunk)
        spent += time.perf_counter() - begin
        if position == 0:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    verdict = observer.verdict()
    if not verdict.passed:
        raise BenchmarkError(f"the generated history has discrepancies: {list(verdict.lines())[:3]}")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"history_notifications_per_s": length / spent, "history_peak_mb": grown / _KIB_PER_MIB}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure_history()) + "\n")
