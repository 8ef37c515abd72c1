"""Who may do what: tokens of the machine's accounts, privileges, and the access check.

The check follows [MS-DTYP] 2.5.3.2 (Access Check Algorithm) for allowed and denied entries. Integrity labels are not
evaluated: every account of this machine runs at medium level or above, where the default label denies nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from vm.emulated.ntstatus import STATUS_ACCESS_DENIED, STATUS_PRIVILEGE_NOT_HELD, STATUS_SUCCESS
from vm.emulated.ob.object_types import (
    ACCESS_SYSTEM_SECURITY,
    MAXIMUM_ALLOWED,
    READ_CONTROL,
    WRITE_DAC,
    WRITE_OWNER,
    GenericMapping,
)
from vm.emulated.se.descriptors import (
    ACCESS_ALLOWED_ACE_TYPE,
    ACCESS_DENIED_ACE_TYPE,
    ADMINISTRATORS,
    AUTHENTICATED_USERS,
    HIGH_LABEL,
    INHERIT_ONLY_ACE,
    INTERACTIVE,
    LOCAL,
    LOCAL_SYSTEM,
    MEDIUM_LABEL,
    OWNER_RIGHTS,
    SYSTEM_LABEL,
    USERS,
    WORLD,
    SecurityDescriptor,
    Sid,
)
from vm.machine import Account

PRIVILEGES = {
    "SeCreateTokenPrivilege": 2,
    "SeAssignPrimaryTokenPrivilege": 3,
    "SeLockMemoryPrivilege": 4,
    "SeIncreaseQuotaPrivilege": 5,
    "SeMachineAccountPrivilege": 6,
    "SeTcbPrivilege": 7,
    "SeSecurityPrivilege": 8,
    "SeTakeOwnershipPrivilege": 9,
    "SeLoadDriverPrivilege": 10,
    "SeSystemProfilePrivilege": 11,
    "SeSystemtimePrivilege": 12,
    "SeProfileSingleProcessPrivilege": 13,
    "SeIncreaseBasePriorityPrivilege": 14,
    "SeCreatePagefilePrivilege": 15,
    "SeCreatePermanentPrivilege": 16,
    "SeBackupPrivilege": 17,
    "SeRestorePrivilege": 18,
    "SeShutdownPrivilege": 19,
    "SeDebugPrivilege": 20,
    "SeAuditPrivilege": 21,
    "SeSystemEnvironmentPrivilege": 22,
    "SeChangeNotifyPrivilege": 23,
    "SeRemoteShutdownPrivilege": 24,
    "SeUndockPrivilege": 25,
    "SeSyncAgentPrivilege": 26,
    "SeEnableDelegationPrivilege": 27,
    "SeManageVolumePrivilege": 28,
    "SeImpersonatePrivilege": 29,
    "SeCreateGlobalPrivilege": 30,
    "SeTrustedCredManAccessPrivilege": 31,
    "SeRelabelPrivilege": 32,
    "SeIncreaseWorkingSetPrivilege": 33,
    "SeTimeZonePrivilege": 34,
    "SeCreateSymbolicLinkPrivilege": 35,
}
"""Well-known privileges and the low part of their LUID (SE_*_PRIVILEGE in wdm.h)."""


@dataclass(frozen=True)
class Token:
    """A primary token.

    Attributes:
        user: the account.
        groups: enabled groups.
        label: integrity level.
        elevated: TokenElevation.
        privileges: LUIDs of enabled privileges.
    """

    user: Sid
    groups: frozenset[Sid]
    label: Sid
    elevated: bool
    privileges: frozenset[int]

    def holds(self, sid: Sid) -> bool:
        """True when the user or an enabled group has this SID."""
        return sid == self.user or sid in self.groups


_COMMON = frozenset({WORLD, AUTHENTICATED_USERS, LOCAL, INTERACTIVE, USERS})
_USER_PRIVILEGES = frozenset({23})
_MACHINE = (21, 1004336348, 1177238915, 682003330)

SYSTEM_TOKEN = Token(
    LOCAL_SYSTEM,
    frozenset({ADMINISTRATORS, WORLD, AUTHENTICATED_USERS}),
    SYSTEM_LABEL,
    True,
    frozenset(PRIVILEGES.values()),
)
ADMINISTRATOR_TOKEN = Token(
    Sid(5, (*_MACHINE, 500)),
    _COMMON | {ADMINISTRATORS},
    HIGH_LABEL,
    True,
    frozenset({20, 23, 29, 30}),
)
STANDARD_USER_TOKEN = Token(Sid(5, (*_MACHINE, 1001)), _COMMON, MEDIUM_LABEL, False, _USER_PRIVILEGES)


def token_of(account: Account | None) -> Token:
    """Token of an account; None is the system's own."""
    if account is None:
        return SYSTEM_TOKEN
    return ADMINISTRATOR_TOKEN if account is Account.ADMINISTRATOR else STANDARD_USER_TOKEN


def access_check(
    descriptor: SecurityDescriptor | None, token: Token, desired: int, mapping: GenericMapping
) -> tuple[int, int]:
    """Whether a token gets access to what a descriptor protects.

    Args:
        descriptor: of the object; None or one without DACL grants everything.
        token: who asks.
        desired: rights asked for, generic ones and MAXIMUM_ALLOWED included.
        mapping: of the object's kind.

    Returns:
        NTSTATUS and granted rights (0 unless successful).
    """
    wanted = mapping.map(desired)
    maximum = bool(wanted & MAXIMUM_ALLOWED)
    wanted &= ~MAXIMUM_ALLOWED
    granted = 0
    if wanted & ACCESS_SYSTEM_SECURITY:
        if PRIVILEGES["SeSecurityPrivilege"] not in token.privileges:
            return STATUS_PRIVILEGE_NOT_HELD, 0
        granted |= ACCESS_SYSTEM_SECURITY
    if descriptor is None or descriptor.dacl is None:
        granted |= wanted | (mapping.all if maximum else 0)
        return STATUS_SUCCESS, granted
    granted |= _from_privileges_and_owner(descriptor, token)
    denied = 0
    for ace in descriptor.dacl.aces:
        if ace.flags & INHERIT_ONLY_ACE or ace.sid is None or not token.holds(_resolve(ace.sid, descriptor)):
            continue
        mask = mapping.map(ace.mask)
        if ace.kind == ACCESS_ALLOWED_ACE_TYPE:
            granted |= mask & ~denied
        elif ace.kind == ACCESS_DENIED_ACE_TYPE:
            denied |= mask & ~granted
    if wanted & ~granted:
        return STATUS_ACCESS_DENIED, 0
    if maximum:
        if not granted:
            return STATUS_ACCESS_DENIED, 0
        return STATUS_SUCCESS, granted
    return STATUS_SUCCESS, wanted


def _from_privileges_and_owner(descriptor: SecurityDescriptor, token: Token) -> int:
    """READ_CONTROL and WRITE_DAC of the owner, WRITE_OWNER of who may take ownership."""
    granted = 0
    if PRIVILEGES["SeTakeOwnershipPrivilege"] in token.privileges:
        granted |= WRITE_OWNER
    limits_owner = descriptor.dacl is not None and any(
        ace.sid == OWNER_RIGHTS and not ace.flags & INHERIT_ONLY_ACE for ace in descriptor.dacl.aces
    )
    if descriptor.owner is not None and token.holds(descriptor.owner) and not limits_owner:
        granted |= READ_CONTROL | WRITE_DAC
    return granted


def _resolve(sid: Sid, descriptor: SecurityDescriptor) -> Sid:
    """OWNER RIGHTS stands for the owner."""
    return descriptor.owner if sid == OWNER_RIGHTS and descriptor.owner is not None else sid
