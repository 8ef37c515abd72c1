"""Keeps a lease: sends its heartbeat from a thread of its own, and says when the slot was lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from vm.errors import MachineBroken
from vm.windows.hypervisor.leases import HEARTBEAT_MS, Held, LeaseLost, Leases

_LOG = logging.getLogger(__name__)

_ENDS_WITHIN: Final = 30.0
"""Seconds for a heartbeat that is under way when the lease is given back."""


class LeaseKeeper:
    """Holds a slot until it is released.

    Args:
        leases: the leases of this owner.
        held: the slot.
        when_lost: called from another thread with the reason when the slot is no longer this owner's.
        heartbeat: seconds between two heartbeats.
    """

    def __init__(
        self, leases: Leases, held: Held, when_lost: Callable[[str], None], *, heartbeat: float = HEARTBEAT_MS / 1000
    ) -> None:
        self._leases = leases
        self._held = held
        self._when_lost = when_lost
        self._heartbeat = heartbeat
        self._lost: LeaseLost | None = None
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease of {held.slot}", daemon=True)
        self._thread.start()

    def require(self) -> None:
        """Do nothing while the slot is this owner's.

        Raises:
            LeaseLost: it was taken over.
        """
        if self._lost is not None:
            raise LeaseLost(str(self._lost))

    def release(self) -> None:
        """Give the slot back; twice, or after it was lost, does nothing.

        Raises:
            MachineBroken: the hypervisor failed; the slot is reclaimed once this process is gone.
        """
        if self._released.is_set():
            return
        self._released.set()
        self._thread.join(_ENDS_WITHIN)
        if self._lost is None:
            self._leases.release(self._held)

    def _beat(self) -> None:
        while not self._released.wait(self._heartbeat):
            try:
                self._held = self._leases.renew(self._held)
            except LeaseLost as lost:
                self._lost = lost
                self._when_lost(str(lost))
                return
            except MachineBroken as error:
                # The lease holds until its time is over, and this process is seen to run even longer.
                _LOG.warning("slot %s: no heartbeat: %s", self._held.slot, error)
