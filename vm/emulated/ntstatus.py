"""NTSTATUS values that the emulated kernel gives or looks at, as unsigned 32-bit numbers (ntstatus.h)."""

from __future__ import annotations

from vm.ntstatus import *  # noqa: F403 - the constants live in one place for every kind of machine


def nt_success(status: int) -> bool:
    """NT_SUCCESS: success and informational codes."""
    return not status & 0x80000000


def nt_error(status: int) -> bool:
    """NT_ERROR: severity error, so not a warning."""
    return (status & 0xFFFFFFFF) >> 30 == 3


class NtStatusError(Exception):
    """An operation of the kernel that ended with a failure status: what its caller would get back.

    Attributes:
        status: NTSTATUS as an unsigned 32-bit number.
    """

    def __init__(self, status: int, detail: str = "") -> None:
        super().__init__(f"NTSTATUS 0x{status:08X}" + (f": {detail}" if detail else ""))
        self.status = status
