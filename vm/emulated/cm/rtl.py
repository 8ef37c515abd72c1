"""The Rtl functions of the registry: RtlQueryRegistryValues and its simpler relatives (Microsoft Learn, wdm.h)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vm.emulated.cm.registry import REG_EXPAND_SZ, REG_MULTI_SZ, REG_NONE, REG_SZ, SERVICES, Value
from vm.emulated.exports import PASSIVE_LEVEL, ExportTable
from vm.emulated.faults import Bugcheck
from vm.emulated.ntstatus import (
    STATUS_BUFFER_TOO_SMALL,
    STATUS_INVALID_PARAMETER,
    STATUS_NO_MEMORY,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_OBJECT_TYPE_MISMATCH,
    STATUS_SUCCESS,
    NtStatusError,
    nt_success,
)
from vm.emulated.ob.exports import returns_status
from vm.emulated.ob.manager import upcase
from vm.emulated.rtl import codepage
from vm.emulated.rtl.strings import STRING_TAG

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

_HANDLE = 0x40000000
_OPTIONAL = 0x80000000
_BASES = (
    "",
    SERVICES,
    "\\Registry\\Machine\\System\\CurrentControlSet\\Control",
    "\\Registry\\Machine\\Software\\Microsoft\\Windows NT\\CurrentVersion",
    "\\Registry\\Machine\\Hardware\\DeviceMap",
    "\\Registry\\User\\.Default",
)
"""By RTL_REGISTRY_ABSOLUTE 0, SERVICES 1, CONTROL 2, WINDOWS_NT 3, DEVICEMAP 4, USER 5."""
_TRUSTED = ("HARDWARE", "SOFTWARE", "SYSTEM", "SECURITY", "SAM")
"""Hives under \\Registry\\Machine that RtlQueryRegistryValues' page calls trusted."""

_SUBKEY, _TOPKEY, _REQUIRED, _NOVALUE, _NOEXPAND, _DIRECT, _DELETE, _NOSTRING, _TYPECHECK = (
    1 << bit for bit in range(9)
)
_ENTRY_SIZE = 0x38
_STRINGS = (REG_SZ, REG_EXPAND_SZ, REG_MULTI_SZ)
_FAST_FAIL_UNSAFE_REGISTRY_ACCESS = 9
_VARIABLES = {"SYSTEMROOT": "C:\\Windows", "SYSTEMDRIVE": "C:", "WINDIR": "C:\\Windows"}


@dataclass(frozen=True)
class _Entry:
    """RTL_QUERY_REGISTRY_TABLE (wdm.h)."""

    routine: int
    flags: int
    name: str | None
    context: int
    default_type: int
    default_data: int
    default_length: int

    @property
    def ends_table(self) -> bool:
        return not self.routine and self.name is None


def _entries(kernel: Kernel, table: int) -> Iterator[_Entry]:
    while True:
        routine, flags, name, context, kind, data, length = struct.unpack(
            "<QIxxxxQQIxxxxQIxxxx", kernel.mem.read(table, _ENTRY_SIZE)
        )
        entry = _Entry(routine, flags, kernel.mem.wide(name) if name else None, context, kind, data, length)
        if entry.ends_table:
            return
        yield entry
        table += _ENTRY_SIZE


def base_key(kernel: Kernel, relative_to: int, path: int) -> int:
    """Id of the key that RelativeTo and Path name.

    Raises:
        NtStatusError: STATUS_INVALID_PARAMETER for an unknown RelativeTo, or what is wrong with the path.
    """
    registry = kernel.registry
    kind = relative_to & ~_OPTIONAL
    if kind & _HANDLE:
        return registry.behind(path)
    if kind >= len(_BASES):
        raise NtStatusError(STATUS_INVALID_PARAMETER, f"RelativeTo 0x{relative_to:X}")
    text = kernel.mem.wide(path) if path else ""
    if kind == 0:
        return registry.find(text)
    return registry.descend(registry.find(_BASES[kind]), [name for name in text.split("\\") if name])


def expand(text: str) -> str:
    """A text with the system's environment variables put in; unknown ones stay."""
    return re.sub(r"%([^%]+)%", lambda match: _VARIABLES.get(match[1].upper(), match[0]), text)


@contextmanager
def _lent(kernel: Kernel, data: bytes) -> Iterator[int]:
    """Kernel memory with these bytes, for the time of a callback."""
    address = kernel.heap.allocate(max(len(data), 8))
    kernel.mem.write(address, data)
    try:
        yield address
    finally:
        kernel.heap.free(address)


class _Query:
    """One call of RtlQueryRegistryValues."""

    def __init__(self, kernel: Kernel, key: int, context: int) -> None:
        self._kernel = kernel
        self._registry = kernel.registry
        self._base = key
        self._key = key
        self._context = context

    def run(self, entry: _Entry) -> None:
        """Serve one entry. Raises NtStatusError with the status that ends the call."""
        flags = entry.flags
        if flags & _DIRECT and (entry.name is None or flags & _SUBKEY):
            raise NtStatusError(STATUS_INVALID_PARAMETER, "RTL_QUERY_REGISTRY_DIRECT without a value name")
        if flags & (_TOPKEY | _SUBKEY):
            self._key = self._base
        if flags & _SUBKEY:
            self._enter(entry)
        elif flags & _NOVALUE:
            self._call(entry, entry.name, REG_NONE, b"", absent=True)
        elif entry.name is None:
            self._every_value(entry)
        else:
            self._one_value(entry, entry.name)

    def _enter(self, entry: _Entry) -> None:
        names = [name for name in (entry.name or "").split("\\") if name]
        try:
            self._key = self._registry.descend(self._base, names)
        except NtStatusError:
            if entry.flags & _REQUIRED:
                raise
            return
        if entry.routine:
            self._every_value(entry)

    def _every_value(self, entry: _Entry) -> None:
        values = list(self._registry.key(self._key).values.values())
        if not values and entry.flags & _REQUIRED:
            raise NtStatusError(STATUS_OBJECT_NAME_NOT_FOUND)
        for value in values:
            self._deliver(entry, value)

    def _one_value(self, entry: _Entry, name: str) -> None:
        value = self._registry.key(self._key).values.get(upcase(name))
        if value is None:
            if entry.flags & _REQUIRED:
                raise NtStatusError(STATUS_OBJECT_NAME_NOT_FOUND, name)
            value = self._default(entry, name)
            if value is not None:
                self._deliver(entry, value)
            return
        expected = entry.default_type >> 24
        if entry.flags & _TYPECHECK and expected != value.type:
            raise NtStatusError(STATUS_OBJECT_TYPE_MISMATCH, f"{name} has type {value.type}, not {expected}")
        if entry.flags & _DIRECT and not entry.flags & _TYPECHECK:
            self._require_trusted_hive(name)
        self._deliver(entry, value)
        if entry.flags & _DELETE:
            self._registry.erase(self._key, name)

    def _require_trusted_hive(self, name: str) -> None:
        path = upcase(self._registry.path(self._key))
        if path.split("\\")[2:3] != ["MACHINE"] or path.split("\\")[3:4] not in ([hive] for hive in _TRUSTED):
            raise Bugcheck(
                0x139,
                _FAST_FAIL_UNSAFE_REGISTRY_ACCESS,
                reason=f"RTL_QUERY_REGISTRY_DIRECT without RTL_QUERY_REGISTRY_TYPECHECK on {path}\\{name}, "
                "a hive that is not trusted",
            )

    def _default(self, entry: _Entry, name: str) -> Value | None:
        kind = entry.default_type & 0xFFFFFF
        if kind == REG_NONE:
            return None
        memory = self._kernel.mem
        if entry.default_length or not entry.default_data:
            data = memory.read(entry.default_data, entry.default_length) if entry.default_data else b""
        elif kind == REG_MULTI_SZ:
            data = _multi_at(self._kernel, entry.default_data)
        elif kind in _STRINGS:
            data = codepage.wide(memory.wide(entry.default_data) + "\0")
        else:
            data = b""
        return Value(name, kind, data)

    def _deliver(self, entry: _Entry, value: Value) -> None:
        kind, data = value.type, value.data
        expands = not entry.flags & _NOEXPAND
        if kind == REG_EXPAND_SZ and expands:
            kind, data = REG_SZ, codepage.wide(expand(codepage.from_wide(data)))
        if entry.flags & _DIRECT:
            self._store(entry, kind, data)
        elif kind == REG_MULTI_SZ and expands:
            for text in codepage.from_wide(data).split("\0"):
                if text:
                    self._call(entry, value.name, REG_SZ, codepage.wide(text + "\0"))
        else:
            self._call(entry, value.name, kind, data)

    def _call(self, entry: _Entry, name: str | None, kind: int, data: bytes, *, absent: bool = False) -> None:
        if not entry.routine:
            return
        kernel = self._kernel
        with _lent(kernel, codepage.wide((name or "") + "\0")) as name_at, _lent(kernel, data) as data_at:
            status = kernel.call(
                entry.routine,
                name_at if name is not None else 0,
                kind,
                0 if absent else data_at,
                len(data),
                self._context,
                entry.context,
            )
        if not nt_success(status & 0xFFFFFFFF):
            raise NtStatusError(status & 0xFFFFFFFF, "returned by the driver's query routine")

    def _store(self, entry: _Entry, kind: int, data: bytes) -> None:
        """RTL_QUERY_REGISTRY_DIRECT: put the value where EntryContext points."""
        memory, target = self._kernel.mem, entry.context
        if kind in _STRINGS:
            self._store_string(target, data, multi=kind == REG_MULTI_SZ)
        elif len(data) <= 4:
            memory.write(target, data)
        else:
            size = memory.i32(target)
            header = b"" if size < 0 else struct.pack("<II", len(data), kind)
            if len(header) + len(data) > abs(size):
                raise NtStatusError(STATUS_BUFFER_TOO_SMALL)
            memory.write(target, header + data)

    def _store_string(self, target: int, data: bytes, *, multi: bool) -> None:
        memory = self._kernel.mem
        if not data.endswith(b"\0\0"):
            data += b"\0\0"
        buffer = memory.u64(target + 8)
        maximum = memory.u16(target + 2)
        if not buffer:
            buffer = self._kernel.pool.allocate(len(data), STRING_TAG, paged=True)
            maximum = len(data)
            if not buffer:
                raise NtStatusError(STATUS_NO_MEMORY)
        elif len(data) > maximum:
            raise NtStatusError(STATUS_BUFFER_TOO_SMALL)
        memory.write(buffer, data)
        memory.set_unicode_string(target, len(data) if multi else len(data) - 2, maximum, buffer)


def _multi_at(kernel: Kernel, address: int) -> bytes:
    """A REG_MULTI_SZ in memory, with its terminators."""
    data = b""
    while True:
        text = codepage.wide(kernel.mem.wide(address) + "\0")
        data += text
        address += len(text)
        if len(text) == 2:
            return data


@EXPORTS.function("RtlQueryRegistryValues", "RtlQueryRegistryValuesEx", args="u32 ptr ptr ptr ptr", irql=PASSIVE_LEVEL)
@returns_status
def rtl_query_registry_values(
    kernel: Kernel, relative_to: int, path: int, table: int, context: int, _environment: int
) -> int:
    """Microsoft Learn, RtlQueryRegistryValues."""
    try:
        key = base_key(kernel, relative_to, path)
        kernel.registry.key(key)
    except NtStatusError:
        if relative_to & _OPTIONAL:
            return STATUS_SUCCESS
        raise
    query = _Query(kernel, key, context)
    for entry in _entries(kernel, table):
        query.run(entry)
    return STATUS_SUCCESS


@EXPORTS.function("RtlWriteRegistryValue", args="u32 ptr ptr u32 ptr u32", irql=PASSIVE_LEVEL)
@returns_status
def rtl_write_registry_value(
    kernel: Kernel, relative_to: int, path: int, name: int, kind: int, data: int, size: int
) -> int:
    """Microsoft Learn, RtlWriteRegistryValue."""
    key = base_key(kernel, relative_to, path)
    kernel.registry.store(key, kernel.mem.wide(name), kind, kernel.mem.read(data, size) if size else b"")
    return STATUS_SUCCESS


@EXPORTS.function("RtlDeleteRegistryValue", args="u32 ptr ptr", irql=PASSIVE_LEVEL)
@returns_status
def rtl_delete_registry_value(kernel: Kernel, relative_to: int, path: int, name: int) -> int:
    """Microsoft Learn, RtlDeleteRegistryValue."""
    kernel.registry.erase(base_key(kernel, relative_to, path), kernel.mem.wide(name))
    return STATUS_SUCCESS


@EXPORTS.function("RtlCheckRegistryKey", args="u32 ptr", irql=PASSIVE_LEVEL)
@returns_status
def rtl_check_registry_key(kernel: Kernel, relative_to: int, path: int) -> int:
    """Microsoft Learn, RtlCheckRegistryKey."""
    kernel.registry.key(base_key(kernel, relative_to, path))
    return STATUS_SUCCESS


@EXPORTS.function("RtlCreateRegistryKey", args="u32 ptr", irql=PASSIVE_LEVEL)
@returns_status
def rtl_create_registry_key(kernel: Kernel, relative_to: int, path: int) -> int:
    """Microsoft Learn, RtlCreateRegistryKey: the last component is made."""
    registry = kernel.registry
    text = kernel.mem.wide(path)
    kind = relative_to & ~_OPTIONAL
    if kind & _HANDLE:
        return STATUS_INVALID_PARAMETER
    if kind >= len(_BASES):
        raise NtStatusError(STATUS_INVALID_PARAMETER, f"RelativeTo 0x{relative_to:X}")
    full = f"{_BASES[kind]}\\{text}" if kind else text
    names = [name for name in registry.components(full) if name]
    parent = registry.descend(0, names[:-1])
    if names and upcase(names[-1]) not in registry.key(parent).children:
        registry.add(parent, names[-1])
    return STATUS_SUCCESS
