"""What a guest of an image is given before its state is saved as the one that machines are handed out in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vm.windows.leased_domain import LeasedDomain
from vm.windows.machine.access import GuestAccess, Patience
from vm.windows.machine.link import GuestLink

SETTLES_AS: Final = 1
"""Counts up with what `settle` does beside the files' content, so that states saved before are made anew."""


def settle(
    domain: LeasedDomain, access: GuestAccess, programs: Mapping[str, Path], *, patience: Patience | None = None
) -> None:
    """Wait until a guest that is starting answers, and put into it what every machine needs; then leave it alone.

    Args:
        domain: the guest's.
        access: how it is reached.
        programs: the host's files by their path in the guest.
        patience: how long that may take.

    Raises:
        MachineBroken: the guest does not come up, or a file does not arrive.
        MachineConfigurationError: a file cannot be read.
    """
    patience = patience or Patience()
    link = GuestLink(domain, access, patience)
    try:
        link.session_when_ready(patience.dump)
        link.files().send(programs, deadline=patience.dump)
        link.guest().enable_process_auditing()
        # The first start of a program is slow; what it loads stays in memory, and so in what is saved.
        link.agent().hello()
    finally:
        link.close()
