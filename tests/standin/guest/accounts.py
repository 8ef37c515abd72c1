"""The answer file's accounts as accounts of this guest, for SSH."""

from __future__ import annotations

import secrets
import string
import warnings
from pathlib import Path

with warnings.catch_warnings():
    # The guest's Python is 3.11, the last but one that has it.
    warnings.simplefilter("ignore", DeprecationWarning)
    import crypt

SHELL = "/usr/bin/standin-shell"
"""Takes commands as Windows' cmd.exe does."""
_HASH = "$6$rounds=1000$"
"""SHA-512 with the fewest rounds: the passwords are random, and the guest's processor is emulated."""


def make_accounts(administrator, standard_user, passwords, etc=Path("/etc")):
    """An administrator may do everything, hence has number 0; a standard user owns nothing."""
    users = ["root:x:0:0:root:/:/bin/false", "sshd:x:101:65534::/run/sshd:/bin/false"]
    shadow = ["root:*:19000::::::", "sshd:*:19000::::::"]
    for name, number in ((administrator, 0), (standard_user, 1000)):
        users.append(f"{name}:x:{number}:{number}::/:{SHELL}")
        shadow.append(f"{name}:{_hashed(passwords[name])}:19000::::::")
    _write(etc / "passwd", users, 0o644)
    _write(etc / "shadow", shadow, 0o600)
    _write(etc / "group", ["root:x:0:", "users:x:1000:", "nogroup:x:65534:"], 0o644)


def _hashed(password):
    salt = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(16))
    return crypt.crypt(password, _HASH + salt)


def _write(path, lines, mode):
    path.touch(mode)
    path.chmod(mode)
    path.write_text("".join(f"{line}\n" for line in lines))
