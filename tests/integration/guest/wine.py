"""Wine for tests: a base prefix made once per build directory, copies of it, and ntguest.exe running in one."""

from __future__ import annotations

import itertools
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from harness.build.files import exclusive

DEADLINE = 60.0
GUEST_FOLDER = "C:\\ntproof"
CHILD = f"{GUEST_FOLDER}\\child.exe"


class Wine:
    """A prefix of its own: what is done in it touches no other."""

    def __init__(self, program, prefix):
        self.program = program
        self.prefix = prefix
        self.folder = prefix / "drive_c" / "ntproof"
        self.folder.mkdir(exist_ok=True)

    def environment(self):
        # winemenubuilder and mono would look for a desktop and the network.
        overrides = "winemenubuilder.exe,mscoree,mshtml="
        return {**os.environ, "WINEPREFIX": str(self.prefix), "WINEDEBUG": "-all", "WINEDLLOVERRIDES": overrides}

    def start(self, *arguments):
        return subprocess.Popen(
            [self.program, *arguments],
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def run(self, *arguments, data=b"", check=True):
        return subprocess.run(
            [self.program, *arguments],
            env=self.environment(),
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=DEADLINE,
            check=check,
        )

    def close(self):
        # Ends this prefix's own server and every program in it.
        server = shutil.which("wineserver") or "/usr/lib/wine/wineserver"
        subprocess.run([server, "-k"], env=self.environment(), check=False, timeout=DEADLINE)
        subprocess.run([server, "-w"], env=self.environment(), check=False, timeout=DEADLINE)


def wine_program():
    """The Wine launcher, None when it is absent."""
    return shutil.which("wine") or shutil.which("wine64")


def make_base(program, folder):
    """A prefix that is only ever copied; made under a lock so that several runs share it."""
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[0]
    base = folder / version
    with exclusive(folder / f"{version}.lock"):
        if not base.is_dir():
            making = Path(tempfile.mkdtemp(prefix=".making-", dir=folder))
            wine = Wine.__new__(Wine)
            wine.program, wine.prefix = program, making
            wine.run("wineboot", "--init")
            subprocess.run([shutil.which("wineserver") or "/usr/lib/wine/wineserver", "-w"],
                           env=wine.environment(), check=False, timeout=DEADLINE)  # fmt: skip
            making.replace(base)
    return base


def _link_or_copy(source, target):
    """System files are never written in place, so links will do; the registry is a prefix's own."""
    if not source.endswith(".reg"):
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:
            pass
        else:
            return
    shutil.copy2(source, target, follow_symlinks=False)


def copy_prefix(base, target):
    shutil.copytree(base, target, symlinks=True, copy_function=_link_or_copy)
    return target


class Agent:
    """ntguest.exe under way: requests go in, answers and events come out."""

    def __init__(self, wine):
        self._process = wine.start(f"{GUEST_FOLDER}\\ntguest.exe")
        self._answers = queue.Queue()
        self._events = queue.Queue()
        self._ids = itertools.count(1)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            value = json.loads(line)
            (self._events if "event" in value else self._answers).put(value)
        self._answers.put(None)
        self._events.put(None)

    def send(self, line, *, meanwhile=lambda: None):
        """Send bytes as a line, do something else and return the answer."""
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()
        meanwhile()
        answer = self._answers.get(timeout=DEADLINE)
        assert answer is not None, "ntguest.exe ended without an answer"
        return answer

    def ask(self, op, **members):
        """Send a request and return its answer, whatever it is."""
        number = next(self._ids)
        answer = self.send(json.dumps({"op": op, "id": number, **members}).encode())
        assert answer["id"] == number
        return answer

    def do(self, op, **members):
        """Send a request that must be obeyed."""
        answer = self.ask(op, **members)
        assert answer["ok"], answer
        return answer

    def launch(self, label, **members):
        """Launch a child that must come to life."""
        answer = self.do("launch", process=label, **{"image": CHILD, **members})
        assert answer["win32_error"] == 0, answer
        return answer

    def event(self):
        """The next event."""
        return self._events.get(timeout=DEADLINE)

    def close(self):
        """End the plan; returns the exit code."""
        self._process.stdin.close()
        try:
            return self._process.wait(DEADLINE)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join(DEADLINE)
            self._process.stdout.close()
