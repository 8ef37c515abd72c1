"""Rtl functions on SIDs, ACLs and security descriptors.

Behaviour is that of the functions' pages on Microsoft Learn (ntifs.h, wdm.h); layouts are winnt.h's.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vm.emulated.exports import APC_LEVEL, DISPATCH_LEVEL, ExportTable
from vm.emulated.ntstatus import (
    STATUS_ALLOTTED_SPACE_EXCEEDED,
    STATUS_BAD_DESCRIPTOR_FORMAT,
    STATUS_BUFFER_TOO_SMALL,
    STATUS_INVALID_ACL,
    STATUS_INVALID_PARAMETER,
    STATUS_INVALID_SECURITY_DESCR,
    STATUS_INVALID_SID,
    STATUS_REVISION_MISMATCH,
    STATUS_SUCCESS,
    STATUS_UNKNOWN_REVISION,
    NtStatusError,
)
from vm.emulated.ob.exports import returns_status
from vm.emulated.ob.object_types import GenericMapping
from vm.emulated.se import descriptors as security
from vm.emulated.se.descriptors import Ace, Acl, SecurityDescriptor, Sid

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

_OWNER, _GROUP, _SACL, _DACL = 0x08, 0x10, 0x18, 0x20
_ACL_HEADER = struct.Struct("<BBHHH")
_SID_STRING_TAG = int.from_bytes(b"RtlS", "little")
_VALID_ACE_FLAGS = 0x1F


# SIDs


@EXPORTS.function("RtlLengthRequiredSid", args="u32")
def rtl_length_required_sid(_kernel: Kernel, count: int) -> int:
    """Microsoft Learn, RtlLengthRequiredSid."""
    return 8 + 4 * count


@EXPORTS.function("RtlLengthSid", args="ptr")
def rtl_length_sid(kernel: Kernel, sid: int) -> int:
    """Microsoft Learn, RtlLengthSid."""
    return 8 + 4 * kernel.mem.u8(sid + 1)


@EXPORTS.function("RtlValidSid", args="ptr")
def rtl_valid_sid(kernel: Kernel, sid: int) -> int:
    """Microsoft Learn, RtlValidSid."""
    if not sid:
        return 0
    revision, count = kernel.mem.read(sid, 2)
    return int(revision == security.SID_REVISION and count <= security.SID_MAX_SUB_AUTHORITIES)


@EXPORTS.function("RtlInitializeSid", args="ptr ptr u8")
def rtl_initialize_sid(kernel: Kernel, sid: int, authority: int, count: int) -> int:
    """Microsoft Learn, RtlInitializeSid: sub-authorities stay as they are."""
    if count > security.SID_MAX_SUB_AUTHORITIES:
        return STATUS_INVALID_PARAMETER
    kernel.mem.write(sid, bytes((security.SID_REVISION, count)) + kernel.mem.read(authority, 6))
    return STATUS_SUCCESS


@EXPORTS.function("RtlSubAuthoritySid", args="ptr u32")
def rtl_sub_authority_sid(_kernel: Kernel, sid: int, index: int) -> int:
    """Microsoft Learn, RtlSubAuthoritySid: the address of a sub-authority."""
    return sid + 8 + 4 * index


@EXPORTS.function("RtlSubAuthorityCountSid", args="ptr")
def rtl_sub_authority_count_sid(_kernel: Kernel, sid: int) -> int:
    """winnt.h, SID: the address of the count."""
    return sid + 1


@EXPORTS.function("RtlCopySid", args="u32 ptr ptr")
def rtl_copy_sid(kernel: Kernel, size: int, target: int, source: int) -> int:
    """Microsoft Learn, RtlCopySid."""
    length = 8 + 4 * kernel.mem.u8(source + 1)
    if size < length:
        return STATUS_BUFFER_TOO_SMALL
    kernel.mem.write(target, kernel.mem.read(source, length))
    return STATUS_SUCCESS


@EXPORTS.function("RtlEqualSid", args="ptr ptr")
def rtl_equal_sid(kernel: Kernel, first: int, second: int) -> int:
    """Microsoft Learn, RtlEqualSid."""
    mem = kernel.mem
    if mem.read(first, 2) != mem.read(second, 2):
        return 0
    length = 8 + 4 * mem.u8(first + 1)
    return int(mem.read(first, length) == mem.read(second, length))


@EXPORTS.function("RtlConvertSidToUnicodeString", args="ptr ptr bool", irql=APC_LEVEL)
def rtl_convert_sid_to_unicode_string(kernel: Kernel, string: int, sid: int, allocate: bool) -> int:
    """Microsoft Learn, RtlConvertSidToUnicodeString: freed with RtlFreeUnicodeString."""
    try:
        data = str(Sid.read(kernel.mem.read, sid)).encode("utf-16-le")
    except NtStatusError as error:
        return error.status
    if allocate:
        buffer = kernel.pool.allocate(len(data) + 2, _SID_STRING_TAG, paged=True, site=kernel.caller())
        maximum = len(data) + 2
    else:
        buffer, maximum = kernel.mem.u64(string + 8), kernel.mem.u16(string + 2)
        if maximum < len(data):
            return STATUS_BUFFER_TOO_SMALL
    kernel.mem.write(buffer, data + (b"\0\0" if maximum >= len(data) + 2 else b""))
    kernel.mem.set_unicode_string(string, len(data), maximum, buffer)
    return STATUS_SUCCESS


# ACLs


@EXPORTS.function("RtlCreateAcl", args="ptr u32 u32")
def rtl_create_acl(kernel: Kernel, acl: int, size: int, revision: int) -> int:
    """Microsoft Learn, RtlCreateAcl."""
    if size < _ACL_HEADER.size:
        return STATUS_BUFFER_TOO_SMALL
    if not security.ACL_REVISION <= revision <= security.ACL_REVISION_DS or size > 0xFFFF:
        return STATUS_INVALID_PARAMETER
    kernel.mem.write(acl, _ACL_HEADER.pack(revision, 0, size & ~3, 0, 0))
    return STATUS_SUCCESS


def _first_free(kernel: Kernel, acl: int) -> tuple[int, int, int, int]:
    """Revision, size, entry count and offset of the first free byte of an ACL. Raises NtStatusError."""
    revision, _, size, count, _ = _ACL_HEADER.unpack(kernel.mem.read(acl, _ACL_HEADER.size))
    if not security.ACL_REVISION <= revision <= security.ACL_REVISION_DS:
        raise NtStatusError(STATUS_INVALID_ACL)
    offset = _ACL_HEADER.size
    for _ in range(count):
        if offset + 4 > size:
            raise NtStatusError(STATUS_INVALID_ACL)
        offset += kernel.mem.u16(acl + offset + 2)
    if offset > size:
        raise NtStatusError(STATUS_INVALID_ACL)
    return revision, size, count, offset


def _add(kernel: Kernel, acl: int, revision: int, ace: Ace) -> int:
    try:
        current, size, count, offset = _first_free(kernel, acl)
    except NtStatusError as error:
        return error.status
    if revision > security.ACL_REVISION_DS or current > security.ACL_REVISION_DS:
        return STATUS_REVISION_MISMATCH
    data = ace.to_bytes()
    if offset + len(data) > size:
        return STATUS_ALLOTTED_SPACE_EXCEEDED
    kernel.mem.write(acl + offset, data)
    kernel.mem.write(acl, _ACL_HEADER.pack(max(current, revision), 0, size, count + 1, 0))
    return STATUS_SUCCESS


def _add_for(kernel: Kernel, kind: int, acl: int, revision: int, flags: int, mask: int, sid: int) -> int:
    try:
        return _add(kernel, acl, revision, Ace(kind, flags, mask, Sid.read(kernel.mem.read, sid)))
    except NtStatusError:
        return STATUS_INVALID_SID


@EXPORTS.function("RtlAddAccessAllowedAce", args="ptr u32 u32 ptr")
def rtl_add_access_allowed_ace(kernel: Kernel, acl: int, revision: int, mask: int, sid: int) -> int:
    """Microsoft Learn, RtlAddAccessAllowedAce."""
    return _add_for(kernel, security.ACCESS_ALLOWED_ACE_TYPE, acl, revision, 0, mask, sid)


@EXPORTS.function("RtlAddAccessAllowedAceEx", args="ptr u32 u32 u32 ptr")
def rtl_add_access_allowed_ace_ex(kernel: Kernel, acl: int, revision: int, flags: int, mask: int, sid: int) -> int:
    """Microsoft Learn, RtlAddAccessAllowedAceEx."""
    if flags & ~_VALID_ACE_FLAGS:
        return STATUS_INVALID_PARAMETER
    return _add_for(kernel, security.ACCESS_ALLOWED_ACE_TYPE, acl, revision, flags, mask, sid)


@EXPORTS.function("RtlAddAccessDeniedAce", args="ptr u32 u32 ptr")
def rtl_add_access_denied_ace(kernel: Kernel, acl: int, revision: int, mask: int, sid: int) -> int:
    """AddAccessDeniedAce on Microsoft Learn describes the same operation."""
    return _add_for(kernel, security.ACCESS_DENIED_ACE_TYPE, acl, revision, 0, mask, sid)


@EXPORTS.function("RtlGetAce", args="ptr u32 ptr")
@returns_status
def rtl_get_ace(kernel: Kernel, acl: int, index: int, result: int) -> int:
    """Microsoft Learn, RtlGetAce."""
    _, _, count, _ = _first_free(kernel, acl)
    if index >= count:
        return STATUS_INVALID_PARAMETER
    offset = _ACL_HEADER.size
    for _ in range(index):
        offset += kernel.mem.u16(acl + offset + 2)
    kernel.mem.set_u64(result, acl + offset)
    return STATUS_SUCCESS


@EXPORTS.function("RtlValidAcl", args="ptr")
def rtl_valid_acl(kernel: Kernel, acl: int) -> int:
    """ntifs.h, RtlValidAcl."""
    try:
        Acl.read(kernel.mem.read, acl)
    except NtStatusError:
        return 0
    return 1


# Security descriptors


@EXPORTS.function("RtlCreateSecurityDescriptor", args="ptr u32", irql=DISPATCH_LEVEL)
def rtl_create_security_descriptor(kernel: Kernel, descriptor: int, revision: int) -> int:
    """Microsoft Learn, RtlCreateSecurityDescriptor: absolute, with nothing in it."""
    if revision != security.SECURITY_DESCRIPTOR_REVISION:
        return STATUS_UNKNOWN_REVISION
    kernel.mem.write(descriptor, bytes((revision,)).ljust(security.ABSOLUTE_SIZE, b"\0"))
    return STATUS_SUCCESS


def _absolute(kernel: Kernel, descriptor: int) -> int:
    """Control bits of an absolute descriptor. Raises NtStatusError for any other."""
    revision, _, control = struct.unpack("<BBH", kernel.mem.read(descriptor, 4))
    if revision != security.SECURITY_DESCRIPTOR_REVISION:
        raise NtStatusError(STATUS_UNKNOWN_REVISION)
    if control & security.SE_SELF_RELATIVE:
        raise NtStatusError(STATUS_INVALID_SECURITY_DESCR)
    return int(control)


@EXPORTS.function("RtlSetDaclSecurityDescriptor", args="ptr bool ptr bool", irql=DISPATCH_LEVEL)
@returns_status
def rtl_set_dacl_security_descriptor(kernel: Kernel, descriptor: int, present: bool, acl: int, defaulted: bool) -> int:
    """Microsoft Learn, RtlSetDaclSecurityDescriptor: the ACL is referred to, not copied."""
    control = _absolute(kernel, descriptor) & ~(security.SE_DACL_PRESENT | security.SE_DACL_DEFAULTED)
    if present:
        control |= security.SE_DACL_PRESENT | (security.SE_DACL_DEFAULTED if defaulted else 0)
        kernel.mem.set_u64(descriptor + _DACL, acl)
    kernel.mem.set_u16(descriptor + 2, control)
    return STATUS_SUCCESS


def _set_sid(kernel: Kernel, descriptor: int, at: int, sid: int, flag: int, *, defaulted: bool) -> int:
    control = _absolute(kernel, descriptor) & ~flag
    kernel.mem.set_u64(descriptor + at, sid)
    kernel.mem.set_u16(descriptor + 2, control | (flag if defaulted else 0))
    return STATUS_SUCCESS


@EXPORTS.function("RtlSetOwnerSecurityDescriptor", args="ptr ptr bool", irql=DISPATCH_LEVEL)
@returns_status
def rtl_set_owner_security_descriptor(kernel: Kernel, descriptor: int, sid: int, defaulted: bool) -> int:
    """Microsoft Learn, RtlSetOwnerSecurityDescriptor."""
    return _set_sid(kernel, descriptor, _OWNER, sid, security.SE_OWNER_DEFAULTED, defaulted=defaulted)


@EXPORTS.function("RtlSetGroupSecurityDescriptor", args="ptr ptr bool", irql=DISPATCH_LEVEL)
@returns_status
def rtl_set_group_security_descriptor(kernel: Kernel, descriptor: int, sid: int, defaulted: bool) -> int:
    """Microsoft Learn, RtlSetGroupSecurityDescriptor."""
    return _set_sid(kernel, descriptor, _GROUP, sid, security.SE_GROUP_DEFAULTED, defaulted=defaulted)


def _member(kernel: Kernel, descriptor: int, absolute: int, relative: int) -> int:
    """Address of a part of a descriptor of either form, 0 when it is absent. Raises NtStatusError."""
    revision, _, control = struct.unpack("<BBH", kernel.mem.read(descriptor, 4))
    if revision != security.SECURITY_DESCRIPTOR_REVISION:
        raise NtStatusError(STATUS_UNKNOWN_REVISION)
    if control & security.SE_SELF_RELATIVE:
        offset = kernel.mem.u32(descriptor + relative)
        return descriptor + offset if offset else 0
    return kernel.mem.u64(descriptor + absolute)


@EXPORTS.function("RtlGetDaclSecurityDescriptor", args="ptr ptr ptr ptr", irql=DISPATCH_LEVEL)
@returns_status
def rtl_get_dacl_security_descriptor(kernel: Kernel, descriptor: int, present: int, acl: int, defaulted: int) -> int:
    """Microsoft Learn, RtlGetDaclSecurityDescriptor."""
    address = _member(kernel, descriptor, _DACL, 0x10)
    control = kernel.mem.u16(descriptor + 2)
    kernel.mem.set_u8(present, int(bool(control & security.SE_DACL_PRESENT)))
    if control & security.SE_DACL_PRESENT:
        kernel.mem.set_u64(acl, address)
        kernel.mem.set_u8(defaulted, int(bool(control & security.SE_DACL_DEFAULTED)))
    return STATUS_SUCCESS


@EXPORTS.function("RtlGetOwnerSecurityDescriptor", args="ptr ptr ptr", irql=DISPATCH_LEVEL)
@returns_status
def rtl_get_owner_security_descriptor(kernel: Kernel, descriptor: int, sid: int, defaulted: int) -> int:
    """Microsoft Learn, RtlGetOwnerSecurityDescriptor."""
    kernel.mem.set_u64(sid, _member(kernel, descriptor, _OWNER, 0x04))
    kernel.mem.set_u8(defaulted, int(bool(kernel.mem.u16(descriptor + 2) & security.SE_OWNER_DEFAULTED)))
    return STATUS_SUCCESS


@EXPORTS.function("RtlGetGroupSecurityDescriptor", args="ptr ptr ptr", irql=DISPATCH_LEVEL)
@returns_status
def rtl_get_group_security_descriptor(kernel: Kernel, descriptor: int, sid: int, defaulted: int) -> int:
    """Microsoft Learn, RtlGetGroupSecurityDescriptor."""
    kernel.mem.set_u64(sid, _member(kernel, descriptor, _GROUP, 0x08))
    kernel.mem.set_u8(defaulted, int(bool(kernel.mem.u16(descriptor + 2) & security.SE_GROUP_DEFAULTED)))
    return STATUS_SUCCESS


@EXPORTS.function("RtlValidSecurityDescriptor", args="ptr")
def rtl_valid_security_descriptor(kernel: Kernel, descriptor: int) -> int:
    """Microsoft Learn, RtlValidSecurityDescriptor."""
    try:
        SecurityDescriptor.read(kernel.mem.read, descriptor)
    except NtStatusError:
        return 0
    return 1


@EXPORTS.function("RtlLengthSecurityDescriptor", args="ptr")
def rtl_length_security_descriptor(kernel: Kernel, descriptor: int) -> int:
    """Microsoft Learn, RtlLengthSecurityDescriptor: the structure and all it holds, ACLs with their free space."""
    relative = kernel.mem.u16(descriptor + 2) & security.SE_SELF_RELATIVE
    control = kernel.mem.u16(descriptor + 2)
    length = security.RELATIVE_SIZE if relative else security.ABSOLUTE_SIZE
    for absolute, offset in ((_OWNER, 0x04), (_GROUP, 0x08)):
        sid = _member(kernel, descriptor, absolute, offset)
        length += 8 + 4 * kernel.mem.u8(sid + 1) if sid else 0
    for absolute, offset, bit in ((_SACL, 0x0C, security.SE_SACL_PRESENT), (_DACL, 0x10, security.SE_DACL_PRESENT)):
        acl = _member(kernel, descriptor, absolute, offset) if control & bit else 0
        length += (kernel.mem.u16(acl + 2) + 3) & ~3 if acl else 0
    return length


@EXPORTS.function("RtlAbsoluteToSelfRelativeSD", args="ptr ptr ptr", irql=APC_LEVEL)
@returns_status
def rtl_absolute_to_self_relative_sd(kernel: Kernel, absolute: int, target: int, length: int) -> int:
    """Microsoft Learn, RtlAbsoluteToSelfRelativeSD: STATUS_BUFFER_TOO_SMALL says how much is needed."""
    if kernel.mem.u16(absolute + 2) & security.SE_SELF_RELATIVE:
        return STATUS_BAD_DESCRIPTOR_FORMAT
    data = SecurityDescriptor.read(kernel.mem.read, absolute).to_bytes()
    available = kernel.mem.u32(length)
    kernel.mem.set_u32(length, len(data))
    if available < len(data):
        return STATUS_BUFFER_TOO_SMALL
    kernel.mem.write(target, data)
    return STATUS_SUCCESS


@EXPORTS.function("RtlMapGenericMask", args="ptr ptr", irql=DISPATCH_LEVEL)
def rtl_map_generic_mask(kernel: Kernel, mask: int, mapping: int) -> None:
    """Microsoft Learn, RtlMapGenericMask."""
    generic = GenericMapping(*struct.unpack("<4I", kernel.mem.read(mapping, 16)))
    kernel.mem.set_u32(mask, generic.map(kernel.mem.u32(mask)))
