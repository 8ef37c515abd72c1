"""What checks of an image find: how bad, what, and what to do about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(enum.Enum):
    """How bad a finding is."""

    ERROR = "error"
    """The image will not load or work as intended where it should."""
    WARNING = "warning"
    """It will load, but something is not as it should be."""
    NOTE = "note"
    """Nothing is wrong; it may be wanted all the same."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with an image.

    Attributes:
        check: the name of the check, stable.
        severity: how bad it is.
        message: what is wrong.
        advice: what to do about it.
    """

    check: str
    severity: Severity
    message: str
    advice: str

    def __str__(self) -> str:
        return f"{self.severity.value}: {self.check}: {self.message}; {self.advice}"


def error(check: str, message: str, advice: str) -> Finding:
    """A finding that the image will not load or work with."""
    return Finding(check, Severity.ERROR, message, advice)
