"""What can go wrong while driver code runs, as the parts of the kernel tell each other.

    KernelEvent
    |- Bugcheck      the machine stops; becomes a CrashReport
    |- NtException   a structured exception for the driver's handlers; unhandled it becomes a Bugcheck
    `- PageFault     a host access to guest memory that the page table refuses; becomes an NtException or a Bugcheck

None of them leaves vm.emulated: callers of the Machine protocol see vm.errors.
"""

from __future__ import annotations

from dataclasses import dataclass

STATUS_ACCESS_VIOLATION = 0xC0000005


@dataclass(frozen=True)
class Site:
    """Where guest code was when an event stopped it: instruction pointer and general registers."""

    rip: int
    registers: tuple[int, ...]


class KernelEvent(Exception):
    """Base class: control flow between the parts of the emulated kernel.

    Attributes:
        site: where guest code was filled in where it crosses the boundary to guest code.
    """

    site: Site | None = None


class Bugcheck(KernelEvent):
    """KeBugCheckEx: stop the machine.

    Attributes:
        code: STOP code (bugcodes.h).
        parameters: up to four parameters, padded with zeros.
        reason: one sentence for people.
        notes: more facts for the report.
        rip: code address the report starts at, where that is not where guest code was stopped.
    """

    def __init__(
        self, code: int, *parameters: int, reason: str, notes: tuple[str, ...] = (), rip: int | None = None
    ) -> None:
        super().__init__(f"bugcheck 0x{code:X}: {reason}")
        self.code = code
        padded = (*parameters, 0, 0, 0, 0)
        self.parameters: tuple[int, int, int, int] = (padded[0], padded[1], padded[2], padded[3])
        self.reason = reason
        self.notes = notes
        self.rip = rip


class NtException(KernelEvent):
    """A structured exception, raised on behalf of driver code.

    Attributes:
        status: exception code, an NTSTATUS as unsigned 32 bits.
        information: EXCEPTION_RECORD.ExceptionInformation.
        rip: the instruction that raised it; None for one raised on behalf of the caller of the current export.
    """

    def __init__(self, status: int, *information: int, rip: int | None = None) -> None:
        super().__init__(f"exception 0x{status:08X}")
        self.status = status
        self.information = information
        self.rip = rip


class PageFault(KernelEvent):
    """A refused access.

    Attributes:
        address: the first byte that could not be accessed.
        access: 0 read, 1 write, 8 execute, as in the parameters of bugcheck 0x50 and exception 0xC0000005.
        reason: why the page table refused it.
    """

    def __init__(self, address: int, access: int, reason: str) -> None:
        super().__init__(f"{reason} at 0x{address:X}")
        self.address = address
        self.access = access
        self.reason = reason
