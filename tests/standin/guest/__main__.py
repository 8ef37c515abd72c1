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
from pathlib import Path

from tests.standin.certificates import Certificate
from tests.standin.guest import settings
from tests.standin.guest.control import Control
from tests.standin.guest.crash_dump import recover_dump
from tests.standin.guest.disk_files import DiskFiles
from tests.standin.guest.program_socket import LineSocket, program_socket
from tests.standin.windows import Identity, SmallWindows
from tests.standin.winrm import StandIn

USERS = Path("/run/standin/users")
REMOTING_PORT = 5986


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
        build=kept.build,
        revision=kept.revision,
        secure_boot=kept.secure_boot,
    )
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


def main():
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="standin: %(name)s: %(message)s")
    kept = settings.load_settings()
    windows = make_windows(kept)
    recover_dump(windows)
    sockets = (
        program_socket("administrator", windows.program),
        program_socket("standard-user", windows.program, for_everybody=True),
    )
    endpoint = make_endpoint(windows, kept)
    sockets += (LineSocket("control", Control(windows, endpoint, sockets).serve),)
    endpoint.start()
    windows.restart_asked.wait()
    subprocess.run(["reboot"], check=True)


if __name__ == "__main__":
    main()
