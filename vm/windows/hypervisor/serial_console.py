"""What a guest writes to its serial port, as it writes it, through libvirt's console stream."""

from __future__ import annotations

import logging
import queue
import threading
from typing import Any, Final

import libvirt

from vm.windows.hypervisor.connection import Connection
from vm.windows.hypervisor.domain_handle import DomainHandle
from vm.windows.hypervisor.libvirt_errors import words_of

_LOG = logging.getLogger(__name__)

_BLOCK: Final = 1 << 16
_ENDS_WITHIN: Final = 5.0


class SerialConsole:
    """A console that is read from a thread of its own. It takes the port for itself.

    Args:
        connection: to the hypervisor.
        handle: the domain, which runs or is paused.

    Raises:
        MachineBroken: there is no console.
    """

    def __init__(self, connection: Connection, handle: DomainHandle) -> None:
        self._name = handle.name
        self._blocks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._ended = False
        with connection.doing(f"domain {handle.name}: its serial port cannot be read"):
            self._stream: Any = connection.raw.newStream()
            handle.raw.openConsole(None, self._stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
        self._thread = threading.Thread(target=self._read, name=f"console of {handle.name}", daemon=True)
        self._thread.start()

    def read(self, seconds: float) -> bytes | None:
        """What came since the last call, waiting for something at most this long; None when nothing more can come."""
        if self._ended:
            return None
        try:
            block = self._blocks.get(timeout=seconds)
        except queue.Empty:
            return b""
        found = bytearray()
        while block is not None:
            found += block
            try:
                block = self._blocks.get_nowait()
            except queue.Empty:
                return bytes(found)
        self._ended = True
        return bytes(found) if found else None

    def close(self) -> None:
        """Read no more; the domain's end does that as well."""
        try:
            self._stream.abort()
        except libvirt.libvirtError as error:
            _LOG.debug("console of %s: %s", self._name, words_of(error))
        self._thread.join(_ENDS_WITHIN)

    def _read(self) -> None:
        try:
            while block := self._stream.recv(_BLOCK):
                self._blocks.put(block)
        except libvirt.libvirtError as error:
            # The stream breaks with the domain; why the domain ended is told by its events.
            _LOG.debug("console of %s: %s", self._name, words_of(error))
        self._blocks.put(None)
