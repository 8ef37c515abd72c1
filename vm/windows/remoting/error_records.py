"""PowerShell's error records, turned into errors of this project.

The guest module puts what matters into the error's identifier, since that arrives whatever else of a record is lost:

    NtproofWin32.<code>.<call>,<command>      a Win32 call failed
    NtproofFailure.<name>,<command>           another failure, one that the command schema names
"""

from __future__ import annotations

import re
from typing import Any

from vm.errors import MachineError, Win32Error
from vm.win32 import error_name
from vm.windows.remoting.errors import GuestCommandFailed

_WIN32 = re.compile(r"NtproofWin32\.(?P<code>\d{1,10})\.(?P<call>\w+)(?:,.*)?")
_FAILURE = re.compile(r"NtproofFailure\.(?P<name>\w+)(?:,.*)?")


def error_of_record(record: Any, *, endpoint: str, command: str) -> MachineError:
    """The error that a record of pypsrp stands for: a Win32Error where the guest named a code."""
    error_id = str(record.fq_error or "")
    message = _message(record)
    if win32 := _WIN32.fullmatch(error_id):
        code = int(win32["code"])
        return Win32Error(code, error_name(code), win32["call"])
    failure = _FAILURE.fullmatch(error_id)
    return GuestCommandFailed(
        message,
        endpoint=endpoint,
        command=command,
        error_id=error_id,
        failure=failure["name"] if failure else None,
        category=int(record.category or 0),
        position=str(getattr(record, "invocation_position_message", None) or ""),
    )


def _message(record: Any) -> str:
    for candidate in (record.details_message, record.exception, record.message, record.fq_error):
        if candidate is not None and (text := str(candidate).strip()):
            return text
    return "an error without a message"
