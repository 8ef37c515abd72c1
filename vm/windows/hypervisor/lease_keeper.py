"""Keeps a lease: waits for a slot, sends its heartbeat from a thread of its own, and says when the slot was lost."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from typing import Final

from vm.errors import MachineBroken
from vm.windows.hypervisor.leases import HEARTBEAT_MS, Held, LeaseLost, Leases, NoFreeSlot
from vm.windows.remoting.deadline import Deadline

_LOG = logging.getLogger(__name__)

_LOOKS_EVERY: Final = 1.0
_TELLS_AFTER: Final = 2.0
_ENDS_WITHIN: Final = 30.0
"""Seconds for a heartbeat that is under way when the lease is given back."""


class SlotsInUse:
    """The slots that this process holds, by hypervisor and name."""

    def __init__(self) -> None:
        self._taking = threading.Lock()
        self._counting = threading.Lock()
        # Counted: one thread may take a slot that another has given back and does not yet count as unused.
        self._slots: Counter[tuple[str, str]] = Counter()

    def take(self, uri: str, take: Callable[[], Held]) -> Held:
        """Take a slot; no other thread of this process sees it as taken and not used meanwhile."""
        with self._taking:
            held = take()
            with self._counting:
                self._slots[uri, held.slot] += 1
        return held

    def discard(self, uri: str, slot: str) -> None:
        """A slot is not used any more, whether it could be given back or not."""
        with self._counting:
            self._slots[uri, slot] -= 1

    def has(self, uri: str, slot: str) -> bool:
        """Whether a slot is used."""
        return self._slots[uri, slot] > 0


@cache
def slots_in_use() -> SlotsInUse:
    """Those of this process; there is one such list in it."""
    return SlotsInUse()


class LeaseKeeper:
    """Holds a slot until it is released.

    Args:
        uri: the hypervisor.
        leases: the leases of this owner.
        held: the slot.
        heartbeat: seconds between two heartbeats.
    """

    def __init__(self, uri: str, leases: Leases, held: Held, heartbeat: float) -> None:
        self.slot = held.slot
        self._uri = uri
        self._leases = leases
        self._held = held
        self._heartbeat = heartbeat
        self._lost: LeaseLost | None = None
        self._when_lost: Callable[[str], None] | None = None
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease of {held.slot}", daemon=True)
        self._thread.start()

    def when_lost(self, callback: Callable[[str], None]) -> None:
        """Have a function called with the reason, from another thread, once the slot is no longer this owner's."""
        with self._lock:
            self._when_lost = callback
            lost = self._lost
        if lost is not None:
            callback(str(lost))

    def require(self) -> None:
        """Do nothing while the slot is this owner's, which is asked where no heartbeat was sent in time.

        A process that was stopped for a while does not know what happened meanwhile.

        Raises:
            LeaseLost: it was taken over.
            MachineBroken: the hypervisor failed.
        """
        if self._lost is None and not self._leases.holds(self._held):
            self._renew()
        if self._lost is not None:
            raise LeaseLost(str(self._lost))

    def confirm(self) -> None:
        """Ask in any case, before what would harm a new owner.

        The clock of a computer that was suspended as a whole stood still, and one can be set back.

        Raises:
            LeaseLost: it was taken over.
            MachineBroken: the hypervisor failed.
        """
        self._renew()
        self.require()

    def is_lost(self) -> bool:
        """Whether the slot was taken over. It is asked; where the hypervisor does not answer, it is not known to be."""
        try:
            self.confirm()
        except LeaseLost:
            return True
        except MachineBroken as error:
            _LOG.debug("slot %s: %s", self.slot, error)
        return False

    def release(self) -> None:
        """Give the slot back; twice, or after it was lost, does nothing.

        Raises:
            MachineBroken: the hypervisor failed; the next lease of this process takes the slot again, or another one
                does once this process is gone.
        """
        if self._released.is_set():
            return
        self._released.set()
        self._thread.join(_ENDS_WITHIN)
        try:
            if self._lost is None:
                self._leases.release(self._held)
        finally:
            slots_in_use().discard(self._uri, self.slot)

    def _beat(self) -> None:
        while self._lost is None and not self._released.wait(self._heartbeat):
            try:
                self._renew()
            except MachineBroken as error:
                # The lease holds until its time is over, and this process is seen to run even longer.
                _LOG.warning("slot %s: no heartbeat: %s", self.slot, error)

    def _renew(self) -> None:
        with self._renewing:
            if self._lost is not None or self._released.is_set():
                return
            try:
                self._held = self._leases.renew(self._held)
            except LeaseLost as error:
                with self._lock:
                    self._lost = error
                    callback = self._when_lost
            else:
                return
        if callback is not None:
            callback(str(self._lost))


def hold_slot(
    uri: str,
    leases: Leases,
    slots: Iterable[str],
    seconds: float,
    tell: Callable[[str], None],
    *,
    heartbeat: float = HEARTBEAT_MS / 1000,
) -> LeaseKeeper:
    """Take a slot, waiting for one at most this long, and keep it.

    Args:
        uri: the hypervisor.
        leases: this owner's.
        slots: names of slots in order of preference.
        seconds: how long to wait.
        tell: is told once what is waited for.
        heartbeat: seconds between two heartbeats.

    Raises:
        NoFreeSlot: all were taken all the time; names who has each.
        MachineBroken: the hypervisor failed.
    """
    names = tuple(slots)
    deadline = Deadline(seconds)
    told = False
    while True:
        try:
            held = slots_in_use().take(uri, lambda: leases.acquire(names))
        except NoFreeSlot as error:
            if deadline.passed:
                raise NoFreeSlot(f"{error} (waited {seconds:g} s)") from error
            if not told and seconds - deadline.remaining() > _TELLS_AFTER:
                tell(f"waiting for a slot: {error}")
                told = True
        else:
            return LeaseKeeper(uri, leases, held, heartbeat)
        deadline.pause(_LOOKS_EVERY)
