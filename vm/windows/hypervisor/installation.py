"""What a build of an image asks of a hypervisor, on libvirt: a disk, a machine that installs itself, a first start.

The image is made where it is stored, so the hypervisor has to be on this computer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.hypervisor.crash import crash_report
from vm.windows.hypervisor.domain_events import DomainWatch
from vm.windows.hypervisor.domain_handle import DomainHandle
from vm.windows.hypervisor.domain_xml import Domain
from vm.windows.hypervisor.domains import Files, build_domain, check_supported
from vm.windows.hypervisor.evidence import as_png
from vm.windows.hypervisor.file_marks import name_in, remove_set, write_mark
from vm.windows.hypervisor.guest_ports import GuestPorts
from vm.windows.hypervisor.host_folder import HostFolder
from vm.windows.hypervisor.mark import Mark, Role
from vm.windows.hypervisor.serial_console import SerialConsole
from vm.windows.hypervisor.uri import HypervisorUri
from vm.windows.hypervisor.workplace import Workplace, open_workplace
from vm.windows.images.hypervisor import Installation, InstallingMachine, Start, StartedMachine
from vm.windows.images.store import ImageStore
from vm.windows.profiles.profile import Hardware

REMOTING_PORT: Final = 5986
_ENDS_WITHIN: Final = 30.0
_TELLS_WITHIN: Final = 10.0
"""Seconds from the end of the serial port until the hypervisor tells why the machine ended."""
_ORDINARY_END: Final = "the guest shut itself down"


class LibvirtInstallingMachine:
    """A machine that installs itself.

    Args:
        handle: its domain.
        console: its serial port.
        watch: what happens to it.
    """

    def __init__(self, handle: DomainHandle, console: SerialConsole, watch: DomainWatch) -> None:
        self._handle = handle
        self._console = console
        self._watch = watch

    def read_serial(self, timeout: float) -> bytes | None:
        """What the guest wrote to its first serial port since the last call; None when it is off and all was read.

        Raises:
            MachineBroken: it crashed, its process was killed, or the hypervisor is gone.
        """
        found = self._console.read(timeout)
        if found:
            return found
        panic = self._watch.panic
        if panic is not None:
            raise MachineBroken(f"domain {self._handle.name}: the guest crashed: {crash_report(panic).summary()}")
        if found is not None:
            return found
        if not self._watch.wait_for_end(_TELLS_WITHIN):
            raise MachineBroken(f"domain {self._handle.name}: its serial port broke although it is not off")
        if self._watch.ended != _ORDINARY_END:
            raise MachineBroken(
                f"domain {self._handle.name}: it ended before its time:"
                f" {self._watch.ended or 'the hypervisor is gone'}; look into its log"
            )
        return None

    def screenshot(self) -> bytes:
        """The screen as PNG.

        Raises:
            MachineBroken: the hypervisor gives none.
        """
        try:
            return as_png(self._handle.screenshot())
        except ValueError as error:
            raise MachineBroken(f"domain {self._handle.name}: {error}") from error


class LibvirtStartedMachine:
    """A machine whose guest is reached over the network.

    Args:
        handle: its domain.
        ports: its forwarded ports.
        watch: what happens to it.
    """

    def __init__(self, handle: DomainHandle, ports: GuestPorts, watch: DomainWatch) -> None:
        self._handle = handle
        self._ports = ports
        self._watch = watch

    @property
    def remoting(self) -> tuple[str, int]:
        """Host and port that lead to TCP port 5986 of the guest."""
        address = self._ports.address_of(self._handle, REMOTING_PORT)
        return address.host, address.port

    def require_running(self) -> None:
        """Do nothing while the machine runs.

        Raises:
            MachineBroken: it is off or crashed; says which.
        """
        if self._watch.panic is not None:
            raise MachineBroken(f"domain {self._handle.name}: the guest crashed at its first start")
        if self._watch.ended is not None:
            raise MachineBroken(f"domain {self._handle.name}: it is off: {self._watch.ended}")


class LibvirtHost:
    """A hypervisor of this computer that installs images.

    Args:
        uri: libvirt URI.
        store: the folder of the image store.
        environment: the environment.
    """

    def __init__(self, uri: str, store: Path, environment: Mapping[str, str]) -> None:
        self._uri = uri
        self._store = store
        self._environment = environment

    def versions(self) -> Mapping[str, str]:
        """Versions of the hypervisor's parts by name."""
        with self._workplace() as place:
            return place.connection.versions()

    def create_disk(self, path: Path, gibibytes: int) -> None:
        """Make an empty disk, qcow2.

        Raises:
            MachineBroken: it cannot be made.
        """
        with self._workplace() as place, closing(HostFolder(place.connection, path.parent.resolve())) as folder:
            folder.create_disk(path.name, gibibytes)

    @contextmanager
    def run(self, installation: Installation) -> Iterator[InstallingMachine]:
        """Start a machine; at the end of the context it is off and undefined again, whatever happened.

        Raises:
            MachineConfigurationError: this hypervisor cannot give the hardware.
            MachineBroken: it does not start.
        """
        files = Files(
            disk=installation.disk.resolve(),
            variables=None if installation.nvram is None else installation.nvram.resolve(),
            media=tuple(path.resolve() for path in installation.media),
        )
        with self._workplace() as place:
            mark = place.mark(Role.INSTALLATION, image=installation.name)
            name = _unique("install", installation.name)
            domain = _domain(place, name, installation.hardware, files, mark, nested=installation.nested_virtualization)
            with (
                _running(place, domain, paused=True) as (handle, watch),
                closing(SerialConsole(place.connection, handle)) as console,
            ):
                # It is read from the first byte on: the guest runs only now that somebody listens.
                handle.resume()
                yield LibvirtInstallingMachine(handle, console, watch)

    @contextmanager
    def start(self, start: Start) -> Iterator[StartedMachine]:
        """Start a machine; at the end of the context it is gone with its overlay, whatever happened.

        Raises:
            MachineConfigurationError: this hypervisor cannot give the hardware.
            MachineBroken: it does not start.
        """
        with self._workplace() as place:
            mark = place.mark(Role.INSTALLATION, image=start.name)
            name = _unique("start", start.name)
            folder = place.folder
            write_mark(folder, name, mark)
            try:
                backing = start.disk.resolve()
                files = Files(
                    disk=folder.create_overlay(name_in(name, "qcow2"), backing),
                    backing=backing,
                    variables=None if start.nvram is None else folder.upload(start.nvram, name_in(name, "nvram")),
                )
                domain = _domain(place, name, start.hardware, files, mark, nested=start.nested_virtualization)
                with (
                    _running(place, domain) as (handle, watch),
                    closing(GuestPorts(place.connection.uri)) as ports,
                ):
                    yield LibvirtStartedMachine(handle, ports, watch)
            finally:
                remove_set(folder, name, folder.names())

    @contextmanager
    def _workplace(self) -> Iterator[Workplace]:
        with open_workplace(self._uri, self._store, environment=self._environment) as place:
            yield place


def _unique(purpose: str, image: str) -> str:
    return f"ntproof-{purpose}-{image}-{uuid4().hex[:8]}"


def _domain(place: Workplace, name: str, hardware: Hardware, files: Files, mark: Mark, *, nested: bool) -> Domain:
    domain = build_domain(
        hardware, files, name=name, accelerator=place.accelerator.accelerator, mark=mark, nested=nested
    )
    check_supported(domain, place.connection.version())
    return domain


@contextmanager
def _running(place: Workplace, domain: Domain, *, paused: bool = False) -> Iterator[tuple[DomainHandle, DomainWatch]]:
    """A domain that is gone at the end of the context, and at the end of this process."""
    watch = place.events.watch(domain.name)
    try:
        handle = place.connection.start(domain, ends_with_connection=True, paused=paused)
        try:
            yield handle, watch
        finally:
            handle.destroy()
            watch.wait_for_end(_ENDS_WITHIN)
    finally:
        place.events.forget(domain.name)


def open_host(uri: str) -> LibvirtHost:
    """The hypervisor behind a libvirt URI.

    Raises:
        MachineConfigurationError: it is on another computer, or there is no such hypervisor.
        MachineBroken: it does not answer.
    """
    if not HypervisorUri.parse(uri).is_local:
        raise MachineConfigurationError(
            f"{uri}: an image is made on the computer that stores it; give --connect a local hypervisor,"
            " and copy the image afterwards"
        )
    host = LibvirtHost(uri, ImageStore.from_environment(os.environ).root, os.environ)
    # Whoever names a hypervisor that is not there is told at once.
    host.versions()
    return host
