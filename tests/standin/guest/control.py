"""How the guest misbehaves when it is told to: one order a line, over SSH as ``standin-control ORDER``.

Each order does the real thing to the guest: its kernel panics, its processes stop, its disk fills up.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from functools import partial
from pathlib import Path

from tests.standin.certificates import make_certificate
from tests.standin.guest.crash_dump import SYSRQ, bugcheck

FILLER = Path("/filler")
GRACE = 0.2
"""Seconds from the answer to the order until what ends the connection happens."""
_LOOK = 0.02


class WrongOrder(Exception):
    """There is no such order."""


class Control:
    """What there is to misbehave: the small Windows, its endpoint, and the sockets of its programs."""

    def __init__(self, windows, endpoint, sockets=()):
        self._windows = windows
        self._endpoint = endpoint
        self._sockets = sockets

    def serve(self, order, _lines, send_bytes):
        """Answer one order: ``ok``, or what is wrong with it."""

        def send(line):
            send_bytes(line.encode() + b"\n")

        name, *arguments = order.split()
        method = getattr(self, f"do_{name.replace('-', '_')}", partial(_no_order, name))
        try:
            later = method(*(int(argument, 0) for argument in arguments))
        except (WrongOrder, TypeError, ValueError, OSError) as error:
            send(f"error {error}")
            return
        send("ok")
        if later is not None:
            threading.Timer(GRACE, later).start()

    def do_reset(self):
        """Reset every connection."""

        def reset():
            self._endpoint.reset_connections()
            for sessions in self._sockets:
                sessions.close_all()
            # The server of each SSH session is a process of its own, whose connection ends with it.
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    if re.match(rb"sshd: [^\0]*(@|\[priv\])", path.read_bytes()):
                        os.kill(int(path.parent.name), signal.SIGKILL)

        return reset

    def do_freeze(self):
        """Stop every process: connections are still taken, by the kernel, and nothing answers."""
        return freeze

    def do_reboot(self):
        """Restart at once, whatever runs."""
        os.sync()
        return lambda: SYSRQ.write_text("b")

    def do_power_off(self):
        """Be gone at once."""
        return lambda: SYSRQ.write_text("o")

    def do_panic(self, code, first=0, second=0, third=0, fourth=0):
        """Bugcheck."""
        return lambda: bugcheck(self._windows, code, (first, second, third, fourth))

    def do_fill_disk(self):
        """Leave no block free."""
        with FILLER.open("ab") as stream:
            step = 1 << 40
            end = stream.tell()
            while step >= 4096:
                try:
                    os.posix_fallocate(stream.fileno(), end, step)
                    end += step
                except OSError:
                    step //= 2

    def do_free_disk(self):
        FILLER.unlink(missing_ok=True)

    def do_certificate(self):
        """Show another certificate from now on; SSH, over which the order came, is not touched."""
        changed = make_certificate()
        self._endpoint.stop()
        self._endpoint.certificate = changed
        self._endpoint.start()

    def do_skew(self, seconds):
        """Set the clock on, or back."""
        time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)

    def do_slow(self, milliseconds):
        """Answer each request that much later; 0 for no longer."""
        self._endpoint.delay = milliseconds / 1000

    def do_die_when_copied_to(self, count):
        """Power off once that many bytes more are on the disk."""
        threading.Thread(target=_die_after, args=(count,), daemon=True).start()


def _no_order(name, *_arguments):
    raise WrongOrder(f"there is no order {name}")


def freeze():
    """Stop every process of the guest; its kernel goes on."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)


def _die_after(count):
    until = _free() - count
    while _free() > until:
        time.sleep(_LOOK)
    SYSRQ.write_text("o")


def _free():
    found = os.statvfs("/")
    return found.f_bfree * found.f_frsize
