"""What the set-up of the guest decided, kept on its disk for every later start."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

FOLDER = Path("/var/lib/standin")
FILE = FOLDER / "settings.json"
CERTIFICATE = FOLDER / "remoting.pem"
"""Key and certificate of the WinRM endpoint; made in the guest, and never anywhere else."""


@dataclass
class Settings:
    """Of passwords the hashes that NTLM needs are kept, as Windows does it."""

    computer_name: str
    administrator: str = ""
    standard_user: str = ""
    nt_hashes: dict[str, str] = field(default_factory=dict)
    build: int = 0
    revision: int = 0
    edition: str = ""
    test_signing: bool = False
    memory_integrity: bool = False
    secure_boot: bool = False
    crash_dump: int = 7
    auto_reboot: bool = True
    auditing: bool = False
    registry: dict[str, int] = field(default_factory=dict)

    def save(self):
        FOLDER.mkdir(parents=True, exist_ok=True)
        partial = FILE.with_suffix(".partial")
        partial.touch(0o600)
        partial.write_text(json.dumps(asdict(self)))
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(FILE)


def load_settings():
    return Settings(**json.loads(FILE.read_text()))
