"""The process that is the Windows of this guest: remoting, programs for SSH, and what the guest is told to do wrong.

Started at every boot but the one that ends the installation. Everything is imported and ready before the endpoint
listens, so that memory saved after the first answer makes quick guests.
"""

from __future__ import annotations

import logging
import os
import ssl
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.standin.certificates import Certificate
from tests.standin.guest import settings
from tests.standin.guest.control import Control, freeze
from tests.standin.guest.crash_dump import bugcheck, recover_dump
from tests.standin.guest.disk_files import DiskFiles
from tests.standin.guest.program_socket import ProgramSocket
from tests.standin.ntguest import serve
from tests.standin.system import System
from tests.standin.windows import Identity, SmallWindows
from tests.standin.winrm import StandIn
from vm.emulated.kernel import KernelOptions
from vm.machine import Account

USERS = Path("/run/standin/users")
REMOTING_PORT = 5986
AGENT = "ntguest.exe"
SOCKETS = {"administrator": Account.ADMINISTRATOR, "standard-user": Account.STANDARD_USER}
_LOG = logging.getLogger(__name__)


def make_windows(kept):
    """The small Windows as the set-up left it, at a new boot."""
    windows = SmallWindows()
    windows.files = DiskFiles()
    windows.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    windows.test_signing = kept.test_signing
    windows.auditing = kept.auditing
    windows.crash_control = {"DumpType": kept.crash_dump, "AutoReboot": kept.auto_reboot}
    windows.identity = Identity(
        computer_name=kept.computer_name,
        caption="Linux, standing in for Windows",
        edition=kept.edition,
        revision=kept.revision,
        secure_boot=kept.secure_boot,
    )
    # A Windows of the build that was installed.
    windows.system = System(windows, KernelOptions(build=kept.build))
    windows.system.on_bugcheck = lambda report: bugcheck(windows, report.code, report.parameters)
    windows.system.on_hang = lambda _error: freeze()
    return windows


def read_certificate(path):
    pem = path.read_bytes()
    start = pem.index(b"-----BEGIN CERTIFICATE-----")
    return Certificate(pem, ssl.PEM_cert_to_DER_cert(pem[start:].decode()))


def make_endpoint(windows, kept):
    """Only the administrator logs on here, with the hash that Windows would keep (smbpasswd's format)."""
    USERS.touch(0o600)
    user = kept.administrator
    USERS.write_text(f"{user}:0:{'0' * 32}:{kept.nt_hashes[user]}:[U]:LCT-00000000\n")
    os.environ["NTLM_USER_FILE"] = str(USERS)
    return StandIn(
        windows,
        username=user,
        password=None,
        certificate=read_certificate(settings.CERTIFICATE),
        address=("0.0.0.0", REMOTING_PORT),
    )


def run_program(windows, account, path, lines, send):
    """What a command of SSH runs: ntguest.exe, which is this process."""
    if path.rpartition("\\")[2].lower() != AGENT:
        _LOG.warning("%s is no program that runs here", path)
        return
    serve(windows, lines, send, account=account)


def warm_up(windows):
    """Make what the first call would make, so that saved memory holds it."""
    with windows.system.using():
        pass


def main():
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="standin: %(name)s: %(message)s")
    kept = settings.load_settings()
    windows = make_windows(kept)
    recover_dump(windows)
    agents = tuple(
        ProgramSocket(name, partial(run_program, windows, account), for_everybody=account is Account.STANDARD_USER)
        for name, account in SOCKETS.items()
    )
    endpoint = make_endpoint(windows, kept)
    ProgramSocket("control", Control(windows, endpoint, agents).serve)
    warm_up(windows)
    endpoint.start()
    windows.restart_asked.wait()
    subprocess.run(["reboot"], check=True)


if __name__ == "__main__":
    main()
