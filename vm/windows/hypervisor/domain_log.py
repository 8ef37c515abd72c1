"""The domain's log on the hypervisor's host, into which libvirt writes a crash's parameters.

It is looked at where an event did not tell them. The log is libvirt's own: on another computer, or where it belongs to
root alone, there is nothing to be seen.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vm.windows.hypervisor.crash import GuestPanic, parse_log
from vm.windows.hypervisor.uri import HypervisorUri

_LOG = logging.getLogger(__name__)

SYSTEM: Final = Path("/var/log/libvirt/qemu")
_TAIL: Final = 1 << 16


class DomainLog:
    """The log of one domain, from its last `begin` on.

    Args:
        path: the file, None where it is out of reach.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._start = 0
        self.begin()

    def begin(self) -> None:
        """A new life of the domain begins: what is there already is of earlier ones."""
        self._start = self._size()

    def panic(self) -> GuestPanic | None:
        """The panic that the log tells of, None where it tells of none or cannot be read."""
        if self._path is None:
            return None
        try:
            with self._path.open("rb") as log:
                # libvirt begins a file anew when it grew too long.
                log.seek(self._start if self._size() >= self._start else 0)
                return parse_log(log.read()[-_TAIL:].decode(errors="replace"))
        except OSError as error:
            _LOG.debug("%s: %s", self._path, error.strerror)
            return None

    def _size(self) -> int:
        try:
            return 0 if self._path is None else self._path.stat().st_size
        except OSError:
            return 0


def log_path(uri: HypervisorUri, name: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where a domain's log is; None on another computer.

    Args:
        uri: the hypervisor.
        name: the domain's name.
        environment: the environment, which moves a session's folders (XDG Base Directory).
    """
    if not uri.is_local:
        return None
    if not uri.is_session:
        return SYSTEM / f"{name}.log"
    cache = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME", "/")) / ".cache")
    return Path(cache) / "libvirt/qemu/log" / f"{name}.log"
