"""The guest's network: an adapter on a network of its own that leads nowhere, into which only the host forwards ports.

QEMU's user network has an option for that, ``restrict=on``: "the guest will be isolated, i.e. it will not be able to
contact the host and no guest IP packets will be routed over the host to the outside. This option does not affect any
explicitly set forwarding rules" (QEMU, "Invocation", -netdev user). libvirt's ``<interface type='user'>`` does not
offer it, so the adapter is given to QEMU through libvirt's QEMU namespace ("QEMU driver", pass-through of arguments).
Without it a guest reaches every service that listens on the host's loopback address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET

from vm.windows.hypervisor.xml_fields import XmlError

NAMESPACE: Final = "http://libvirt.org/schemas/domain/qemu/1.0"
NETDEV: Final = "hostua-net0"
"""QEMU's name of the network, by which the monitor forwards ports."""
ADAPTER: Final = "ua-net0"
DEFAULT_MAC: Final = "52:54:00:6e:74:01"
"""Of QEMU's own range. Every guest may have the same: no network has two of them, and a clone is what was installed."""
PLACE: Final = "bus=pcie.0,addr=0x10"
"""A PCI slot that libvirt leaves free: it fills the root bus from slot 1 and keeps 0x1b and above for the chipset."""

_QUALIFIER: Final = f"{{{NAMESPACE}}}"
_MODELS: Final = {"e1000e": "e1000e", "virtio": "virtio-net-pci"}
"""QEMU's devices by the profile's names."""
_MAC: Final = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")

ET.register_namespace("qemu", NAMESPACE)


@dataclass(frozen=True)
class GuestNetwork:
    """The adapter.

    Attributes:
        model: what the guest sees, ``e1000e`` or ``virtio``.
        mac: its address, in small hexadecimal digits with colons.
    """

    model: str
    mac: str = DEFAULT_MAC

    def arguments(self) -> tuple[str, ...]:
        """QEMU's arguments.

        Raises:
            XmlError: the model is unknown, or the address is none; nothing else can get into QEMU's command line.
        """
        if self.model not in _MODELS:
            raise XmlError(f"{self.model!r} is no network adapter that is known: {', '.join(_MODELS)}")
        if not _MAC.fullmatch(self.mac):
            raise XmlError(f"{self.mac!r} is no address of a network adapter")
        # Without its ROM the firmware has nothing to start from the network.
        device = f"{_MODELS[self.model]},netdev={NETDEV},id={ADAPTER},mac={self.mac},romfile=,{PLACE}"
        return ("-netdev", f"user,id={NETDEV},restrict=on", "-device", device)


@dataclass(frozen=True)
class GuestNetworkRule:
    """The network within a domain's XML."""

    def write(self, element: ET.Element, value: GuestNetwork) -> None:
        """Put QEMU's arguments below the domain."""
        line = ET.SubElement(element, f"{_QUALIFIER}commandline")
        for argument in value.arguments():
            ET.SubElement(line, f"{_QUALIFIER}arg", {"value": argument})

    def read(self, element: ET.Element) -> GuestNetwork | None:
        """The network, None where the arguments are not of `write`."""
        found = [one.get("value", "") for one in element.iterfind(f"{_QUALIFIER}commandline/{_QUALIFIER}arg")]
        for model, device in _MODELS.items():
            match = re.search(rf"^{device},.*mac=({_MAC.pattern}),", found[-1] if found else "")
            network = GuestNetwork(model, match[1]) if match else None
            if network is not None and list(network.arguments()) == found:
                return network
        return None
