"""A moment by which something must have happened."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Deadline:
    """Counts down from a number of seconds.

    Args:
        seconds: how long from now.
        clock: a monotonic clock in seconds.
        cancelled: set from another thread to end every wait; the deadline then counts as passed.
    """

    def __init__(
        self,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        cancelled: threading.Event | None = None,
    ) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = clock() + seconds
        self._cancelled = cancelled or threading.Event()

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return 0.0 if self._cancelled.is_set() else max(0.0, self._end - self._clock())

    @property
    def passed(self) -> bool:
        """Whether the moment has come."""
        return self.remaining() == 0.0

    def pause(self, seconds: float) -> None:
        """Let time pass between two looks at a condition that nobody announces: until cancelled, or the deadline."""
        self._cancelled.wait(min(seconds, self.remaining()))
