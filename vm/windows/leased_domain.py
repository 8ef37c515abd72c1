"""What a Windows machine asks of the domain that its guest runs in: addresses, ways back, crashes and evidence.

The domain is leased: nobody else uses it until it is closed. Every call may raise MachineBroken, whose message names
what failed (the hypervisor, the disk, the restore) and what to do; none raises a fault of the driver.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vm.windows.hypervisor.crash import GuestPanic


class DomainState(enum.Enum):
    """What a domain does."""

    RUNNING = "running"
    CRASHED = "crashed"
    """The guest panicked; its memory and screen are as they were then."""
    PAUSED = "paused"
    OFF = "off"
    """Nothing runs: the guest shut itself down, or the process that ran it is gone."""


@dataclass(frozen=True)
class Address:
    """Where a port of the guest is reached from this computer."""

    host: str
    port: int


class LeasedDomain(Protocol):
    """A domain that this worker has for itself."""

    @property
    def name(self) -> str:
        """Its name, which is unique on the hypervisor."""

    @property
    def details(self) -> Mapping[str, str]:
        """What belongs into reports: the hypervisor, what runs the guest's instructions, how it is reverted."""

    def address_of(self, guest_port: int) -> Address:
        """Where a TCP port of the guest is reached; the same until the domain is reverted or boots again.

        Args:
            guest_port: 5986 for remoting, 22 for SSH.
        """

    def state(self) -> DomainState:
        """What it does now."""

    def panic(self) -> GuestPanic | None:
        """The guest's panic since it was reverted or booted last, None where there was none."""

    def when_stopped(self, callback: Callable[[], None] | None) -> None:
        """Have a function called once the guest panics or the domain goes off; None takes the last one back.

        It is called from another thread, and at once if that has happened already. It must not call the domain. One
        that was taken back is not called any more, nor still being called.
        """

    def wait_for_panic(self, seconds: float) -> GuestPanic | None:
        """The guest's panic, waiting for it at most `seconds`; None when none came."""

    def revert(self) -> None:
        """Go back to the golden state, whatever the domain does now. Addresses may change; the panic is forgotten."""

    def boot_again(self) -> None:
        """Have a guest that crashed boot from its disk as it is, so that it writes its dump. Addresses may change."""

    def inject_nmi(self) -> None:
        """Interrupt a guest that hangs. Windows bugchecks with NMI_HARDWARE_FAILURE, 0x80 (Microsoft Learn)."""

    def collect(self, folder: Path) -> tuple[Path, ...]:
        """Write what the hypervisor can show of the guest into a folder: screen, memory dump, serial log.

        What cannot be had is left out and logged: evidence never hides what it is evidence of.

        Args:
            folder: exists, and is empty.
        """

    def close(self) -> None:
        """Give the domain up: it is destroyed, its overlay removed, its slot released. Closing twice does nothing."""
