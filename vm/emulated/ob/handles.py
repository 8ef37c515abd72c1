"""Handle tables: the kernel's own and one per process.

User handles are multiples of 4 in the table of their process; kernel handles have the high bit set and are valid in
every process, from kernel mode only (Microsoft: OBJ_KERNEL_HANDLE in InitializeObjectAttributes).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm.emulated.faults import Bugcheck
from vm.emulated.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_INVALID_HANDLE,
    STATUS_OBJECT_TYPE_MISMATCH,
    NtStatusError,
)
from vm.emulated.ob.object_types import OBJECT_TYPES

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel
    from vm.emulated.ob.manager import ObjectManager, ObjectRecord

KERNEL_TABLE = 0
KERNEL_HANDLE_BASE = 0xFFFF_FFFF_8000_0000
KERNEL_HANDLE_BITS = 0xFFFF_FFFF_8000_0000
CURRENT_PROCESS = 0xFFFF_FFFF_FFFF_FFFF
CURRENT_THREAD = 0xFFFF_FFFF_FFFF_FFFE
INVALID_KERNEL_HANDLE = 0x93


@dataclass(slots=True)
class HandleEntry:
    """What a handle stands for.

    Attributes:
        body: the object.
        access: rights granted when the handle was made.
    """

    body: int
    access: int


@dataclass
class HandleTable:
    """Handles of one process, or of the kernel; keys are handle values without the kernel's high bits."""

    entries: dict[int, HandleEntry] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    top: int = 4

    def add(self, entry: HandleEntry) -> int:
        """Enter at the value freed last, or a new one."""
        if self.free:
            value = self.free.pop()
        else:
            value = self.top
            self.top += 4
        self.entries[value] = entry
        return value


class Handles:
    """Creates, looks up and closes handles."""

    def __init__(self, kernel: Kernel, objects: ObjectManager) -> None:
        self._kernel = kernel
        self._objects = objects

    def create(self, body: int, access: int, *, process: int | None = None) -> int:
        """A new handle; it holds a reference of its own.

        Args:
            body: the object.
            access: granted rights, generic ones are mapped.
            process: pid whose table it goes to, None for a kernel handle.
        """
        record = self._objects.record(body)
        record.references += 1
        record.handles += 1
        granted = OBJECT_TYPES[record.type].mapping.map(access)
        table = self._table(KERNEL_TABLE if process is None else process)
        value = table.add(HandleEntry(body, granted))
        return value | KERNEL_HANDLE_BASE if process is None else value

    def entry(self, handle: int, process: int | None = None) -> HandleEntry:
        """What a handle of a process stands for.

        Args:
            handle: its value; the two low bits are free for applications' use and ignored.
            process: pid, None for the current process.

        Raises:
            NtStatusError: STATUS_INVALID_HANDLE.
        """
        table, value = self._split(handle, process)
        found = table.entries.get(value) if table is not None else None
        if found is None:
            raise NtStatusError(STATUS_INVALID_HANDLE, f"handle 0x{handle:X}")
        return found

    def resolve(
        self, handle: int, kind: str | None = None, *, access: int = 0, user: bool = False, process: int | None = None
    ) -> ObjectRecord:
        """Object of a handle: `resolve_with_access` without the granted access."""
        return self.resolve_with_access(handle, kind, access=access, user=user, process=process)[0]

    def resolve_with_access(
        self, handle: int, kind: str | None = None, *, access: int = 0, user: bool = False, process: int | None = None
    ) -> tuple[ObjectRecord, int]:
        """Object and granted access of a handle, as ObReferenceObjectByHandle finds them. Takes no reference.

        Args:
            handle: its value, or NtCurrentProcess or NtCurrentThread.
            kind: the kind the object must be, None for any.
            access: rights that a user-mode caller needs.
            user: the access mode is UserMode: rights are checked and kernel handles refused.
            process: pid of the table, None for the current process.

        Raises:
            NtStatusError: STATUS_INVALID_HANDLE, STATUS_OBJECT_TYPE_MISMATCH, STATUS_ACCESS_DENIED.
        """
        if handle in (CURRENT_PROCESS, CURRENT_THREAD):
            owner = self._kernel.current_process if handle == CURRENT_PROCESS else self._kernel.current_thread
            record, granted = self._objects.record(owner.object), OBJECT_TYPES["Process"].mapping.all
        else:
            if user and handle & KERNEL_HANDLE_BITS == KERNEL_HANDLE_BITS:
                raise NtStatusError(STATUS_INVALID_HANDLE, f"kernel handle 0x{handle:X} used from user mode")
            found = self.entry(handle, process)
            record, granted = self._objects.record(found.body), found.access
        if kind is not None and record.type != kind:
            raise NtStatusError(STATUS_OBJECT_TYPE_MISMATCH, f"handle 0x{handle:X} is a {record.type}")
        wanted = OBJECT_TYPES[record.type].mapping.map(access)
        if user and wanted & ~granted:
            raise NtStatusError(STATUS_ACCESS_DENIED, f"handle 0x{handle:X} lacks access 0x{wanted & ~granted:X}")
        return record, granted

    def close(self, handle: int, process: int | None = None) -> None:
        """Close a handle: the last one of an object runs its kind's procedure, then its reference goes.

        Raises:
            NtStatusError: STATUS_INVALID_HANDLE.
            Bugcheck: 0x93 for a kernel handle that is not open (Microsoft: Bug Check 0x93).
        """
        table, value = self._split(handle, process)
        found = table.entries.pop(value, None) if table is not None else None
        if table is None or found is None:
            if handle & KERNEL_HANDLE_BITS == KERNEL_HANDLE_BITS and handle not in (CURRENT_PROCESS, CURRENT_THREAD):
                raise Bugcheck(
                    INVALID_KERNEL_HANDLE, handle, 1, reason=f"kernel handle 0x{handle:X} was closed but is not open"
                )
            raise NtStatusError(STATUS_INVALID_HANDLE, f"handle 0x{handle:X}")
        table.free.append(value)
        self._drop(found)

    def close_all(self, process: int) -> None:
        """Close every handle of a process, in order of value, and forget its table: what its exit does."""
        table = self._objects.state.tables.get(process)
        while table is not None and table.entries:
            self._drop(table.entries.pop(min(table.entries)))
        self._objects.state.tables.pop(process, None)

    def _drop(self, entry: HandleEntry) -> None:
        record = self._objects.record(entry.body)
        record.handles -= 1
        record.pins += 1  # the handle's reference is the kernel's own while a driver's cleanup routine runs
        if record.handles == 0:
            self._objects.last_handle_closed(record)
        self._objects.unpin(record)

    def _table(self, key: int) -> HandleTable:
        tables = self._objects.state.tables
        table = tables.get(key)
        if table is None:
            table = tables[key] = HandleTable()
        return table

    def _split(self, handle: int, process: int | None) -> tuple[HandleTable | None, int]:
        """Table and key of a handle value."""
        if handle & KERNEL_HANDLE_BITS == KERNEL_HANDLE_BITS:
            return self._objects.state.tables.get(KERNEL_TABLE), handle & 0x7FFF_FFFC
        pid = self._kernel.current_process.pid if process is None else process
        return self._objects.state.tables.get(pid), handle & ~3
