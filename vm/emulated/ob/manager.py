"""The object manager: typed objects with counts, the namespace, symbolic links.

An object is a Python record keyed by the guest address of its body; the body is what drivers see. Handles live in
`vm.emulated.ob.handles`, the functions that drivers import in `vm.emulated.ob.exports`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm.emulated.faults import Bugcheck
from vm.emulated.ntstatus import (
    STATUS_OBJECT_NAME_COLLISION,
    STATUS_OBJECT_NAME_INVALID,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_OBJECT_PATH_NOT_FOUND,
    STATUS_OBJECT_PATH_SYNTAX_BAD,
    STATUS_OBJECT_TYPE_MISMATCH,
    NtStatusError,
)
from vm.emulated.ob.handles import Handles, HandleTable
from vm.emulated.ob.object_types import OBJECT_TYPES
from vm.emulated.rtl.upcase import upcase as upcase_units

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

REFERENCE_BY_POINTER = 0x18
MAXIMUM_REPARSES = 32
"""Symbolic links followed in one lookup before the name counts as invalid."""
DELETED_REMEMBERED = 256
"""Deleted objects that reports can still name."""
TYPE_BODY_SIZE = 0x100
"""OBJECT_TYPE is opaque; only its address has a meaning for drivers."""
PARSES_REMAINDER = frozenset({"Device"})
"""Kinds that take what follows their own name in a path, as a device takes the name of a file on it."""


def upcase(text: str) -> str:
    """Text as the namespace compares it, without case."""
    return text.upper() if text.isascii() else upcase_units(text)


@dataclass(slots=True)
class ObjectRecord:
    """One object.

    Attributes:
        body: guest address of the body, the object's identity.
        type: name of its kind, a key of OBJECT_TYPES.
        name: the last component of its name, empty when it has none.
        parent: body of the directory that holds it, 0 for none.
        references: pointer count; handles count into it.
        handles: handle count.
        pins: references that belong to the kernel itself, which no driver may drop.
        permanent: keeps its name without handles.
        owned: the object manager frees the body's memory.
        security: self-relative security descriptor, None when the object has none.
        target: where a symbolic link leads.
    """

    body: int
    type: str
    name: str = ""
    parent: int = 0
    references: int = 1
    handles: int = 0
    pins: int = 1
    permanent: bool = True
    owned: bool = True
    security: bytes | None = None
    target: str = ""


@dataclass
class ObjectState:
    """What a checkpoint keeps of the object manager."""

    objects: dict[int, ObjectRecord] = field(default_factory=dict)
    children: dict[int, dict[str, int]] = field(default_factory=dict)
    """Per directory: upper-case name to body."""
    types: dict[str, int] = field(default_factory=dict)
    """Kind to the body of its type object."""
    deleted: dict[int, str] = field(default_factory=dict)
    """What used to live at an address, for reports."""
    root: int = 0
    tables: dict[int, HandleTable] = field(default_factory=dict)
    """Handle tables by pid; the kernel's own under handles.KERNEL_TABLE."""


class ObjectManager:
    """Objects by body address, and their names.

    Methods that a driver's call may fail raise NtStatusError with the status that the call returns.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.state = ObjectState()
        self._objects = self.state.objects
        self._on_delete: dict[str, Callable[[ObjectRecord], None]] = {}
        self._on_last_handle: dict[str, Callable[[ObjectRecord], None]] = {}
        self.handles = Handles(kernel, self)
        self._create_namespace()

    def rebind(self) -> None:
        """Refresh aliases after `state` was replaced by a checkpoint's."""
        self._objects = self.state.objects

    def on_delete(self, kind: str, procedure: Callable[[ObjectRecord], None]) -> None:
        """Have `procedure` called when an object of this kind loses its last reference, before its memory goes."""
        self._on_delete[kind] = procedure

    def on_last_handle(self, kind: str, procedure: Callable[[ObjectRecord], None]) -> None:
        """Have `procedure` called when the last handle of an object of this kind is closed."""
        self._on_last_handle[kind] = procedure

    # Life

    def create(
        self,
        kind: str,
        size: int,
        name: str | None = None,
        *,
        body: int = 0,
        security: bytes | None = None,
        permanent: bool = True,
        target: str = "",
    ) -> int:
        """Make an object; the caller holds its one reference. Returns the body's address.

        Args:
            kind: name of its kind.
            size: bytes of its body, allocated zeroed unless `body` is given.
            name: full path to give it in the namespace, None for no name.
            body: memory that the caller provides and frees.
            security: self-relative security descriptor.
            permanent: False lets the name go with the last handle.
            target: where a symbolic link leads.

        Raises:
            NtStatusError: STATUS_OBJECT_NAME_COLLISION and what the namespace says of a bad path.
        """
        if kind not in OBJECT_TYPES:
            raise ValueError(f"no object type is called {kind}")
        parent, leaf = self._place(name) if name is not None else (0, "")
        owned = body == 0
        if owned:
            body = self._kernel.heap.allocate(size)
        record = ObjectRecord(
            body, kind, leaf, parent, permanent=permanent, owned=owned, security=security, target=target
        )
        self._objects[body] = record
        self.state.deleted.pop(body, None)
        if parent:
            self.state.children[parent][upcase(leaf)] = body
        if kind == "Directory":
            self.state.children[body] = {}
        return body

    def record(self, body: int) -> ObjectRecord:
        """The record of a live object. Raises Bugcheck 0x18 when there is none at this address."""
        try:
            return self._objects[body]
        except KeyError:
            raise self._no_object(body) from None

    def find(self, body: int) -> ObjectRecord | None:
        """The record of a live object, None when there is none at this address."""
        return self._objects.get(body)

    def reference(self, body: int, count: int = 1) -> None:
        """Add references. Raises Bugcheck 0x18 for an address without an object."""
        try:
            self._objects[body].references += count
        except KeyError:
            raise self._no_object(body) from None

    def dereference(self, body: int) -> int:
        """Drop a reference on behalf of the kernel; the last one deletes the object. Returns how many are left.

        Raises:
            Bugcheck: 0x18, there are fewer references than handles, or no object.
        """
        record = self.record(body)
        record.references -= 1
        if record.references < record.pins + record.handles:
            record.pins -= 1
            if record.pins < 0:
                raise self._over_dereferenced(record)
        if record.references == 0:
            self._delete(record)
        return record.references

    def dereference_by_driver(self, body: int) -> int:
        """Drop a reference on behalf of a driver. Returns how many are left.

        Raises:
            Bugcheck: 0x18 REFERENCE_BY_POINTER, the reference was not the driver's to drop: it belongs to a handle or
                to the kernel (Microsoft: Bug Check 0x18).
        """
        record = self.record(body)
        record.references -= 1
        if record.references < record.pins + record.handles:
            raise self._over_dereferenced(record)
        if record.references == 0:
            self._delete(record)
        return record.references

    def unpin(self, record: ObjectRecord) -> None:
        """Drop one of the kernel's own references."""
        record.pins -= 1
        record.references -= 1
        if record.references == 0:
            self._delete(record)

    def make_temporary(self, body: int) -> None:
        """ObMakeTemporaryObject: the name goes as soon as no handle is open."""
        record = self.record(body)
        record.permanent = False
        if record.handles == 0:
            self.remove_name(record)

    def remove_name(self, record: ObjectRecord) -> None:
        """Take an object out of the namespace; it lives on without a name."""
        if record.parent:
            siblings = self.state.children.get(record.parent, {})
            if siblings.get(upcase(record.name)) == record.body:
                del siblings[upcase(record.name)]
            record.parent = 0

    def last_handle_closed(self, record: ObjectRecord) -> None:
        """What the closing of the last handle brings: the kind's procedure, and the end of a temporary name."""
        procedure = self._on_last_handle.get(record.type)
        if procedure is not None:
            procedure(record)
        if not record.permanent:
            self.remove_name(record)

    def _delete(self, record: ObjectRecord) -> None:
        self.remove_name(record)
        procedure = self._on_delete.get(record.type)
        if procedure is not None:
            procedure(record)
        del self._objects[record.body]
        self.state.children.pop(record.body, None)
        self.state.deleted[record.body] = f"a deleted {record.type} object" + (f" {record.name}" if record.name else "")
        if len(self.state.deleted) > DELETED_REMEMBERED:
            del self.state.deleted[next(iter(self.state.deleted))]
        if record.owned:
            self._kernel.heap.free(record.body)

    # Names

    def lookup(self, path: str, kind: str | None = None, *, follow: bool = True) -> ObjectRecord:
        """The object of this name.

        Args:
            path: absolute path, compared without case.
            kind: the kind it must be, None for any.
            follow: follow a symbolic link in the last component too.

        Raises:
            NtStatusError: not found, a bad path, or STATUS_OBJECT_TYPE_MISMATCH.
        """
        record, rest = self.resolve(path, follow=follow)
        if rest:
            raise NtStatusError(STATUS_OBJECT_PATH_NOT_FOUND, path)
        if kind is not None and record.type != kind:
            raise NtStatusError(STATUS_OBJECT_TYPE_MISMATCH, path)
        return record

    def resolve(self, path: str, *, follow: bool = True) -> tuple[ObjectRecord, str]:
        """The object a path leads to, and what is left of the path for a device to parse.

        Raises:
            NtStatusError: STATUS_OBJECT_NAME_NOT_FOUND for a missing last component, STATUS_OBJECT_PATH_NOT_FOUND for
                one before it, STATUS_OBJECT_PATH_SYNTAX_BAD for a relative path.
        """
        for _ in range(MAXIMUM_REPARSES):
            found = self._walk(path, follow)
            if not isinstance(found, str):
                return found
            path = found
        raise NtStatusError(STATUS_OBJECT_NAME_INVALID, f"{path}: symbolic links in a circle")

    def full_name(self, record: ObjectRecord) -> str:
        """Path of an object, empty when it has no name."""
        if record.body == self.state.root:
            return "\\"
        parts: list[str] = []
        while record.parent:
            parts.append(record.name)
            record = self._objects[record.parent]
        return "\\" + "\\".join(reversed(parts)) if parts else ""

    def type_object(self, kind: str) -> int:
        """Body of the type object of a kind, what POBJECT_TYPE points at."""
        return self.state.types[kind]

    def type_name(self, type_object: int) -> str | None:
        """Kind of a type object, None when the address is none."""
        for kind, body in self.state.types.items():
            if body == type_object:
                return kind
        return None

    def _walk(self, path: str, follow: bool) -> tuple[ObjectRecord, str] | str:
        """One pass over a path: where it leads, or the path that a symbolic link puts in its place."""
        if not path.startswith("\\"):
            raise NtStatusError(STATUS_OBJECT_PATH_SYNTAX_BAD, path)
        record = self._objects[self.state.root]
        rest = path[1:]
        while rest:
            name, separator, after = rest.partition("\\")
            body = self.state.children[record.body].get(upcase(name))
            if body is None:
                missing = STATUS_OBJECT_PATH_NOT_FOUND if after else STATUS_OBJECT_NAME_NOT_FOUND
                raise NtStatusError(missing, path)
            record = self._objects[body]
            if record.type == "SymbolicLink" and (after or separator or follow):
                return (record.target + separator + after) or "\\"
            if record.type == "Directory":
                rest = after
                continue
            if (separator or after) and record.type not in PARSES_REMAINDER:
                raise NtStatusError(STATUS_OBJECT_TYPE_MISMATCH, path)
            return record, separator + after
        return record, ""

    def _place(self, path: str) -> tuple[int, str]:
        """Directory and last component for a new name. Raises NtStatusError."""
        head, separator, leaf = path.rpartition("\\")
        if not separator:
            raise NtStatusError(STATUS_OBJECT_PATH_SYNTAX_BAD, path)
        if not leaf:
            raise NtStatusError(STATUS_OBJECT_NAME_INVALID, path)
        try:
            directory = self.lookup(head or "\\", "Directory")
        except NtStatusError as error:
            if error.status in (STATUS_OBJECT_NAME_NOT_FOUND, STATUS_OBJECT_TYPE_MISMATCH):
                raise NtStatusError(STATUS_OBJECT_PATH_NOT_FOUND, path) from None
            raise
        if upcase(leaf) in self.state.children[directory.body]:
            raise NtStatusError(STATUS_OBJECT_NAME_COLLISION, path)
        return directory.body, leaf

    def _create_namespace(self) -> None:
        """The directories and links that every Windows system has and drivers count on."""
        state = self.state
        state.root = self._kernel.heap.allocate(TYPE_BODY_SIZE)
        self._objects[state.root] = ObjectRecord(state.root, "Directory")
        state.children[state.root] = {}
        names = (
            "Device",
            "Driver",
            "FileSystem",
            "ObjectTypes",
            "BaseNamedObjects",
            "Callback",
            "KernelObjects",
            "GLOBAL??",
        )
        for name in names:
            self.create("Directory", TYPE_BODY_SIZE, f"\\{name}")
        for link, target in (
            ("\\??", "\\GLOBAL??"),
            ("\\DosDevices", "\\??"),
            ("\\GLOBAL??\\Global", "\\GLOBAL??"),
            ("\\GLOBAL??\\GLOBALROOT", ""),
        ):
            self.create("SymbolicLink", TYPE_BODY_SIZE, link, target=target)
        for kind in OBJECT_TYPES:
            state.types[kind] = self.create("Type", TYPE_BODY_SIZE, f"\\ObjectTypes\\{kind}")

    # Reports

    def describe(self, body: int) -> str:
        """An object in words, for reports."""
        record = self._objects.get(body)
        if record is None:
            return self.state.deleted.get(body, "no object")
        name = self.full_name(record)
        return f"{record.type} object 0x{body:X}" + (f" {name}" if name else "")

    def _no_object(self, body: int) -> Bugcheck:
        return Bugcheck(
            REFERENCE_BY_POINTER, 0, body, reason=f"0x{body:X} was used as an object but is {self.describe(body)}"
        )

    def _over_dereferenced(self, record: ObjectRecord) -> Bugcheck:
        return Bugcheck(
            REFERENCE_BY_POINTER,
            self.state.types.get(record.type, 0),
            record.body,
            reason=f"{self.describe(record.body)} was dereferenced more often than it was referenced",
            notes=(
                f"{record.references} references left for {record.handles} handles and the kernel's own {record.pins}",
            ),
        )
