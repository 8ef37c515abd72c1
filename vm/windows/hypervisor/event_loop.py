"""libvirt's event loop: one thread of this process, started with the first connection, that delivers all events."""

from __future__ import annotations

import logging
import threading
from functools import cache

import libvirt

from vm.windows.hypervisor.libvirt_errors import silence

_LOG = logging.getLogger(__name__)


@cache
def start_event_loop() -> threading.Thread:
    """Start the loop, once in a process. It has to run before a connection is opened that should have events.

    Returns:
        Its thread, which ends with the process.
    """
    silence()
    libvirt.virEventRegisterDefaultImpl()
    thread = threading.Thread(target=_run, name="libvirt events", daemon=True)
    thread.start()
    return thread


def _run() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError as error:
            # The loop itself goes on: what one connection does concerns no other.
            _LOG.warning("libvirt's event loop: %s", error)
