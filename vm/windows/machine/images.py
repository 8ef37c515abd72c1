"""Executable files of a Windows machine: copies of child.exe at the paths that tests name.

What becomes of a process made from an executable can be arranged only in part. A copy with a manifest beside it that
asks for elevation is refused to a standard user: Microsoft Learn, "How User Account Control works". That the refusal
comes after the notification is seen in recorded histories (exit status 0xC000042C after an ordinary creation); that it
does for this file is inferred. Of which file Windows tells drivers and then refuses it with STATUS_INVALID_IMAGE_FORMAT
nobody has told: the histories have such exits, but not the files.
"""

from __future__ import annotations

from typing import Final

from vm import win32
from vm.errors import UnsupportedByMachine, Win32Error
from vm.machine import ImageKind
from vm.windows.machine.link import GuestLink
from vm.windows.machine.programs import CHILD, ELEVATION_MANIFEST, MANIFEST_SUFFIX

_FILE_EXISTS: Final = 80  # ERROR_FILE_EXISTS
_NO_VOLUME: Final = {3: "path", 15: "drive", 19: "disk that can be written", 21: "disk in the drive"}
"""ERROR_PATH_NOT_FOUND, ERROR_INVALID_DRIVE, ERROR_WRITE_PROTECT, ERROR_NOT_READY (winerror.h)."""
_TOO_LONG: Final = 206  # ERROR_FILENAME_EXCED_RANGE
_IN_USE: Final = frozenset({win32.ERROR_SHARING_VIOLATION, 1224, win32.ERROR_ACCESS_DENIED})
"""What replacing the file of a running program fails with; 1224 is ERROR_USER_MAPPED_FILE."""


class Images:
    """The executables that were provided since the machine was put back."""

    def __init__(self, link: GuestLink) -> None:
        self._link = link
        self._kinds: dict[str, ImageKind] = {}
        self._paths: dict[str, str] = {}

    def clear(self) -> None:
        """None is there any more."""
        self._kinds.clear()
        self._paths.clear()

    def kind_of(self, path: str) -> ImageKind:
        """What an executable was provided as; a file of Windows' own is ordinary."""
        return self._kinds.get(_key(path), ImageKind.NORMAL)

    def provided(self) -> list[str]:
        """Every file that was put there."""
        return list(self._paths.values())

    def provide(self, path: str, kind: ImageKind) -> None:
        """Make an executable exist. One that does already is left alone: it may be running.

        Raises:
            UnsupportedByMachine: Windows has a file of its own there, or the path can have none.
        """
        if kind is ImageKind.INVALID:
            raise UnsupportedByMachine(
                "no file is known of which Windows tells drivers and which it then refuses with "
                "STATUS_INVALID_IMAGE_FORMAT"
            )
        key = _key(path)
        before = self._kinds.get(key)
        if before is kind:
            return
        self._put(path, CHILD)
        if kind is ImageKind.REQUIRES_ELEVATION:
            self._put(path + MANIFEST_SUFFIX, ELEVATION_MANIFEST)
        elif before is ImageKind.REQUIRES_ELEVATION:
            self._link.agent().remove(path + MANIFEST_SUFFIX)
            self._paths.pop(_key(path + MANIFEST_SUFFIX), None)
        self._kinds[key] = kind

    def _put(self, path: str, source: str) -> None:
        try:
            self._link.agent().provide(path, source)
        except Win32Error as error:
            if error.code == _FILE_EXISTS:
                raise UnsupportedByMachine(f"{path} is a file of the guest's own, which is not replaced") from error
            if error.code in _NO_VOLUME:
                raise UnsupportedByMachine(f"{path}: the guest has no such {_NO_VOLUME[error.code]}") from error
            if error.code == _TOO_LONG:
                raise UnsupportedByMachine(
                    f"a path of {len(path)} characters, {path:.40}...: the guest's disk takes none of that length"
                ) from error
            if error.code in _IN_USE:
                raise UnsupportedByMachine(f"{path} is in use: Windows does not replace a running program") from error
            raise
        self._paths[_key(path)] = path


def _key(path: str) -> str:
    """A path as it names one file: case and the prefixes that switch off translation make no difference."""
    for prefix in ("\\\\?\\", "\\??\\", "\\\\.\\"):
        path = path.removeprefix(prefix)
    return path.lower()
