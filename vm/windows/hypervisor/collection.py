"""Removes from a hypervisor what carries the project's mark and belongs to nobody any more."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from vm.errors import MachineBroken
from vm.windows.hypervisor.file_marks import removal_order, set_of
from vm.windows.hypervisor.garbage import Finding, Kind, Resource, select
from vm.windows.hypervisor.inventory import Inventory, mark_of_resource, take_inventory
from vm.windows.hypervisor.leases import NoFreeSlot
from vm.windows.hypervisor.placement import COPY_PREFIX, copies_of
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
        chosen = select(
            found.resources,
            found.records,
            me=place.owner,
            images=copies_of(store),
            now_ms=now_ms(),
            probe=place.processes,
        )
        findings = tuple(_without_bases(place, chosen))
        return findings if dry_run else _removed(place, findings)


def _removed(place: Workplace, findings: Iterable[Finding]) -> tuple[Finding, ...]:
    kept = [finding for finding in findings if not finding.remove]
    by_lease: dict[str | None, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.remove:
            by_lease[_lease_of(finding.resource)].append(finding)
    done: list[Finding] = []
    # Copies of images come last: what stands on one may be removed before it.
    for lease in sorted(by_lease, key=lambda one: one is not None and one.startswith(COPY_PREFIX)):
        done += _remove_under(place, lease, by_lease[lease])
    return (*done, *kept)


def _lease_of(resource: Resource) -> str | None:
    """The slot that something belongs to, the copy of an image that it is part of, or None."""
    mark = mark_of_resource(resource)
    if mark is not None and mark.slot is not None:
        return mark.slot
    return set_of(PurePosixPath(resource.name).name) if _is_copy(resource) else None


def _remove_under(place: Workplace, lease: str | None, findings: list[Finding]) -> list[Finding]:
    """Remove what belongs to a lease while it is held: nobody can take it and use the same names meanwhile."""
    if lease is None:
        return _remove_all(place, findings)
    leases = place.leases(None)
    try:
        held = leases.acquire((lease,))
    except NoFreeSlot as error:
        return _kept(findings, str(error))
    try:
        return _remove_all(place, _without_bases(place, findings))
    finally:
        leases.release(held)


def _without_bases(place: Workplace, findings: Iterable[Finding]) -> list[Finding]:
    """Keep the copies of images that a disk stands on which stays: who has an image of the same content uses it too."""
    listed = list(findings)
    if not any(finding.remove and _is_copy(finding.resource) for finding in listed):
        return listed
    goes = {PurePosixPath(finding.resource.name).name for finding in listed if finding.remove}
    needed = {set_of(base.name) for name, base in place.folder.bases().items() if name not in goes}
    return [
        replace(finding, remove=False, reason="a machine's disk stands on it")
        if finding.remove and _is_copy(finding.resource) and _lease_of(finding.resource) in needed
        else finding
        for finding in listed
    ]


def _is_copy(resource: Resource) -> bool:
    return resource.kind is Kind.FILE and PurePosixPath(resource.name).name.startswith(COPY_PREFIX)


def _kept(findings: Iterable[Finding], reason: str) -> list[Finding]:
    return [replace(finding, remove=False, reason=reason) for finding in findings]


def _remove_all(place: Workplace, findings: list[Finding]) -> list[Finding]:
    # A domain holds its files, and a mark is removed after what it marks.
    kept = [finding for finding in findings if not finding.remove]
    going = [finding for finding in findings if finding.remove]
    domains = [finding for finding in going if finding.resource.kind is Kind.DOMAIN]
    files = {finding.resource.name: finding for finding in going if finding.resource.kind is Kind.FILE}
    done = [_remove(place, finding) for finding in (*domains, *(files[name] for name in removal_order(files)))]
    return [*done, *kept]


def _remove(place: Workplace, finding: Finding) -> Finding:
    resource = finding.resource
    try:
        if resource.kind is Kind.DOMAIN:
            handle = place.connection.find(resource.name)
            if handle is not None:
                if handle.mark_xml() != resource.mark:
                    return replace(finding, remove=False, reason="it is another one by now")
                handle.destroy()
                handle.undefine()
        else:
            place.folder.remove(PurePosixPath(resource.name).name)
    except MachineBroken as error:
        place.connection.require_alive()
        return replace(finding, remove=False, reason=f"it cannot be removed: {error}")
    _LOG.info("removed %s %s: %s", resource.kind.value, resource.name, finding.reason)
    return finding
