"""What a guest itself records of processes: security events 4688 and 4689; Sysmon's 1 and 5 where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vm.machine import WitnessedLog
from vm.windows.remoting.errors import GuestCommandFailed
from vm.windows.remoting.guest import AuditLog, Guest

_NO_LOG: Final = "NoLog"
_LOGS: Final[tuple[AuditLog, ...]] = ("Security", "Sysmon")


def newest_records(guest: Guest) -> dict[str, int]:
    """The newest record of each log that the guest has."""
    found: dict[str, int] = {}
    for log in _LOGS:
        try:
            found[log] = guest.audit_mark(log)
        except GuestCommandFailed as error:
            if error.failure != _NO_LOG:
                raise
    return found


def records_since(guest: Guest, mark: Mapping[str, int]) -> tuple[WitnessedLog, ...]:
    """What each log of a mark has gained since."""
    return tuple(
        WitnessedLog(
            log,
            tuple(record.xml for record in guest.audit_records(mark[log], log)),
            guest.audit_is_complete(mark[log], log),
        )
        for log in _LOGS
        if log in mark
    )
