"""Removes from a hypervisor what carries the project's mark and belongs to nobody any more."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from vm.errors import MachineBroken
from vm.windows.hypervisor.file_marks import removal_order
from vm.windows.hypervisor.garbage import Finding, Kind, select
from vm.windows.hypervisor.inventory import Inventory, mark_of_resource, take_inventory
from vm.windows.hypervisor.leases import NoFreeSlot
from vm.windows.hypervisor.workplace import Workplace, now_ms, open_workplace
from vm.windows.images.store import ImageStore

_LOG = logging.getLogger(__name__)


def inventory(uri: str | None, store: ImageStore, environment: Mapping[str, str] = os.environ) -> Inventory:
    """What the project has on a hypervisor.

    Args:
        uri: libvirt URI; None for LIBVIRT_DEFAULT_URI, else ``qemu:///session``.
        store: the user's images.
        environment: the environment.

    Raises:
        MachineConfigurationError: there is no such hypervisor.
        MachineBroken: it failed.
    """
    with open_workplace(uri, store.root, environment=environment) as place:
        return take_inventory(place)


def collect(
    uri: str | None, store: ImageStore, *, dry_run: bool = False, environment: Mapping[str, str] = os.environ
) -> tuple[Finding, ...]:
    """Remove what is orphaned.

    Args:
        uri: as for `inventory`.
        store: the user's images: what was made of an image that is not there any more is removed.
        dry_run: only say what would be removed.
        environment: the environment.

    Returns:
        What was found, and what became of it.

    Raises:
        MachineConfigurationError: there is no such hypervisor.
        MachineBroken: it failed as a whole; a single thing that cannot be removed is a finding that says why.
    """
    with open_workplace(uri, store.root, worker="gc", environment=environment) as place:
        found = take_inventory(place)
        findings = select(
            found.resources,
            found.records,
            me=place.owner,
            images=frozenset(store.names()),
            now_ms=now_ms(),
            probe=place.processes,
        )
        return findings if dry_run else _removed(place, findings)


def _removed(place: Workplace, findings: Iterable[Finding]) -> tuple[Finding, ...]:
    kept = [finding for finding in findings if not finding.remove]
    by_slot: dict[str | None, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.remove:
            mark = mark_of_resource(finding.resource)
            by_slot[None if mark is None else mark.slot].append(finding)
    done: list[Finding] = []
    for slot, listed in by_slot.items():
        done += _remove_of_slot(place, slot, listed)
    return (*done, *kept)


def _remove_of_slot(place: Workplace, slot: str | None, findings: list[Finding]) -> list[Finding]:
    """Remove what belongs to a slot while it is held: nobody can take it and use the same names meanwhile."""
    if slot is None:
        return _remove_all(place, findings)
    leases = place.leases(None)
    try:
        held = leases.acquire((slot,))
    except NoFreeSlot as error:
        return [replace(finding, remove=False, reason=str(error)) for finding in findings]
    try:
        return _remove_all(place, findings)
    finally:
        leases.release(held)


def _remove_all(place: Workplace, findings: list[Finding]) -> list[Finding]:
    # A domain holds its files, and a mark is removed after what it marks.
    domains = [finding for finding in findings if finding.resource.kind is Kind.DOMAIN]
    files = {finding.resource.name: finding for finding in findings if finding.resource.kind is Kind.FILE}
    return [_remove(place, finding) for finding in (*domains, *(files[name] for name in removal_order(files)))]


def _remove(place: Workplace, finding: Finding) -> Finding:
    resource = finding.resource
    try:
        if resource.kind is Kind.DOMAIN:
            handle = place.connection.find(resource.name)
            if handle is not None:
                handle.destroy()
                handle.undefine()
        else:
            place.folder.remove(PurePosixPath(resource.name).name)
    except MachineBroken as error:
        place.connection.require_alive()
        return replace(finding, remove=False, reason=f"it cannot be removed: {error}")
    _LOG.info("removed %s %s: %s", resource.kind.value, resource.name, finding.reason)
    return finding
