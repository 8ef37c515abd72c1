"""The guest's login shell takes a command as cmd.exe would, and carries bytes to and from what runs it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tests.integration.standin.guest_system import GUEST

PROGRAM = r"C:\ntproof\ntguest.exe"


@pytest.fixture(scope="module")
def place():
    # A socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="shell-") as name:
        folder = Path(name)
        (folder / "C:" / "ntproof").mkdir(parents=True)
        (folder / "C:" / "ntproof" / "ntguest.exe").touch()
        defined = [f'-DFOLDER="{folder}/"', f'-DROOT="{folder}/"']
        command = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu.2.31", "-O2", "-Werror"]
        command += [*defined, GUEST / "shell.c", "-o", folder / "shell"]
        subprocess.run(command, check=True, capture_output=True)
        yield folder


@pytest.fixture
def served(place):
    """What came over each socket; the answer is what came, backwards, once the input has ended."""
    came = {}
    serving = []

    def serve(name, listener):
        try:
            connection, _ = listener.accept()
        except OSError:
            # The test ended, and nobody had called.
            return
        with connection, connection.makefile("rb") as reading:
            came[name] = reading.read()
            connection.sendall(came[name][::-1])

    for name in ("administrator" if os.getuid() == 0 else "standard-user", "control"):
        (place / name).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(place / name))
        listener.listen()
        thread = threading.Thread(target=serve, args=(name, listener), daemon=True)
        thread.start()
        serving.append((listener, thread))
    yield came
    for listener, thread in serving:
        # A plain close would leave the thread in its call, or take the descriptor from under it.
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        listener.close()


def run(place, command, data=b""):
    return subprocess.run([place / "shell", "-c", command], input=data, capture_output=True, timeout=20, check=False)


@pytest.mark.parametrize("command", [PROGRAM, f'"{PROGRAM}"', f"{PROGRAM} ", PROGRAM.replace("C:", "c:")])
def test_a_program_gets_all_input_and_gives_all_output(place, served, command):
    data = bytes(range(256)) * 4000
    done = run(place, command, data)

    (came,) = served.values()
    path, _, rest = came.partition(b"\n")
    assert path.decode().upper() == PROGRAM.upper()
    assert rest == data
    assert done.returncode == 0
    assert done.stdout == came[::-1]


def test_an_order_goes_to_the_control_socket(place, served):
    done = run(place, "standin-control panic 0xd1 1")

    assert served == {"control": b"panic 0xd1 1\n"}
    assert done.returncode == 0


@pytest.mark.parametrize("command", [r"C:\ntproof\none.exe", "dir", r"D:\ntproof\ntguest.exe", "", '"'])
def test_what_is_not_there_is_not_recognized(place, served, command):
    done = run(place, command)

    assert done.returncode == 1
    assert b"is not recognized as an internal or external command" in done.stderr
    assert served == {}


def test_a_guest_whose_process_is_gone_is_told(place):
    for name in ("administrator", "standard-user"):
        (place / name).unlink(missing_ok=True)

    assert run(place, PROGRAM).returncode == 2
