"""What is found in a driver's sources, by whatever looked: a compiler, an analyser, a check of annotations."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any


class Level(enum.Enum):
    """How bad a finding is, in the words of compilers."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, order=True)
class SourceFinding:
    """Something wrong in a source.

    Attributes:
        path: the file, relative and with slashes, as ``driver/procnotify/entry.c``; empty where none is named.
        line: from 1; 0 where none is named.
        column: likewise.
        level: how bad it is, as text: ``error``, ``warning`` or ``note``.
        check: what found it: a checker of clang, a warning's number, a rule.
        message: what is wrong.
    """

    path: str
    line: int
    column: int
    level: str
    check: str
    message: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}" if self.column else f"{self.path}:{self.line}"
        return f"{place if self.line else self.path}: {self.level}: {self.message} [{self.check}]".lstrip(": ")

    def to_json(self) -> dict[str, Any]:
        """As reports have it."""
        return {
            "path": self.path,
            "line": self.line,
            "column": self.column,
            "level": self.level,
            "check": self.check,
            "message": self.message,
        }
