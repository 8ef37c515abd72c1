"""Where Windows' documentation and observed behaviour disagree and the model accepts both.

Each entry is a row of docs/reference/process-notify.md whose evidence says "accept both"; the model has no other
tolerance. A verdict counts how often each row was used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Tolerance:
    """A row that leaves two behaviours open.

    Attributes:
        row: the row, as verdicts name it.
        either: one of the accepted behaviours.
        other: the other one.
    """

    row: str
    either: str
    other: str


CLONE_NOTIFIED: Final = Tolerance(
    "section 4, clones with a thread",
    "a clone is notified, with no command line and FileOpenNameAvailable clear",
    "a clone is not notified",
)

DUPLICATE_REGISTRATION: Final = Tolerance(
    "section 1, duplicate",
    "registering a routine twice fails with STATUS_INVALID_PARAMETER",
    "it takes a second slot, and each removal frees one",
)
