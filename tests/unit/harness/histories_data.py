"""The recorded histories that tests use: those that NTPROOF_HISTORIES names, else the project's own small sample."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from harness.capture_json import open_lines
from harness.histories import History, read_histories


def histories_file() -> Path:
    folder = os.environ.get("NTPROOF_HISTORIES")
    base = Path(folder) if folder else Path(__file__).resolve().parents[2] / "data" / "histories"
    return base / "recorded.jsonl"


@functools.cache
def histories() -> tuple[History, ...]:
    path = histories_file()
    return tuple(read_histories(open_lines(path), str(path)))
