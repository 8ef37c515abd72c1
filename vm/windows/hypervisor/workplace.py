"""What every job on a hypervisor has in common: the connection, its events, a folder there, and who asks."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final
from uuid import uuid4

from vm.windows.hypervisor.accelerator import Choice
from vm.windows.hypervisor.accelerator_memory import AcceleratorMemory
from vm.windows.hypervisor.accelerator_probe import choose_accelerator
from vm.windows.hypervisor.connection import Connection
from vm.windows.hypervisor.domain_events import DomainEvents
from vm.windows.hypervisor.host_folder import HostFolder
from vm.windows.hypervisor.lease_domains import LibvirtRecordDomains
from vm.windows.hypervisor.lease_keeper import slots_in_use
from vm.windows.hypervisor.lease_records import LeaseRecords
from vm.windows.hypervisor.leases import Leases
from vm.windows.hypervisor.mark import Mark, Owner, Role
from vm.windows.hypervisor.owners import LocalProcesses, current_owner
from vm.windows.hypervisor.placement import open_folder

_LOG = logging.getLogger(__name__)
_DISTRIBUTION: Final = "ntproof"


@dataclass(frozen=True)
class Workplace:
    """A hypervisor as one worker uses it.

    Attributes:
        connection: to it.
        events: of that connection.
        folder: the project's folder there.
        processes: of this computer.
        owner: this worker.
        environment: the environment.
    """

    connection: Connection
    events: DomainEvents
    folder: HostFolder
    processes: LocalProcesses
    owner: Owner
    environment: Mapping[str, str]

    @cached_property
    def accelerator(self) -> Choice:
        """What runs guests there, found out by running one; remembered until this computer starts anew.

        Raises:
            MachineBroken: the hypervisor failed.
        """
        memory = AcceleratorMemory(self.environment, self.connection.uri, self.connection.versions())
        known = memory.recall()
        if known is not None:
            return known
        name = f"ntproof-probe-{uuid4().hex[:12]}"
        choice = choose_accelerator(self.connection, self.events, self.folder, self.mark(Role.PROBE), name)
        memory.keep(choice)
        return choice

    def leases(self, image: str | None) -> Leases:
        """The leases of this worker.

        Args:
            image: the image that they are for.
        """
        uri = self.connection.uri.text
        return Leases(
            LeaseRecords(LibvirtRecordDomains(self.connection)),
            self.owner,
            self.processes,
            now_ms,
            created_by=program(),
            image=image,
            in_use=lambda slot: slots_in_use().has(uri, slot),
        )

    def mark(self, role: Role, *, image: str | None = None, slot: str | None = None) -> Mark:
        """The mark of something that this worker makes."""
        return Mark(role=role, created_by=program(), created=now_ms() // 1000, image=image, slot=slot, owner=self.owner)


@contextmanager
def open_workplace(
    uri: str | None, store: Path, *, worker: str = "main", environment: Mapping[str, str] = os.environ
) -> Iterator[Workplace]:
    """Connect to a hypervisor.

    Args:
        uri: libvirt URI; None for LIBVIRT_DEFAULT_URI, else ``qemu:///session``.
        store: the folder of the image store here.
        worker: name of the worker, as pytest-xdist says.
        environment: the environment.

    Raises:
        MachineConfigurationError: there is no such hypervisor, or no folder is known there.
        MachineBroken: it failed.
    """
    processes = LocalProcesses()
    with Connection.open(uri) as connection:
        events = DomainEvents(connection)
        try:
            folder = open_folder(connection, store, environment)
            yield Workplace(connection, events, folder, processes, current_owner(worker, processes), environment)
        finally:
            events.close()


def now_ms() -> int:
    """The time in milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


def program() -> str:
    """This program and its version, for marks."""
    try:
        return f"{_DISTRIBUTION} {version(_DISTRIBUTION)}"
    except PackageNotFoundError:
        return _DISTRIBUTION
