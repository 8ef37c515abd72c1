"""Which functions a Windows build exports to drivers, as far as public sources say.

The base is mingw-w64's list of what ntoskrnl.exe and hal.dll exported in the days of Windows 7; what came later is
added here with the first build that has it, from the requirements on the function's page in Microsoft's driver
reference.

Limits: exports that Windows has removed since are not known, nor are additions that no page documents; an import that
is in neither list is reported as unknown rather than as absent. Other modules (fltmgr.sys, ndis.sys, ...) are not
judged.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from harness.build.llvm_mingw import mingw_definition_file

if TYPE_CHECKING:
    from collections.abc import Mapping

ADDED_IN_BUILD: Final[Mapping[str, int]] = {
    # Windows 8
    "ExQueryTimerResolution": 9200,
    "PoFxRegisterDevice": 9200,
    "ExGetFirmwareEnvironmentVariable": 9200,
    "ExSetFirmwareEnvironmentVariable": 9200,
    "IoCreateSystemThread": 9200,
    "IoGetActivityIdIrp": 9200,
    "IoSetActivityIdIrp": 9200,
    "KeQuerySystemTimePrecise": 9200,
    "MmAllocateContiguousNodeMemory": 9200,
    "ZwFlushBuffersFileEx": 9200,
    # Windows 8.1
    "ExAllocateTimer": 9600,
    "ExCancelTimer": 9600,
    "ExDeleteTimer": 9600,
    "ExSetTimer": 9600,
    "MmCopyMemory": 9600,
    # Windows 10
    "MmMapIoSpaceEx": 10240,
    "PsSetCreateThreadNotifyRoutineEx": 10240,
    # Windows 10 1607
    "PsRegisterSiloMonitor": 14393,
    # Windows 10 1703
    "PsSetCreateProcessNotifyRoutineEx2": 15063,
    # Windows 10 1709
    "ZwQueryDirectoryFileEx": 16299,
    "PsSetLoadImageNotifyRoutineEx": 16299,
    # Windows 10 1803
    "IoGetDriverDirectory": 17134,
    "IoOpenDriverRegistryKey": 17134,
    # Windows 10 2004
    "ExAllocatePool2": 19041,
    "ExAllocatePool3": 19041,
    # Windows Server 2022; the page of MmProtectDriverSection names the Insider build 19548 that became it
    "ExFreePool2": 20348,
    "MmProtectDriverSection": 20348,
}

JUDGED_MODULES: Final = ("ntoskrnl.exe", "hal.dll")
_EXPORT: Final = re.compile(r"(?P<name>[A-Za-z_][\w@?$]*)(?:\s*==?\s*\S+)?(?:\s+DATA)?\s*\Z")


@lru_cache(maxsize=1)
def base_exports() -> frozenset[str]:
    """What the oldest system that is considered exports from ntoskrnl.exe and hal.dll.

    Raises:
        ConfigurationError: the ziglang package, which carries the lists, is not installed.
    """
    names: set[str] = set()
    for library in ("ntoskrnl", "hal"):
        _, _, listed = mingw_definition_file(library).read_text(encoding="utf-8").partition("EXPORTS")
        names.update(match["name"] for line in listed.splitlines() if (match := _EXPORT.match(line.strip())))
    return frozenset(names)


def first_build(name: str) -> int | None:
    """The first Windows build known to export a function: 7601 (Windows 7) for the base list, None if unknown."""
    if name in ADDED_IN_BUILD:
        return ADDED_IN_BUILD[name]
    return 7601 if name in base_exports() else None
