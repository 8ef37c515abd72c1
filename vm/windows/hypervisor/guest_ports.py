"""Where ports of a guest are reached from this computer: forwarded by QEMU, and over SSH where the connection is."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address

from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.hypervisor.domain_handle import DomainHandle
from vm.windows.hypervisor.port_forwarding import (
    INFO_COMMAND,
    LOOPBACK,
    check_answer,
    forward_command,
    forwarded_ports,
)
from vm.windows.hypervisor.ssh_tunnel import SshTunnel
from vm.windows.hypervisor.uri import HypervisorUri
from vm.windows.leased_domain import Address


class GuestPorts:
    """The ports of one domain.

    With a local hypervisor QEMU listens on the loopback address. With qemu+ssh it does so on the hypervisor's host, and
    an SSH tunnel to the same host leads there. With qemu+tls or qemu+tcp there is no such way: QEMU listens on the
    address that the URI names, where everyone who reaches that host reaches the guest's port.

    Args:
        uri: the hypervisor.

    Raises:
        MachineConfigurationError: the URI's host has no IPv4 address, or the transport leads nowhere.
    """

    def __init__(self, uri: HypervisorUri) -> None:
        self._listening = _listening_address(uri)
        self._tunnel = SshTunnel(uri) if uri.host and uri.transport in {"ssh", "libssh", "libssh2"} else None
        self._host = uri.host if uri.host and self._tunnel is None else str(LOOPBACK)
        self._addresses: dict[int, Address] = {}

    def address_of(self, domain: DomainHandle, guest_port: int) -> Address:
        """Where a port is reached; forwarded at the first call since `reset`.

        Raises:
            MachineBroken: QEMU does not forward it, or the tunnel cannot be made.
        """
        known = self._addresses.get(guest_port)
        if known is None:
            known = self._addresses[guest_port] = self._forward(domain, guest_port)
        return known

    def reset(self) -> None:
        """Forget what was forwarded: it ended with the QEMU process."""
        self._addresses.clear()
        if self._tunnel is not None:
            self._tunnel.close_forwards()

    def close(self) -> None:
        """End the tunnel."""
        self._addresses.clear()
        if self._tunnel is not None:
            self._tunnel.close()

    def _forward(self, domain: DomainHandle, guest_port: int) -> Address:
        check_answer(domain.monitor(forward_command(guest_port, self._listening)), domain.name)
        port = forwarded_ports(domain.monitor(INFO_COMMAND), self._listening).get(guest_port)
        if port is None:
            raise MachineBroken(
                f"domain {domain.name}: QEMU does not list port {guest_port} that it has just forwarded;"
                " its answer to 'info usernet' is not understood"
            )
        if self._tunnel is None:
            return Address(self._host, port)
        return Address(str(LOOPBACK), self._tunnel.forward(port))


def _listening_address(uri: HypervisorUri) -> IPv4Address:
    """Where QEMU listens. It takes numbers only (QEMU, slirp_hostfwd)."""
    if not uri.host or uri.transport in {"ssh", "libssh", "libssh2"}:
        return LOOPBACK
    if uri.transport not in {"tls", "tcp", ""}:
        raise MachineConfigurationError(
            f"{uri.text}: a guest's ports are not reached over {uri.transport!r}; use qemu+ssh or qemu+tls"
        )
    try:
        found = socket.getaddrinfo(uri.host, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise MachineConfigurationError(f"{uri.text}: no IPv4 address for {uri.host}: {error}") from error
    return IPv4Address(found[0][4][0])
