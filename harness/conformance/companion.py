"""The companion driver (driver/include/companion.h): takes notify slots, denies, counts its calls."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vm.errors import MachineError, Win32Error
from vm.machine import DeviceAccess

if TYPE_CHECKING:
    from pathlib import Path

    from vm.machine import Machine, RegistryValue

SERVICE: Final = "ntproof-companion"
DEVICE: Final = "\\\\.\\NtproofCompanion"
API_LEGACY: Final = 0
API_EX: Final = 1
API_EX2: Final = 2

_QUERY: Final = 0x80006400  # IOCTL_COMPANION_QUERY
_STATUS: Final = struct.Struct("<IIiIQQQQQ")  # COMPANION_STATUS


@dataclass(frozen=True)
class CompanionStatus:
    """COMPANION_STATUS: see companion.h for what each number counts."""

    abi_version: int
    registered: int
    last_status: int
    last_process_id: int
    first_created: int
    first_exited: int
    created: int
    exited: int
    denied: int


class Companion:
    """The companion driver on one machine."""

    def __init__(self, machine: Machine, image: Path, parameters: dict[str, RegistryValue]) -> None:
        self._machine = machine
        machine.install_driver(SERVICE, image, parameters=parameters)

    def start(self) -> None:
        """Start its service. Raises Win32Error when it fails to load."""
        self._machine.start_driver(SERVICE)

    def stop(self) -> None:
        """Stop its service."""
        self._machine.stop_driver(SERVICE)

    def query(self) -> CompanionStatus:
        """Ask for its counters."""
        handle = self._machine.open_device(DEVICE, DeviceAccess.READ)
        try:
            return CompanionStatus(*_STATUS.unpack(handle.control(_QUERY, b"", _STATUS.size)))
        finally:
            handle.close()

    def remove(self) -> None:
        """Leave no trace; a machine that has crashed is left alone."""
        if self._machine.crash is not None:
            return
        with suppress(Win32Error):
            self.stop()
        with suppress(MachineError):
            self._machine.delete_driver(SERVICE)
