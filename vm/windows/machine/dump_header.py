"""The header of a Windows crash dump: why the system stopped.

Layout of DUMP_HEADER64 as in QEMU's include/qemu/win_dump_defs.h (WinDumpHeader64); complete, kernel and automatic
dumps of 64-bit Windows begin with it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

SIZE: Final = 0x2000
"""Bytes of the header."""
_SIGNATURE: Final = b"PAGEDU64"
_NUMBERS: Final = struct.Struct("<II")
_BUGCHECK: Final = struct.Struct("<I4x4Q")
_VERSION_AT: Final = 0x08
_MACHINE_AT: Final = 0x30
_BUGCHECK_AT: Final = 0x38
_TYPE_AT: Final = 0xF98
_TIME_AT: Final = 0xFA8


class NoDumpHeader(ValueError):
    """The bytes are not the header of a 64-bit crash dump; the message says why."""


@dataclass(frozen=True)
class DumpHeader:
    """What the header of a dump says.

    Attributes:
        bugcheck_code: STOP code (bugcodes.h).
        bugcheck_parameters: its four parameters.
        build: build number of the system; bits above the number proper, as a checked build has, are kept.
        processors: how many processors it had.
        machine_type: IMAGE_FILE_MACHINE_* (winnt.h).
        dump_type: DumpType, 1 for a complete dump.
        system_time: when it stopped, 100 ns units since 1601 UTC.
    """

    bugcheck_code: int
    bugcheck_parameters: tuple[int, int, int, int]
    build: int
    processors: int
    machine_type: int
    dump_type: int
    system_time: int


def parse_dump_header(data: bytes) -> DumpHeader:
    """Read a header.

    Args:
        data: the first SIZE bytes of a dump, or more.

    Raises:
        NoDumpHeader: it is none.
    """
    if data[:4] == b"PAGE" and data[4:8] == b"DUMP":
        raise NoDumpHeader("a dump of a 32-bit Windows")
    if data[:8] != _SIGNATURE:
        raise NoDumpHeader(f"it begins with {data[:8]!r} instead of {_SIGNATURE!r}")
    if len(data) < SIZE:
        raise NoDumpHeader(f"{len(data)} of {SIZE} bytes")
    _major, build = _NUMBERS.unpack_from(data, _VERSION_AT)
    machine_type, processors = _NUMBERS.unpack_from(data, _MACHINE_AT)
    code, first, second, third, fourth = _BUGCHECK.unpack_from(data, _BUGCHECK_AT)
    (dump_type,) = struct.unpack_from("<I", data, _TYPE_AT)
    (system_time,) = struct.unpack_from("<Q", data, _TIME_AT)
    return DumpHeader(code, (first, second, third, fourth), build, processors, machine_type, dump_type, system_time)
