"""What the hypervisor can show of a guest that crashed or hangs: its screen, its memory, its serial log.

Evidence never hides what it is evidence of: a part that cannot be had is left out, and logged.
"""

from __future__ import annotations

import logging
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vm.errors import MachineBroken
from vm.windows.hypervisor.domain_handle import DomainHandle, DumpFormat
from vm.windows.hypervisor.host_folder import HostFolder

_LOG = logging.getLogger(__name__)

SCREEN: Final = "screen.png"
SERIAL: Final = "serial.log"
MEMORY: Final = {
    DumpFormat.WINDOWS: "memory.dmp",
    DumpFormat.KDUMP_ZLIB: "memory.kdump",
    DumpFormat.ELF: "memory.elf",
}
"""Names by format, in the order in which they are tried: what WinDbg reads first, then the smaller one."""
ROLLED_OVER: Final = ".0"
"""Ends the name of what a serial log was before it grew too long (virtlogd.conf, max_backups)."""
_PNG: Final = b"\x89PNG\r\n\x1a\n"


def collect(
    handle: DomainHandle | None, folder: HostFolder, target: Path, *, serial: str, scratch: str, memory_mib: int
) -> tuple[Path, ...]:
    """Write what can be had of a guest into a folder of this computer.

    Args:
        handle: the domain, None where there is none any more.
        folder: the project's folder on the hypervisor's host.
        target: the folder; it exists and is empty.
        serial: name of the serial log in `folder`.
        scratch: a name in `folder` for the memory on its way here.
        memory_mib: the guest's memory, which the dump needs as space on both sides.

    Returns:
        The files that were written.
    """
    found: list[Path] = []
    if handle is not None:
        _add(found, lambda: _screen(handle, target))
    _add(found, lambda: _serial(folder, serial, target))
    if handle is not None:
        _add(found, lambda: _memory(handle, folder, target, scratch, memory_mib))
    return tuple(found)


def _add(found: list[Path], part: Callable[[], Path]) -> None:
    try:
        found.append(part())
    except (MachineBroken, OSError, ValueError) as error:
        _LOG.warning("evidence: %s", error)


def _screen(handle: DomainHandle, target: Path) -> Path:
    path = target / SCREEN
    path.write_bytes(as_png(handle.screenshot()))
    return path


def _serial(folder: HostFolder, name: str, target: Path) -> Path:
    path = target / SERIAL
    earlier = f"{name}{ROLLED_OVER}"
    if folder.size(earlier) is not None:
        folder.download(earlier, path)
    folder.download(name, path, append=True)
    return path


def _memory(handle: DomainHandle, folder: HostFolder, target: Path, scratch: str, memory_mib: int) -> Path:
    for place, free in ((folder.path, folder.free_mib()), (target, shutil.disk_usage(target).free >> 20)):
        if free < memory_mib:
            raise MachineBroken(f"no memory dump: {free} MiB free in {place}, {memory_mib} needed")
    errors: list[str] = []
    for kind, name in MEMORY.items():
        try:
            handle.dump_memory(str(folder.path_of(scratch)), kind)
            folder.download(scratch, target / name)
        except MachineBroken as error:
            # Only a guest that says where its structures are can be dumped as Windows would.
            errors.append(f"{kind.name.lower()}: {error}")
            (target / name).unlink(missing_ok=True)
        else:
            return target / name
        finally:
            folder.remove(scratch)
    raise MachineBroken(f"no memory dump: {'; '.join(errors)}")


def as_png(picture: bytes) -> bytes:
    """A picture of a screen as PNG.

    Args:
        picture: PNG, or the portable pixmap that QEMU before 7.1 gives (binary, 8 bits a colour).

    Raises:
        ValueError: it is neither.
    """
    if picture.startswith(_PNG):
        return picture
    words = picture.split(maxsplit=3)
    if len(words) < 4 or words[0] != b"P6":
        raise ValueError(f"the screen is in no known format: it begins with {picture[:8]!r}")
    width, height = int(words[1]), int(words[2])
    pixels = picture[len(picture) - width * height * 3 :]
    lines = b"".join(b"\0" + pixels[row * width * 3 : (row + 1) * width * 3] for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return _PNG + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file (PNG specification, "Chunk layout")."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
