"""What Windows answers to a driver that it does not load: the errors of StartService by name, each with its advice.

Sources: Microsoft Learn, "System Error Codes" and "StartServiceW"; winerror.h and ntstatus.h of the Windows SDK
10.0.28000 (ERROR_SYSTEM_INTEGRITY_*, whose statuses follow each other from 0xC0E90001 in the order of the errors).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vm import ntstatus, win32

if TYPE_CHECKING:
    from collections.abc import Mapping

_FIRST_INTEGRITY_STATUS: Final = 0xC0E90001


@dataclass(frozen=True)
class Answer:
    """An error of StartService.

    Attributes:
        code: the Win32 error.
        status: the NTSTATUS behind it.
        meaning: what it says of the driver or the system.
        advice: what to do about it.
    """

    code: int
    status: int
    meaning: str
    advice: str

    @property
    def name(self) -> str:
        """The symbolic name of the error."""
        return win32.error_name(self.code)

    def __str__(self) -> str:
        name = ntstatus.name(self.status)
        status = f"0x{self.status:08X}" if name.startswith("NTSTATUS") else f"{name} 0x{self.status:08X}"
        return f"{self.name} {self.code} ({status})"


def _of(status: int, meaning: str, advice: str) -> Answer:
    return Answer(ntstatus.to_win32(status), status, meaning, advice)


_LOG: Final = "read Microsoft-Windows-CodeIntegrity/Operational in the guest's event log, which names file and policy"
_REPUTATION: Final = f"the file cannot tell what a reputation service thinks of it; {_LOG}"
_POLICY: Final = f"nothing is wrong with the driver: repair the machine's App Control policies; {_LOG}"

INVALID_IMAGE_HASH: Final = _of(
    ntstatus.STATUS_INVALID_IMAGE_HASH,
    "the signature is absent, does not match the file, or nobody whom this system trusts for drivers made it",
    "sign again after the last change; on a test machine turn test signing on (bcdedit /set testsigning on), restart",
)
DRIVER_BLOCKED: Final = _of(
    ntstatus.STATUS_DRIVER_BLOCKED,
    "the system's list of blocked drivers names the file or its signer, or it cannot run on this system at all",
    "look the file up in Microsoft's recommended driver block rules; see that it is built for this system's processor",
)
BAD_FORMAT: Final = _of(
    ntstatus.STATUS_INVALID_IMAGE_FORMAT,
    "the file is no driver image for this system",
    "build it for this system's processor, with the native subsystem, and do not change it afterwards",
)
ENTRYPOINT_NOT_FOUND: Final = _of(
    ntstatus.STATUS_DRIVER_ENTRYPOINT_NOT_FOUND,
    "the kernel does not export a function that the driver imports",
    "look the function up with MmGetSystemRoutineAddress and do without where it is missing",
)
ORDINAL_NOT_FOUND: Final = _of(
    ntstatus.STATUS_DRIVER_ORDINAL_NOT_FOUND,
    "the kernel does not export an ordinal that the driver imports",
    "import by name: ordinals change between builds",
)
_INTEGRITY: Final = (
    (4550, "the file is older than the system allows", "deploy a newer version of the driver"),
    (4551, "an App Control policy does not allow the file", f"allow its signer in the policy, or sign as one; {_LOG}"),
    (4552, "an App Control policy is malformed", _POLICY),
    (4553, "an App Control policy is not signed as it must be", _POLICY),
    (4554, "the system has too many App Control policies", _POLICY),
    (4555, "a supplemental App Control policy is not authorized", _POLICY),
    (4556, "a reputation service takes the file for malicious", _REPUTATION),
    (4557, "a reputation service takes the file for potentially unwanted", _REPUTATION),
    (4558, "the file's extension is one that reputation rules call dangerous", "install the driver as a .sys file"),
    (4559, "the reputation service could not be reached", "connect the machine, or turn reputation off in the policy"),
    (4580, "a reputation service takes the file for unfriendly", _REPUTATION),
    (
        4581,
        "the reputation of the file could not be found out",
        "try again later, or turn reputation off in the policy",
    ),
    (4582, "the file is denied by name", _REPUTATION),
    (
        4583,
        "a policy wants drivers that Microsoft certified (WHQL), and this one is not",
        "have the driver signed through the Hardware Dev Center, or remove Required:WHQL from the policy",
    ),
)
INTEGRITY: Final[Mapping[int, Answer]] = {
    code: Answer(code, _FIRST_INTEGRITY_STATUS + index, meaning, advice)
    for index, (code, meaning, advice) in enumerate(_INTEGRITY)
}
"""What code integrity policies answer, by Win32 error."""

ALL: Final = (
    *(INVALID_IMAGE_HASH, DRIVER_BLOCKED, BAD_FORMAT, ENTRYPOINT_NOT_FOUND, ORDINAL_NOT_FOUND),
    *INTEGRITY.values(),
)
