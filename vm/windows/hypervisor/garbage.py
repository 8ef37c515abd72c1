"""Chooses what a collection removes: what carries the project's mark and belongs to nobody any more, nothing else."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from vm.windows.hypervisor.file_marks import set_of
from vm.windows.hypervisor.lease_records import Versioned
from vm.windows.hypervisor.leases import Standing, judge
from vm.windows.hypervisor.mark import Mark, Owner, Role
from vm.windows.hypervisor.owners import Liveness, OwnerProbe
from vm.windows.hypervisor.xml_fields import XmlError

STALE_DAYS: Final = 7
"""The age from which something without a lease, made by a process that cannot be seen, is nobody's.

The longest-lived is an installation, which takes hours. The process may have ended when this computer started anew, but
names of computers are not unique.
"""
_DAY_MS: Final = 24 * 3_600_000


class Kind(enum.Enum):
    """Sorts of things on a hypervisor."""

    DOMAIN = "domain"
    FILE = "file"


@dataclass(frozen=True)
class Resource:
    """Something on a hypervisor.

    Attributes:
        kind: its sort.
        name: a domain's name, or a file's path there.
        mark: the project's mark as XML, a domain's from its metadata and a file's from the file beside it; None where
            there is none.
    """

    kind: Kind
    name: str
    mark: str | None


@dataclass(frozen=True)
class Finding:
    """What becomes of something.

    Attributes:
        resource: the thing.
        remove: whether it is removed.
        reason: why, or why not.
    """

    resource: Resource
    remove: bool
    reason: str


def select(
    resources: Iterable[Resource],
    records: Mapping[str, Versioned | None],
    *,
    me: Owner,
    images: Mapping[str, str | None] | None,
    now_ms: int,
    probe: OwnerProbe,
) -> tuple[Finding, ...]:
    """Decide for each thing whether it is removed.

    Args:
        resources: what is on the hypervisor, whoever it belongs to. It is listed before `records` are read: what was
            made for a lease then cannot be older than the record that tells of it.
        records: the record of each slot that a mark may name, None for one that was never taken.
        me: who asks.
        images: the images that this user has by name, each with the set of files that is a copy of its disk, None where
            that is not known; None where there is nothing that says which there are.
        now_ms: the time in milliseconds since 1970 UTC.
        probe: looks for owners.
    """

    def standing(slot: str) -> tuple[Standing, Owner | None] | None:
        if slot not in records:
            return None
        record = records[slot]
        owner = record.mark.owner if record is not None and record.mark is not None else None
        return judge(record, now_ms, probe).standing, owner

    found = []
    for resource in resources:
        remove, reason = _decide(resource, standing, me, images, now_ms, probe)
        found.append(Finding(resource, remove, reason))
    return tuple(found)


def _decide(
    resource: Resource,
    standing: Callable[[str], tuple[Standing, Owner | None] | None],
    me: Owner,
    images: Mapping[str, str | None] | None,
    now_ms: int,
    probe: OwnerProbe,
) -> tuple[bool, str]:
    if resource.mark is None:
        return False, "not of this project"
    try:
        mark = Mark.from_xml(resource.mark)
    except XmlError as error:
        return False, f"its mark cannot be read: {error}"
    liveness = probe.liveness(mark.owner)
    if mark.role is Role.LEASE:
        # The newest record of a slot has to stay, and whoever writes a record removes the older ones.
        return False, "the record of a slot"
    if mark.role is Role.GOLDEN:
        return _of_image(mark, resource, me, images, liveness)
    if mark.slot is not None:
        return _of_slot(mark, mark.slot, standing, liveness)
    if liveness is Liveness.GONE:
        return True, f"{mark.owner} is gone"
    if liveness is Liveness.UNKNOWN:
        if now_ms - mark.created * 1000 > STALE_DAYS * _DAY_MS:
            return True, f"made more than {STALE_DAYS} days ago by {mark.owner}, who cannot be seen from here"
        return False, f"{mark.owner} cannot be seen from here"
    return False, f"{mark.owner} runs"


def _of_image(
    mark: Mark, resource: Resource, me: Owner, images: Mapping[str, str | None] | None, liveness: Liveness
) -> tuple[bool, str]:
    if (mark.owner.host, mark.owner.user) != (me.host, me.user):
        return False, f"belongs to the images of {mark.owner.user}@{mark.owner.host}"
    if images is None:
        return False, f"there is no image store here that says whether image {mark.image!r} is gone"
    gone = f"image {mark.image!r} is gone"
    if mark.image is None or mark.image in images:
        copy = None if mark.image is None or mark.slot is not None else images[mark.image]
        if copy is None or set_of(PurePosixPath(resource.name).name) == copy:
            return False, f"image {mark.image!r} exists"
        gone = f"image {mark.image!r} is another one by now"
    if liveness is Liveness.ALIVE:
        return False, f"{mark.owner} runs"
    return True, gone


def _of_slot(
    mark: Mark, slot: str, standing: Callable[[str], tuple[Standing, Owner | None] | None], liveness: Liveness
) -> tuple[bool, str]:
    known = standing(slot)
    if known is None:
        return False, f"the record of slot {slot} was not read"
    state, holder = known
    if state is Standing.HELD and holder == mark.owner:
        return False, f"slot {slot} is held by {mark.owner}"
    if liveness is Liveness.ALIVE:
        # It may be about to take the slot, or to clear up after it lost it.
        return False, f"{mark.owner} runs"
    if state is Standing.FOREIGN:
        return False, f"slot {slot} is held by something that is not of this project"
    if state is Standing.HELD:
        return True, f"slot {slot} went from {mark.owner} to {holder}"
    return True, f"slot {slot} is no longer held by {mark.owner}"
