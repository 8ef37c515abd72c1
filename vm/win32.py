"""Win32 error codes (winerror.h): the constants that machines use, and the name of every code.

The values come from the public-domain mingw-w64 headers, through vm/data/winerror.txt.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

ERROR_SUCCESS = 0
ERROR_INVALID_FUNCTION = 1
ERROR_FILE_NOT_FOUND = 2
ERROR_PATH_NOT_FOUND = 3
ERROR_ACCESS_DENIED = 5
ERROR_INVALID_HANDLE = 6
ERROR_NOT_ENOUGH_MEMORY = 8
ERROR_BAD_FORMAT = 11
ERROR_NOT_READY = 21
ERROR_CRC = 23
ERROR_GEN_FAILURE = 31
ERROR_SHARING_VIOLATION = 32
ERROR_HANDLE_EOF = 38
ERROR_NOT_SUPPORTED = 50
ERROR_INVALID_PARAMETER = 87
ERROR_BROKEN_PIPE = 109
ERROR_INSUFFICIENT_BUFFER = 122
ERROR_INVALID_NAME = 123
ERROR_MOD_NOT_FOUND = 126
ERROR_PROC_NOT_FOUND = 127
ERROR_BAD_PATHNAME = 161
ERROR_BUSY = 170
ERROR_ALREADY_EXISTS = 183
ERROR_BAD_EXE_FORMAT = 193
ERROR_PIPE_BUSY = 231
ERROR_NO_DATA = 232
ERROR_MORE_DATA = 234
ERROR_NO_MORE_ITEMS = 259
ERROR_DELETE_PENDING = 303
ERROR_MR_MID_NOT_FOUND = 317
ERROR_INVALID_IMAGE_HASH = 577
ERROR_ELEVATION_REQUIRED = 740
ERROR_OPERATION_ABORTED = 995
ERROR_IO_PENDING = 997
ERROR_NOACCESS = 998
ERROR_DEPENDENT_SERVICES_RUNNING = 1051
ERROR_INVALID_SERVICE_CONTROL = 1052
ERROR_SERVICE_REQUEST_TIMEOUT = 1053
ERROR_SERVICE_ALREADY_RUNNING = 1056
ERROR_SERVICE_DISABLED = 1058
ERROR_SERVICE_DOES_NOT_EXIST = 1060
ERROR_SERVICE_CANNOT_ACCEPT_CTRL = 1061
ERROR_SERVICE_NOT_ACTIVE = 1062
ERROR_SERVICE_MARKED_FOR_DELETE = 1072
ERROR_SERVICE_EXISTS = 1073
ERROR_SERVICE_NEVER_STARTED = 1077
ERROR_DUPLICATE_SERVICE_NAME = 1078
ERROR_NOT_FOUND = 1168
ERROR_DRIVER_BLOCKED = 1275
ERROR_PRIVILEGE_NOT_HELD = 1314
ERROR_NO_SYSTEM_RESOURCES = 1450
ERROR_TIMEOUT = 1460
ERROR_INVALID_USER_BUFFER = 1784
ERROR_BAD_DRIVER = 2001
ERROR_SYSTEM_INTEGRITY_POLICY_VIOLATION = 4551
ERROR_SYSTEM_INTEGRITY_WHQL_NOT_SATISFIED = 4583


@cache
def error_values() -> dict[str, int]:
    """Every Win32 error of winerror.h by its name."""
    text = (resources.files("vm") / "data" / "winerror.txt").read_text(encoding="utf-8")
    rows = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {symbol: int(value) for symbol, value in rows}


@cache
def _names() -> dict[int, str]:
    names: dict[int, str] = {}
    for symbol, value in error_values().items():
        names.setdefault(value, symbol)
    return names


def error_name(code: int) -> str:
    """The symbolic name of a Win32 error, such as ``ERROR_ACCESS_DENIED``; ``error 4242`` for one without a name."""
    return _names().get(code, f"error {code}")
