"""Object manager functions that drivers import: references, handles, names.

Behaviour and IRQL limits are those of the functions' pages on Microsoft Learn (wdm.h, ntifs.h, ntddk.h).
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING

from vm.emulated.exports import DISPATCH_LEVEL, PASSIVE_LEVEL, ExportTable, Handler
from vm.emulated.ntstatus import (
    STATUS_INFO_LENGTH_MISMATCH,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_OBJECT_TYPE_MISMATCH,
    STATUS_SUCCESS,
    NtStatusError,
)
from vm.emulated.ob.manager import TYPE_BODY_SIZE
from vm.emulated.ob.object_types import OBJECT_TYPES

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel
    from vm.emulated.ob.manager import ObjectRecord

EXPORTS = ExportTable()

OBJ_KERNEL_HANDLE = 0x200
USER_MODE = 1
OBJECT_NAME_INFORMATION_SIZE = 16


def returns_status(handler: Handler) -> Handler:
    """Make an export return the status of an NtStatusError raised within it."""

    @functools.wraps(handler)
    def call(kernel: Kernel, *arguments: int) -> int | None:
        try:
            return handler(kernel, *arguments)
        except NtStatusError as error:
            return error.status

    return call


def expected_kind(kernel: Kernel, type_object: int) -> str | None:
    """Kind that a POBJECT_TYPE argument names, None for NULL. Raises NtStatusError for anything else."""
    if type_object == 0:
        return None
    kind = kernel.ob.type_name(type_object)
    if kind is None:
        raise NtStatusError(STATUS_OBJECT_TYPE_MISMATCH, f"0x{type_object:X} is no object type")
    return kind


def _type_variable(kind: str, kernel: Kernel) -> bytes:
    return kernel.ob.type_object(kind).to_bytes(8, "little")


for _type in OBJECT_TYPES.values():
    if _type.variable:
        EXPORTS.variable(_type.variable, functools.partial(_type_variable, _type.name))


# References


@EXPORTS.function("ObReferenceObjectByHandle", args="handle u32 ptr u8 ptr ptr", irql=PASSIVE_LEVEL)
@returns_status
def ob_reference_object_by_handle(
    kernel: Kernel, handle: int, access: int, type_object: int, mode: int, result: int, information: int
) -> int:
    """Microsoft Learn, ObReferenceObjectByHandle."""
    kernel.mem.set_u64(result, 0)
    kind = expected_kind(kernel, type_object)
    record, granted = kernel.ob.handles.resolve_with_access(handle, kind, access=access, user=mode == USER_MODE)
    record.references += 1
    if information:
        kernel.mem.write(information, struct.pack("<II", 0, granted))
    kernel.mem.set_u64(result, record.body)
    return STATUS_SUCCESS


@EXPORTS.function("ObReferenceObjectByHandleWithTag", args="handle u32 ptr u8 u32 ptr ptr", irql=PASSIVE_LEVEL)
def ob_reference_object_by_handle_with_tag(
    kernel: Kernel, handle: int, access: int, type_object: int, mode: int, _tag: int, result: int, information: int
) -> int | None:
    """Microsoft Learn, ObReferenceObjectByHandleWithTag: the tag is for tracing."""
    return ob_reference_object_by_handle(kernel, handle, access, type_object, mode, result, information)


@EXPORTS.function(
    "ObReferenceObjectByPointer", "ObReferenceObjectByPointerWithTag", args="ptr u32 ptr u8", irql=DISPATCH_LEVEL
)
@returns_status
def ob_reference_object_by_pointer(kernel: Kernel, body: int, _access: int, type_object: int, mode: int) -> int:
    """Microsoft Learn, ObReferenceObjectByPointer: the type is checked where one is given, or for user mode."""
    record = kernel.ob.record(body)
    kind = expected_kind(kernel, type_object)
    if (kind is None and mode == USER_MODE) or kind not in (None, record.type):
        return STATUS_OBJECT_TYPE_MISMATCH
    record.references += 1
    return STATUS_SUCCESS


@EXPORTS.function("ObfReferenceObject", "ObfReferenceObjectWithTag", args="ptr", irql=DISPATCH_LEVEL)
def obf_reference_object(kernel: Kernel, body: int) -> int:
    """Microsoft Learn, ObReferenceObject: returns a number that drivers may not rely on, the new count."""
    kernel.ob.reference(body)
    return kernel.ob.record(body).references


@EXPORTS.function(
    "ObfDereferenceObject",
    "ObfDereferenceObjectWithTag",
    "ObDereferenceObject",
    "ObDereferenceObjectDeferDelete",
    "ObDereferenceObjectDeferDeleteWithTag",
    args="ptr",
    irql=DISPATCH_LEVEL,
)
def obf_dereference_object(kernel: Kernel, body: int) -> int:
    """Microsoft Learn, ObDereferenceObject and ObDereferenceObjectDeferDelete."""
    return kernel.ob.dereference_by_driver(body)


@EXPORTS.function("ObReferenceObjectByName", args="ptr u32 ptr u32 ptr u8 ptr ptr", irql=PASSIVE_LEVEL)
@returns_status
def ob_reference_object_by_name(
    kernel: Kernel,
    name: int,
    _attributes: int,
    _state: int,
    _access: int,
    type_object: int,
    _mode: int,
    _context: int,
    result: int,
) -> int:
    """Exported, used by many drivers and declared by none of the headers: a reference to a named object."""
    record = kernel.ob.lookup(kernel.mem.unicode_string(name), expected_kind(kernel, type_object))
    record.references += 1
    kernel.mem.set_u64(result, record.body)
    return STATUS_SUCCESS


# Handles


def open_by_pointer(kernel: Kernel, body: int, attributes: int, access: int, type_object: int) -> int:
    """A new handle, in the kernel's table or the current process's. Raises NtStatusError."""
    record = kernel.ob.record(body)
    if expected_kind(kernel, type_object) not in (None, record.type):
        raise NtStatusError(STATUS_OBJECT_TYPE_MISMATCH)
    process = None if attributes & OBJ_KERNEL_HANDLE else kernel.current_process.pid
    return kernel.ob.handles.create(body, access, process=process)


@EXPORTS.function("ObOpenObjectByPointer", args="ptr u32 ptr u32 ptr u8 ptr", irql=PASSIVE_LEVEL)
@returns_status
def ob_open_object_by_pointer(
    kernel: Kernel, body: int, attributes: int, _state: int, access: int, type_object: int, _mode: int, result: int
) -> int:
    """Microsoft Learn, ObOpenObjectByPointer."""
    kernel.mem.set_u64(result, open_by_pointer(kernel, body, attributes, access, type_object))
    return STATUS_SUCCESS


@EXPORTS.function("ObOpenObjectByPointerWithTag", args="ptr u32 ptr u32 ptr u8 u32 ptr", irql=PASSIVE_LEVEL)
def ob_open_object_by_pointer_with_tag(
    kernel: Kernel,
    body: int,
    attributes: int,
    state: int,
    access: int,
    type_object: int,
    mode: int,
    _tag: int,
    result: int,
) -> int | None:
    """Microsoft Learn, ObOpenObjectByPointerWithTag: the tag is for tracing."""
    return ob_open_object_by_pointer(kernel, body, attributes, state, access, type_object, mode, result)


@EXPORTS.function("ZwClose", "NtClose", args="handle", irql=PASSIVE_LEVEL)
@returns_status
def zw_close(kernel: Kernel, handle: int) -> int:
    """Microsoft Learn, ZwClose: a kernel handle that is not open is bugcheck 0x93."""
    kernel.ob.handles.close(handle)
    return STATUS_SUCCESS


# Names


def name_of(kernel: Kernel, record: ObjectRecord) -> str:
    """Name of an object; a file's is its device's followed by its own (Microsoft Learn, ObQueryNameString)."""
    if record.type != "File":
        return kernel.ob.full_name(record)
    device, file_name = kernel.io.name_of_file(record.body)
    return kernel.ob.full_name(kernel.ob.record(device)) + file_name


@EXPORTS.function("ObQueryNameString", args="ptr ptr u32 ptr", irql=PASSIVE_LEVEL)
def ob_query_name_string(kernel: Kernel, body: int, information: int, length: int, needed: int) -> int:
    """Microsoft Learn, ObQueryNameString: OBJECT_NAME_INFORMATION, its text right behind it, NUL-terminated."""
    text = name_of(kernel, kernel.ob.record(body)).encode("utf-16-le", "surrogatepass")
    size = OBJECT_NAME_INFORMATION_SIZE + (len(text) + 2 if text else 0)
    kernel.mem.set_u32(needed, size)
    if length < size:
        return STATUS_INFO_LENGTH_MISMATCH
    if not text:
        kernel.mem.set_unicode_string(information, 0, 0, 0)
        return STATUS_SUCCESS
    buffer = information + OBJECT_NAME_INFORMATION_SIZE
    kernel.mem.write(buffer, text + b"\0\0")
    kernel.mem.set_unicode_string(information, len(text), len(text) + 2, buffer)
    return STATUS_SUCCESS


@EXPORTS.function("ObMakeTemporaryObject", args="ptr", irql=PASSIVE_LEVEL)
def ob_make_temporary_object(kernel: Kernel, body: int) -> None:
    """Microsoft Learn, ZwMakeTemporaryObject: the same for a pointer."""
    kernel.ob.make_temporary(body)


@EXPORTS.function("ZwMakeTemporaryObject", args="handle", irql=PASSIVE_LEVEL)
@returns_status
def zw_make_temporary_object(kernel: Kernel, handle: int) -> int:
    """Microsoft Learn, ZwMakeTemporaryObject."""
    kernel.ob.make_temporary(kernel.ob.handles.resolve(handle).body)
    return STATUS_SUCCESS


@EXPORTS.function("IoCreateSymbolicLink", "IoCreateUnprotectedSymbolicLink", args="ptr ptr", irql=PASSIVE_LEVEL)
@returns_status
def io_create_symbolic_link(kernel: Kernel, link: int, target: int) -> int:
    """Microsoft Learn, IoCreateSymbolicLink: the target need not exist, a name in use is a collision."""
    body = kernel.ob.create(
        "SymbolicLink",
        TYPE_BODY_SIZE,
        kernel.mem.unicode_string(link),
        target=kernel.mem.unicode_string(target),
    )
    kernel.io.state.links[body] = kernel.caller()
    return STATUS_SUCCESS


@EXPORTS.function("IoDeleteSymbolicLink", args="ptr", irql=PASSIVE_LEVEL)
@returns_status
def io_delete_symbolic_link(kernel: Kernel, link: int) -> int:
    """Microsoft Learn, IoDeleteSymbolicLink."""
    record = kernel.ob.lookup(kernel.mem.unicode_string(link), follow=False)
    if record.type != "SymbolicLink":
        raise NtStatusError(STATUS_OBJECT_TYPE_MISMATCH)
    if record.parent == 0:
        raise NtStatusError(STATUS_OBJECT_NAME_NOT_FOUND)
    kernel.io.state.links.pop(record.body, None)
    kernel.ob.remove_name(record)
    kernel.ob.unpin(record)
    return STATUS_SUCCESS
