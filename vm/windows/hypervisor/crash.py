"""What a hypervisor says of a crashed guest, as a crash report.

A Windows guest writes the bugcheck's code and its four parameters to Hyper-V's crash registers (Hypervisor Top-Level
Functional Specification, "Guest Crash Enlightenment"). QEMU passes the five on in GUEST_PANICKED ("QEMU QMP Reference
Manual", GuestPanicInformationHyperV), and libvirt writes them to the domain's log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vm.bugcheck_names import BugcheckCode, bugcheck_name, explain
from vm.machine import CrashReport

EVENT: Final = "GUEST_PANICKED"
UNKNOWN_NAME: Final = "UNKNOWN_BUGCHECK"
_HYPERV: Final = "hyper-v"
_LINE: Final = re.compile(
    r"panic hyper-v: arg1='0x([0-9a-f]{1,16})', arg2='0x([0-9a-f]{1,16})', arg3='0x([0-9a-f]{1,16})',"
    r" arg4='0x([0-9a-f]{1,16})', arg5='0x([0-9a-f]{1,16})'\s*$",
    re.IGNORECASE,
)
_MINIDUMP_BIT: Final = 0x1000_0000
"""Set in the codes of bugcodes.h whose names end in ``_M``: the same bugcheck, met in another way."""


@dataclass(frozen=True)
class GuestPanic:
    """A panic as the hypervisor told it.

    Attributes:
        code: the bugcheck's code; None when only the panic itself is known, as pvpanic reports it.
        parameters: the four parameters, zeros when they are not known.
        source: where it is from, for reports.
    """

    code: int | None
    parameters: tuple[int, int, int, int]
    source: str


_UNKNOWN: Final = (0, 0, 0, 0)


def parse_event(details: str | None) -> GuestPanic:
    """A panic by the details of a GUEST_PANICKED event.

    Args:
        details: the event's data as JSON, as libvirt's monitor event gives them; they may be missing. What is not as
            documented gives a panic without a code: that the guest crashed is certain all the same.
    """
    unknown = GuestPanic(None, _UNKNOWN, f"{EVENT} without parameters")
    try:
        data = json.loads(details) if details else None
    except (ValueError, RecursionError):
        return unknown
    info = data.get("info") if isinstance(data, Mapping) else None
    if not isinstance(info, Mapping) or info.get("type") != _HYPERV:
        return unknown
    arguments = [info.get(f"arg{number}") for number in range(1, 6)]
    values = [one for one in arguments if type(one) is int and 0 <= one < 1 << 64]
    return _panic(values, EVENT) if len(values) == 5 else unknown


def parse_log(text: str) -> GuestPanic | None:
    """The last panic that a domain's log tells of, None where it tells of none.

    Args:
        text: the log, or its end.
    """
    for line in reversed(text.splitlines()):
        if match := _LINE.search(line):
            return _panic([int(value, 16) for value in match.groups()], "domain log")
    return None


def _panic(values: list[int], source: str) -> GuestPanic:
    code, *parameters = values
    first, second, third, fourth = parameters
    return GuestPanic(code & 0xFFFF_FFFF, (first, second, third, fourth), source)


def best_of(event: GuestPanic | None, log: GuestPanic | None) -> GuestPanic | None:
    """The one that knows more; the event when both know the same."""
    if event is None or (event.code is None and log is not None):
        return log
    return event


def same_bugcheck(one: int, other: int) -> bool:
    """Whether two codes are of one bugcheck, which may be told with or without the bit of its ``_M`` form."""
    return (one ^ other) & ~_MINIDUMP_BIT == 0


def crash_report(panic: GuestPanic, *, activity: str = "", artefacts: tuple[Path, ...] = ()) -> CrashReport:
    """Describe a panic.

    Args:
        panic: what the hypervisor told.
        activity: what the machine was doing.
        artefacts: files kept.
    """
    if panic.code is None:
        return CrashReport(
            code=0,
            name=UNKNOWN_NAME,
            parameters=panic.parameters,
            reason="the guest reported a panic without its code; the dump has it",
            activity=activity,
            notes=(f"reported by: {panic.source}",),
            artefacts=artefacts,
        )
    base = panic.code & ~_MINIDUMP_BIT
    meaning = explain(base, panic.parameters)
    return CrashReport(
        code=panic.code,
        name=_name(panic.code),
        parameters=panic.parameters,
        reason=meaning or "Windows stopped itself",
        activity=activity,
        notes=(f"reported by: {panic.source}",),
        artefacts=artefacts,
    )


def _name(code: int) -> str:
    base = code & ~_MINIDUMP_BIT
    if base != code and base in {int(known) for known in BugcheckCode}:
        return f"{bugcheck_name(base)}_M"
    return bugcheck_name(code)
