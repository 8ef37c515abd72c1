"""Errors of the machines, by owner.

    MachineError                 base of everything a machine raises
    |- MachineConfigurationError the user asked for something that cannot be: owner user
    |- MachineBroken             the machine itself failed (hypervisor, network, disk): owner infrastructure
    |  `- MissingExport          emulated machine only: the driver calls an export that has no implementation
    |- UnsupportedByMachine      this kind of machine cannot do that; a test that needs it skips, with the reason
    |- DriverFault               the driver under test did something no driver may do: owner driver
    |  |- MachineCrashed         bugcheck; carries the CrashReport
    |  `- DriverHung             the driver did not come back within its budget
    `- Win32Error                a call made from user mode failed: an ordinary, expected answer

`Win32Error` is what the program that made the call would see; tests assert on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from vm.machine import CrashReport


class MachineError(Exception):
    """Base class of every error that a machine raises."""


class MachineConfigurationError(MachineError):
    """The user asked for a machine, an option or a file that cannot be; the message names it and the remedy."""


class MachineBroken(MachineError):
    """The machine failed, not the driver: an infrastructure error."""


class MissingExport(MachineBroken):
    """The driver called an export that the emulated kernel does not implement: nothing is known of the driver."""


class UnsupportedByMachine(MachineError):
    """This kind of machine cannot do what was asked."""


class DriverFault(MachineError):
    """The driver under test is at fault."""


class MachineCrashed(DriverFault):
    """The machine bugchecked. Every later call on it raises this again until it is restored or closed."""

    def __init__(self, report: CrashReport) -> None:
        super().__init__(report.summary())
        self.report = report


class DriverHung(DriverFault):
    """The driver did not return within its budget, or every thread waits for something that cannot happen.

    Attributes:
        artefacts: files kept (dump, screenshot, serial log).
    """

    def __init__(self, message: str, artefacts: tuple[Path, ...] = ()) -> None:
        super().__init__(message)
        self.artefacts = artefacts


class Win32Error(MachineError):
    """A user-mode call failed.

    Attributes:
        code: the Win32 error (winerror.h), as GetLastError would return it.
        name: its symbolic name, such as ``ERROR_ACCESS_DENIED``.
        call: the call that failed, such as ``CreateFileW``.
        status: the NTSTATUS behind it as an unsigned 32-bit number, where the machine knows it.
    """

    def __init__(self, code: int, name: str, call: str, *, status: int | None = None, detail: str = "") -> None:
        behind = "" if status is None else f", NTSTATUS 0x{status:08X}"
        super().__init__(f"{call}: {name} ({code}{behind})" + (f": {detail}" if detail else ""))
        self.code = code
        self.name = name
        self.call = call
        self.status = status
