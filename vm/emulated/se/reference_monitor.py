"""The security reference monitor: whose token is current, security of objects, and the Se exports.

Behaviour and IRQL limits are those of the functions' pages on Microsoft Learn (wdm.h, ntifs.h).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vm.emulated.exports import APC_LEVEL, PASSIVE_LEVEL, ExportTable
from vm.emulated.ntstatus import (
    STATUS_BUFFER_TOO_SMALL,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_NO_SECURITY_ON_OBJECT,
    STATUS_SUCCESS,
    NtStatusError,
)
from vm.emulated.ob.exports import returns_status
from vm.emulated.ob.object_types import GenericMapping
from vm.emulated.processor.cpu import MissingImport
from vm.emulated.se import descriptors as security
from vm.emulated.se.access import (
    ADMINISTRATOR_TOKEN,
    PRIVILEGES,
    STANDARD_USER_TOKEN,
    SYSTEM_TOKEN,
    Token,
    access_check,
    token_of,
)
from vm.emulated.se.descriptors import SecurityDescriptor
from vm.machine import Account

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel
    from vm.emulated.ob.manager import ObjectRecord

EXPORTS = ExportTable()

SYSTEM_PID = 4
KERNEL_MODE = 0
TOKEN_BODY_SIZE = 0x40
TOKEN_POOL_TAG = int.from_bytes(b"SeTk", "little")
TOKEN_TYPE_PRIMARY = 1
TOKEN_USER, TOKEN_SESSION_ID, TOKEN_ELEVATION = 1, 12, 20
"""TOKEN_INFORMATION_CLASS (ntifs.h)."""
SESSION_ID = 0
"""Everything on this machine runs in session 0."""

OWNER_SECURITY_INFORMATION = 1
GROUP_SECURITY_INFORMATION = 2
DACL_SECURITY_INFORMATION = 4
SACL_SECURITY_INFORMATION = 8

_TOKENS = {"system": SYSTEM_TOKEN, "administrator": ADMINISTRATOR_TOKEN, "standard user": STANDARD_USER_TOKEN}


@dataclass
class SecurityState:
    """What a checkpoint keeps."""

    tokens: dict[str, int] = field(default_factory=dict)
    """Account name to token object."""


class SecurityMonitor:
    """Tokens of the machine's accounts and the security of its objects."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.state = SecurityState()
        for name in _TOKENS:
            self.state.tokens[name] = kernel.ob.create("Token", TOKEN_BODY_SIZE)

    def rebind(self) -> None:
        """Nothing here aliases the state."""

    # Tokens

    def account_of_process(self, pid: int) -> str:
        """Account that a process runs as: the system's own, or the administrator's."""
        return "system" if pid == SYSTEM_PID else Account.ADMINISTRATOR.value

    def current_token(self) -> int:
        """Token object in effect for the current thread."""
        name = self._kernel.current_thread.account
        return self.state.tokens[name or self.account_of_process(self._kernel.current_process.pid)]

    def token(self, body: int) -> Token:
        """What a token object stands for. Raises Bugcheck 0x18 when the address is none."""
        self._kernel.ob.record(body)
        return next(_TOKENS[name] for name, known in self.state.tokens.items() if known == body)

    # Security of objects

    def descriptor_of(self, record: ObjectRecord) -> SecurityDescriptor | None:
        """Security descriptor of an object; that of a file opened on a device is the device's."""
        stored = self._holder(record).security
        return None if stored is None else SecurityDescriptor.from_bytes(stored)

    def set_descriptor(self, record: ObjectRecord, parts: int, descriptor: SecurityDescriptor) -> None:
        """Replace the parts of an object's descriptor that SECURITY_INFORMATION names.

        Raises:
            NtStatusError: STATUS_NO_SECURITY_ON_OBJECT.
        """
        holder = self._holder(record)
        if holder.security is None:
            raise NtStatusError(STATUS_NO_SECURITY_ON_OBJECT, self._kernel.ob.describe(record.body))
        current = SecurityDescriptor.from_bytes(holder.security)
        control = current.control
        if parts & OWNER_SECURITY_INFORMATION:
            current = replace(current, owner=descriptor.owner)
        if parts & GROUP_SECURITY_INFORMATION:
            current = replace(current, group=descriptor.group)
        if parts & DACL_SECURITY_INFORMATION:
            bits = security.SE_DACL_PRESENT | security.SE_DACL_PROTECTED | security.SE_DACL_DEFAULTED
            control = control & ~bits | descriptor.control & bits
            current = replace(current, dacl=descriptor.dacl)
        if parts & SACL_SECURITY_INFORMATION:
            bits = security.SE_SACL_PRESENT | security.SE_SACL_PROTECTED | security.SE_SACL_DEFAULTED
            control = control & ~bits | descriptor.control & bits
            current = replace(current, sacl=descriptor.sacl)
        holder.security = replace(current, control=control).to_bytes()

    def check(self, record: ObjectRecord, account: Account | None, desired: int, mapping: GenericMapping) -> int:
        """Granted access of an account to an object. Raises NtStatusError when refused."""
        status, granted = access_check(self.descriptor_of(record), token_of(account), desired, mapping)
        if status != STATUS_SUCCESS:
            raise NtStatusError(status, self._kernel.ob.describe(record.body))
        return granted

    def _holder(self, record: ObjectRecord) -> ObjectRecord:
        if record.type == "File":
            device, _ = self._kernel.io.name_of_file(record.body)
            return self._kernel.ob.record(device)
        return record


def _parts(descriptor: SecurityDescriptor, wanted: int) -> SecurityDescriptor:
    """The parts of a descriptor that SECURITY_INFORMATION names."""
    control = descriptor.control
    if not wanted & DACL_SECURITY_INFORMATION:
        control &= ~(security.SE_DACL_PRESENT | security.SE_DACL_PROTECTED | security.SE_DACL_DEFAULTED)
    if not wanted & SACL_SECURITY_INFORMATION:
        control &= ~(security.SE_SACL_PRESENT | security.SE_SACL_PROTECTED | security.SE_SACL_DEFAULTED)
    return SecurityDescriptor(
        owner=descriptor.owner if wanted & OWNER_SECURITY_INFORMATION else None,
        group=descriptor.group if wanted & GROUP_SECURITY_INFORMATION else None,
        dacl=descriptor.dacl if wanted & DACL_SECURITY_INFORMATION else None,
        sacl=descriptor.sacl if wanted & SACL_SECURITY_INFORMATION else None,
        control=control,
    )


# Security of objects


@EXPORTS.function("ZwSetSecurityObject", args="handle u32 ptr", irql=PASSIVE_LEVEL)
@returns_status
def zw_set_security_object(kernel: Kernel, handle: int, parts: int, descriptor: int) -> int:
    """Microsoft Learn, ZwSetSecurityObject."""
    record = kernel.ob.handles.resolve(handle)
    kernel.se.set_descriptor(record, parts, SecurityDescriptor.read(kernel.mem.read, descriptor))
    return STATUS_SUCCESS


@EXPORTS.function("ObSetSecurityObjectByPointer", args="ptr u32 ptr", irql=PASSIVE_LEVEL)
@returns_status
def ob_set_security_object_by_pointer(kernel: Kernel, body: int, parts: int, descriptor: int) -> int:
    """ntifs.h, ObSetSecurityObjectByPointer: ZwSetSecurityObject for a pointer."""
    record = kernel.ob.record(body)
    kernel.se.set_descriptor(record, parts, SecurityDescriptor.read(kernel.mem.read, descriptor))
    return STATUS_SUCCESS


@EXPORTS.function("ZwQuerySecurityObject", args="handle u32 ptr u32 ptr", irql=PASSIVE_LEVEL)
@returns_status
def zw_query_security_object(kernel: Kernel, handle: int, parts: int, buffer: int, length: int, needed: int) -> int:
    """Microsoft Learn, ZwQuerySecurityObject: self-relative; STATUS_BUFFER_TOO_SMALL says how much is needed."""
    descriptor = kernel.se.descriptor_of(kernel.ob.handles.resolve(handle)) or SecurityDescriptor()
    data = _parts(descriptor, parts).to_bytes()
    kernel.mem.set_u32(needed, len(data))
    if length < len(data):
        return STATUS_BUFFER_TOO_SMALL
    kernel.mem.write(buffer, data)
    return STATUS_SUCCESS


@EXPORTS.function("ObGetObjectSecurity", args="ptr ptr ptr", irql=PASSIVE_LEVEL)
def ob_get_object_security(kernel: Kernel, body: int, result: int, allocated: int) -> int:
    """Microsoft Learn, ObGetObjectSecurity: a copy to give back with ObReleaseObjectSecurity, or NULL."""
    kernel.mem.set_u8(allocated, 0)
    kernel.mem.set_u64(result, 0)
    descriptor = kernel.se.descriptor_of(kernel.ob.record(body))
    if descriptor is None:
        return STATUS_SUCCESS
    data = descriptor.to_bytes()
    block = kernel.pool.allocate(len(data), TOKEN_POOL_TAG, site=kernel.caller())
    if not block:
        return STATUS_INSUFFICIENT_RESOURCES
    kernel.mem.write(block, data)
    kernel.mem.set_u64(result, block)
    kernel.mem.set_u8(allocated, 1)
    return STATUS_SUCCESS


@EXPORTS.function("ObReleaseObjectSecurity", args="ptr bool", irql=APC_LEVEL)
def ob_release_object_security(kernel: Kernel, descriptor: int, allocated: bool) -> None:
    """Microsoft Learn, ObReleaseObjectSecurity."""
    if descriptor and allocated:
        kernel.pool.free(descriptor, TOKEN_POOL_TAG, site=kernel.caller())


# Subject contexts: ClientToken 0, ImpersonationLevel 8, PrimaryToken 0x10, ProcessAuditId 0x18 (ntifs.h).


@EXPORTS.function("SeCaptureSubjectContext", args="ptr", irql=PASSIVE_LEVEL)
def se_capture_subject_context(kernel: Kernel, context: int) -> None:
    """Microsoft Learn, SeCaptureSubjectContext: holds a reference to the token until released."""
    token = kernel.se.current_token()
    kernel.ob.reference(token)
    kernel.mem.write(context, struct.pack("<QIIQQ", 0, 0, 0, token, kernel.current_process.pid))


@EXPORTS.function("SeReleaseSubjectContext", args="ptr", irql=PASSIVE_LEVEL)
def se_release_subject_context(kernel: Kernel, context: int) -> None:
    """Microsoft Learn, SeReleaseSubjectContext."""
    kernel.ob.dereference_by_driver(kernel.mem.u64(context + 0x10))
    kernel.mem.set_u64(context + 0x10, 0)


@EXPORTS.function("SeLockSubjectContext", "SeUnlockSubjectContext", args="ptr", irql=PASSIVE_LEVEL)
def se_lock_subject_context(kernel: Kernel, context: int) -> None:
    """Microsoft Learn, SeLockSubjectContext: tokens of this machine never change, so there is nothing to hold back."""
    kernel.se.token(kernel.mem.u64(context + 0x10))


@EXPORTS.function("SeAccessCheck", args="ptr ptr bool u32 u32 ptr ptr u8 ptr ptr", irql=PASSIVE_LEVEL)
def se_access_check(
    kernel: Kernel,
    descriptor: int,
    context: int,
    _locked: bool,
    desired: int,
    previous: int,
    privileges: int,
    mapping: int,
    mode: int,
    granted_access: int,
    access_status: int,
) -> int:
    """Microsoft Learn, SeAccessCheck: kernel mode is granted what it asks for."""
    generic = GenericMapping(*struct.unpack("<4I", kernel.mem.read(mapping, 16)))
    if privileges:
        kernel.mem.set_u64(privileges, 0)
    if mode == KERNEL_MODE:
        status, granted = access_check(None, SYSTEM_TOKEN, desired, generic)
    else:
        token = kernel.se.token(kernel.mem.u64(context + 0x10))
        parsed = SecurityDescriptor.read(kernel.mem.read, descriptor) if descriptor else None
        status, granted = access_check(parsed, token, desired & ~previous, generic)
    kernel.mem.set_u32(granted_access, granted | previous if status == STATUS_SUCCESS else 0)
    kernel.mem.set_u32(access_status, status)
    return int(status == STATUS_SUCCESS)


@EXPORTS.function("SeSinglePrivilegeCheck", args="u64 u8", irql=PASSIVE_LEVEL)
def se_single_privilege_check(kernel: Kernel, luid: int, mode: int) -> int:
    """Microsoft Learn, SeSinglePrivilegeCheck: kernel mode holds every privilege."""
    return int(mode == KERNEL_MODE or luid in kernel.se.token(kernel.se.current_token()).privileges)


# Tokens


@EXPORTS.function("PsReferencePrimaryToken", args="ptr", irql=PASSIVE_LEVEL)
def ps_reference_primary_token(kernel: Kernel, process: int) -> int:
    """Microsoft Learn, PsReferencePrimaryToken."""
    token = kernel.se.state.tokens[kernel.se.account_of_process(kernel.ps.of_object(process).pid)]
    kernel.ob.reference(token)
    return token


@EXPORTS.function("PsDereferencePrimaryToken", args="ptr", irql=PASSIVE_LEVEL)
def ps_dereference_primary_token(kernel: Kernel, token: int) -> None:
    """Microsoft Learn, PsDereferencePrimaryToken."""
    kernel.ob.dereference_by_driver(token)


@EXPORTS.function("SeTokenIsAdmin", args="ptr", irql=PASSIVE_LEVEL)
def se_token_is_admin(kernel: Kernel, token: int) -> int:
    """Microsoft Learn, SeTokenIsAdmin."""
    return int(kernel.se.token(token).holds(security.ADMINISTRATORS))


@EXPORTS.function("SeTokenType", args="ptr", irql=PASSIVE_LEVEL)
def se_token_type(kernel: Kernel, token: int) -> int:
    """Microsoft Learn, SeTokenType: this machine has primary tokens only."""
    kernel.se.token(token)
    return TOKEN_TYPE_PRIMARY


@EXPORTS.function("SeQueryInformationToken", args="ptr u32 ptr", irql=PASSIVE_LEVEL)
def se_query_information_token(kernel: Kernel, token: int, kind: int, result: int) -> int:
    """Microsoft Learn, SeQueryInformationToken: a pool block that the caller frees, except for the session id."""
    known = kernel.se.token(token)
    if kind == TOKEN_SESSION_ID:
        kernel.mem.set_u32(result, SESSION_ID)
        return STATUS_SUCCESS
    if kind not in (TOKEN_USER, TOKEN_ELEVATION):
        raise MissingImport("ntoskrnl.exe", f"SeQueryInformationToken (information class {kind})")
    size = 4 if kind == TOKEN_ELEVATION else 16 + len(known.user.to_bytes())
    block = kernel.pool.allocate(size, TOKEN_POOL_TAG, paged=True, site=kernel.caller())
    if not block:
        return STATUS_INSUFFICIENT_RESOURCES
    if kind == TOKEN_ELEVATION:
        kernel.mem.set_u32(block, known.elevated)
    else:
        kernel.mem.write(block, struct.pack("<QII", block + 16, 0, 0) + known.user.to_bytes())
    kernel.mem.set_u64(result, block)
    return STATUS_SUCCESS


_SE_EXPORTS: tuple[str | security.Sid, ...] = (
    "SeCreateTokenPrivilege", "SeAssignPrimaryTokenPrivilege", "SeLockMemoryPrivilege", "SeIncreaseQuotaPrivilege",
    "SeMachineAccountPrivilege", "SeTcbPrivilege", "SeSecurityPrivilege", "SeTakeOwnershipPrivilege",
    "SeLoadDriverPrivilege", "SeCreatePagefilePrivilege", "SeIncreaseBasePriorityPrivilege",
    "SeSystemProfilePrivilege", "SeSystemtimePrivilege", "SeProfileSingleProcessPrivilege",
    "SeCreatePermanentPrivilege", "SeBackupPrivilege", "SeRestorePrivilege", "SeShutdownPrivilege",
    "SeDebugPrivilege", "SeAuditPrivilege", "SeSystemEnvironmentPrivilege", "SeChangeNotifyPrivilege",
    "SeRemoteShutdownPrivilege",
    security.NULL_SID, security.WORLD, security.LOCAL, security.CREATOR_OWNER, security.CREATOR_GROUP,
    security.NT_AUTHORITY, security.DIALUP, security.NETWORK, security.BATCH, security.INTERACTIVE,
    security.LOCAL_SYSTEM, security.ADMINISTRATORS, security.USERS, security.GUESTS, security.POWER_USERS,
    security.ACCOUNT_OPERATORS, security.SYSTEM_OPERATORS, security.PRINT_OPERATORS, security.BACKUP_OPERATORS,
    security.AUTHENTICATED_USERS, security.RESTRICTED, security.ANONYMOUS,
    "SeUndockPrivilege", "SeSyncAgentPrivilege", "SeEnableDelegationPrivilege",
    security.LOCAL_SERVICE, security.NETWORK_SERVICE,
    "SeManageVolumePrivilege", "SeImpersonatePrivilege", "SeCreateGlobalPrivilege", "SeTrustedCredManAccessPrivilege",
    "SeRelabelPrivilege", "SeIncreaseWorkingSetPrivilege", "SeTimeZonePrivilege", "SeCreateSymbolicLinkPrivilege",
    security.IUSER, security.UNTRUSTED_LABEL, security.LOW_LABEL, security.MEDIUM_LABEL, security.HIGH_LABEL,
    security.SYSTEM_LABEL, security.OWNER_RIGHTS,
)  # fmt: skip
"""Members of SE_EXPORTS in order (ntifs.h): LUIDs of privileges and pointers to SIDs, 8 bytes each."""


def _se_exports(kernel: Kernel) -> bytes:
    table = kernel.heap.allocate(8 * len(_SE_EXPORTS))
    for index, member in enumerate(_SE_EXPORTS):
        if isinstance(member, str):
            value = PRIVILEGES[member]
        else:
            data = member.to_bytes()
            value = kernel.heap.allocate(len(data))
            kernel.mem.write(value, data)
        kernel.mem.set_u64(table + 8 * index, value)
    return table.to_bytes(8, "little")


EXPORTS.variable("SeExports", _se_exports)
