"""What a Windows machine says of itself, from what its guest and its domain say."""

from __future__ import annotations

from collections.abc import Mapping

from vm.machine import MachineFacts
from vm.windows.remoting.guest import GuestFacts


def machine_facts(
    name: str, profile: str, guest: GuestFacts, domain: Mapping[str, str], drivers: Mapping[str, str]
) -> MachineFacts:
    """The facts for headers and reports.

    Args:
        name: as given to ``--vm``.
        profile: of the image.
        guest: what the guest says.
        domain: what the hypervisor says.
        drivers: SHA-256 of each installed driver's image, by service.
    """
    details = {
        "system": f"{guest.caption} {guest.display_version} ({guest.build}.{guest.revision}, {guest.architecture})",
        "test signing": _on(guest.test_signing),
        "code integrity": _on(guest.code_integrity),
        "secure boot": "no UEFI" if guest.secure_boot is None else _on(guest.secure_boot),
        "memory integrity": _on(guest.memory_integrity),
        "kernel debugger": "attached" if guest.kernel_debugger else "none",
        "driver verifier": _verifier(guest),
        "sysmon": "runs" if guest.sysmon_running else "not there",
        **domain,
        **{f"driver {service}": f"sha256 {digest}" for service, digest in drivers.items()},
    }
    return MachineFacts(name, "windows", guest.build, profile, details)


def _on(value: bool) -> str:
    return "on" if value else "off"


def _verifier(guest: GuestFacts) -> str:
    if not guest.verifier_flags:
        return "off at its start"
    watched = ", ".join(guest.verifier_drivers) or "no driver"
    return f"flags 0x{guest.verifier_flags:X} at its start, for {watched}"
