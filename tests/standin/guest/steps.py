"""The steps of the set-up, by the names of Windows' own scripts: each does to this guest what its script does there.

A step takes what it needs from the set-up, and gives facts for the result.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from spnego._ntlm_raw.crypto import ntowfv1

from tests.standin.guest import accounts, settings
from tests.standin.guest.disk_files import DiskFiles
from vm.windows.remoting import module_files

INSTALLED = Path("/usr/share/standin/windows.json")
"""What the image calls itself: build, revision, edition."""
HOST_KEY = Path("/etc/ssh/ssh_host_ed25519_key")
SECURE_BOOT = Path("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
REPORTED_POWERSHELL = "5.1.0.0"
_DUMPS = {"complete": 1, "kernel": 2, "small": 3}

STEPS = {}


@dataclass
class SetUp:
    """What the steps work on: the data beside the scripts, what is kept, the scripts' folder, passwords by name."""

    data: dict
    kept: settings.Settings
    scripts: Path
    passwords: dict[str, str]


class StepFailed(Exception):
    """A step cannot be done."""


def step(name):
    def register(function):
        STEPS[name] = function
        return function

    return register


@step("10-system")
def system(setup):
    installed = json.loads(INSTALLED.read_text())
    if installed["build"] != setup.data["build"]:
        raise StepFailed(f"Windows build {installed['build']} was installed, the profile says {setup.data['build']}")
    for role in ("administrator", "standard_user"):
        if setup.data[role] not in setup.passwords:
            raise StepFailed(f"User {setup.data[role]} was not found.")
    kept = setup.kept
    kept.administrator, kept.standard_user = setup.data["administrator"], setup.data["standard_user"]
    kept.build, kept.revision, kept.edition = installed["build"], installed["revision"], installed["edition"]
    accounts.make_accounts(kept.administrator, kept.standard_user, setup.passwords)
    kept.nt_hashes = {name: ntowfv1(word).hex().upper() for name, word in setup.passwords.items()}
    return installed


@step("20-remoting")
def remoting(setup):
    wanted = setup.data["certificate"]
    key = rsa.generate_private_key(65537, wanted["key_bits"])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted["subject"])])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=wanted["days"]))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    settings.FOLDER.mkdir(parents=True, exist_ok=True)
    settings.CERTIFICATE.touch(0o600)
    settings.CERTIFICATE.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    der = made.public_bytes(serialization.Encoding.DER)
    return {
        "certificate": base64.b64encode(der).decode(),
        "certificate_sha256": hashlib.sha256(der).hexdigest(),
    }


@step("30-openssh")
def openssh(_setup):
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", HOST_KEY], check=True, stdin=subprocess.DEVNULL
    )
    kind, blob, *_ = HOST_KEY.with_suffix(".pub").read_text().split()
    return {"ssh_host_key": f"{kind} {blob}"}


@step("35-module")
def guest_module(setup):
    if setup.data["guest_module"]:
        files = DiskFiles()
        modules = module_files.FOLDER.rpartition("\\")[0]
        for source in (setup.scripts / "guest").iterdir():
            files.write(rf"{modules}\{setup.data['guest_module']}\{source.name}", source.read_bytes())
    return {}


@step("40-firewall")
def firewall(_setup):
    # Nothing else listens here.
    return {"firewall_rules": ["ntproof-22", "ntproof-5986"]}


@step("50-crash")
def crash(setup):
    setup.kept.crash_dump, setup.kept.auto_reboot = _DUMPS[setup.data["crash_dump"]], False
    return {"crash_dump": setup.data["crash_dump"]}


@step("60-quiet")
def quiet(_setup):
    return {"defender": False}


@step("70-audit")
def audit(setup):
    setup.kept.auditing = setup.data["process_audit"]
    return {"process_audit": setup.data["process_audit"]}


@step("80-signing")
def signing(setup):
    # The last byte is the variable's value, those before it its attributes.
    setup.kept.secure_boot = SECURE_BOOT.exists() and SECURE_BOOT.read_bytes()[-1] == 1
    if setup.data["test_signing"] and setup.kept.secure_boot:
        raise StepFailed("Secure Boot is on, with which Windows refuses test signing")
    if setup.data["memory_integrity"]:
        raise StepFailed("there is no hypervisor in this guest for memory integrity")
    setup.kept.test_signing = setup.data["test_signing"]
    return {
        "secure_boot": setup.kept.secure_boot,
        "test_signing": setup.kept.test_signing,
        "memory_integrity": setup.kept.memory_integrity,
    }


@step("90-seal")
def seal(setup):
    setup.kept.save()
    return {"powershell": REPORTED_POWERSHELL}
