"""How a guest is reached: what identifies it, with whose credentials, and how long it may take to answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vm.windows.images.store import Image
from vm.windows.leased_domain import Address
from vm.windows.remoting.endpoint import Authentication, Credentials, Endpoint
from vm.windows.remoting.ssh import SshEndpoint

REMOTING_PORT: Final = 5986
SSH_PORT: Final = 22


@dataclass(frozen=True)
class GuestAccess:
    """What identifies a guest, and its accounts.

    Attributes:
        certificate: SHA-256 fingerprint of the remoting certificate.
        host_key: the SSH host key as in a .pub file; None where the guest has no SSH server.
        administrator: the account that does everything else.
        standard_user: the account for calls without privileges.
        authentication: what WinRM is asked for.
    """

    certificate: str
    host_key: str | None
    administrator: Credentials
    standard_user: Credentials
    authentication: Authentication = "negotiate"

    def remoting(self, address: Address) -> Endpoint:
        """The WinRM listener at an address."""
        return Endpoint(address.host, address.port, self.certificate, self.authentication)

    def ssh(self, address: Address) -> SshEndpoint:
        """The SSH server at an address; there must be a host key."""
        assert self.host_key is not None
        return SshEndpoint(address.host, address.port, self.host_key)


def access_of(image: Image) -> GuestAccess:
    """How guests of an image are reached.

    Raises:
        MachineConfigurationError: the image's credentials cannot be read.
    """
    accounts, guest = image.credentials(), image.manifest.guest
    return GuestAccess(
        guest.certificate_sha256,
        guest.ssh_host_key,
        Credentials(accounts.administrator.name, accounts.administrator.password.reveal()),
        Credentials(accounts.standard_user.name, accounts.standard_user.password.reveal()),
    )


@dataclass(frozen=True)
class Patience:
    """Seconds after which something counts as not coming.

    Attributes:
        connect: a guest that was just put back, or started, answers.
        call: a call that ought to answer at once.
        slack: what is added where the guest has a deadline of its own, for the way to it and back.
        request: a device request that nobody waits for explicitly.
        driver: an entry point or an unload routine.
        panic: the hypervisor tells of a panic, once a connection broke or an NMI was injected.
        again: a guest whose connection broke, perhaps because it restarts, answers a new one; after that it counts as
            frozen.
        dump: a crashed guest starts again and hands out its dump.
    """

    connect: float = 120.0
    call: float = 30.0
    slack: float = 15.0
    request: float = 10.0
    driver: float = 60.0
    panic: float = 5.0
    again: float = 90.0
    dump: float = 900.0
