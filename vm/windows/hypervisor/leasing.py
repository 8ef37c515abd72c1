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
from vm.windows.hypervisor.lease_keeper import LeaseKeeper
from vm.windows.hypervisor.leased import LibvirtDomain
from vm.windows.hypervisor.leases import HEARTBEAT_MS, Held, Leases, NoFreeSlot
from vm.windows.hypervisor.mark import Role
from vm.windows.hypervisor.placement import ImageOnHost
from vm.windows.hypervisor.reset import Capabilities, Strategy
from vm.windows.hypervisor.slot_machine import Blueprint, SlotMachine
from vm.windows.hypervisor.ways_back import ColdBootWay, GoldenSaveWay, SnapshotWay, Ways, prepare
from vm.windows.hypervisor.workplace import Workplace, open_workplace
from vm.windows.images.store import Image
from vm.windows.leased_domain import LeasedDomain
from vm.windows.profiles.profile import Firmware
from vm.windows.remoting.deadline import Deadline

WAITS: Final = 1800.0
"""Seconds that a worker waits for a slot: the first use of one takes as long as a guest needs to start and settle."""
_LOOKS_EVERY: Final = 1.0
_TELLS_AFTER: Final = 2.0


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
    leases = place.leases(name)
    held = acquire(leases, request.slot_names, request.waits, request.progress)
    blueprint = Blueprint(
        image=request.image,
        base=base,
        slot=held.slot,
        accelerator=place.accelerator.accelerator,
        mark=place.mark(Role.CLONE, image=name, slot=held.slot),
    )
    machine = SlotMachine(place.connection, place.events, place.folder, blueprint)
    keeper = LeaseKeeper(leases, held, machine.watch.lost, heartbeat=request.heartbeat)
    # The slot is given back after its domain and files are gone.
    resources.callback(keeper.release)
    resources.callback(machine.remove)
    machine.clear_away()
    log = DomainLog(log_path(place.connection.uri, held.slot, place.environment))
    domain = LibvirtDomain(machine, keeper, log, place.accelerator, place.connection.versions())
    way, plan = prepare(
        machine,
        _ways(place, request, machine),
        _capabilities(place, request.image),
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
    name = request.image.manifest.name
    leases = place.leases(name)
    held = acquire(leases, (on_host.copy_name,), request.waits, request.progress)
    keeper = LeaseKeeper(leases, held, lambda _reason: None, heartbeat=request.heartbeat)
    try:
        # Another worker may have sent it meanwhile.
        return on_host.find() or on_host.send(place.mark(Role.GOLDEN, image=name), request.progress)
    finally:
        keeper.release()


def acquire(leases: Leases, slots: Iterable[str], seconds: float, tell: Callable[[str], None]) -> Held:
    """Take a slot, waiting for one at most this long.

    Args:
        leases: this owner's.
        slots: names of slots in order of preference.
        seconds: how long to wait.
        tell: is told once what is waited for.

    Raises:
        NoFreeSlot: all were taken all the time; names who has each.
        MachineBroken: the hypervisor failed.
    """
    names = tuple(slots)
    deadline = Deadline(seconds)
    told = False
    while True:
        try:
            return leases.acquire(names)
        except NoFreeSlot as error:
            if deadline.passed:
                raise NoFreeSlot(f"{error} (waited {seconds:g} s)") from error
            if not told and seconds - deadline.remaining() > _TELLS_AFTER:
                tell(f"waiting for a slot: {error}")
                told = True
        deadline.pause(_LOOKS_EVERY)


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


def _capabilities(place: Workplace, image: Image) -> Capabilities:
    profile = image.manifest.profile
    return Capabilities(
        libvirt=place.connection.version(),
        uefi=profile.hardware.firmware is Firmware.UEFI,
        memory_mib=profile.hardware.memory_mib,
        free_mib=place.folder.free_mib(),
    )
