"""Facts of Windows that the model needs: names, statuses and what a caller of CreateProcess is told.

Sources: docs/reference/process-notify.md; ntstatus.h and winerror.h of the Windows SDK; "System Error Codes" and
"Naming Files, Paths, and Namespaces" of Microsoft's documentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from vm.machine import ImageKind

STATUS_SUCCESS: Final = 0
STATUS_ELEVATION_REQUIRED: Final = 0xC000042C
STATUS_INVALID_IMAGE_FORMAT: Final = 0xC000007B

ERROR_SUCCESS: Final = 0
ERROR_INVALID_PARAMETER: Final = 87
ERROR_MR_MID_NOT_FOUND: Final = 317

_WIN32_OF_STATUS: Final[Mapping[int, int]] = {
    0xC0000001: 31,  # STATUS_UNSUCCESSFUL: ERROR_GEN_FAILURE
    0xC0000002: 1,  # STATUS_NOT_IMPLEMENTED: ERROR_INVALID_FUNCTION
    0xC000000D: 87,  # STATUS_INVALID_PARAMETER: ERROR_INVALID_PARAMETER
    0xC000000F: 2,  # STATUS_NO_SUCH_FILE: ERROR_FILE_NOT_FOUND
    0xC0000022: 5,  # STATUS_ACCESS_DENIED: ERROR_ACCESS_DENIED
    0xC0000034: 2,  # STATUS_OBJECT_NAME_NOT_FOUND: ERROR_FILE_NOT_FOUND
    0xC000003A: 3,  # STATUS_OBJECT_PATH_NOT_FOUND: ERROR_PATH_NOT_FOUND
    0xC0000043: 32,  # STATUS_SHARING_VIOLATION: ERROR_SHARING_VIOLATION
    0xC0000061: 1314,  # STATUS_PRIVILEGE_NOT_HELD: ERROR_PRIVILEGE_NOT_HELD
    0xC000007B: 193,  # STATUS_INVALID_IMAGE_FORMAT: ERROR_BAD_EXE_FORMAT
    0xC000009A: 1450,  # STATUS_INSUFFICIENT_RESOURCES: ERROR_NO_SYSTEM_RESOURCES
    0xC00000BB: 50,  # STATUS_NOT_SUPPORTED: ERROR_NOT_SUPPORTED
    0xC0000361: 1260,  # STATUS_ACCESS_DISABLED_BY_POLICY_DEFAULT: ERROR_ACCESS_DISABLED_BY_POLICY
    0xC0000364: 1260,  # STATUS_ACCESS_DISABLED_BY_POLICY_OTHER: ERROR_ACCESS_DISABLED_BY_POLICY
    0xC000042C: 740,  # STATUS_ELEVATION_REQUIRED: ERROR_ELEVATION_REQUIRED
    0xC0000906: 225,  # STATUS_VIRUS_INFECTED: ERROR_VIRUS_INFECTED
}

_STATUS_OF_KIND: Final[Mapping[ImageKind, int]] = {
    ImageKind.NORMAL: STATUS_SUCCESS,
    ImageKind.REQUIRES_ELEVATION: STATUS_ELEVATION_REQUIRED,
    ImageKind.INVALID: STATUS_INVALID_IMAGE_FORMAT,
}

_VOLUME = re.compile(r"\\\?\?\\(?:[A-Za-z]:|Volume\{[^}\\]*\})(?=\\)|\\Device\\HarddiskVolume\d+(?=\\)")
_OTHER_ROOT = re.compile(r"[^\\]|\\(?:\?\?|GLOBAL\?\?|Device|DosDevices|SystemRoot)\\", re.IGNORECASE)
_UNC = re.compile(r"\\\?\?\\UNC(?=\\)", re.IGNORECASE)


def win32_of_status(status: int) -> int | None:
    """The Win32 error that a caller sees for a creation status, None when this table does not hold it."""
    return ERROR_SUCCESS if status == STATUS_SUCCESS else _WIN32_OF_STATUS.get(status)


def is_win32_error_of(error: int, status: int) -> bool:
    """Whether `error` is what RtlNtStatusToDosError may make of a failure status: the known error, else any error."""
    known = win32_of_status(status)
    return error != ERROR_SUCCESS if known is None else error == known


def status_of_image(kind: ImageKind) -> int:
    """The status with which a process of such an image ends after its notification; success for a normal one."""
    return _STATUS_OF_KIND[kind]


def volume_relative(name: str) -> str | None:
    r"""FILE_OBJECT.FileName of a file opened by an NT path: without the volume. None when the path does not tell.

    A name that has no volume is one already.

    A remote file's name begins with its server (``\server\share``): the redirector owns one device for all.
    """
    for prefix in (_VOLUME, _UNC):
        if match := prefix.match(name):
            return name[match.end() :]
    return None if _OTHER_ROOT.match(name) else name
