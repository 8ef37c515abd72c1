"""Kinds of kernel objects: generic mappings and access rights, as the public headers define them (wdm.h, ntddk.h)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

DELETE = 0x00010000
READ_CONTROL = 0x00020000
WRITE_DAC = 0x00040000
WRITE_OWNER = 0x00080000
SYNCHRONIZE = 0x00100000
STANDARD_RIGHTS_REQUIRED = 0x000F0000
ACCESS_SYSTEM_SECURITY = 0x01000000
MAXIMUM_ALLOWED = 0x02000000
GENERIC_ALL = 0x10000000
GENERIC_EXECUTE = 0x20000000
GENERIC_WRITE = 0x40000000
GENERIC_READ = 0x80000000

FILE_READ_DATA = 0x0001
FILE_WRITE_DATA = 0x0002
FILE_APPEND_DATA = 0x0004
FILE_READ_EA = 0x0008
FILE_WRITE_EA = 0x0010
FILE_EXECUTE = 0x0020
FILE_TRAVERSE = 0x0020
FILE_READ_ATTRIBUTES = 0x0080
FILE_WRITE_ATTRIBUTES = 0x0100
FILE_GENERIC_READ = READ_CONTROL | SYNCHRONIZE | FILE_READ_DATA | FILE_READ_ATTRIBUTES | FILE_READ_EA
FILE_GENERIC_WRITE = (
    READ_CONTROL | SYNCHRONIZE | FILE_WRITE_DATA | FILE_WRITE_ATTRIBUTES | FILE_WRITE_EA | FILE_APPEND_DATA
)
FILE_GENERIC_EXECUTE = READ_CONTROL | SYNCHRONIZE | FILE_READ_ATTRIBUTES | FILE_EXECUTE
FILE_ALL_ACCESS = STANDARD_RIGHTS_REQUIRED | SYNCHRONIZE | 0x1FF


@dataclass(frozen=True)
class GenericMapping:
    """GENERIC_MAPPING (wdm.h): the specific rights that each generic right stands for."""

    read: int
    write: int
    execute: int
    all: int

    def map(self, access: int) -> int:
        """RtlMapGenericMask: replace generic bits by what they stand for."""
        mapped = access & 0x0FFFFFFF
        if access & GENERIC_READ:
            mapped |= self.read
        if access & GENERIC_WRITE:
            mapped |= self.write
        if access & GENERIC_EXECUTE:
            mapped |= self.execute
        if access & GENERIC_ALL:
            mapped |= self.all
        return mapped


FILE_MAPPING = GenericMapping(FILE_GENERIC_READ, FILE_GENERIC_WRITE, FILE_GENERIC_EXECUTE, FILE_ALL_ACCESS)
_READ, _WRITE, _EXECUTE = READ_CONTROL, READ_CONTROL, READ_CONTROL


@dataclass(frozen=True)
class ObjectType:
    """A kind of object.

    Attributes:
        name: as Windows spells it.
        mapping: its generic mapping.
        variable: name of the exported POBJECT_TYPE variable, empty when the kernel exports none.
    """

    name: str
    mapping: GenericMapping
    variable: str = ""


def _types(*types: ObjectType) -> Mapping[str, ObjectType]:
    return MappingProxyType({kind.name: kind for kind in types})


OBJECT_TYPES = _types(
    ObjectType("Type", GenericMapping(_READ, _WRITE, _EXECUTE, 0x000F0001)),
    ObjectType("Directory", GenericMapping(_READ | 3, _WRITE | 0xC, _EXECUTE | 3, 0x000F000F)),
    ObjectType("SymbolicLink", GenericMapping(_READ | 1, _WRITE, _EXECUTE | 1, 0x000F0001)),
    ObjectType("Device", FILE_MAPPING),
    ObjectType("Driver", FILE_MAPPING),
    ObjectType("File", FILE_MAPPING, "IoFileObjectType"),
    ObjectType(
        "Process", GenericMapping(_READ | 0x410, _WRITE | 0xBEB, _EXECUTE | 0x101000, 0x001FFFFF), "PsProcessType"
    ),
    ObjectType("Thread", GenericMapping(_READ | 0x48, _WRITE | 0x437, _EXECUTE | 0x101800, 0x001FFFFF), "PsThreadType"),
    ObjectType("Event", GenericMapping(_READ | 1, _WRITE | 2, _EXECUTE | SYNCHRONIZE, 0x001F0003), "ExEventObjectType"),
    ObjectType(
        "Semaphore", GenericMapping(_READ | 1, _WRITE | 2, _EXECUTE | SYNCHRONIZE, 0x001F0003), "ExSemaphoreObjectType"
    ),
    ObjectType("Key", GenericMapping(0x20019, 0x20006, 0x20019, 0x000F003F), "CmKeyObjectType"),
    ObjectType("Section", GenericMapping(_READ | 5, _WRITE | 2, _EXECUTE | 8, 0x000F001F), "MmSectionObjectType"),
    ObjectType("Token", GenericMapping(0x2001A, 0x201E0, 0x20000, 0x000F01FF), "SeTokenObjectType"),
    ObjectType("Callback", GenericMapping(_READ, _WRITE | 1, _EXECUTE | SYNCHRONIZE, 0x001F0001)),
)
"""Every kind this kernel knows, by name. Rights of processes and threads: winnt.h, of keys: wdm.h."""
