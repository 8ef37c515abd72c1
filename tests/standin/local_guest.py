"""A guest in this process: a SmallWindows behind real sockets, and the domain that it seems to run in.

The domain is a double of the LeasedDomain protocol: it reverts, crashes and goes off as told, and remembers what was
asked of it. Everything between a WindowsMachine and the SmallWindows is the real thing.
"""

from __future__ import annotations

import struct
import threading
from pathlib import Path

from tests.standin.sshd import StandInSsh
from tests.standin.system import System
from tests.standin.windows import ADMINISTRATOR, STANDARD_USER, SmallWindows
from tests.standin.winrm import StandIn
from vm.errors import MachineBroken
from vm.windows.hypervisor.crash import GuestPanic
from vm.windows.leased_domain import Address, DomainState
from vm.windows.machine.access import GuestAccess
from vm.windows.remoting.endpoint import Credentials

PASSWORD, USER_PASSWORD = "Admin-passw0rd-of-a-test", "User-passw0rd-of-a-test"
DUMP = "C:\\Windows\\MEMORY.DMP"
NMI_HARDWARE_FAILURE = 0x80


class LocalGuest:
    """The guest and its domain. `settle` is called once to bring the guest into its golden state."""

    def __init__(self, *, ssh=True, options=None):
        self.windows = SmallWindows()
        self.windows.system = System(self.windows, options)
        self.remoting = StandIn(self.windows, password=PASSWORD)
        self.ssh = StandInSsh(self.windows, password=PASSWORD, user_password=USER_PASSWORD)
        self.domain = LocalDomain(self)
        self.access = GuestAccess(
            self.remoting.certificate.fingerprint,
            self.ssh.host_key if ssh else None,
            Credentials(ADMINISTRATOR, PASSWORD),
            Credentials(STANDARD_USER, USER_PASSWORD),
            authentication="basic",
        )
        self.golden = None
        self.windows.system.on_bugcheck = self._bugcheck

    def __enter__(self):
        self.remoting.__enter__()
        self.ssh.__enter__()
        return self

    def __exit__(self, *_):
        self.windows.system.close()
        self.ssh.stop()
        self.remoting.__exit__()

    def settle(self, settle):
        settle(self.domain)
        self.lose_connections()
        self.golden = self.windows.capture()

    def lose_connections(self):
        self.remoting.forget()
        self.ssh.cut()

    def _bugcheck(self, report):
        self.windows.files.write(DUMP, dump_of(report.code, report.parameters))
        if self.domain.tells_codes:
            self.domain.panics(GuestPanic(report.code, report.parameters, "GUEST_PANICKED"))
        else:
            self.domain.panics(GuestPanic(None, (0, 0, 0, 0), "GUEST_PANICKED without parameters"))


class LocalDomain:
    """The domain. `tells_codes` is whether panics come with their code, `asked` what was asked of it."""

    name = "local-1"

    def __init__(self, guest):
        self.details = {"hypervisor": "none: the guest runs in this process"}
        self._guest = guest
        self._changed = threading.Condition()
        self._state = DomainState.RUNNING
        self._panic = None
        self._callback = None
        self.tells_codes = True
        self.heeds_nmi = True
        self.failing_reverts = 0
        self.asked = []

    def address_of(self, guest_port):
        return Address("127.0.0.1", {5986: self._guest.remoting.port, 22: self._guest.ssh.port}[guest_port])

    def state(self):
        with self._changed:
            return self._state

    def panic(self):
        with self._changed:
            return self._panic

    def when_stopped(self, callback):
        with self._changed:
            self._callback = callback
            stopped = self._state in {DomainState.CRASHED, DomainState.OFF}
        if callback is not None and stopped:
            callback()

    def wait_for_panic(self, seconds):
        with self._changed:
            self._changed.wait_for(lambda: self._panic is not None, seconds)
            return self._panic

    def revert(self):
        self.asked.append("revert")
        if self.failing_reverts:
            self.failing_reverts -= 1
            raise MachineBroken("the restore failed: no space left on device")
        self._guest.lose_connections()
        self._guest.remoting.thaw()
        self._guest.windows.put_back(self._guest.golden)
        self._runs()

    def boot_again(self):
        self.asked.append("boot again")
        self._guest.lose_connections()
        self._guest.windows.restart()
        self._runs()

    def inject_nmi(self):
        self.asked.append("NMI")
        if self.heeds_nmi:
            parameters = (0x4F4454, 0, 0, 0)
            self._guest.windows.files.write(DUMP, dump_of(NMI_HARDWARE_FAILURE, parameters))
            self.panics(GuestPanic(NMI_HARDWARE_FAILURE, parameters, "GUEST_PANICKED"))

    def collect(self, folder):
        self.asked.append("collect")
        screen = Path(folder) / "screen.ppm"
        screen.write_bytes(b"P6 1 1 255 \0\0\xff")
        return (screen,)

    def close(self):
        self.asked.append("close")

    # What happens to it

    def panics(self, panic):
        self._stops(DomainState.CRASHED, panic)

    def goes_off(self):
        self._stops(DomainState.OFF, None)

    def _stops(self, state, panic):
        with self._changed:
            self._state, self._panic, callback = state, panic, self._callback
            self._changed.notify_all()
        if callback is not None:
            callback()

    def _runs(self):
        with self._changed:
            self._state, self._panic = DomainState.RUNNING, None


def dump_of(code, parameters, *, build=17763):
    """A MEMORY.DMP with nothing but its header."""
    header = bytearray(b"PAGE" * 0x800)
    header[:8] = b"PAGEDU64"
    struct.pack_into("<II", header, 0x08, 15, build)
    struct.pack_into("<II", header, 0x30, 0x8664, 1)
    struct.pack_into("<I4x4Q", header, 0x38, code, *parameters)
    struct.pack_into("<I", header, 0xF98, 1)
    struct.pack_into("<Q", header, 0xFA8, 133_000_000_000_000_000)
    return bytes(header)
