"""What the emulated kernel does for each of Driver Verifier's options.

Checks that it makes, it makes always: asking for them changes nothing. Checks that it cannot make are refused, so that
a run never claims them.
"""

from __future__ import annotations

from typing import Final

from vm.errors import MachineConfigurationError
from vm.verifier import LOW_RESOURCES, VerifierSettings

ALWAYS_MADE: Final = {
    "special-pool": "each block of pool ends at a page that is not there, and a freed one is not there at all",
    "force-irql": "pageable code and data are never accessible from DISPATCH_LEVEL on",
    "pool-tracking": "a driver that unloads without freeing its pool stops the machine",
    "io": "IRPs that are completed twice, passed on, freed or cancelled wrongly stop the machine",
    "misc": "memory that is freed with a timer, resource, lookaside list or queued work item in it stops the machine",
}
"""The checks in a few words, by the option that asks for them."""

_REASONS: Final = {
    "deadlock": "no order of locks is kept, only a deadlock that happens is seen",
    "dma": "there is no DMA",
    "force-pending": "requests become pending only where a driver makes them",
    "ddi": "Microsoft's rules are not known here",
    "ddi-additional": "Microsoft's rules are not known here",
    "systematic-low-resources": f"use {LOW_RESOURCES}",
}


def check_supported(settings: VerifierSettings) -> None:
    """Refuse what this machine cannot do.

    Raises:
        MachineConfigurationError: names the option and says what to do instead.
    """
    for name in sorted(settings.options - ALWAYS_MADE.keys() - {LOW_RESOURCES}):
        reason = f" ({_REASONS[name]})" if name in _REASONS else ""
        raise MachineConfigurationError(
            f"the emulated machine cannot do what Driver Verifier's option {name} asks for{reason}: use a Windows "
            "machine or leave it out"
        )


def describe(settings: VerifierSettings) -> str:
    """The settings as a fact for headers and reports; whoever wants the same failures again needs the seed."""
    checks = [name for name in ALWAYS_MADE if name in settings.options]
    words = [f"{', '.join(checks)} (always checked here)"] if checks else []
    if LOW_RESOURCES in settings.options:
        tag = f" with tag {settings.pool_tag}" if settings.pool_tag is not None else ""
        words.append(f"{settings.probability:.4g} of allocations{tag} fail, seed {settings.seed}")
    return "; ".join(words) or "no option"
