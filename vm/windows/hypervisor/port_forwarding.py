"""Ports of a guest's user network on the hypervisor's host, through QEMU's monitor ("Human Monitor", hostfwd_add).

A forwarding ends with the QEMU process, so it is made again after every start and restore.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from typing import Final

from vm.errors import MachineBroken
from vm.windows.hypervisor.guest_network import NETDEV

LOOPBACK: Final = IPv4Address("127.0.0.1")
"""Other computers reach a guest only through the hypervisor's own connection."""
INFO_COMMAND: Final = "info usernet"

_NETWORK: Final = re.compile(r"\S.*\((?P<name>[^()]+)\):")
_FORWARD: Final = re.compile(
    r"\s+TCP\[HOST_FORWARD\]\s+-?\d+\s+(?P<address>\S+)\s+(?P<port>\d+)\s+\S+\s+(?P<guest>\d+)\s+\d+\s+\d+\s*"
)


def forward_command(guest_port: int, address: IPv4Address = LOOPBACK) -> str:
    """The monitor command that forwards a free port of the host, which QEMU chooses, to a port of the guest.

    Args:
        guest_port: TCP port, 1 to 65535.
        address: the host's address on which it listens.
    """
    if not 1 <= guest_port <= 0xFFFF:
        raise ValueError(f"{guest_port} is no TCP port")
    return f"hostfwd_add {NETDEV} tcp:{address}:0-:{guest_port}"


def check_answer(answer: str, domain: str) -> None:
    """Whether QEMU took a `forward_command`; it answers nothing then.

    Raises:
        MachineBroken: it did not; with its words.
    """
    if answer.strip():
        raise MachineBroken(f"domain {domain}: QEMU does not forward a port: {answer.strip()}")


def forwarded_ports(answer: str, address: IPv4Address = LOOPBACK) -> dict[int, int]:
    """The host's ports on one of its addresses by the guest's, from the answer to INFO_COMMAND.

    The last one counts where a guest's port has several. Other networks and connections are left out.
    """
    found: dict[int, int] = {}
    ours = False
    for line in answer.splitlines():
        if network := _NETWORK.fullmatch(line.rstrip()):
            ours = network["name"] == NETDEV
        elif ours and (forward := _FORWARD.fullmatch(line)) and forward["address"] == str(address):
            found[int(forward["guest"])] = int(forward["port"])
    return found
