"""Objects that drivers make and open by name: events, directories, symbolic links, and duplicates of handles.

Behaviour and IRQL limits are those of the functions' pages on Microsoft Learn (wdm.h, ntifs.h); OBJECT_ATTRIBUTES is
ntdef.h's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vm.emulated.exports import DISPATCH_LEVEL, PASSIVE_LEVEL, ExportTable
from vm.emulated.ke.sync import (
    EVENT_NOTIFICATION,
    EVENT_SYNCHRONIZATION,
    SIGNAL_STATE,
    initialise,
    ke_wait_for_single_object,
    set_event,
)
from vm.emulated.ntstatus import (
    STATUS_BUFFER_TOO_SMALL,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_NAME_COLLISION,
    STATUS_OBJECT_NAME_EXISTS,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_OBJECT_TYPE_MISMATCH,
    STATUS_SUCCESS,
    NtStatusError,
)
from vm.emulated.ob.exports import OBJ_KERNEL_HANDLE, returns_status
from vm.emulated.ob.manager import TYPE_BODY_SIZE
from vm.emulated.processor.cpu import MissingImport

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel
    from vm.emulated.ob.manager import ObjectRecord

EXPORTS = ExportTable()

OBJECT_ATTRIBUTES_SIZE = 0x30
OBJ_PERMANENT = 0x10
OBJ_OPENIF = 0x80
KEVENT_SIZE = 0x18
EVENT_ALL_ACCESS = 0x1F0003
DUPLICATE_CLOSE_SOURCE = 1
DUPLICATE_SAME_ACCESS = 2
_WAITABLE = frozenset({"Event", "Semaphore", "Process", "Thread"})


@dataclass(frozen=True)
class Attributes:
    """OBJECT_ATTRIBUTES: the absolute name, None for none, and the flags."""

    name: str | None
    flags: int

    @classmethod
    def read(cls, kernel: Kernel, address: int) -> Attributes:
        """From guest memory; NULL is no attributes. Raises NtStatusError."""
        if not address:
            return cls(None, 0)
        length, root, name, flags = struct.unpack("<I4xQQI", kernel.mem.read(address, 0x1C))
        if length != OBJECT_ATTRIBUTES_SIZE:
            raise NtStatusError(STATUS_INVALID_PARAMETER, "OBJECT_ATTRIBUTES.Length")
        text = kernel.mem.unicode_string(name) if name else None
        if root and text is not None:
            text = f"{kernel.ob.full_name(kernel.ob.handles.resolve(root, 'Directory'))}\\{text}"
        return cls(text, flags)

    @property
    def required_name(self) -> str:
        """The name. Raises NtStatusError when there is none."""
        if self.name is None:
            raise NtStatusError(STATUS_OBJECT_NAME_NOT_FOUND)
        return self.name


def _open(kernel: Kernel, record: ObjectRecord, access: int, flags: int, result: int) -> None:
    process = None if flags & OBJ_KERNEL_HANDLE else kernel.current_process.pid
    kernel.mem.set_u64(result, kernel.ob.handles.create(record.body, access, process=process))


def _create(
    kernel: Kernel, kind: str, size: int, attributes: Attributes, access: int, result: int, *, target: str = ""
) -> tuple[ObjectRecord, bool]:
    """Make an object and a handle of it, or open the one that has the name. Returns it, and whether it is new."""
    ob = kernel.ob
    try:
        permanent = bool(attributes.flags & OBJ_PERMANENT)
        body = ob.create(kind, size, attributes.name, permanent=permanent, target=target)
    except NtStatusError as error:
        if error.status != STATUS_OBJECT_NAME_COLLISION or not attributes.flags & OBJ_OPENIF:
            raise
        existing = ob.lookup(attributes.required_name, follow=kind != "SymbolicLink")
        if existing.type != kind:
            raise NtStatusError(STATUS_OBJECT_TYPE_MISMATCH, attributes.required_name) from None
        _open(kernel, existing, access, attributes.flags, result)
        return existing, False
    record = ob.record(body)
    _open(kernel, record, access, attributes.flags, result)
    if not record.permanent:
        ob.unpin(record)
    return record, True


# Events


@EXPORTS.function("ZwCreateEvent", "NtCreateEvent", args="ptr u32 ptr u32 bool", irql=PASSIVE_LEVEL)
@returns_status
def zw_create_event(kernel: Kernel, result: int, access: int, attributes: int, kind: int, state: bool) -> int:
    """Microsoft Learn, ZwCreateEvent: with OBJ_OPENIF an existing event is opened, STATUS_OBJECT_NAME_EXISTS."""
    if kind not in (EVENT_NOTIFICATION, EVENT_SYNCHRONIZATION):
        return STATUS_INVALID_PARAMETER
    record, new = _create(kernel, "Event", KEVENT_SIZE, Attributes.read(kernel, attributes), access, result)
    if not new:
        return STATUS_OBJECT_NAME_EXISTS
    initialise(kernel, record.body, kind, KEVENT_SIZE // 4, int(state))
    return STATUS_SUCCESS


@EXPORTS.function("ZwOpenEvent", "NtOpenEvent", args="ptr u32 ptr", irql=PASSIVE_LEVEL)
@returns_status
def zw_open_event(kernel: Kernel, result: int, access: int, attributes: int) -> int:
    """Microsoft Learn, ZwOpenEvent."""
    read = Attributes.read(kernel, attributes)
    _open(kernel, kernel.ob.lookup(read.required_name, "Event"), access, read.flags, result)
    return STATUS_SUCCESS


@EXPORTS.function("ZwSetEvent", "NtSetEvent", args="handle ptr", irql=DISPATCH_LEVEL)
@returns_status
def zw_set_event(kernel: Kernel, handle: int, previous: int) -> int:
    """Microsoft Learn, ZwSetEvent."""
    before = set_event(kernel, kernel.ob.handles.resolve(handle, "Event").body)
    if previous:
        kernel.mem.set_u32(previous, before)
    return STATUS_SUCCESS


@EXPORTS.function("ZwResetEvent", args="handle ptr", irql=DISPATCH_LEVEL)
@returns_status
def zw_reset_event(kernel: Kernel, handle: int, previous: int) -> int:
    """NtResetEvent in the documentation of winternl.h: back to not signalled."""
    body = kernel.ob.handles.resolve(handle, "Event").body
    if previous:
        kernel.mem.set_u32(previous, kernel.mem.u32(body + SIGNAL_STATE))
    kernel.mem.set_u32(body + SIGNAL_STATE, 0)
    return STATUS_SUCCESS


@EXPORTS.function("ZwWaitForSingleObject", "NtWaitForSingleObject", args="handle bool ptr", irql=PASSIVE_LEVEL)
@returns_status
def zw_wait_for_single_object(kernel: Kernel, handle: int, alertable: bool, timeout: int) -> int | None:
    """Microsoft Learn, ZwWaitForSingleObject."""
    record = kernel.ob.handles.resolve(handle)
    if record.type not in _WAITABLE:
        raise MissingImport("ntoskrnl.exe", f"ZwWaitForSingleObject (on a {record.type})")
    return ke_wait_for_single_object(kernel, record.body, 0, 0, alertable, timeout)


def _named_event(kernel: Kernel, name: int, result: int, kind: int) -> int:
    """IoCreateNotificationEvent and IoCreateSynchronizationEvent: the event, 0 when the name is another object's."""
    attributes = Attributes(kernel.mem.unicode_string(name), OBJ_OPENIF | OBJ_KERNEL_HANDLE)
    try:
        record, new = _create(kernel, "Event", KEVENT_SIZE, attributes, EVENT_ALL_ACCESS, result)
    except NtStatusError:
        return 0
    if new:
        initialise(kernel, record.body, kind, KEVENT_SIZE // 4, 1)
    return record.body


@EXPORTS.function("IoCreateNotificationEvent", args="ptr ptr", irql=PASSIVE_LEVEL)
def io_create_notification_event(kernel: Kernel, name: int, result: int) -> int:
    """Microsoft Learn, IoCreateNotificationEvent: signalled when new; a kernel handle keeps it."""
    return _named_event(kernel, name, result, EVENT_NOTIFICATION)


@EXPORTS.function("IoCreateSynchronizationEvent", args="ptr ptr", irql=PASSIVE_LEVEL)
def io_create_synchronization_event(kernel: Kernel, name: int, result: int) -> int:
    """Microsoft Learn, IoCreateSynchronizationEvent."""
    return _named_event(kernel, name, result, EVENT_SYNCHRONIZATION)


# Directories and symbolic links


@EXPORTS.function("ZwCreateDirectoryObject", args="ptr u32 ptr", irql=PASSIVE_LEVEL)
@returns_status
def zw_create_directory_object(kernel: Kernel, result: int, access: int, attributes: int) -> int:
    """Microsoft Learn, ZwCreateDirectoryObject."""
    read = Attributes.read(kernel, attributes)
    _, new = _create(kernel, "Directory", TYPE_BODY_SIZE, read, access, result)
    return STATUS_SUCCESS if new else STATUS_OBJECT_NAME_EXISTS


@EXPORTS.function("ZwOpenDirectoryObject", args="ptr u32 ptr", irql=PASSIVE_LEVEL)
@returns_status
def zw_open_directory_object(kernel: Kernel, result: int, access: int, attributes: int) -> int:
    """NtOpenDirectoryObject on Microsoft Learn."""
    read = Attributes.read(kernel, attributes)
    _open(kernel, kernel.ob.lookup(read.required_name, "Directory"), access, read.flags, result)
    return STATUS_SUCCESS


@EXPORTS.function("ZwOpenSymbolicLinkObject", args="ptr u32 ptr", irql=PASSIVE_LEVEL)
@returns_status
def zw_open_symbolic_link_object(kernel: Kernel, result: int, access: int, attributes: int) -> int:
    """Microsoft Learn, ZwOpenSymbolicLinkObject: the link itself, not where it leads."""
    read = Attributes.read(kernel, attributes)
    record = kernel.ob.lookup(read.required_name, "SymbolicLink", follow=False)
    _open(kernel, record, access, read.flags, result)
    return STATUS_SUCCESS


@EXPORTS.function("ZwQuerySymbolicLinkObject", args="handle ptr ptr", irql=PASSIVE_LEVEL)
@returns_status
def zw_query_symbolic_link_object(kernel: Kernel, handle: int, target: int, length: int) -> int:
    """Microsoft Learn, ZwQuerySymbolicLinkObject: the length that is told counts bytes."""
    text = kernel.ob.handles.resolve(handle, "SymbolicLink").target.encode("utf-16-le", "surrogatepass")
    if length:
        kernel.mem.set_u32(length, len(text))
    if kernel.mem.u16(target + 2) < len(text):
        return STATUS_BUFFER_TOO_SMALL
    kernel.mem.write(kernel.mem.u64(target + 8), text)
    kernel.mem.set_u16(target, len(text))
    return STATUS_SUCCESS


# Handles


@EXPORTS.function("ZwDuplicateObject", args="handle handle handle ptr u32 u32 u32", irql=PASSIVE_LEVEL)
@returns_status
def zw_duplicate_object(
    kernel: Kernel,
    source_process: int,
    source: int,
    target_process: int,
    result: int,
    access: int,
    attributes: int,
    options: int,
) -> int:
    """Microsoft Learn, ZwDuplicateObject."""
    handles = kernel.ob.handles
    owner = kernel.ps.of_object(handles.resolve(source_process, "Process").body).pid
    record, granted = handles.resolve_with_access(source, process=owner)
    if result:
        target = kernel.ps.of_object(handles.resolve(target_process, "Process").body).pid
        process = None if attributes & OBJ_KERNEL_HANDLE else target
        wanted = granted if options & DUPLICATE_SAME_ACCESS else access
        kernel.mem.set_u64(result, handles.create(record.body, wanted, process=process))
    if options & DUPLICATE_CLOSE_SOURCE:
        handles.close(source, process=owner)
    return STATUS_SUCCESS
