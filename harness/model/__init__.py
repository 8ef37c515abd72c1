"""The reference model: what a driver must report, judged from ground truth and never by the machine that ran it."""

from __future__ import annotations

from harness.model.check import Checker, check
from harness.model.observe import Observer, Sequence

__all__ = ["Checker", "Observer", "Sequence", "check"]
