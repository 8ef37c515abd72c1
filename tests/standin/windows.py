"""A small Windows in memory: files, certificates, programs, event logs. What it cannot do, it refuses.

It holds state and answers with Win32 errors; it knows nothing of PowerShell. Nothing of it succeeds without an effect
that another call can see.
"""

from __future__ import annotations

import copy
import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from vm import win32

ERROR_SHUTDOWN_IN_PROGRESS = 1115
ADMINISTRATOR = "administrator"
STANDARD_USER = "standarduser"
NTGUEST = "C:\\ntproof\\ntguest.exe"

FILETIME_OF_1970 = 116444736000000000

KEPT = (
    "roots", "publishers", "logs", "auditing", "verifier_flags", "verified", "low_resources",
    "crash_control", "boot_id", "test_signing", "next_pid", "provided",
)  # fmt: skip
"""What of a machine a saved state holds, beside its files."""

Program = Callable[[list[str], Iterator[str]], Iterator[str]]
"""Takes arguments and input lines, gives output lines, and returns its exit code."""


class Refused(Exception):
    """A Win32 call failed."""

    def __init__(self, code, call):
        super().__init__(f"{call}: {win32.error_name(code)}")
        self.code = code
        self.call = call


@dataclass
class StoredFile:
    path: str
    content: bytes
    written: float


@dataclass(frozen=True)
class Identity:
    """What the system calls itself; its build is that of what runs on it."""

    computer_name: str = "STANDIN"
    caption: str = "Stand-in"
    edition: str = "StandIn"
    revision: int = 0
    secure_boot: bool | None = None


class Files:
    """Files by path, without regard to case; folders exist when a file or New-Item made them."""

    def __init__(self):
        self._files = {}
        self._folders = {"c:"}
        self._lock = threading.Lock()
        self.capacity = 1 << 40
        self.longest = 32_767

    @staticmethod
    def key(path):
        drive, colon, rest = path.partition(":")
        if not colon or len(drive) != 1 or not rest.startswith("\\") or any(sign in rest for sign in '/:*?"<>|'):
            raise Refused(win32.ERROR_INVALID_NAME, "CreateFileW")
        return path.lower().rstrip("\\")

    def get(self, path):
        return self._files.get(self.key(path))

    def read(self, path):
        found = self.get(path)
        if found is None:
            known = self.key(path).rpartition("\\")[0] in self._folders
            raise Refused(win32.ERROR_FILE_NOT_FOUND if known else win32.ERROR_PATH_NOT_FOUND, "CreateFileW")
        return found.content

    def write(self, path, content, *, make_folders=True):
        key = self.key(path)
        if len(path) > self.longest:
            raise Refused(206, "CreateFileW")
        if key in self._folders:
            raise Refused(win32.ERROR_ACCESS_DENIED, "CreateFileW")
        folder = path.rpartition("\\")[0]
        if make_folders:
            self.make_folder(folder)
        elif not self.is_folder(folder):
            raise Refused(win32.ERROR_PATH_NOT_FOUND, "CreateFileW")
        with self._lock:
            others = sum(len(file.content) for other, file in self._files.items() if other != key)
            if others + len(content) > self.capacity:
                raise Refused(112, "WriteFile")
            self._files[key] = StoredFile(path, bytes(content), time.time())

    def copy(self):
        """The same files, to go ways of their own."""
        copied = Files()
        copied._files = {key: StoredFile(file.path, file.content, file.written) for key, file in self._files.items()}
        copied._folders = set(self._folders)
        copied.capacity = self.capacity
        copied.longest = self.longest
        return copied

    def move(self, source, destination):
        content = self.read(source)
        self.write(destination, content, make_folders=False)
        self.remove(source)

    def remove(self, path):
        self._files.pop(self.key(path), None)

    def make_folder(self, path):
        parts = self.key(path + "\\").split("\\")
        for count in range(1, len(parts) + 1):
            folder = "\\".join(parts[:count])
            if folder in self._files:
                raise Refused(win32.ERROR_ALREADY_EXISTS, "CreateDirectoryW")
            self._folders.add(folder)

    def is_folder(self, path):
        return self.key(path.rstrip("\\") + "\\") in self._folders

    def within(self, folder):
        prefix = self.key(folder + "\\") + "\\"
        return [file for key, file in sorted(self._files.items()) if key.startswith(prefix)]


class SmallWindows:
    """The machine as a whole.

    `programs` gives what runs for an executable's path. `provided` holds the paths of files that ntguest.exe put there.
    `system` is what runs services, drivers and processes; it is made when something first asks for it.
    """

    def __init__(self):
        self.identity = Identity()
        self.files = Files()
        self.roots = {}
        self.publishers = {}
        self.programs = {}
        self.logs = {"Security": []}
        self.auditing = False
        self.verifier_flags = 0
        self.verified = set()
        self.low_resources = {}
        self.crash_control = {"DumpType": 7, "AutoReboot": True}
        self.boot_id = str(uuid.uuid4())
        self.test_signing = True
        self.restart_asked = threading.Event()
        self.next_pid = 4096
        self.provided = set()

    @cached_property
    def system(self):
        from tests.standin.system import System

        return System(self)

    def capture(self):
        """Everything that `put_back` brings back."""
        return {name: copy.deepcopy(getattr(self, name)) for name in KEPT}, self.files.copy()

    def put_back(self, captured):
        """Be as when that was captured, with nothing running."""
        values, files = captured
        for name in KEPT:
            setattr(self, name, copy.deepcopy(values[name]))
        self.files = files.copy()
        self.restart_asked.clear()
        if "system" in vars(self):
            self.system.restart()

    def restart(self):
        """What a restart leaves: files and settings, but nothing that ran."""
        self.boot_id = str(uuid.uuid4())
        self.verifier_flags = 0
        self.verified.clear()
        self.low_resources.clear()
        self.restart_asked.clear()
        if "system" in vars(self):
            self.system.restart()

    def new_pid(self):
        self.next_pid += 4
        return self.next_pid

    @staticmethod
    def system_time():
        return FILETIME_OF_1970 + time.time_ns() // 100

    # Programs

    def program(self, path):
        if path.lower() in self.programs:
            return self.programs[path.lower()]
        content = self.files.read(path)
        if path.lower() == NTGUEST.lower() and content.startswith(b"MZ"):
            from tests.standin.ntguest import program_of

            return program_of(self)
        raise Refused(win32.ERROR_BAD_EXE_FORMAT, "CreateProcessW")

    # Event logs

    def record(self, log, event_id, xml):
        records = self.logs[log]
        records.append((records[-1][0] + 1 if records else 1, event_id, xml))


def sha256(content):
    return hashlib.sha256(content).hexdigest()
