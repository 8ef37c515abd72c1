"""What the project has on a hypervisor: its slots with who holds them, and every domain and file with its mark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vm.windows.hypervisor.domain_handle import DomainHandle
from vm.windows.hypervisor.file_marks import read_mark, set_of
from vm.windows.hypervisor.garbage import Kind, Resource
from vm.windows.hypervisor.lease_domains import LibvirtRecordDomains
from vm.windows.hypervisor.lease_records import LeaseRecords, Versioned, parse_record_name
from vm.windows.hypervisor.leases import Judgement, judge
from vm.windows.hypervisor.mark import Mark, Owner, Role
from vm.windows.hypervisor.placement import COPY_PREFIX
from vm.windows.hypervisor.workplace import Workplace, now_ms
from vm.windows.hypervisor.xml_fields import XmlError


@dataclass(frozen=True)
class Slot:
    """A slot that was taken at least once.

    Attributes:
        name: its name, which is its domain's too.
        judgement: whether it is free, held or orphaned, and why.
        owner: who had it last, None where its record is not of this project.
        state: what its domain does, in libvirt's word in small letters; None where there is no domain.
        golden_bytes: size of the golden sets that are kept for it.
    """

    name: str
    judgement: Judgement
    owner: Owner | None
    state: str | None
    golden_bytes: int


@dataclass(frozen=True)
class Inventory:
    """What is on a hypervisor.

    Attributes:
        slots: the slots, by name.
        resources: every domain, and every file in the project's folder, with its mark where it has one.
        records: the record of each slot that a mark names, and of each that has one.
    """

    slots: tuple[Slot, ...]
    resources: tuple[Resource, ...]
    records: Mapping[str, Versioned | None]


def take_inventory(place: Workplace) -> Inventory:
    """Look at everything.

    Args:
        place: the hypervisor.

    Raises:
        MachineBroken: the hypervisor failed.
    """
    domains = place.connection.domains()
    names = place.folder.names()
    resources = (*_domains(domains), *_files(place, names))
    # Records are read after what they tell of was listed; see `garbage.select`.
    slots = {mark.slot for mark in _marks(resources) if mark.slot is not None}
    slots |= {parsed[0] for parsed in map(parse_record_name, (one.name for one in domains)) if parsed is not None}
    store = LeaseRecords(LibvirtRecordDomains(place.connection))
    records = {slot: store.read(slot) for slot in sorted(slots)}
    running = {one.name: one for one in domains}
    golden = _golden_bytes(place, resources)
    return Inventory(
        tuple(
            Slot(
                name=slot,
                judgement=judge(record, now_ms(), place.processes),
                owner=record.mark.owner if record is not None and record.mark is not None else None,
                state=running[slot].state().name.lower() if slot in running else None,
                golden_bytes=golden.get(slot, 0),
            )
            for slot, record in records.items()
            # Under another lease than that of a slot, an image is copied.
            if not slot.startswith(COPY_PREFIX)
        ),
        resources,
        records,
    )


def _domains(domains: Iterable[DomainHandle]) -> Iterable[Resource]:
    return (Resource(Kind.DOMAIN, one.name, one.mark_xml()) for one in domains)


def _files(place: Workplace, names: Iterable[str]) -> Iterable[Resource]:
    listed = tuple(names)
    marks = {file_set: read_mark(place.folder, file_set) for file_set in {set_of(name) for name in listed}}
    return (Resource(Kind.FILE, str(place.folder.path_of(name)), marks[set_of(name)]) for name in listed)


def _marks(resources: Iterable[Resource]) -> Iterable[Mark]:
    return (mark for mark in map(mark_of_resource, resources) if mark is not None)


def mark_of_resource(resource: Resource) -> Mark | None:
    """The mark of something, None where it has none that can be read."""
    try:
        return None if resource.mark is None else Mark.from_xml(resource.mark)
    except XmlError:
        return None


def _golden_bytes(place: Workplace, resources: Iterable[Resource]) -> dict[str, int]:
    found: dict[str, int] = {}
    for resource in resources:
        mark = mark_of_resource(resource)
        if resource.kind is Kind.FILE and mark is not None and mark.role is Role.GOLDEN and mark.slot is not None:
            size = place.folder.size(resource.name.rpartition("/")[2]) or 0
            found[mark.slot] = found.get(mark.slot, 0) + size
    return found
