"""Leases a domain: takes a slot of an image on a hypervisor, clears it, and brings its guest into the golden state."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vm.windows.hypervisor.domain_log import DomainLog, log_path
from vm.windows.hypervisor.golden_sets import GoldenSets, bare_domain, key_of
from vm.windows.hypervisor.lease_keeper import LeaseKeeper, hold_slot
from vm.windows.hypervisor.leased import LibvirtDomain
from vm.windows.hypervisor.leases import HEARTBEAT_MS
from vm.windows.hypervisor.mark import Role
from vm.windows.hypervisor.placement import ImageOnHost
from vm.windows.hypervisor.reset import Capabilities, Strategy
from vm.windows.hypervisor.slot_machine import Blueprint, SlotMachine
from vm.windows.hypervisor.ways_back import ColdBootWay, GoldenSaveWay, SnapshotWay, Ways, prepare
from vm.windows.hypervisor.workplace import Workplace, open_workplace
from vm.windows.images.store import Image
from vm.windows.leased_domain import LeasedDomain
from vm.windows.profiles.profile import Firmware

WAITS: Final = 1800.0
"""Seconds that a worker waits for a slot: the first use of one takes as long as a guest needs to start and settle."""


def _silent(_line: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class LeaseRequest:
    """What a worker asks for.

    Attributes:
        image: the image that the guest is of.
        content_key: hash of what `settle` puts on the guest; another one has the golden state made anew.
        settle: brings a guest that was just started into the state in which tests begin. It is called with the domain
            before its memory is saved, and after every start where it cannot be saved.
        worker: name of the worker, as pytest-xdist says.
        slots: how many slots the image has on the hypervisor.
        waits: seconds to wait for one.
        strategy: a way to go back that was asked for; None for the fastest that works.
        heartbeat: seconds between two heartbeats of the lease.
        progress: is told in a line what takes long.
    """

    image: Image
    content_key: str
    settle: Callable[[LeasedDomain], None]
    worker: str = "main"
    slots: int = 4
    waits: float = WAITS
    strategy: Strategy | None = None
    heartbeat: float = HEARTBEAT_MS / 1000
    progress: Callable[[str], None] = field(default=_silent, repr=False)

    @property
    def slot_names(self) -> tuple[str, ...]:
        """The slots in order of preference: those that were used before have their golden state."""
        return tuple(f"{self.image.manifest.name}-{number}" for number in range(1, self.slots + 1))


def lease_domain(uri: str | None, request: LeaseRequest, environment: Mapping[str, str] = os.environ) -> LibvirtDomain:
    """Lease a domain of an image; its guest is in the golden state when this returns.

    Args:
        uri: libvirt URI; None for LIBVIRT_DEFAULT_URI, else ``qemu:///session``.
        request: what is asked for.
        environment: the environment.

    Raises:
        MachineConfigurationError: there is no such hypervisor, or the image's hardware cannot be had on it.
        NoFreeSlot: every slot was taken all the time.
        MachineBroken: the hypervisor failed, or the guest did not settle.
    """
    with ExitStack() as resources:
        resources.enter_context(request.image.hold())
        place = resources.enter_context(
            open_workplace(uri, request.image.folder.parent, worker=request.worker, environment=environment)
        )
        return _domain(place, request, resources)


def _domain(place: Workplace, request: LeaseRequest, resources: ExitStack) -> LibvirtDomain:
    name = request.image.manifest.name
    base = _disk_on_host(place, request)
    accelerator = place.accelerator
    keeper = _hold(place, request, request.slot_names)
    # The slot is given back after its domain and files are gone.
    resources.callback(keeper.release)
    blueprint = Blueprint(
        image=request.image,
        base=base,
        slot=keeper.slot,
        accelerator=accelerator.accelerator,
        mark=place.mark(Role.CLONE, image=name, slot=keeper.slot),
    )
    machine = SlotMachine(place.connection, place.events, place.folder, blueprint)
    # What another owner took over is no longer this one's to remove.
    resources.callback(lambda: machine.let_go() if keeper.is_lost() else machine.remove())
    keeper.when_lost(machine.watch.lost)
    machine.clear_away()
    log = DomainLog(log_path(place.connection.uri, keeper.slot, place.environment))
    domain = LibvirtDomain(machine, keeper, log, accelerator, place.connection.versions())
    ways = _ways(place, request, machine)
    way, plan = prepare(
        machine,
        ways,
        _capabilities(place, request.image, room_needed=not ways.golden_save.is_made()),
        lambda: request.settle(domain),
        forced=request.strategy,
    )
    domain.hand_out(way, plan, lambda: request.settle(domain), resources.pop_all())
    return domain


def _disk_on_host(place: Workplace, request: LeaseRequest) -> Path:
    on_host = ImageOnHost(place.connection, place.folder, request.image)
    found = on_host.find()
    if found is not None:
        return found
    keeper = _hold(place, request, (on_host.copy_name,))
    try:
        # Another worker may have sent it meanwhile.
        mark = place.mark(Role.GOLDEN, image=request.image.manifest.name)
        return on_host.find() or on_host.send(mark, request.progress)
    finally:
        keeper.release()


def _hold(place: Workplace, request: LeaseRequest, slots: Iterable[str]) -> LeaseKeeper:
    leases = place.leases(request.image.manifest.name)
    uri = place.connection.uri.text
    return hold_slot(uri, leases, slots, request.waits, request.progress, heartbeat=request.heartbeat)


def _ways(place: Workplace, request: LeaseRequest, machine: SlotMachine) -> Ways:
    image, blueprint = request.image, machine.blueprint
    hardware = image.manifest.profile.hardware
    key = key_of(
        image,
        domain=bare_domain(image, blueprint.slot, blueprint.accelerator, blueprint.mark),
        accelerator=blueprint.accelerator,
        versions=place.connection.versions(),
        content_key=request.content_key,
    )
    golden_mark = place.mark(Role.GOLDEN, image=image.manifest.name, slot=blueprint.slot)
    sets = GoldenSets(place.folder, blueprint.slot, uefi=hardware.firmware is Firmware.UEFI)
    return Ways(
        GoldenSaveWay(machine, sets, key, golden_mark, request.progress),
        SnapshotWay(machine, request.progress),
        ColdBootWay(machine, request.progress),
    )


def _capabilities(place: Workplace, image: Image, *, room_needed: bool) -> Capabilities:
    profile = image.manifest.profile
    return Capabilities(
        libvirt=place.connection.version(),
        uefi=profile.hardware.firmware is Firmware.UEFI,
        memory_mib=profile.hardware.memory_mib,
        free_mib=place.folder.free_mib() if room_needed else None,
    )
