"""Dumps of this guest as Windows leaves them: the header of a complete dump, which holds code and parameters.

The layout is that of QEMU's include/qemu/win_dump_defs.h, WinDumpHeader64. No memory follows the header: what a Linux
guest has in its memory would mean nothing to a debugger of Windows.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

from tests.standin.commands import DUMP_FILE
from tests.standin.windows import FILETIME_OF_1970

HEADER_LENGTH = 0x2000
NMI_HARDWARE_FAILURE = 0x80
HARDWARE_CAUSE = 0x4F4454
"""First parameter of NMI_HARDWARE_FAILURE where Windows knows no more of its source."""
NMI_PANIC = b"Kernel panic - not syncing: NMI"
"""How Linux' last words name an NMI of which it does not know the source (arch/x86/kernel/nmi.c)."""
PSTORE = Path("/sys/fs/pstore")
SYSRQ = Path("/proc/sysrq-trigger")


def dump_header(build, code, parameters):
    """The header of a complete dump."""
    header = bytearray(HEADER_LENGTH)
    header[:8] = b"PAGEDU64"
    struct.pack_into("<II", header, 0x8, 0xF, build)
    struct.pack_into("<II", header, 0x30, 0x8664, os.cpu_count() or 1)  # IMAGE_FILE_MACHINE_AMD64
    struct.pack_into("<IIQQQQ", header, 0x38, code, 0, *parameters)
    struct.pack_into("<I", header, 0xF98, 1)  # DUMP_TYPE_FULL
    struct.pack_into("<QQ", header, 0xFA0, HEADER_LENGTH, FILETIME_OF_1970 + time.time_ns() // 100)
    struct.pack_into("<Q", header, 0x1030, time.monotonic_ns() // 100)
    return bytes(header)


def bugcheck(windows, code, parameters):
    """Stop this guest as a bugcheck stops Windows: the dump is on the disk, then the kernel panics. Never returns."""
    if windows.crash_control["DumpType"]:
        windows.files.write(DUMP_FILE, dump_header(windows.system.build, code, parameters))
    os.sync()
    panic()


def panic():
    """Have the kernel panic, which pvpanic tells the host."""
    SYSRQ.write_text("c")


def recover_dump(windows):
    """After a panic that came from outside, make the dump that no process could write then.

    The kernel's last words are in the firmware's variables (pstore), as Windows' dump is in the page file until the
    next start. An NMI is named there.
    """
    records = sorted(PSTORE.glob("dmesg-*"))
    words = b"".join(record.read_bytes() for record in records)
    for record in records:
        record.unlink()
    if NMI_PANIC in words and windows.crash_control["DumpType"]:
        header = dump_header(windows.system.build, NMI_HARDWARE_FAILURE, (HARDWARE_CAUSE, 0, 0, 0))
        windows.files.write(DUMP_FILE, header)
