"""Machines by name, as ``--vm`` takes them.

A machine's module is imported only when it is asked for, so that naming machines costs nothing.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vm.errors import MachineConfigurationError

if TYPE_CHECKING:
    from vm.machine import Machine
    from vm.verifier import VerifierSettings

EMULATED: Final = "emulated"
_WINDOWS_MODULES: Final = ("libvirt", "pypsrp", "paramiko", "cryptography")


@dataclass(frozen=True)
class GuestProgramFiles:
    """The programs that run inside a Windows guest.

    Attributes:
        ntguest: runs plans.
        child: what plans launch.
    """

    ntguest: Path
    child: Path


def _silent(_line: str) -> None:
    """Tell nobody."""


def _machine() -> str:
    """What a machine is used for, where nobody says more."""
    return "machine"


@dataclass(frozen=True)
class MachineOptions:
    """How a machine is made. Each kind of machine takes what concerns it.

    Attributes:
        profile: behaviour profile of the emulated machine, ``observed`` or ``documented``.
        connect: libvirt URI of the hypervisor; None for LIBVIRT_DEFAULT_URI, else ``qemu:///session``.
        worker: name of the worker that the machine is for, as pytest-xdist says; ``main`` without it.
        slots: how many machines of one image may run on the hypervisor at once.
        artefacts: folder for what is kept of crashes and hangs; None to keep nothing.
        occasion: names what the machine is used for at this moment; the folder of that name below `artefacts`, which
            may exist, gets a folder of its own for each crash and hang.
        verifier: Driver Verifier's settings; None for none.
        tools: builds the programs that run inside a guest; None where no Windows machine is wanted.
        progress: is told in a line what takes long.
    """

    profile: str = "observed"
    connect: str | None = None
    worker: str = "main"
    slots: int = 4
    artefacts: Path | None = None
    occasion: Callable[[], str] = _machine
    verifier: VerifierSettings | None = None
    tools: Callable[[], GuestProgramFiles] | None = None
    progress: Callable[[str], None] = _silent


def machine_names(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Names that create_machine knows: the emulated machine, then the images of the store and their aliases.

    Args:
        environment: names the store (NTPROOF_IMAGE_DIR). Where it names none, there are no images.
    """
    from vm.windows.images.store import ImageStore
    from vm.windows.names import names_of

    try:
        images = ImageStore.from_environment(environment).names()
    except MachineConfigurationError:
        images = ()
    return (EMULATED, *(names_of(images) if images else ()))


def create_machine(name: str, options: MachineOptions | None = None) -> Machine:
    """Make a machine.

    Args:
        name: one of machine_names(). The name of a profile without an image says how to build one.
        options: how; the defaults where None.

    Raises:
        MachineConfigurationError: no machine of that name, or a bad option.
        MachineBroken: the machine cannot run here.
    """
    options = options or MachineOptions()
    if name != EMULATED:
        return _windows_machine(name, options)
    from vm.emulated.kernel import KernelOptions
    from vm.emulated.machine import EmulatedMachine

    return EmulatedMachine(name, KernelOptions(profile=options.profile, verifier=options.verifier))


def _windows_machine(name: str, options: MachineOptions) -> Machine:
    from vm.windows.images.store import ImageStore
    from vm.windows.names import image_of

    # A name that nobody knows is told before what running it would need.
    image_of(name, ImageStore.from_environment(os.environ).names())
    missing = [module for module in _WINDOWS_MODULES if importlib.util.find_spec(module) is None]
    if missing:
        raise MachineConfigurationError(
            f"{name}: {', '.join(missing)} not installed; pip install 'ntproof[windows,libvirt]'"
        )
    from vm.windows.machine.create import create_windows_machine

    return create_windows_machine(name, options, os.environ)
