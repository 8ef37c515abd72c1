"""The files of a small Windows on the guest's disk, where SSH's file transfer reaches the same ones.

Drive C: is the folder ``/C:``. It looks names up without regard to case and keeps the case they were made with, which
ext4 does by itself in a folder that is marked so while it is empty (Linux, "ext4 General Information", casefold).
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
from pathlib import Path

from tests.standin.windows import Refused, StoredFile
from vm import win32

ROOT = Path("/")
ERROR_DISK_FULL = 112
_GET_FLAGS, _SET_FLAGS, _CASEFOLD = 0x80086601, 0x40086602, 0x40000000  # linux/fs.h
_CODES = {
    errno.ENOENT: win32.ERROR_PATH_NOT_FOUND,
    errno.ENOTDIR: win32.ERROR_PATH_NOT_FOUND,
    errno.EISDIR: win32.ERROR_ACCESS_DENIED,
    errno.EACCES: win32.ERROR_ACCESS_DENIED,
    errno.EEXIST: win32.ERROR_ALREADY_EXISTS,
    errno.ENOSPC: ERROR_DISK_FULL,
    errno.ENOTEMPTY: win32.ERROR_ACCESS_DENIED,
}


def make_drive(root=ROOT):
    """The empty folder of drive C:, without regard to case; does nothing when it is there."""
    drive = root / "C:"
    if drive.is_dir():
        return
    drive.mkdir(mode=0o755)
    descriptor = os.open(drive, os.O_RDONLY)
    try:
        flags = array.array("L", [0])
        fcntl.ioctl(descriptor, _GET_FLAGS, flags)
        flags[0] |= _CASEFOLD
        fcntl.ioctl(descriptor, _SET_FLAGS, flags)
    finally:
        os.close(descriptor)


class DiskFiles:
    """Answers as tests.standin.windows.Files does."""

    def __init__(self, root=ROOT):
        self._root = root
        make_drive(root)

    def place(self, path):
        """Where a DOS path is in this guest."""
        drive, colon, rest = path.partition(":")
        if not colon or len(drive) != 1 or not rest.startswith("\\") or any(sign in rest for sign in '/:*?"<>|'):
            raise Refused(win32.ERROR_INVALID_NAME, "CreateFileW")
        # Windows resolves dots before it looks at the disk.
        kept = []
        for part in rest.split("\\"):
            if part == "..":
                del kept[-1:]
            elif part not in {"", "."}:
                kept.append(part)
        if drive.upper() != "C":
            raise Refused(win32.ERROR_PATH_NOT_FOUND, "CreateFileW")
        return self._root.joinpath("C:", *map(_on_disk, kept))

    def key(self, path):
        """The same text for every way to write the same path."""
        return "c:\\" + self._path_of(self.place(path)).lower()

    def _path_of(self, place):
        """What follows the drive in the path of a place."""
        return "\\".join(map(_in_path, place.relative_to(self._root / "C:").parts))

    def get(self, path):
        place = self.place(path)
        if not place.is_file():
            return None
        return StoredFile(path, place.read_bytes(), place.stat().st_mtime)

    def read(self, path):
        place = self.place(path)
        try:
            return place.read_bytes()
        except OSError as error:
            known = error.errno == errno.ENOENT and place.parent.is_dir()
            code = win32.ERROR_FILE_NOT_FOUND if known else _code(error)
            raise Refused(code, "CreateFileW") from error

    def write(self, path, content, *, make_folders=True):
        place = self.place(path)
        if make_folders:
            self.make_folder(path.rpartition("\\")[0])
        try:
            place.write_bytes(content)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                place.unlink(missing_ok=True)
            raise Refused(_code(error), "WriteFile" if error.errno == errno.ENOSPC else "CreateFileW") from error

    def move(self, source, destination):
        found, target = self.place(source), self.place(destination)
        if not found.is_file():
            self.read(source)
        try:
            found.replace(target)
        except OSError as error:
            raise Refused(_code(error), "MoveFileExW") from error

    def remove(self, path):
        try:
            self.place(path).unlink(missing_ok=True)
        except NotADirectoryError:
            pass
        except OSError as error:
            raise Refused(_code(error), "DeleteFileW") from error

    def make_folder(self, path):
        try:
            self.place(path + "\\").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            code = win32.ERROR_ALREADY_EXISTS if error.errno == errno.ENOTDIR else _code(error)
            raise Refused(code, "CreateDirectoryW") from error

    def is_folder(self, path):
        return self.place(path.rstrip("\\") + "\\").is_dir()

    def within(self, folder):
        place = self.place(folder + "\\")
        if not place.is_dir():
            return []
        return [
            StoredFile(f"C:\\{self._path_of(found)}", found.read_bytes(), found.stat().st_mtime)
            for found in sorted(place.rglob("*"))
            if found.is_file()
        ]


def _on_disk(name):
    """A name for the disk, whose names are bytes: UTF-8 in which a lone surrogate is written as other units are."""
    return os.fsdecode(name.encode("utf-8", "surrogatepass"))


def _in_path(name):
    return os.fsencode(name).decode("utf-8", "surrogatepass")


def _code(error):
    return _CODES.get(error.errno, win32.ERROR_ACCESS_DENIED)
