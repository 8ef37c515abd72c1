"""Machines by name, as ``--vm`` takes them.

A machine's module is imported only when it is asked for, so that naming machines costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vm.errors import MachineConfigurationError

if TYPE_CHECKING:
    from vm.machine import Machine

EMULATED = "emulated"


def machine_names() -> tuple[str, ...]:
    """Names that create_machine knows."""
    return (EMULATED,)


def create_machine(name: str, options: Mapping[str, str] | None = None) -> Machine:
    """Make a machine.

    Args:
        name: one of machine_names().
        options: by name; the emulated machine takes ``profile``, ``observed`` or ``documented``.

    Raises:
        MachineConfigurationError: no machine or option of that name, or a bad value.
        MachineBroken: the machine cannot run here.
    """
    if name != EMULATED:
        raise MachineConfigurationError(f"there is no machine {name!r}: choose from {', '.join(machine_names())}")
    unknown = set(options or ()) - {"profile"}
    if unknown:
        raise MachineConfigurationError(f"machine {name!r} has no option {', '.join(sorted(unknown))}; give profile")
    from vm.emulated.kernel import KernelOptions
    from vm.emulated.machine import EmulatedMachine

    return EmulatedMachine(name, KernelOptions(profile=(options or {}).get("profile", "observed")))
