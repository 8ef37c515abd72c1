"""The first start of a finished image: reached as tests will reach it, and held against its profile.

Test signing and memory integrity take effect at a boot, so that only a guest that was started again can tell whether
they did. What is started is an overlay; the image does not change.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.images import credentials
from vm.windows.images.guest_report import GuestFacts
from vm.windows.images.hypervisor import Start, StartedMachine, StartingHost
from vm.windows.images.store import DISK, NVRAM
from vm.windows.profiles.profile import Firmware, Profile

REACHABLE_WITHIN: Final = 1800.0
"""Seconds from the start until remoting answers: the first boot after the installation finishes what setup left, and
an emulated processor takes many times as long as a real one."""
FACT_WITHIN: Final = 120.0
_LOG: Final = logging.getLogger(__name__)

_REASONS: Final = {
    "test signing": "drivers that a test certificate signed would not load",
    "memory integrity": "it needs a hypervisor in the guest, hence nested virtualization on this host",
    "Secure Boot": "the virtual machine's firmware is not as the profile says",
    "build": "Windows changed between its set-up and now",
}


class FirstStart:
    """Starts an image once and looks at it over PowerShell Remoting, with the certificate that its guest reported."""

    def __init__(self, host: StartingHost, *, reachable_within: float = REACHABLE_WITHIN) -> None:
        self._host = host
        self._reachable_within = reachable_within

    def observe(self, folder: Path, name: str, profile: Profile, guest: GuestFacts) -> Mapping[str, str]:
        """Facts of the running guest by name.

        Args:
            folder: the finished but unsealed image.
            name: the image's name.
            profile: what it was made of.
            guest: what the guest said of itself.

        Raises:
            MachineConfigurationError: the packages for remoting are missing.
            MachineBroken: the guest cannot be reached, its certificate is another one, or it is not what the profile
                says.
        """
        start = Start(
            name=name,
            hardware=profile.hardware,
            nested_virtualization=profile.features.memory_integrity,
            disk=folder / DISK,
            nvram=folder / NVRAM if profile.hardware.firmware is Firmware.UEFI else None,
        )
        with self._host.start(start) as machine:
            row = self._facts(machine, folder, guest)
        wrong = list(_differences(row, profile, guest))
        if wrong:
            raise MachineBroken(
                f"the guest that was started is not as profile {profile.name!r} says: {'; '.join(wrong)}"
            )
        return {key: _shown(value) for key, value in row.items()}

    def _facts(self, machine: StartedMachine, folder: Path, guest: GuestFacts) -> Mapping[str, object]:
        try:
            from vm.windows.remoting.endpoint import Credentials, Endpoint
            from vm.windows.remoting.session import GuestSession
        except ImportError as error:
            raise MachineConfigurationError(f"{error.name} is missing; pip install ntproof[windows]") from error
        account = credentials.load(folder).administrator
        host, port = machine.remoting
        endpoint = Endpoint(host, port, guest.certificate_sha256)
        with GuestSession(endpoint, Credentials(account.name, account.password.reveal())) as session:
            session.connect_when_ready(self._reachable_within, alive=machine.require_running)
            _LOG.info("guest: reached at %s", endpoint)
            return session.one("Get-NtproofMachineFact", deadline=FACT_WITHIN)


def _differences(row: Mapping[str, object], profile: Profile, guest: GuestFacts) -> Iterator[str]:
    pairs: tuple[tuple[str, object, object], ...] = (
        ("test signing", row["TestSigning"], profile.features.test_signing),
        ("memory integrity", row["MemoryIntegrity"], profile.features.memory_integrity),
        ("Secure Boot", bool(row["SecureBoot"]), profile.hardware.secure_boot),
        ("build", row["Build"], guest.build),
    )
    for name, found, wanted in pairs:
        if found != wanted:
            yield f"{name} is {_shown(found)}, expected {_shown(wanted)}: {_REASONS[name]}"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)
