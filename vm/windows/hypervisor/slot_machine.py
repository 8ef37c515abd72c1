"""The domain of a slot through its lives: started from a disk, restored from a saved memory, ended, started again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import libvirt

from vm.errors import MachineBroken
from vm.windows.hypervisor.connection import Connection
from vm.windows.hypervisor.domain_events import DomainEvents
from vm.windows.hypervisor.domain_handle import DomainHandle, LibvirtState
from vm.windows.hypervisor.domain_xml import Accelerator, Domain
from vm.windows.hypervisor.domains import Files, build_domain, check_supported, clone_of
from vm.windows.hypervisor.file_marks import name_in, remove_set, write_mark
from vm.windows.hypervisor.golden_sets import GoldenSet
from vm.windows.hypervisor.guest_ports import GuestPorts
from vm.windows.hypervisor.host_folder import HostFolder
from vm.windows.hypervisor.mark import Mark
from vm.windows.images.store import Image
from vm.windows.leased_domain import Address, DomainState
from vm.windows.remoting.deadline import Deadline

_LOG = logging.getLogger(__name__)

ENDS_WITHIN: Final = 30.0
"""Seconds from destroying a domain until the hypervisor tells of its end."""
DUMPED_WITHIN: Final = 600.0
"""Seconds that a guest which panicked has for its dump: 16 GiB to a disk that takes 30 MB/s."""
QUIET: Final = 5.0
"""Seconds without a write after which it has written its dump."""
_LOOKS_EVERY: Final = 0.25
DISK: Final = "qcow2"
VARIABLES: Final = "nvram"
SERIAL: Final = "serial"

_STATES: Final = {
    LibvirtState.RUNNING: DomainState.RUNNING,
    LibvirtState.BLOCKED: DomainState.RUNNING,
    LibvirtState.SHUTDOWN: DomainState.RUNNING,
    LibvirtState.PAUSED: DomainState.PAUSED,
    LibvirtState.SUSPENDED: DomainState.PAUSED,
    LibvirtState.CRASHED: DomainState.CRASHED,
    LibvirtState.SHUTOFF: DomainState.OFF,
    LibvirtState.NOSTATE: DomainState.OFF,
}


@dataclass(frozen=True)
class Blueprint:
    """What a slot's domain is made of.

    Attributes:
        image: the image.
        base: the image's disk on the hypervisor's host.
        slot: the slot, which is the domain's name too.
        accelerator: what runs it.
        mark: the mark of the domain and of its files.
    """

    image: Image
    base: Path
    slot: str
    accelerator: Accelerator
    mark: Mark

    @property
    def run_set(self) -> str:
        """The set of files of the domain that runs."""
        return f"{self.slot}.run"


class SlotMachine:
    """The domain of a leased slot. Each call may raise MachineBroken.

    Args:
        connection: to the hypervisor.
        events: of that connection.
        folder: the project's folder there.
        blueprint: what the domain is made of.
    """

    def __init__(self, connection: Connection, events: DomainEvents, folder: HostFolder, blueprint: Blueprint) -> None:
        self._connection = connection
        self._events = events
        self.folder = folder
        self.blueprint = blueprint
        self.name = blueprint.slot
        self.watch = events.watch(self.name)
        self._ports = GuestPorts(connection.uri)
        self._handle: DomainHandle | None = None

    @property
    def is_started(self) -> bool:
        """Whether there is a domain, which may be off by now."""
        return self._handle is not None

    @property
    def handle(self) -> DomainHandle:
        """The domain.

        Raises:
            MachineBroken: it is off.
        """
        if self._handle is None:
            raise MachineBroken(f"domain {self.name}: it is off; revert it")
        return self._handle

    def require_hypervisor(self) -> None:
        """Do nothing while the hypervisor can be reached.

        Raises:
            MachineBroken: it is gone.
        """
        self._connection.require_alive()

    def clear_away(self) -> None:
        """Remove what the slot's previous owner or an attempt that failed left: its domain and its files.

        Raises:
            MachineBroken: a domain of this name is not of this project.
        """
        self._remove_domain()
        remove_set(self.folder, self.blueprint.run_set, self.folder.names())
        write_mark(self.folder, self.blueprint.run_set, self.blueprint.mark)

    def start_from_image(self, *, persistent: bool = False) -> None:
        """Start it on a new overlay of the image's disk, with a copy of its firmware variables.

        Args:
            persistent: whether its definition outlives its end, as snapshots need it.
        """
        self._start(self.blueprint.run_set, persistent=persistent)

    def start_for_golden(self, golden: GoldenSet) -> None:
        """Start it likewise on the disk and variables of a golden set that is being made."""
        self._start(golden.name, persistent=False)

    def restore(self, golden: GoldenSet) -> None:
        """Start it from a golden set, on a new overlay of its disk."""
        saved = self._connection.saved_domain(str(golden.memory))
        disk = self.folder.create_overlay(self._run_file(DISK), golden.disk)
        variables = None
        if golden.variables is not None:
            variables = self.folder.copy(golden.variables.name, self._run_file(VARIABLES))
        domain = clone_of(
            saved,
            disk=disk,
            variables=variables,
            mark=self.blueprint.mark,
            serial_log=self.folder.path_of(self._run_file(SERIAL)),
        )
        self._begin_life(lambda: self._connection.restore(str(golden.memory), domain))

    def save(self, golden: GoldenSet) -> None:
        """Save its memory into a golden set; it is off afterwards."""
        handle = self.handle
        handle.save(str(golden.memory))
        self._await_end(handle)
        self._ended()

    def take_snapshot(self, name: str) -> None:
        """Take a snapshot of memory and disk inside the overlay."""
        self.handle.take_snapshot(name)

    def revert_to_snapshot(self, name: str) -> None:
        """Go back to a snapshot."""
        handle = self._connection.find(self.name)
        if handle is None:
            raise MachineBroken(f"domain {self.name}: it is gone with its snapshots; lease another one")
        if self._handle is not None:
            self.end()

        def back() -> DomainHandle:
            handle.revert_to_snapshot(name)
            return handle

        self._begin_life(back)

    def boot_again(self) -> None:
        """Have a crashed guest boot from its disk as it is: the same QEMU goes on, with the ports that it forwards."""
        handle = self.handle
        self._let_dump(handle)
        handle.reset()
        self.watch.begin()
        if handle.state() is not LibvirtState.RUNNING:
            handle.resume()

    def end(self) -> None:
        """End it as if its power was cut; one that is off is no error."""
        handle = self._handle
        if handle is None:
            return
        handle.destroy()
        self._await_end(handle)
        self._ended()

    def remove(self) -> None:
        """End it, and remove all that belongs to this life of the slot."""
        try:
            self._remove_domain()
            remove_set(self.folder, self.blueprint.run_set, self.folder.names())
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Leave it as it is, for whoever has the slot now."""
        self._ports.close()
        self._events.forget(self.name)

    def state(self) -> DomainState:
        """What it does.

        Raises:
            MachineBroken: its disk failed, so that QEMU stopped it.
        """
        if self._handle is None:
            return DomainState.OFF
        state = self._handle.state()
        if state is LibvirtState.PAUSED and self._handle.pause_reason() == libvirt.VIR_DOMAIN_PAUSED_IOERROR:
            raise MachineBroken(
                f"domain {self.name}: QEMU stopped the guest because its disk failed"
                f" ({self._handle.disk_error()}); see the space and the health of the hypervisor's disk"
            )
        return _STATES.get(state, DomainState.OFF)

    def address_of(self, guest_port: int) -> Address:
        """Where a port of the guest is reached."""
        return self._ports.address_of(self.handle, guest_port)

    def serial_log(self) -> str:
        """Name of the file that keeps what the guest wrote to its serial port."""
        return self._run_file(SERIAL)

    def _let_dump(self, handle: DomainHandle) -> None:
        """Let a guest that panicked go on until its disks are quiet.

        QEMU stops a guest that tells of its panic, and what tells may come before the dump: virtio-win's driver does
        (kvm-guest-drivers-windows, pull request 516), and so does Linux.
        """
        deadline, written, quiet = Deadline(DUMPED_WITHIN), -1, Deadline(QUIET)
        while not (deadline.passed or quiet.passed):
            if handle.state() is LibvirtState.CRASHED:
                # Also a second time: a guest may have more than one way to tell.
                handle.resume()
            before, written = written, handle.written_bytes()
            if written != before:
                quiet = Deadline(QUIET)
            quiet.pause(_LOOKS_EVERY)

    def _remove_domain(self) -> None:
        found = self._connection.find(self.name)
        if found is not None:
            # One that has no mark may have ended between the two looks.
            if found.mark() is None and self._connection.find(self.name) is not None:
                raise MachineBroken(
                    f"domain {self.name}: a domain of this name is not of this project; rename it, or the image"
                )
            if found.state() is not LibvirtState.SHUTOFF:
                self._handle = found
                self.end()
            found.undefine()
        self._ended()

    def _run_file(self, kind: str) -> str:
        return name_in(self.blueprint.run_set, kind)

    def _start(self, file_set: str, *, persistent: bool) -> None:
        image = self.blueprint.image
        profile = image.manifest.profile
        disk = self.folder.create_overlay(name_in(file_set, DISK), self.blueprint.base)
        variables = None
        if image.nvram is not None:
            variables = self.folder.upload(image.nvram, name_in(file_set, VARIABLES))
        domain = build_domain(
            profile.hardware,
            Files(
                disk=disk,
                backing=self.blueprint.base,
                variables=variables,
                serial_log=self.folder.path_of(self._run_file(SERIAL)),
            ),
            name=self.name,
            accelerator=self.blueprint.accelerator,
            mark=self.blueprint.mark,
            nested=profile.features.memory_integrity,
        )
        check_supported(domain, self._connection.version())
        self._begin_life(lambda: self._defined(domain) if persistent else self._connection.start(domain))

    def _defined(self, domain: Domain) -> DomainHandle:
        handle = self._connection.define(domain)
        handle.start()
        return handle

    def _begin_life(self, start: Callable[[], DomainHandle]) -> None:
        self._ended()
        self.watch.begin()
        self._handle = start()

    def _ended(self) -> None:
        self._handle = None
        self._ports.reset()

    def _await_end(self, handle: DomainHandle) -> None:
        """Wait for the event of its end, which would otherwise be taken for one of its next life."""
        if not self.watch.wait_for_end(ENDS_WITHIN):
            _LOG.warning("domain %s: no event of its end; it is %s", self.name, handle.state().name)
