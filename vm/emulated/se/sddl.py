"""Security Descriptor Definition Language: the strings of IoCreateDeviceSecure, INF files and reports.

Read and written: owner, group and DACL with allowed and denied entries ([MS-DTYP] 2.5.1; Microsoft: SDDL for Device
Objects). SACLs, conditional entries and object entries are refused.
"""

from __future__ import annotations

import re

from vm.emulated.se import descriptors as security
from vm.emulated.se.descriptors import Ace, Acl, SecurityDescriptor, Sid

_RIGHTS = {
    "GA": 0x10000000,
    "GX": 0x20000000,
    "GW": 0x40000000,
    "GR": 0x80000000,
    "SD": 0x00010000,
    "RC": 0x00020000,
    "WD": 0x00040000,
    "WO": 0x00080000,
    "FA": 0x001F01FF,
    "FR": 0x00120089,
    "FW": 0x00120116,
    "FX": 0x001200A0,
    "CC": 0x1,
    "DC": 0x2,
    "LC": 0x4,
    "SW": 0x8,
    "RP": 0x10,
    "WP": 0x20,
    "DT": 0x40,
    "LO": 0x80,
    "CR": 0x100,
}
_SIDS = {
    "WD": security.WORLD,
    "SY": security.LOCAL_SYSTEM,
    "LS": security.LOCAL_SERVICE,
    "NS": security.NETWORK_SERVICE,
    "BA": security.ADMINISTRATORS,
    "BU": security.USERS,
    "BG": security.GUESTS,
    "PU": security.POWER_USERS,
    "BO": security.BACKUP_OPERATORS,
    "SO": security.SYSTEM_OPERATORS,
    "AO": security.ACCOUNT_OPERATORS,
    "PO": security.PRINT_OPERATORS,
    "AU": security.AUTHENTICATED_USERS,
    "IU": security.INTERACTIVE,
    "NU": security.NETWORK,
    "SU": security.SERVICE,
    "AN": security.ANONYMOUS,
    "RC": security.RESTRICTED,
    "CO": security.CREATOR_OWNER,
    "CG": security.CREATOR_GROUP,
    "OW": security.OWNER_RIGHTS,
}
_KINDS = {"A": security.ACCESS_ALLOWED_ACE_TYPE, "D": security.ACCESS_DENIED_ACE_TYPE}
_FLAGS = {"OI": 0x01, "CI": 0x02, "NP": 0x04, "IO": 0x08, "ID": 0x10}
_PART = re.compile(r"([OGDS]):((?:[^:()]|\([^()]*\))*?)(?=[OGDS]:|$)")
_ACE = re.compile(r"\(([^()]*)\)")


def parse(text: str) -> SecurityDescriptor:
    """The descriptor that an SDDL string describes.

    Raises:
        ValueError: the string is not SDDL or uses what is not supported; the message quotes the part.
    """
    owner = group = None
    dacl: Acl | None = None
    control = 0
    end = 0
    for match in _PART.finditer(text):
        if match.start() != end:
            break
        end = match.end()
        part, value = match.groups()
        if part == "O":
            owner = _sid(value)
        elif part == "G":
            group = _sid(value)
        elif part == "D":
            dacl, flags = _dacl(value)
            control |= security.SE_DACL_PRESENT | flags
        else:
            raise ValueError(f"SDDL with a SACL is not supported: {text}")
    if end != len(text) or not text:
        raise ValueError(f"not an SDDL string: {text!r} (at {text[end:]!r})")
    return SecurityDescriptor(owner, group, dacl, None, control)


def render(descriptor: SecurityDescriptor) -> str:
    """A descriptor as SDDL, without its SACL."""
    out = ""
    if descriptor.owner is not None:
        out += f"O:{_sid_text(descriptor.owner)}"
    if descriptor.group is not None:
        out += f"G:{_sid_text(descriptor.group)}"
    if descriptor.control & security.SE_DACL_PRESENT:
        out += "D:" + ("P" if descriptor.control & security.SE_DACL_PROTECTED else "")
        if descriptor.dacl is None:
            out += "NO_ACCESS_CONTROL"
        else:
            out += "".join(_ace_text(ace) for ace in descriptor.dacl.aces)
    return out


def _dacl(value: str) -> tuple[Acl | None, int]:
    flags, bracket, _ = value.partition("(")
    entries = value[len(flags) :] if bracket else ""
    control = 0
    if flags == "NO_ACCESS_CONTROL":
        return None, 0
    while flags:
        if flags.startswith("P"):
            control |= security.SE_DACL_PROTECTED
            flags = flags[1:]
        elif flags[:2] in ("AI", "AR"):
            flags = flags[2:]
        else:
            raise ValueError(f"unknown DACL flags in SDDL: {flags!r}")
    if _ACE.sub("", entries):
        raise ValueError(f"not a list of SDDL entries: {entries!r}")
    return Acl(tuple(_ace(match.group(1)) for match in _ACE.finditer(entries))), control


def _ace(text: str) -> Ace:
    fields = text.split(";")
    if len(fields) != 6 or fields[3] or fields[4]:
        raise ValueError(f"not a supported SDDL entry: ({text})")
    kind, flags, rights, _, _, sid = fields
    if kind not in _KINDS:
        raise ValueError(f"unsupported kind of SDDL entry: ({text})")
    return Ace(_KINDS[kind], _codes(flags, _FLAGS, text), _mask(rights, text), _sid(sid))


def _mask(rights: str, where: str) -> int:
    if rights[:1].isdigit():
        value = int(rights, 0)
        if value >> 32:
            raise ValueError(f"access mask over 32 bits in SDDL entry ({where})")
        return value
    return _codes(rights, _RIGHTS, where)


def _codes(text: str, table: dict[str, int], where: str) -> int:
    value = 0
    for at in range(0, len(text), 2):
        code = text[at : at + 2]
        if code not in table:
            raise ValueError(f"unknown code {code!r} in SDDL entry ({where})")
        value |= table[code]
    return value


def _sid(text: str) -> Sid:
    return _SIDS[text] if text in _SIDS else Sid.parse(text)


def _sid_text(sid: Sid) -> str:
    return next((code for code, known in _SIDS.items() if known == sid), str(sid))


def _ace_text(ace: Ace) -> str:
    if ace.sid is None or ace.kind not in _KINDS.values():
        return f"(?;;0x{ace.kind:x};;;)"
    kind = next(code for code, value in _KINDS.items() if value == ace.kind)
    flags = "".join(code for code, value in _FLAGS.items() if ace.flags & value)
    rights = next((code for code, value in _RIGHTS.items() if value == ace.mask), f"0x{ace.mask:x}")
    return f"({kind};{flags};{rights};;;{_sid_text(ace.sid)})"
