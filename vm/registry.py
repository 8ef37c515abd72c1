"""Machines by name, as ``--vm`` takes them.

A machine's module is imported only when it is asked for, so that naming machines costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vm.errors import MachineConfigurationError

if TYPE_CHECKING:
    from vm.machine import Machine
    from vm.verifier import VerifierSettings

EMULATED: Final = "emulated"


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


def machine_names() -> tuple[str, ...]:
    """Names that create_machine knows."""
    return (EMULATED,)


def create_machine(name: str, options: MachineOptions | None = None) -> Machine:
    """Make a machine.

    Args:
        name: one of machine_names().
        options: how; the defaults where None.

    Raises:
        MachineConfigurationError: no machine of that name, or a bad option.
        MachineBroken: the machine cannot run here.
    """
    if name != EMULATED:
        raise MachineConfigurationError(f"there is no machine {name!r}: choose from {', '.join(machine_names())}")
    from vm.emulated.kernel import KernelOptions
    from vm.emulated.machine import EmulatedMachine

    options = options or MachineOptions()
    return EmulatedMachine(name, KernelOptions(profile=options.profile, verifier=options.verifier))
