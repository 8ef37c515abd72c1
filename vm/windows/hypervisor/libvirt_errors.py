"""libvirt's errors as the project's own: whose fault it is, in libvirt's words, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import libvirt

from vm.errors import MachineBroken

NO_DOMAIN: Final = libvirt.VIR_ERR_NO_DOMAIN
NO_POOL: Final = libvirt.VIR_ERR_NO_STORAGE_POOL
NO_VOLUME: Final = libvirt.VIR_ERR_NO_STORAGE_VOL
NO_METADATA: Final = libvirt.VIR_ERR_NO_DOMAIN_METADATA

_GONE: Final = frozenset({libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_RPC})
_REFUSED: Final = frozenset(
    {
        libvirt.VIR_ERR_NO_SUPPORT,
        libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
        libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
        libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
        libvirt.VIR_ERR_MIGRATE_UNSAFE,
    }
)
_NOT_MIGRATABLE: Final = "cannot migrate domain: "
"""What libvirt says before QEMU's reasons when a device or the guest keeps the memory from being saved; the error's
number is that of any operation at a wrong time (libvirt, qemuMigrationSrcIsAllowed)."""
# Parts of libvirt's and the C library's words, by which causes are told apart that share an error code.
_NO_ROOM: Final = (
    ("No space left on device", "free space on the hypervisor's disk"),
    ("Disk quota exceeded", "free space, or raise the quota on the hypervisor"),
    ("Cannot allocate memory", "free memory on the hypervisor, or run fewer machines at once"),
)
_REMEDIES: Final = (
    ("Permission denied", "let the user that runs QEMU read the file and pass through its folders"),
    ("client socket is closed", "libvirt or the connection to it ended; look into its log, then start it again"),
    ("End of file while reading data", "libvirt or the connection to it ended; look into its log, then start it again"),
    ("Timed out during operation: cannot acquire state change lock", "another program works on the domain; end it"),
)
_LOOK: Final = "look into libvirt's log and the domain's log (/var/log/libvirt/qemu, or ~/.cache/libvirt/qemu/log)"


class NoRoom(MachineBroken):
    """The hypervisor has no memory or no space for it now; the same may work later."""


class OperationRefused(MachineBroken):
    """The hypervisor cannot do that with this machine; another way may work."""


class MemoryStays(OperationRefused):
    """A device or the guest keeps its memory from being saved, in a file of its own or in a snapshot."""


def code_of(error: libvirt.libvirtError) -> int:
    """The error's number of libvirt's virErrorNumber."""
    return int(error.get_error_code())


def words_of(error: libvirt.libvirtError) -> str:
    """What libvirt says, on one line."""
    return " ".join(str(error.get_error_message() or error).split())


def broken(error: libvirt.libvirtError, action: str) -> MachineBroken:
    """An error of libvirt as one of the machine.

    Args:
        error: the error.
        action: what was tried, as ``domain win11-1: cannot be started``.
    """
    words = words_of(error)
    if _NOT_MIGRATABLE in words:
        return MemoryStays(f"{action}: {words}; this machine's memory cannot be saved")
    if code_of(error) in _REFUSED:
        return OperationRefused(f"{action}: {words}; this hypervisor cannot do that with this machine")
    if room := _remedy(words, _NO_ROOM):
        return NoRoom(f"{action}: {words}; {room}")
    remedy = _remedy(words, _REMEDIES) or ("start libvirt again" if code_of(error) in _GONE else _LOOK)
    return MachineBroken(f"{action}: {words}; {remedy}")


def _remedy(words: str, known: tuple[tuple[str, str], ...]) -> str | None:
    return next((remedy for part, remedy in known if part in words), None)


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Let libvirt's errors out as errors of the machine.

    Args:
        action: what is tried, as ``domain win11-1: cannot be started``.

    Raises:
        OperationRefused: the hypervisor cannot do that.
        NoRoom: it has no memory or no space for it now.
        MachineBroken: it failed.
    """
    try:
        yield
    except libvirt.libvirtError as error:
        raise broken(error, action) from error


def silence() -> None:
    """Keep libvirt from printing errors to standard error: each one is raised as well."""
    libvirt.registerErrorHandler(_ignore, None)


def _ignore(_context: Any, _error: Any) -> None:
    """Tell nobody."""
