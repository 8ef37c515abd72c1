"""Who this process is, and whether another process that held something still runs."""

from __future__ import annotations

import enum
import os
import pwd
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from vm.windows.hypervisor.mark import Owner

_START_TIME: Final = 19
"""Place of the start time in ``/proc/PID/stat`` behind the program's name, from 0 (proc(5), field 22)."""
_ENDED: Final = frozenset("ZXx")
"""States of a process that has ended and is only not reaped yet (proc(5), field 3)."""


class Liveness(enum.Enum):
    """What can be said of an owner."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"
    """It is of another computer or container, into which nobody here can look."""


class OwnerProbe(Protocol):
    """Looks for owners."""

    def liveness(self, owner: Owner) -> Liveness:
        """Whether the owner's process runs."""


class LocalProcesses:
    """The processes of this computer, by ``/proc``.

    Args:
        proc: where that is.
        host: name of this computer; None to ask for it.
        exists: whether there is a process, for one that `proc` does not show.

    Attributes:
        host: name of this computer.
    """

    def __init__(
        self, proc: Path = Path("/proc"), host: str | None = None, exists: Callable[[int], bool] | None = None
    ) -> None:
        self._proc = proc
        self._exists = _exists if exists is None else exists
        self.host = socket.gethostname() if host is None else host
        self._boot = self._read("sys/kernel/random/boot_id")
        try:
            self._namespace = str((proc / "self/ns/pid").readlink())
        except OSError:
            self._namespace = ""

    def owner(self, pid: int, user: str, worker: str) -> Owner:
        """A running process as an owner. A process that cannot be seen counts as started at 0."""
        return Owner(
            host=self.host,
            boot=self._boot,
            pid_namespace=self._namespace,
            user=user,
            pid=pid,
            started=self._status(pid)[1] or 0,
            worker=worker,
        )

    def liveness(self, owner: Owner) -> Liveness:
        """Whether the owner's process runs.

        Only a pid of this very boot and namespace is looked up: names of computers are not unique, and containers of
        one computer share a kernel but not their pids. A process that ``/proc`` does not show may be another user's
        that is hidden (proc(5), ``hidepid``), so the kernel is asked.
        """
        here = (self.host, self._boot, self._namespace)
        if "" in here or here != (owner.host, owner.boot, owner.pid_namespace):
            return Liveness.UNKNOWN
        if not (self._proc / str(owner.pid)).exists():
            return Liveness.UNKNOWN if self._exists(owner.pid) else Liveness.GONE
        state, started = self._status(owner.pid)
        if started is None:
            return Liveness.UNKNOWN
        if state in _ENDED:
            return Liveness.GONE
        return Liveness.ALIVE if started == owner.started else Liveness.GONE

    def _read(self, name: str) -> str:
        try:
            return (self._proc / name).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def _status(self, pid: int) -> tuple[str, int | None]:
        # The program's name stands in parentheses and may hold anything, also parentheses and spaces.
        _, _, rest = self._read(f"{pid}/stat").rpartition(")")
        values = rest.split()
        try:
            return values[0], int(values[_START_TIME])
        except (IndexError, ValueError):
            return "", None


def _exists(pid: int) -> bool:
    """Whether the kernel knows a process; signal 0 asks only (kill(2))."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def current_owner(worker: str, processes: LocalProcesses | None = None) -> Owner:
    """This process as an owner.

    Args:
        worker: name of the worker, ``main`` without pytest-xdist.
        processes: where to look; this computer.
    """
    try:
        # Not getpass: what is kept for a user belongs to the one that runs, whatever the environment says.
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        # A container may run as a number without a name.
        user = str(os.getuid())
    return (processes or LocalProcesses()).owner(os.getpid(), user, worker)
