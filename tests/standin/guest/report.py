"""The guest's events on its first serial port, as the set-up scripts of a Windows guest send them."""

from __future__ import annotations

import json
import os
import termios
import tty

PORTS = {"COM1": "/dev/ttyS0"}
MARK = b"ntproof "


class SerialReport:
    """Sends events, each a line that is out before the next thing happens."""

    def __init__(self, port="COM1"):
        self._descriptor = os.open(PORTS[port], os.O_WRONLY | os.O_NOCTTY)
        tty.setraw(self._descriptor)

    def send(self, event, **content):
        line = MARK + json.dumps({"event": event, **content}).encode() + b"\n"
        while line:
            line = line[os.write(self._descriptor, line) :]
        termios.tcdrain(self._descriptor)
