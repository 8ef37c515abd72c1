"""A domain on a hypervisor: libvirt's calls that this project uses, typed, with errors that say what failed."""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import libvirt
import libvirt_qemu

from vm.errors import MachineBroken
from vm.windows.hypervisor import xml_fields
from vm.windows.hypervisor.libvirt_errors import NO_DOMAIN, NO_METADATA, code_of
from vm.windows.hypervisor.mark import NAMESPACE, Mark
from vm.windows.hypervisor.xml_fields import XmlError, text

if TYPE_CHECKING:
    from vm.windows.hypervisor.connection import Connection

ANSWERS_WITHIN: Final = 60.0
"""Seconds for an answer of QEMU that needs no work."""
MOVES_MEMORY_WITHIN: Final = 1800.0
"""Seconds for a save, a dump or a snapshot: 64 GiB to a slow disk."""
DESTROYED_ALREADY: Final = frozenset({libvirt.VIR_ERR_OPERATION_INVALID, NO_DOMAIN})


class LibvirtState(enum.IntEnum):
    """virDomainState."""

    NOSTATE = libvirt.VIR_DOMAIN_NOSTATE
    RUNNING = libvirt.VIR_DOMAIN_RUNNING
    BLOCKED = libvirt.VIR_DOMAIN_BLOCKED
    PAUSED = libvirt.VIR_DOMAIN_PAUSED
    SHUTDOWN = libvirt.VIR_DOMAIN_SHUTDOWN
    SHUTOFF = libvirt.VIR_DOMAIN_SHUTOFF
    CRASHED = libvirt.VIR_DOMAIN_CRASHED
    SUSPENDED = libvirt.VIR_DOMAIN_PMSUSPENDED


class DumpFormat(enum.IntEnum):
    """virDomainCoreDumpFormat."""

    ELF = libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW
    KDUMP_ZLIB = libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_KDUMP_ZLIB
    WINDOWS = libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_WIN_DMP


@dataclass(frozen=True)
class _Snapshot:
    """A snapshot ("Snapshot XML format", libvirt)."""

    name: str = text("name")


class DomainHandle:
    """A domain as the hypervisor knows it. Each call raises MachineBroken when it fails.

    Args:
        connection: where it is.
        raw: libvirt's own object.
    """

    def __init__(self, connection: Connection, raw: Any) -> None:
        self._connection = connection
        self.raw = raw
        self.name = str(raw.name())

    def _doing(self, failed: str) -> Any:
        return self._connection.doing(f"domain {self.name}: {failed}")

    @contextmanager
    def _answered(self, failed: str, seconds: float | None = None) -> Iterator[None]:
        """Call what QEMU has to answer. libvirt waits for that without end, so a QEMU that does not answer is ended."""
        within = ANSWERS_WITHIN if seconds is None else seconds
        late = threading.Event()

        def end() -> None:
            late.set()
            self._connection.attempt(self.raw.destroy)

        timer = threading.Timer(within, end)
        timer.daemon = True
        timer.start()
        try:
            with self._doing(failed):
                yield
        except MachineBroken as error:
            if not late.is_set():
                raise
            raise MachineBroken(
                f"domain {self.name}: {failed}: QEMU did not answer within {within:g} s and was ended;"
                " see the load and the disks of the hypervisor"
            ) from error
        finally:
            timer.cancel()
            if late.is_set():
                # What it ends is this life of the domain, and not the next one.
                timer.join(ANSWERS_WITHIN)

    def state(self) -> LibvirtState:
        """What it does; SHUTOFF also where there is no such domain any more."""
        with self._doing("does not say what it does"):
            try:
                return LibvirtState(self.raw.state(0)[0])
            except libvirt.libvirtError as error:
                if code_of(error) == NO_DOMAIN:
                    return LibvirtState.SHUTOFF
                raise

    def pause_reason(self) -> int:
        """Why it is paused (virDomainPausedReason)."""
        with self._doing("does not say what it does"):
            return int(self.raw.state(0)[1])

    def disk_error(self) -> str:
        """Which disk failed, and whether it was for want of space; empty where none did."""
        with self._answered("does not say which disk failed"):
            errors: dict[str, int] = self.raw.diskErrors(0)
        words = {libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE: "no space left"}
        return ", ".join(f"{disk}: {words.get(error, 'input/output error')}" for disk, error in errors.items())

    def mark_xml(self) -> str | None:
        """The project's mark as it is kept; None for a domain of someone else, and for one that is gone."""
        with self._doing("does not tell whose it is"):
            try:
                return str(self.raw.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, 0))
            except libvirt.libvirtError as error:
                if code_of(error) in {NO_METADATA, NO_DOMAIN}:
                    return None
                raise

    def mark(self) -> Mark | None:
        """The project's mark, None where there is none that can be read."""
        xml = self.mark_xml()
        try:
            return None if xml is None else Mark.from_xml(xml)
        except XmlError:
            return None

    def start(self) -> None:
        """Start a defined domain."""
        with self._doing("cannot be started"):
            self.raw.create()

    def destroy(self) -> None:
        """End it as if its power was cut; one that is off is no error."""
        with self._doing("cannot be ended"):
            try:
                self.raw.destroy()
            except libvirt.libvirtError as error:
                if code_of(error) not in DESTROYED_ALREADY:
                    raise

    def undefine(self) -> None:
        """Remove what is known of it, with snapshots' records and TPM state but no disk; gone already is no error."""
        flags = libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
        with self._doing("cannot be removed"):
            try:
                if self.raw.isPersistent():
                    self.raw.undefineFlags(flags)
            except libvirt.libvirtError as error:
                if code_of(error) != NO_DOMAIN:
                    raise

    def save(self, path: str) -> None:
        """Write its memory to a file on the hypervisor's host; it is off afterwards."""
        with self._answered("its memory cannot be saved", MOVES_MEMORY_WITHIN):
            self.raw.save(path)

    def take_snapshot(self, name: str) -> None:
        """Take a snapshot of memory and disks inside its qcow2 files."""
        with self._answered("no snapshot can be taken", MOVES_MEMORY_WITHIN):
            self.raw.snapshotCreateXML(xml_fields.render(xml_fields.write(_Snapshot(name=name), "domainsnapshot")), 0)

    def revert_to_snapshot(self, name: str) -> None:
        """Go back to a snapshot and run."""
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING | libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_FORCE
        with self._answered(f"cannot go back to snapshot {name}", MOVES_MEMORY_WITHIN):
            self.raw.revertToSnapshot(self.raw.snapshotLookupByName(name, 0), flags)

    def reset(self) -> None:
        """Press the reset button."""
        with self._answered("cannot be reset"):
            self.raw.reset(0)

    def resume(self) -> None:
        """Let it run on."""
        with self._answered("does not run on"):
            self.raw.resume()

    def inject_nmi(self) -> None:
        """Interrupt its processors with a non-maskable interrupt."""
        with self._answered("takes no NMI"):
            self.raw.injectNMI(0)

    def monitor(self, command: str) -> str:
        """What QEMU's human monitor answers to a command."""
        with self._answered(f"QEMU's monitor does not answer to {command.split(maxsplit=1)[0]}"):
            return str(
                libvirt_qemu.qemuMonitorCommand(self.raw, command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
            )

    def written_bytes(self) -> int:
        """Bytes that its disks have taken since it was started."""
        with self._answered("does not tell what its disks took"):
            # Requests and bytes read, requests and bytes written, errors; an empty path stands for all disks.
            return int(self.raw.blockStats("")[3])

    def screenshot(self) -> bytes:
        """Its screen, in the format that the hypervisor gives: PNG since QEMU 7.1, PPM before."""
        content = bytearray()
        with self._answered("gives no picture of its screen"):
            stream = self._connection.raw.newStream()
            self.raw.screenshot(stream, 0)
            stream.recvAll(lambda _stream, data, sink: sink.extend(data), content)
            stream.finish()
        return bytes(content)

    def dump_memory(self, path: str, kind: DumpFormat) -> None:
        """Write its memory to a file on the hypervisor's host; it goes on as it was."""
        with self._answered("its memory cannot be dumped", MOVES_MEMORY_WITHIN):
            self.raw.coreDumpWithFormat(path, int(kind), libvirt.VIR_DUMP_MEMORY_ONLY)
