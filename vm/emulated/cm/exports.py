"""The Zw functions of the registry, as their pages on Microsoft Learn describe them (wdm.h). All run at PASSIVE_LEVEL.

A Zw call comes from kernel mode, so the access that a handle was opened with is not checked again.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vm.emulated.cm.registry import ROOT
from vm.emulated.exports import PASSIVE_LEVEL, ExportTable
from vm.emulated.ntstatus import (
    STATUS_BUFFER_OVERFLOW,
    STATUS_BUFFER_TOO_SMALL,
    STATUS_CANNOT_DELETE,
    STATUS_INVALID_PARAMETER,
    STATUS_NO_MORE_ENTRIES,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_SUCCESS,
    NtStatusError,
)
from vm.emulated.ob.exports import OBJ_KERNEL_HANDLE, returns_status
from vm.emulated.ob.manager import upcase

if TYPE_CHECKING:
    from vm.emulated.cm.registry import Key, Registry, Value
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

OBJECT_ATTRIBUTES_SIZE = 0x30
REG_OPTION_VOLATILE = 1
REG_CREATED_NEW_KEY, REG_OPENED_EXISTING_KEY = 1, 2

_VALUE_BASIC, _VALUE_FULL, _VALUE_PARTIAL, _VALUE_FULL_ALIGN64, _VALUE_PARTIAL_ALIGN64 = range(5)
_KEY_BASIC, _KEY_NODE, _KEY_FULL, _KEY_NAME, _KEY_CACHED = range(5)


def _wide(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def locate(kernel: Kernel, attributes: int) -> tuple[int, list[str], int]:
    """What an OBJECT_ATTRIBUTES names: the key to start at, the names from there, and the attribute flags.

    Raises:
        NtStatusError: STATUS_INVALID_PARAMETER for a structure of another size, and what is wrong with the path.
    """
    if kernel.mem.u32(attributes) != OBJECT_ATTRIBUTES_SIZE:
        raise NtStatusError(STATUS_INVALID_PARAMETER, "OBJECT_ATTRIBUTES.Length")
    root = kernel.mem.u64(attributes + 8)
    name = kernel.mem.u64(attributes + 0x10)
    flags = kernel.mem.u32(attributes + 0x18)
    path = kernel.mem.unicode_string(name) if name else ""
    registry = kernel.registry
    if root:
        return registry.behind(root), path.removesuffix("\\").split("\\") if path else [], flags
    return ROOT, registry.components(path), flags


def _handle(kernel: Kernel, key: int, access: int, flags: int) -> int:
    process = None if flags & OBJ_KERNEL_HANDLE else kernel.current_process.pid
    return kernel.registry.open(key, access, process=process)


@EXPORTS.function("ZwOpenKey", args="ptr u32 ptr", irql=PASSIVE_LEVEL)
@returns_status
def zw_open_key(kernel: Kernel, result: int, access: int, attributes: int) -> int:
    """Microsoft Learn, ZwOpenKey."""
    start, names, flags = locate(kernel, attributes)
    key = kernel.registry.descend(start, names)
    kernel.registry.key(key)
    kernel.mem.set_u64(result, _handle(kernel, key, access, flags))
    return STATUS_SUCCESS


@EXPORTS.function("ZwOpenKeyEx", args="ptr u32 ptr u32", irql=PASSIVE_LEVEL)
def zw_open_key_ex(kernel: Kernel, result: int, access: int, attributes: int, _options: int) -> int | None:
    """Microsoft Learn, ZwOpenKeyEx: the options concern backup and symbolic links, of which there are none here."""
    return zw_open_key(kernel, result, access, attributes)


@EXPORTS.function("ZwCreateKey", args="ptr u32 ptr u32 ptr u32 ptr", irql=PASSIVE_LEVEL)
@returns_status
def zw_create_key(
    kernel: Kernel, result: int, access: int, attributes: int, _index: int, _class: int, options: int, disposition: int
) -> int:
    """Microsoft Learn, ZwCreateKey: makes the last component only."""
    start, names, flags = locate(kernel, attributes)
    registry = kernel.registry
    made = REG_OPENED_EXISTING_KEY
    key = registry.descend(start, names[:-1])
    if names:
        child = registry.key(key).children.get(upcase(names[-1]))
        if child is None:
            child = registry.add(key, names[-1], volatile=bool(options & REG_OPTION_VOLATILE))
            made = REG_CREATED_NEW_KEY
        key = child
    kernel.mem.set_u64(result, _handle(kernel, key, access, flags))
    if disposition:
        kernel.mem.set_u32(disposition, made)
    return STATUS_SUCCESS


@EXPORTS.function("ZwDeleteKey", args="handle", irql=PASSIVE_LEVEL)
@returns_status
def zw_delete_key(kernel: Kernel, handle: int) -> int:
    """Microsoft Learn, ZwDeleteKey: a key with subkeys cannot be deleted."""
    registry = kernel.registry
    key = registry.behind(handle)
    if key == ROOT or registry.key(key).children:
        return STATUS_CANNOT_DELETE
    registry.remove(key)
    return STATUS_SUCCESS


@EXPORTS.function("ZwFlushKey", args="handle", irql=PASSIVE_LEVEL)
@returns_status
def zw_flush_key(kernel: Kernel, handle: int) -> int:
    """Microsoft Learn, ZwFlushKey: there is no disk to write to, so a live key is flushed already."""
    kernel.registry.key(kernel.registry.behind(handle))
    return STATUS_SUCCESS


# Answers of variable length


def deliver(kernel: Kernel, fixed: int, answer: bytes, buffer: int, length: int, needed: int) -> int:
    """Hand an answer out by the rules that all queries share (Microsoft Learn, ZwQueryValueKey).

    Args:
        kernel: the kernel.
        fixed: bytes of the structure before its variable part.
        answer: all of it.
        buffer: where it goes.
        length: size of the buffer.
        needed: address of ResultLength.

    Returns:
        STATUS_BUFFER_TOO_SMALL and nothing stored when not even the fixed part fits, STATUS_BUFFER_OVERFLOW with as
        much as fits, or STATUS_SUCCESS.
    """
    kernel.mem.set_u32(needed, len(answer))
    if length < fixed:
        return STATUS_BUFFER_TOO_SMALL
    kernel.mem.write(buffer, answer[:length])
    return STATUS_SUCCESS if length >= len(answer) else STATUS_BUFFER_OVERFLOW


def describe_value(value: Value, information_class: int) -> tuple[int, bytes]:
    """Size of the fixed part and the whole of a KEY_VALUE_*_INFORMATION structure (wdm.h).

    Raises:
        NtStatusError: STATUS_INVALID_PARAMETER for an unknown class.
    """
    name = _wide(value.name)
    if information_class == _VALUE_BASIC:
        return 12, struct.pack("<III", 0, value.type, len(name)) + name
    if information_class in (_VALUE_FULL, _VALUE_FULL_ALIGN64):
        alignment = 8 if information_class == _VALUE_FULL_ALIGN64 else 4
        offset = (20 + len(name) + alignment - 1) & -alignment
        header = struct.pack("<IIIII", 0, value.type, offset, len(value.data), len(name))
        return 20, (header + name).ljust(offset, b"\0") + value.data
    if information_class == _VALUE_PARTIAL:
        return 12, struct.pack("<III", 0, value.type, len(value.data)) + value.data
    if information_class == _VALUE_PARTIAL_ALIGN64:
        return 8, struct.pack("<II", value.type, len(value.data)) + value.data
    raise NtStatusError(STATUS_INVALID_PARAMETER, f"KEY_VALUE_INFORMATION_CLASS {information_class}")


def describe_key(registry: Registry, key: Key, path: str, information_class: int) -> tuple[int, bytes]:
    """Size of the fixed part and the whole of a KEY_*_INFORMATION structure (wdm.h). No key has a class name.

    Raises:
        NtStatusError: STATUS_INVALID_PARAMETER for an unknown class.
    """
    name = _wide(key.name)
    if information_class == _KEY_BASIC:
        return 16, struct.pack("<qII", key.written, 0, len(name)) + name
    if information_class == _KEY_NODE:
        return 24, struct.pack("<qIiII", key.written, 0, -1, 0, len(name)) + name
    if information_class == _KEY_NAME:
        full = _wide(path)
        return 4, struct.pack("<I", len(full)) + full
    subkey_name = max((len(_wide(registry.key(child).name)) for child in key.children.values()), default=0)
    value_name = max((len(_wide(value.name)) for value in key.values.values()), default=0)
    value_data = max((len(value.data) for value in key.values.values()), default=0)
    counts = (len(key.children), subkey_name)
    if information_class == _KEY_FULL:
        rest = (*counts, 0, len(key.values), value_name, value_data)
        return 44, struct.pack("<qIiIIIIIII", key.written, 0, -1, 0, *rest)
    if information_class == _KEY_CACHED:
        rest = (*counts, len(key.values), value_name, value_data, len(name))
        return 36, struct.pack("<qIIIIIII", key.written, 0, *rest)
    raise NtStatusError(STATUS_INVALID_PARAMETER, f"KEY_INFORMATION_CLASS {information_class}")


@EXPORTS.function("ZwQueryKey", args="handle u32 ptr u32 ptr", irql=PASSIVE_LEVEL)
@returns_status
def zw_query_key(kernel: Kernel, handle: int, information_class: int, buffer: int, length: int, needed: int) -> int:
    """Microsoft Learn, ZwQueryKey."""
    registry = kernel.registry
    key = registry.behind(handle)
    fixed, answer = describe_key(registry, registry.key(key), registry.path(key), information_class)
    return deliver(kernel, fixed, answer, buffer, length, needed)


@EXPORTS.function("ZwEnumerateKey", args="handle u32 u32 ptr u32 ptr", irql=PASSIVE_LEVEL)
@returns_status
def zw_enumerate_key(
    kernel: Kernel, handle: int, index: int, information_class: int, buffer: int, length: int, needed: int
) -> int:
    """Microsoft Learn, ZwEnumerateKey: basic, full and node information."""
    registry = kernel.registry
    key = registry.behind(handle)
    subkeys = registry.subkeys(key)
    if information_class not in (_KEY_BASIC, _KEY_NODE, _KEY_FULL):
        return STATUS_INVALID_PARAMETER
    if index >= len(subkeys):
        return STATUS_NO_MORE_ENTRIES
    fixed, answer = describe_key(registry, subkeys[index], "", information_class)
    return deliver(kernel, fixed, answer, buffer, length, needed)


@EXPORTS.function("ZwQueryValueKey", args="handle ptr u32 ptr u32 ptr", irql=PASSIVE_LEVEL)
@returns_status
def zw_query_value_key(
    kernel: Kernel, handle: int, name: int, information_class: int, buffer: int, length: int, needed: int
) -> int:
    """Microsoft Learn, ZwQueryValueKey."""
    registry = kernel.registry
    value = registry.key(registry.behind(handle)).values.get(upcase(kernel.mem.unicode_string(name)))
    if value is None:
        return STATUS_OBJECT_NAME_NOT_FOUND
    fixed, answer = describe_value(value, information_class)
    return deliver(kernel, fixed, answer, buffer, length, needed)


@EXPORTS.function("ZwEnumerateValueKey", args="handle u32 u32 ptr u32 ptr", irql=PASSIVE_LEVEL)
@returns_status
def zw_enumerate_value_key(
    kernel: Kernel, handle: int, index: int, information_class: int, buffer: int, length: int, needed: int
) -> int:
    """Microsoft Learn, ZwEnumerateValueKey."""
    registry = kernel.registry
    values = list(registry.key(registry.behind(handle)).values.values())
    if index >= len(values):
        return STATUS_NO_MORE_ENTRIES
    fixed, answer = describe_value(values[index], information_class)
    return deliver(kernel, fixed, answer, buffer, length, needed)


@EXPORTS.function("ZwSetValueKey", args="handle ptr u32 u32 ptr u32", irql=PASSIVE_LEVEL)
@returns_status
def zw_set_value_key(kernel: Kernel, handle: int, name: int, _index: int, kind: int, data: int, size: int) -> int:
    """Microsoft Learn, ZwSetValueKey."""
    registry = kernel.registry
    key = registry.behind(handle)
    registry.store(key, kernel.mem.unicode_string(name), kind, kernel.mem.read(data, size) if size else b"")
    return STATUS_SUCCESS


@EXPORTS.function("ZwDeleteValueKey", args="handle ptr", irql=PASSIVE_LEVEL)
@returns_status
def zw_delete_value_key(kernel: Kernel, handle: int, name: int) -> int:
    """Microsoft Learn, ZwDeleteValueKey."""
    kernel.registry.erase(kernel.registry.behind(handle), kernel.mem.unicode_string(name))
    return STATUS_SUCCESS
