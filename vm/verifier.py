"""Driver Verifier's options by name, for both kinds of machine.

A Windows machine sets the options' flag bits in its guest; the emulated machine makes some of the checks always, can
make others not at all, and implements low resources simulation (`vm.emulated.verifier_options`).

Sources: Microsoft Learn, "Driver Verifier Command Syntax" (the bits of /flags, the standard settings, the parameters of
/faults), "Using Volatile Settings" (which bits may be changed without a restart, on Windows 10 and on Windows 11), "Low
Resources Simulation" (chances in 10,000, 600 by default; pool tags); for bits from 0x40000 on, what `verifier
/querysettings` of Windows 10 prints.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Final

from vm.errors import MachineConfigurationError

LOW_RESOURCES: Final = "low-resources"
NONE: Final = "none"
"""What the options take to leave Driver Verifier off where a project turns it on."""
STANDARD: Final = "standard"
"""Stands for the options of ``verifier /standard``."""

DEFAULT_PROBABILITY: Final = 0.06
CHANCES: Final = 10_000
WINDOWS_11: Final = 22000
"""The first build of Windows 11; Server 2022 is an older one, Server 2025 a newer one."""

_VALUES: Final = ("pool-tag", "seed")
_LARGEST_SEED: Final = (1 << 64) - 1


@dataclass(frozen=True)
class VerifierOption:
    """One of Driver Verifier's options.

    Attributes:
        name: as ``--verifier`` takes it.
        flag: its bit for ``verifier /flags``.
        title: Microsoft's name of it.
        standard: whether ``verifier /standard`` has it.
        volatile_10: whether Windows 10 changes it without a restart (/volatile).
        volatile_11: whether Windows 11 does.
    """

    name: str
    flag: int
    title: str
    standard: bool = False
    volatile_10: bool = False
    volatile_11: bool = False

    def is_volatile(self, build: int) -> bool:
        """Whether a build of Windows changes it without a restart."""
        return self.volatile_11 if build >= WINDOWS_11 else self.volatile_10


OPTIONS: Final = (
    VerifierOption("special-pool", 0x1, "Special pool", standard=True, volatile_10=True),
    VerifierOption("force-irql", 0x2, "Force IRQL checking", standard=True, volatile_10=True),
    VerifierOption(LOW_RESOURCES, 0x4, "Randomized low resources simulation", volatile_10=True, volatile_11=True),
    VerifierOption("pool-tracking", 0x8, "Pool tracking", standard=True, volatile_10=True),
    VerifierOption("io", 0x10, "I/O verification", standard=True, volatile_10=True),
    VerifierOption("deadlock", 0x20, "Deadlock detection", standard=True, volatile_10=True, volatile_11=True),
    VerifierOption("dma", 0x80, "DMA checking", standard=True, volatile_10=True, volatile_11=True),
    VerifierOption("security", 0x100, "Security checks", standard=True, volatile_10=True),
    VerifierOption("force-pending", 0x200, "Force pending I/O requests", volatile_10=True, volatile_11=True),
    VerifierOption("irp-logging", 0x400, "IRP logging", volatile_10=True, volatile_11=True),
    VerifierOption("misc", 0x800, "Miscellaneous checks", standard=True, volatile_10=True),
    VerifierOption("mdl-stack", 0x2000, "Invariant MDL checking for stack", volatile_10=True),
    VerifierOption("mdl-driver", 0x4000, "Invariant MDL checking for driver", volatile_10=True),
    VerifierOption("power-delay", 0x8000, "Power framework delay fuzzing"),
    VerifierOption("port-interface", 0x10000, "Port/miniport interface checking"),
    VerifierOption("ddi", 0x20000, "DDI compliance checking", standard=True),
    VerifierOption("systematic-low-resources", 0x40000, "Systematic low resources simulation"),
    VerifierOption("ddi-additional", 0x80000, "DDI compliance checking (additional)"),
    VerifierOption("ndis", 0x200000, "NDIS/WIFI verification"),
    VerifierOption("synchronization-delay", 0x800000, "Kernel synchronization delay fuzzing"),
    VerifierOption("vm-switch", 0x1000000, "VM switch verification"),
    VerifierOption("code-integrity", 0x2000000, "Code integrity checks"),
)

_BY_NAME: Final = {option.name: option for option in OPTIONS}
_TAG: Final = re.compile(r"[!-+\--~]{4}")


@dataclass(frozen=True)
class VerifierSettings:
    """What Driver Verifier is to do.

    Attributes:
        options: names of OPTIONS.
        probability: of each allocation to fail under low resources simulation, over 0 and at most 1.
        pool_tag: only allocations with this tag fail; None for all.
        seed: which of them fail on the emulated machine; Windows takes none.

    Raises:
        MachineConfigurationError: a value that cannot be; the message names it.
    """

    options: frozenset[str]
    probability: float = DEFAULT_PROBABILITY
    pool_tag: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in sorted(self.options - _BY_NAME.keys()):
            raise _unknown(name)
        if not 1 / CHANCES <= self.probability <= 1:
            raise MachineConfigurationError(
                f"low-resources={self.probability:g}: expected a probability from {1 / CHANCES:g} to 1"
            )
        if self.pool_tag is not None and not _TAG.fullmatch(self.pool_tag):
            raise MachineConfigurationError(
                f"pool-tag={self.pool_tag}: a pool tag has four printable ASCII characters, here without a comma"
            )
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise MachineConfigurationError(f"seed={self.seed}: expected an integer of 0 to 2**64 - 1")
        spare = "pool-tag" if self.pool_tag is not None else "seed" if self.seed else None
        if spare and LOW_RESOURCES not in self.options:
            raise MachineConfigurationError(f"{spare} says something only together with low-resources: add that")

    def __str__(self) -> str:
        """The same settings as parse_verifier reads them."""
        words = [option.name for option in OPTIONS if option.name in self.options]
        if LOW_RESOURCES in self.options:
            words[words.index(LOW_RESOURCES)] += f"={self.probability!r}"
            words += [f"pool-tag={self.pool_tag}"] * (self.pool_tag is not None)
            words.append(f"seed={self.seed}")
        return ",".join(words)

    @property
    def flags(self) -> int:
        """Bits for ``verifier /flags``, low resources simulation left out: with its parameters it goes by /faults."""
        return sum(_BY_NAME[name].flag for name in self.options - {LOW_RESOURCES})

    @property
    def chances(self) -> int | None:
        """How many of 10,000 allocations fail, for ``verifier /faults``; None without low resources simulation."""
        return round(self.probability * CHANCES) if LOW_RESOURCES in self.options else None

    def needs_restart(self, build: int) -> tuple[str, ...]:
        """Names of the options that a build of Windows takes up only when it starts; empty when /volatile does."""
        return tuple(option.name for option in OPTIONS if option.name in self.options and not option.is_volatile(build))


def parse_verifier(text: str) -> VerifierSettings:
    """Read settings such as ``special-pool,io,low-resources=0.05,pool-tag=Tag1,seed=7``.

    Args:
        text: names of OPTIONS or ``standard``, separated by commas; low-resources may have a probability.

    Raises:
        MachineConfigurationError: in one line, which word is wrong and what would be right.
    """
    given: dict[str, str | None] = {}
    for word in (part.strip() for part in text.split(",")):
        name, equals, value = word.partition("=")
        if name in given:
            raise MachineConfigurationError(f"{name} is given twice")
        if name not in _BY_NAME and name not in (STANDARD, *_VALUES):
            raise _unknown(name)
        if equals and name not in (LOW_RESOURCES, *_VALUES):
            raise MachineConfigurationError(f"{word}: {name} takes no value")
        if not equals and name in _VALUES:
            raise MachineConfigurationError(f"{name} needs a value: {name}=...")
        given[name] = value if equals else None
    options = given.keys() & _BY_NAME.keys()
    if STANDARD in given:
        options |= {option.name for option in OPTIONS if option.standard}
    return VerifierSettings(
        frozenset(options),
        _probability(given.get(LOW_RESOURCES)),
        given.get("pool-tag"),
        _seed(given["seed"] or "") if "seed" in given else 0,
    )


def _unknown(name: str) -> MachineConfigurationError:
    if not name:
        return MachineConfigurationError("an option's name is missing")
    near = difflib.get_close_matches(name, [*_BY_NAME, STANDARD, *_VALUES], 1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {STANDARD}, {', '.join(_BY_NAME)}"
    return MachineConfigurationError(f"Driver Verifier has no option {name!r}: {hint}")


def _probability(text: str | None) -> float:
    if text is None:
        return DEFAULT_PROBABILITY
    try:
        return float(text)
    except ValueError:
        raise MachineConfigurationError(
            f"low-resources={text}: expected a probability such as {DEFAULT_PROBABILITY:g}"
        ) from None


def _seed(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,20}", text):
        raise MachineConfigurationError(f"seed={text}: expected an integer of 0 to 2**64 - 1")
    return int(text)
