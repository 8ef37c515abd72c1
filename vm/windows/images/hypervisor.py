"""What a build asks of a hypervisor: a disk, a machine that installs itself, and one that starts what was installed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from vm.errors import MachineConfigurationError
from vm.windows.images.guest_report import GuestFacts
from vm.windows.profiles.profile import Hardware, Profile

DEFAULT_URI: Final = "qemu:///session"
_MODULE: Final = "vm.windows.hypervisor.installation"


@dataclass(frozen=True)
class Installation:
    """A machine to install Windows on.

    It starts from its disk, and from the first medium while the disk starts nothing: setup restarts the machine several
    times, and the media do not ask for a key.

    Attributes:
        name: the image's name.
        hardware: the virtual machine.
        nested_virtualization: whether the guest runs a hypervisor of its own, which memory integrity needs.
        disk: the system disk, qcow2.
        nvram: file for the firmware's variables, None for BIOS; the hypervisor makes it from its template.
        media: the CDs in the order of their drives; the first one is started from.
    """

    name: str
    hardware: Hardware
    nested_virtualization: bool
    disk: Path
    nvram: Path | None
    media: tuple[Path, ...]


class InstallingMachine(Protocol):
    """A machine that runs."""

    def read_serial(self, timeout: float) -> bytes | None:
        """What the guest wrote to its first serial port since the last call.

        Args:
            timeout: seconds to wait for something; at its end nothing (``b""``) is given.

        Returns:
            The bytes, or None when the machine is off and everything was read.

        Raises:
            MachineBroken: the hypervisor or the machine failed.
        """

    def screenshot(self) -> bytes:
        """The screen as PNG.

        Raises:
            MachineBroken: the hypervisor gives none.
        """


class InstallationHost(Protocol):
    """A hypervisor that can install."""

    def versions(self) -> Mapping[str, str]:
        """Versions of the hypervisor's parts by name."""

    def create_disk(self, path: Path, gibibytes: int) -> None:
        """Make an empty disk, qcow2.

        Raises:
            MachineBroken: it cannot be made.
        """

    def run(self, installation: Installation) -> AbstractContextManager[InstallingMachine]:
        """Start a machine; at the end of the context it is off and undefined again, whatever happened.

        Raises:
            MachineConfigurationError: this hypervisor cannot give the hardware.
            MachineBroken: it does not start.
        """


@dataclass(frozen=True)
class Start:
    """A machine to start from what was installed, without changing it.

    Attributes:
        name: the image's name.
        hardware: the virtual machine.
        nested_virtualization: whether the guest runs a hypervisor of its own.
        disk: the disk, on an overlay of which the machine works.
        nvram: the firmware's variables, of which the machine gets a copy; None for BIOS.
    """

    name: str
    hardware: Hardware
    nested_virtualization: bool
    disk: Path
    nvram: Path | None


class StartedMachine(Protocol):
    """A machine whose guest can be reached over the network."""

    @property
    def remoting(self) -> tuple[str, int]:
        """Host and port that lead to TCP port 5986 of the guest."""

    def require_running(self) -> None:
        """Do nothing while the machine runs.

        Raises:
            MachineBroken: it is off or crashed; says which.
        """


class StartingHost(Protocol):
    """A hypervisor that can start what was installed."""

    def start(self, start: Start) -> AbstractContextManager[StartedMachine]:
        """Start a machine; at the end of the context it is gone with its overlay, whatever happened.

        Raises:
            MachineConfigurationError: this hypervisor cannot give the hardware.
            MachineBroken: it does not start.
        """


class Hypervisor(InstallationHost, StartingHost, Protocol):
    """A hypervisor that can do both."""


class Probe(Protocol):
    """Looks at an image at its first start after the installation."""

    def observe(self, folder: Path, name: str, profile: Profile, guest: GuestFacts) -> Mapping[str, str]:
        """Facts of the running guest by name, such as whether test signing is in effect.

        Args:
            folder: the finished but unsealed image; nothing in it may change.
            name: the image's name.
            profile: what it was made of.
            guest: what the guest said of itself.

        Raises:
            MachineBroken: the guest cannot be reached, its certificate is not the one that it reported, or it is not
                what the profile says.
        """


def open_host(uri: str) -> Hypervisor:
    """The hypervisor behind a libvirt URI.

    Raises:
        MachineConfigurationError: this installation of ntproof has no hypervisor part, or no such hypervisor.
    """
    try:
        module = importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        raise MachineConfigurationError(
            f"{uri}: {error.name} is missing; run 'ntproof doctor', and pip install ntproof[libvirt,windows]"
        ) from error
    host: Hypervisor = module.open_host(uri)
    return host
