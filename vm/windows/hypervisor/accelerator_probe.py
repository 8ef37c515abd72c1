"""Runs the probe of `accelerator` on a hypervisor, once for each boot of its host."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Final

from vm.errors import MachineBroken
from vm.windows.hypervisor.accelerator import DEADLINE, Choice, Observation, build_rom, choose, probe_domain
from vm.windows.hypervisor.connection import Connection
from vm.windows.hypervisor.domain_events import DomainEvents
from vm.windows.hypervisor.domain_xml import Accelerator
from vm.windows.hypervisor.file_marks import name_in, remove_set, write_mark
from vm.windows.hypervisor.host_folder import HostFolder
from vm.windows.hypervisor.mark import Mark

_LOG = logging.getLogger(__name__)

ROM: Final = "rom"
_ENDS_WITHIN: Final = 10.0


def observe(connection: Connection, events: DomainEvents, folder: HostFolder, mark: Mark, name: str) -> Observation:
    """Run the probe's machine under KVM, and see whether it gets to its end.

    Args:
        connection: to the hypervisor.
        events: of that connection.
        folder: the project's folder there.
        mark: the mark of the probe.
        name: a name that no other domain has.

    Raises:
        MachineBroken: the hypervisor failed, other than by refusing the machine.
    """
    if not connection.offers(Accelerator.KVM):
        return Observation(offered=False)
    write_mark(folder, name, mark)
    try:
        rom = folder.write(name_in(name, ROM), build_rom())
        return _run(connection, events, rom, mark, name)
    finally:
        remove_set(folder, name, folder.names())


def _run(connection: Connection, events: DomainEvents, rom: Path, mark: Mark, name: str) -> Observation:
    watch = events.watch(name)
    try:
        try:
            handle = connection.start(probe_domain(name, rom, mark), ends_with_connection=True)
        except MachineBroken as error:
            connection.require_alive()
            return Observation(offered=True, refused=str(error))
        started = time.monotonic()
        panic = watch.wait_for_panic(DEADLINE)
        seconds = time.monotonic() - started
        handle.destroy()
        watch.wait_for_end(_ENDS_WITHIN)
        return Observation(offered=True, crashed_after=None if panic is None else seconds)
    finally:
        events.forget(name)


def choose_accelerator(
    connection: Connection, events: DomainEvents, folder: HostFolder, mark: Mark, name: str
) -> Choice:
    """Which accelerator machines get on a hypervisor.

    Args and errors: as for `observe`.
    """
    choice = choose(observe(connection, events, folder, mark, name))
    _LOG.info("%s: %s", connection.uri.text, choice.reason)
    return choice
