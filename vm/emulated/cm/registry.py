"""The configuration manager: a tree of keys and values, and the key objects that handles refer to.

Names are compared as the object manager compares them, without case, and keep the case they were created with.
Subkeys are enumerated in the order of their upper-case names, values in the order they were set, as Windows does.
The functions that drivers import are in `vm.emulated.cm.exports` and `vm.emulated.cm.rtl`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm.emulated.ntstatus import (
    STATUS_CHILD_MUST_BE_VOLATILE,
    STATUS_INVALID_PARAMETER,
    STATUS_KEY_DELETED,
    STATUS_OBJECT_NAME_INVALID,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_OBJECT_PATH_NOT_FOUND,
    STATUS_OBJECT_PATH_SYNTAX_BAD,
    NtStatusError,
)
from vm.emulated.ob.manager import upcase

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel
    from vm.emulated.ob.manager import ObjectRecord

REG_NONE, REG_SZ, REG_EXPAND_SZ, REG_BINARY, REG_DWORD = 0, 1, 2, 3, 4
REG_MULTI_SZ, REG_QWORD = 7, 11
"""Value types (wdm.h)."""

SERVICES = "\\Registry\\Machine\\System\\CurrentControlSet\\Services"

KEY_BODY_SIZE = 0x60
MAXIMUM_KEY_NAME = 255
"""Characters of a key's name (Microsoft Learn, Registry Element Size Limits)."""
MAXIMUM_VALUE_NAME = 16_383
ROOT = 0

_INITIAL_KEYS = (
    "\\Registry\\Machine\\System\\CurrentControlSet\\Control\\Session Manager",
    "\\Registry\\Machine\\System\\CurrentControlSet\\Enum",
    "\\Registry\\Machine\\System\\CurrentControlSet\\Hardware Profiles",
    SERVICES,
    "\\Registry\\Machine\\Software\\Microsoft\\Windows NT\\CurrentVersion",
    "\\Registry\\Machine\\Hardware\\DeviceMap",
    "\\Registry\\User\\.Default",
)


@dataclass
class Value:
    """One value: its name as it was set, its type and its bytes."""

    name: str
    type: int
    data: bytes


@dataclass
class Key:
    """One key.

    Attributes:
        name: last component of its path, as it was created.
        parent: id of the key above.
        children: ids of the keys below, by upper-case name.
        values: by upper-case name, in the order they were set.
        written: LastWriteTime, 100 ns units since 1601 UTC.
        volatile: REG_OPTION_VOLATILE.
    """

    name: str
    parent: int
    children: dict[str, int] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    written: int = 0
    volatile: bool = False


@dataclass
class RegistryState:
    """What a checkpoint keeps of the registry."""

    keys: dict[int, Key] = field(default_factory=dict)
    """Live keys by id."""
    bodies: dict[int, int] = field(default_factory=dict)
    """Id of the key behind each key object, by the object's body; the key itself may be deleted."""
    next_id: int = ROOT + 1


class Registry:
    """Keys by path and by id.

    Paths are absolute, `\\Registry\\Machine\\...`. Methods that a driver's call may fail raise NtStatusError.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.state = RegistryState(keys={ROOT: Key("Registry", ROOT)})
        for path in _INITIAL_KEYS:
            self.create(path)
        version = "\\Registry\\Machine\\Software\\Microsoft\\Windows NT\\CurrentVersion"
        self.set_value(version, "CurrentBuildNumber", str(kernel.options.build))
        self.set_value(version, "SystemRoot", "C:\\Windows")
        kernel.ob.on_delete("Key", self._forget)

    def rebind(self) -> None:
        """Nothing is aliased."""

    def _forget(self, record: ObjectRecord) -> None:
        self.state.bodies.pop(record.body, None)

    # For the machine's own parts

    def create(self, path: str) -> int:
        """Make a key and those above it, as far as they are missing; returns its id."""
        key = ROOT
        for name in self.components(path):
            child = self.key(key).children.get(upcase(name))
            key = self.add(key, name) if child is None else child
        return key

    def exists(self, path: str) -> bool:
        """True when there is a key at the path."""
        try:
            self.find(path)
        except NtStatusError:
            return False
        return True

    def set_value(self, path: str, name: str, value: int | str | bytes) -> None:
        """Set a value, making the key if it is missing: int is REG_DWORD, str REG_SZ, bytes REG_BINARY."""
        if isinstance(value, int):
            kind, data = REG_DWORD, struct.pack("<I", value & 0xFFFFFFFF)
        elif isinstance(value, str):
            kind, data = REG_SZ, (value + "\0").encode("utf-16-le", "surrogatepass")
        else:
            kind, data = REG_BINARY, bytes(value)
        self.store(self.create(path), name, kind, data)

    def value(self, path: str, name: str) -> Value | None:
        """A value, or None when the key or the value is missing."""
        try:
            return self.key(self.find(path)).values.get(upcase(name))
        except NtStatusError:
            return None

    def delete_tree(self, path: str) -> None:
        """Delete a key with everything below; nothing happens when it is missing. Open handles see deleted keys."""
        try:
            key = self.find(path)
        except NtStatusError:
            return
        self._delete_below(key)
        self.remove(key)

    def _delete_below(self, key: int) -> None:
        for child in list(self.key(key).children.values()):
            self._delete_below(child)
            self.remove(child)

    # By id

    def components(self, path: str) -> list[str]:
        """Names below \\Registry of an absolute path.

        Raises:
            NtStatusError: STATUS_OBJECT_PATH_SYNTAX_BAD, the path is relative; STATUS_OBJECT_PATH_NOT_FOUND, it does
                not lead into the registry.
        """
        if not path.startswith("\\"):
            raise NtStatusError(STATUS_OBJECT_PATH_SYNTAX_BAD, path)
        first, *rest = path.removesuffix("\\")[1:].split("\\")
        if upcase(first) != "REGISTRY":
            raise NtStatusError(STATUS_OBJECT_PATH_NOT_FOUND, path)
        return rest

    def find(self, path: str) -> int:
        """Id of the key at a path. Raises NtStatusError STATUS_OBJECT_NAME_NOT_FOUND, or as `components`."""
        return self.descend(ROOT, self.components(path))

    def descend(self, key: int, names: list[str]) -> int:
        """Id of the key that `names` lead to from another. Raises NtStatusError STATUS_OBJECT_NAME_NOT_FOUND."""
        for name in names:
            child = self.key(key).children.get(upcase(name))
            if child is None:
                raise NtStatusError(STATUS_OBJECT_NAME_NOT_FOUND, f"{self.path(key)}\\{name}")
            key = child
        return key

    def key(self, key: int) -> Key:
        """A live key. Raises NtStatusError STATUS_KEY_DELETED."""
        found = self.state.keys.get(key)
        if found is None:
            raise NtStatusError(STATUS_KEY_DELETED)
        return found

    def path(self, key: int) -> str:
        """Full path of a live key."""
        names: list[str] = []
        while key != ROOT:
            node = self.key(key)
            names.append(node.name)
            key = node.parent
        return "\\".join(("\\REGISTRY", *reversed(names)))

    def add(self, parent: int, name: str, *, volatile: bool = False) -> int:
        """Make a key below another; returns its id.

        Raises:
            NtStatusError: STATUS_OBJECT_NAME_INVALID for an empty name, STATUS_INVALID_PARAMETER for a name that is
                too long, STATUS_CHILD_MUST_BE_VOLATILE for a stable key below a volatile one.
        """
        if not name:
            raise NtStatusError(STATUS_OBJECT_NAME_INVALID)
        if len(name) > MAXIMUM_KEY_NAME:
            raise NtStatusError(STATUS_INVALID_PARAMETER, name)
        above = self.key(parent)
        if above.volatile and not volatile:
            raise NtStatusError(STATUS_CHILD_MUST_BE_VOLATILE, name)
        key = self.state.next_id
        self.state.next_id += 1
        now = self._kernel.clock.system_time()
        self.state.keys[key] = Key(name, parent, written=now, volatile=volatile)
        above.children[upcase(name)] = key
        above.written = now
        return key

    def remove(self, key: int) -> None:
        """Delete one key; the caller has seen to it that nothing is below."""
        node = self.state.keys.pop(key)
        above = self.state.keys.get(node.parent)
        if above is not None:
            del above.children[upcase(node.name)]
            above.written = self._kernel.clock.system_time()

    def store(self, key: int, name: str, kind: int, data: bytes) -> None:
        """Set a value of a key. Raises NtStatusError STATUS_INVALID_PARAMETER for a name that is too long."""
        if len(name) > MAXIMUM_VALUE_NAME:
            raise NtStatusError(STATUS_INVALID_PARAMETER, "value name")
        node = self.key(key)
        known = node.values.get(upcase(name))
        node.values[upcase(name)] = Value(known.name if known else name, kind, data)
        node.written = self._kernel.clock.system_time()

    def erase(self, key: int, name: str) -> None:
        """Delete a value. Raises NtStatusError STATUS_OBJECT_NAME_NOT_FOUND."""
        node = self.key(key)
        if node.values.pop(upcase(name), None) is None:
            raise NtStatusError(STATUS_OBJECT_NAME_NOT_FOUND, name)
        node.written = self._kernel.clock.system_time()

    def subkeys(self, key: int) -> list[Key]:
        """Keys directly below, in the order of enumeration."""
        return [self.key(child) for _, child in sorted(self.key(key).children.items())]

    # Key objects

    def open(self, key: int, access: int, *, process: int | None) -> int:
        """A new handle for a key; `process` is the pid whose table it goes to, None for a kernel handle."""
        body = self._kernel.ob.create("Key", KEY_BODY_SIZE, permanent=False)
        self.state.bodies[body] = key
        handle = self._kernel.ob.handles.create(body, access, process=process)
        self._kernel.ob.dereference(body)
        return handle

    def behind(self, handle: int) -> int:
        """Id of the key behind a handle; the key may be deleted. Raises NtStatusError for a handle of no key."""
        record = self._kernel.ob.handles.resolve(handle, "Key")
        return self.state.bodies[record.body]
