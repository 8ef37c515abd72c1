"""What happens to domains, as the hypervisor tells it: a panic with its parameters, and the end of a domain.

A `DomainWatch` keeps what happened to one domain since it was started last, for whoever waits. Events come from
libvirt's event loop, in a thread of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import libvirt
import libvirt_qemu

from vm.windows.hypervisor.connection import Connection
from vm.windows.hypervisor.crash import EVENT, GuestPanic, best_of, parse_event

_LOG = logging.getLogger(__name__)

ENDS: Final = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: "the guest shut itself down",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: "it was destroyed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: "the guest crashed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED: "it went to another host",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED: "its memory was saved",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: "QEMU ended: it was killed, or failed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT: "it went back to a snapshot that is off",
}
"""Why a domain is off, by the detail of its STOPPED event (virDomainEventStoppedDetailType)."""


class DomainWatch:
    """What happened to a domain since `begin`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._panic: GuestPanic | None = None
        self._ended: str | None = None
        self._lost: str | None = None
        self._disk_failed = False
        self._callback: Callable[[], None] | None = None
        self._calling = threading.RLock()

    def begin(self) -> None:
        """Forget what happened: a new life of the domain begins."""
        with self._changed:
            self._panic = None
            self._ended = None
            self._disk_failed = False

    @property
    def panic(self) -> GuestPanic | None:
        """The guest's panic, None where there was none."""
        with self._changed:
            return self._panic

    @property
    def ended(self) -> str | None:
        """Why the domain is off, None while it is not."""
        with self._changed:
            return self._ended

    def when_stopped(self, callback: Callable[[], None] | None) -> None:
        """Have a function called at the guest's panic, the domain's end, its disk's failure or the hypervisor's loss.

        Args:
            callback: called from another thread, or at once; None takes the last one back, and waits where it is just
                being called: what it does would otherwise meet the next life of the domain.
        """
        with self._calling:
            with self._changed:
                self._callback = callback
                happened = self._happened()
            if callback is not None and happened:
                callback()

    def wait_for_panic(self, seconds: float) -> GuestPanic | None:
        """The guest's panic, waiting for it at most this long; no longer than the domain lives."""
        with self._changed:
            self._changed.wait_for(self._happened, seconds)
            return self._panic

    def wait_for_end(self, seconds: float) -> bool:
        """Whether the domain is off, waiting for that at most this long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended is not None or self._lost is not None, seconds)

    def panicked(self, panic: GuestPanic) -> None:
        """Take an event: the guest panicked."""

        def note() -> None:
            # Two events tell of one panic, and only the first may know its parameters.
            self._panic = best_of(self._panic, panic)

        self._note(note)

    def stopped(self, reason: str) -> None:
        """Take an event: the domain is off."""

        def note() -> None:
            self._ended = reason

        self._note(note)

    def disk_failed(self) -> None:
        """Take an event: QEMU stopped the guest because its disk failed."""

        def note() -> None:
            self._disk_failed = True

        self._note(note)

    def lost(self, reason: str) -> None:
        """Take an event: the hypervisor cannot be reached any more."""

        def note() -> None:
            self._lost = reason

        self._note(note)

    def _happened(self) -> bool:
        return self._panic is not None or self._disk_failed or self._ended is not None or self._lost is not None

    def _note(self, note: Callable[[], None]) -> None:
        with self._calling:
            with self._changed:
                before = self._happened()
                note()
                self._changed.notify_all()
                callback = None if before else self._callback
            if callback is not None:
                callback()


class DomainEvents:
    """The events of a connection, given to the watches of the domains that they are of.

    Raises:
        MachineBroken: the hypervisor gives no events.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._watches: dict[str, DomainWatch] = {}
        self._lost: str | None = None
        self._lock = threading.Lock()
        raw = connection.raw
        with connection.doing("gives no events"):
            self._registered = [
                raw.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle, None),
                raw.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR, self._on_disk_error, None),
            ]
            self._monitor = (
                libvirt_qemu.qemuMonitorEventRegister(raw, None, EVENT, self._on_monitor, None, 0)
                if connection.is_qemu
                else None
            )
        connection.when_lost(self._on_lost)

    def close(self) -> None:
        """Take no more events."""
        raw = self._connection.raw
        for number in self._registered:
            self._connection.attempt(partial(raw.domainEventDeregisterAny, number))
        if self._monitor is not None:
            self._connection.attempt(partial(libvirt_qemu.qemuMonitorEventDeregister, raw, self._monitor))

    def watch(self, name: str) -> DomainWatch:
        """The watch of a domain, which need not exist yet."""
        with self._lock:
            watch = self._watches.setdefault(name, DomainWatch())
            lost = self._lost
        if lost is not None:
            watch.lost(lost)
        return watch

    def forget(self, name: str) -> None:
        """Watch a domain no longer."""
        with self._lock:
            self._watches.pop(name, None)

    def _watch_of(self, raw: Any) -> DomainWatch | None:
        with self._lock:
            return self._watches.get(str(raw.name()))

    def _on_lifecycle(self, _raw: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        watch = self._watch_of(domain)
        if watch is None:
            return
        if event == libvirt.VIR_DOMAIN_EVENT_CRASHED:
            watch.panicked(parse_event(None))
        elif event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            watch.stopped(ENDS.get(detail, "it is off"))

    def _on_disk_error(self, _raw: Any, domain: Any, path: str, alias: str, action: int, _opaque: Any) -> None:
        watch = self._watch_of(domain)
        if watch is not None and action == libvirt.VIR_DOMAIN_EVENT_IO_ERROR_PAUSE:
            _LOG.warning("domain %s: its disk %s (%s) failed", domain.name(), alias, path)
            watch.disk_failed()

    def _on_monitor(
        self, _raw: Any, domain: Any, _event: str, _seconds: int, _micros: int, details: str | None, _opaque: Any
    ) -> None:
        watch = self._watch_of(domain)
        if watch is not None:
            watch.panicked(parse_event(details))

    def _on_lost(self, reason: str) -> None:
        with self._lock:
            self._lost = reason
            watches = list(self._watches.values())
        for watch in watches:
            watch.lost(reason)
