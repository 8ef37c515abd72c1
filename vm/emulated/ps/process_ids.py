"""Process and thread ids, as the kernel's client id table hands them out.

Ids are multiples of 4 and processes and threads share them. An id can be used again as soon as its object is gone; the
most recently freed id is used first, which is the hardest order for whoever keys state by pid. Histories recorded on
real Windows show a pid used again 12 ms after its exit, so no driver may count on more.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class IdTable:
    """Free and used ids."""

    next: int = 4
    free: list[int] = field(default_factory=list)

    def take(self) -> int:
        """An unused id."""
        if self.free:
            return self.free.pop()
        self.next += 4
        return self.next - 4

    def release(self, identifier: int) -> None:
        """Let an id be used again."""
        self.free.append(identifier)
