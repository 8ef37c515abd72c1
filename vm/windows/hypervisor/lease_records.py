"""Records of leases in the metadata of domains that are never started, with compare-and-swap.

libvirt has no such operation, but a domain's name is unique: of several that define one name with fresh identities, one
succeeds. So each version of a record is a domain of its own, ``ntproof-lease-SLOT-vN``; to write version N + 1 is to
define that name, and the highest version counts. The newest record of a slot is never removed, not even when it is
released: a writer that fell asleep could otherwise begin again with a number that was used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from vm.errors import MachineBroken
from vm.windows.hypervisor.domain_xml import Accelerator, Devices, Domain, OperatingSystem
from vm.windows.hypervisor.mark import Mark

PREFIX: Final = "ntproof-lease-"
_NAME: Final = re.compile(rf"{PREFIX}(?P<slot>.+)-v(?P<version>[1-9]\d*)")
_TRIES: Final = 100


class RecordDomains(Protocol):
    """Domains by their unique names. Each call may raise MachineBroken."""

    def names(self) -> Iterable[str]:
        """Names of all domains of the hypervisor, whoever they belong to."""

    def create(self, name: str, mark: Mark) -> bool:
        """Define a domain with a fresh identity; False, and nothing done, where the name exists."""

    def marked(self, name: str) -> tuple[bool, Mark | None]:
        """Whether the domain exists, and its mark, None where it has none that can be read."""

    def remove(self, name: str) -> None:
        """Undefine a domain; one that is gone is no error."""


@dataclass(frozen=True)
class Versioned:
    """A record as it was read.

    Attributes:
        version: its number.
        mark: what it says; None when a domain of this name is not the project's.
    """

    version: int
    mark: Mark | None


class LeaseStore(Protocol):
    """Records by slot, with compare-and-swap. Each call may raise MachineBroken."""

    def read(self, slot: str) -> Versioned | None:
        """The record of a slot, None where there never was one."""

    def write(self, slot: str, expected: Versioned | None, mark: Mark) -> bool:
        """Replace a record by a new one unless it changed since it was read; whether it was replaced."""


class LeaseRecords:
    """A `LeaseStore` on domains."""

    def __init__(self, domains: RecordDomains) -> None:
        self._domains = domains

    def read(self, slot: str) -> Versioned | None:
        """The record of a slot, None where there never was one."""
        for _ in range(_TRIES):
            version = max(self._versions(slot), default=None)
            if version is None:
                return None
            exists, mark = self._domains.marked(record_name(slot, version))
            if exists:
                return Versioned(version, mark)
        raise MachineBroken(f"lease of slot {slot!r}: it changed {_TRIES} times while it was read; see who writes it")

    def write(self, slot: str, expected: Versioned | None, mark: Mark) -> bool:
        """Replace a record by a new one unless it changed since it was read; whether it was replaced."""
        if expected is not None and expected.mark is None:
            return False
        mine = 1 if expected is None else expected.version + 1
        if not self._domains.create(record_name(slot, mine), mark):
            return False
        others = [version for version in self._versions(slot) if version != mine]
        if any(version > mine for version in others):
            # What was read was old: others had written this version and later ones, and removed it again.
            self._domains.remove(record_name(slot, mine))
            return False
        for version in others:
            self._domains.remove(record_name(slot, version))
        return True

    def _versions(self, slot: str) -> list[int]:
        found = map(parse_record_name, self._domains.names())
        return [version for name, version in filter(None, found) if name == slot]


def record_name(slot: str, version: int) -> str:
    """Name of the domain that is a version of a slot's record."""
    return f"{PREFIX}{slot}-v{version}"


def parse_record_name(name: str) -> tuple[str, int] | None:
    """Slot and version by a domain's name, None for a domain that is no record."""
    match = _NAME.fullmatch(name)
    return None if match is None else (match["slot"], int(match["version"]))


def record_domain(name: str, mark: Mark) -> Domain:
    """The domain of a record: the least that libvirt accepts; it is never started."""
    return Domain(
        accelerator=Accelerator.QEMU,
        name=name,
        mark=mark,
        memory_mib=1,
        os=OperatingSystem(),
        devices=Devices(memory_balloon="none"),
    )
