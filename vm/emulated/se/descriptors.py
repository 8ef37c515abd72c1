"""Security descriptors as data: SIDs, ACEs, ACLs, their binary forms, and the accounts of the machine.

Layouts are those of winnt.h (SID, ACL, ACE_HEADER, SECURITY_DESCRIPTOR_RELATIVE, SECURITY_DESCRIPTOR); [MS-DTYP] 2.4
describes the same structures.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from vm.emulated.ntstatus import (
    STATUS_INVALID_ACL,
    STATUS_INVALID_SECURITY_DESCR,
    STATUS_INVALID_SID,
    STATUS_UNKNOWN_REVISION,
    NtStatusError,
)
from vm.emulated.ob.object_types import GENERIC_ALL, GENERIC_EXECUTE, GENERIC_READ, GENERIC_WRITE

SID_REVISION = 1
SID_MAX_SUB_AUTHORITIES = 15
ACL_REVISION = 2
ACL_REVISION_DS = 4
SECURITY_DESCRIPTOR_REVISION = 1

SE_OWNER_DEFAULTED = 0x0001
SE_GROUP_DEFAULTED = 0x0002
SE_DACL_PRESENT = 0x0004
SE_DACL_DEFAULTED = 0x0008
SE_SACL_PRESENT = 0x0010
SE_SACL_DEFAULTED = 0x0020
SE_DACL_PROTECTED = 0x1000
SE_SACL_PROTECTED = 0x2000
SE_SELF_RELATIVE = 0x8000

ACCESS_ALLOWED_ACE_TYPE = 0
ACCESS_DENIED_ACE_TYPE = 1
INHERIT_ONLY_ACE = 0x08

ABSOLUTE_SIZE = 0x28
"""sizeof(SECURITY_DESCRIPTOR) on x64."""
RELATIVE_SIZE = 0x14

Reader = Callable[[int, int], bytes]
"""Reads bytes: address, size."""


@dataclass(frozen=True, order=True)
class Sid:
    """A security identifier."""

    authority: int
    subs: tuple[int, ...]

    def __str__(self) -> str:
        return "-".join(("S-1", str(self.authority), *map(str, self.subs)))

    def to_bytes(self) -> bytes:
        """The SID structure."""
        head = struct.pack("<BB", SID_REVISION, len(self.subs)) + self.authority.to_bytes(6, "big")
        return head + struct.pack(f"<{len(self.subs)}I", *self.subs)

    @classmethod
    def parse(cls, text: str) -> Sid:
        """A SID from its S-1-... form. Raises ValueError."""
        parts = text.upper().split("-")
        if len(parts) < 3 or parts[0] != "S" or parts[1] != "1" or len(parts) > 3 + SID_MAX_SUB_AUTHORITIES:
            raise ValueError(f"not a SID: {text}")
        numbers = [int(part, 0) for part in parts[2:]]
        if any(number < 0 or number >> 32 for number in numbers[1:]) or numbers[0] >> 48:
            raise ValueError(f"not a SID: {text}")
        return cls(numbers[0], tuple(numbers[1:]))

    @classmethod
    def read(cls, read: Reader, address: int) -> Sid:
        """The SID at an address. Raises NtStatusError STATUS_INVALID_SID."""
        revision, count = read(address, 2)
        if revision != SID_REVISION or count > SID_MAX_SUB_AUTHORITIES:
            raise NtStatusError(STATUS_INVALID_SID)
        data = read(address + 2, 6 + 4 * count)
        return cls(int.from_bytes(data[:6], "big"), struct.unpack_from(f"<{count}I", data, 6))


def _nt(*subs: int) -> Sid:
    return Sid(5, subs)


NULL_SID = Sid(0, (0,))
WORLD = Sid(1, (0,))
LOCAL = Sid(2, (0,))
CREATOR_OWNER = Sid(3, (0,))
CREATOR_GROUP = Sid(3, (1,))
OWNER_RIGHTS = Sid(3, (4,))
NT_AUTHORITY = _nt()
DIALUP, NETWORK, BATCH, INTERACTIVE, SERVICE, ANONYMOUS = (_nt(rid) for rid in (1, 2, 3, 4, 6, 7))
AUTHENTICATED_USERS, RESTRICTED, IUSER = _nt(11), _nt(12), _nt(17)
LOCAL_SYSTEM, LOCAL_SERVICE, NETWORK_SERVICE = _nt(18), _nt(19), _nt(20)
ADMINISTRATORS, USERS, GUESTS, POWER_USERS = (_nt(32, rid) for rid in (544, 545, 546, 547))
ACCOUNT_OPERATORS, SYSTEM_OPERATORS, PRINT_OPERATORS, BACKUP_OPERATORS = (_nt(32, rid) for rid in (548, 549, 550, 551))
UNTRUSTED_LABEL, LOW_LABEL, MEDIUM_LABEL, HIGH_LABEL, SYSTEM_LABEL = (
    Sid(16, (rid,)) for rid in (0x0, 0x1000, 0x2000, 0x3000, 0x4000)
)


@dataclass(frozen=True)
class Ace:
    """An access control entry that names a mask and a SID; other kinds keep their bytes in `raw`."""

    kind: int
    flags: int
    mask: int
    sid: Sid | None
    raw: bytes = b""

    def to_bytes(self) -> bytes:
        """The ACE structure."""
        if self.sid is None:
            return struct.pack("<BBH", self.kind, self.flags, 4 + len(self.raw)) + self.raw
        body = struct.pack("<I", self.mask) + self.sid.to_bytes()
        return struct.pack("<BBH", self.kind, self.flags, 4 + len(body)) + body


def allow(mask: int, sid: Sid, flags: int = 0) -> Ace:
    """An ACCESS_ALLOWED_ACE."""
    return Ace(ACCESS_ALLOWED_ACE_TYPE, flags, mask, sid)


@dataclass(frozen=True)
class Acl:
    """An access control list."""

    aces: tuple[Ace, ...]
    revision: int = ACL_REVISION

    def to_bytes(self) -> bytes:
        """The ACL structure with its entries and nothing after them."""
        body = b"".join(ace.to_bytes() for ace in self.aces)
        return struct.pack("<BBHHH", self.revision, 0, 8 + len(body), len(self.aces), 0) + body

    @classmethod
    def read(cls, read: Reader, address: int) -> Acl:
        """The ACL at an address. Raises NtStatusError STATUS_INVALID_ACL."""
        revision, _, size, count, _ = struct.unpack("<BBHHH", read(address, 8))
        if not ACL_REVISION <= revision <= ACL_REVISION_DS or size < 8:
            raise NtStatusError(STATUS_INVALID_ACL)
        data = read(address, size)
        aces, at = [], 8
        for _ in range(count):
            ace, at = _ace(data, at)
            aces.append(ace)
        return cls(tuple(aces), revision)


def _ace(data: bytes, at: int) -> tuple[Ace, int]:
    if at + 4 > len(data):
        raise NtStatusError(STATUS_INVALID_ACL)
    kind, flags, size = struct.unpack_from("<BBH", data, at)
    end = at + size
    if size < 4 or size & 3 or end > len(data):
        raise NtStatusError(STATUS_INVALID_ACL)
    body = data[at + 4 : end]
    # Kinds 0 to 3 and 0x11 (mandatory label) are a mask and a SID; others are kept as they are.
    if kind not in (0, 1, 2, 3, 0x11):
        return Ace(kind, flags, 0, None, body), end
    if len(body) < 12 or len(body) < 12 + 4 * body[5]:
        raise NtStatusError(STATUS_INVALID_ACL)
    try:
        sid = Sid.read(lambda offset, length: body[offset : offset + length], 4)
    except NtStatusError:
        raise NtStatusError(STATUS_INVALID_ACL) from None
    return Ace(kind, flags, int.from_bytes(body[:4], "little"), sid), end


@dataclass(frozen=True)
class SecurityDescriptor:
    """A security descriptor.

    Attributes:
        owner, group: None when absent.
        dacl: None for no DACL or a NULL one, both of which grant everything.
        sacl: likewise.
        control: control bits, without SE_SELF_RELATIVE.
    """

    owner: Sid | None = None
    group: Sid | None = None
    dacl: Acl | None = None
    sacl: Acl | None = None
    control: int = 0

    def to_bytes(self) -> bytes:
        """The self-relative form."""
        out = bytearray(RELATIVE_SIZE)
        offsets = []
        for part in (self.owner, self.group, self.sacl, self.dacl):
            offsets.append(len(out) if part is not None else 0)
            if part is not None:
                out += part.to_bytes()
        struct.pack_into("<BBH4I", out, 0, SECURITY_DESCRIPTOR_REVISION, 0, self.control | SE_SELF_RELATIVE, *offsets)
        return bytes(out)

    @classmethod
    def read(cls, read: Reader, address: int) -> SecurityDescriptor:
        """The descriptor at an address, absolute or self-relative.

        Raises:
            NtStatusError: STATUS_UNKNOWN_REVISION, STATUS_INVALID_SECURITY_DESCR, STATUS_INVALID_SID,
                STATUS_INVALID_ACL.
        """
        revision, _, control = struct.unpack("<BBH", read(address, 4))
        if revision != SECURITY_DESCRIPTOR_REVISION:
            raise NtStatusError(STATUS_UNKNOWN_REVISION)
        if control & SE_SELF_RELATIVE:
            offsets = struct.unpack("<4I", read(address + 4, 16))
            if any(0 < offset < RELATIVE_SIZE for offset in offsets):
                raise NtStatusError(STATUS_INVALID_SECURITY_DESCR)
            owner, group, sacl, dacl = (address + offset if offset else 0 for offset in offsets)
        else:
            owner, group, sacl, dacl = struct.unpack("<4Q", read(address + 8, 32))
        return cls(
            owner=Sid.read(read, owner) if owner else None,
            group=Sid.read(read, group) if group else None,
            dacl=Acl.read(read, dacl) if dacl and control & SE_DACL_PRESENT else None,
            sacl=Acl.read(read, sacl) if sacl and control & SE_SACL_PRESENT else None,
            control=control & ~SE_SELF_RELATIVE,
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> SecurityDescriptor:
        """A self-relative descriptor from bytes. Raises NtStatusError when anything lies outside them."""

        def read(offset: int, size: int) -> bytes:
            if offset + size > len(data):
                raise NtStatusError(STATUS_INVALID_SECURITY_DESCR)
            return data[offset : offset + size]

        return cls.read(read, 0)


DEFAULT_DEVICE_SECURITY = SecurityDescriptor(
    owner=ADMINISTRATORS,
    group=LOCAL_SYSTEM,
    dacl=Acl(
        (
            allow(GENERIC_ALL, LOCAL_SYSTEM),
            allow(GENERIC_ALL, ADMINISTRATORS),
            allow(GENERIC_READ | GENERIC_WRITE | GENERIC_EXECUTE, WORLD),
        )
    ),
    control=SE_DACL_PRESENT,
)
"""What a device gets whose driver sets nothing: administrators everything, everyone else read, write and execute
(Microsoft: Controlling Device Access (WDM))."""
