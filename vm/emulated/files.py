"""Executable files that exist on the emulated machine's disk, and the forms that a path to one can take.

There are no contents: what matters of an executable is whether it exists and what becomes of a process made from it.
Path forms are those of "Naming Files, Paths, and Namespaces" (Microsoft Learn).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm.machine import ImageKind

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

SYSTEM_IMAGES = (
    "C:\\Windows\\System32\\services.exe",
    "C:\\Windows\\explorer.exe",
    "C:\\Windows\\System32\\cmd.exe",
    "C:\\Windows\\System32\\conhost.exe",
    "C:\\Windows\\System32\\notepad.exe",
    "C:\\Windows\\System32\\svchost.exe",
    "C:\\Windows\\System32\\whoami.exe",
)
_VOLUMES = "HarddiskVolume"
_NT_PREFIX = "\\??\\"


@dataclass
class FilesState:
    """Executables by upper-case NT path without prefix, `C:\\X\\Y.EXE`."""

    images: dict[str, ImageKind] = field(default_factory=dict)


class Files:
    """The disk, as far as making processes needs one."""

    def __init__(self, _kernel: Kernel) -> None:
        self.state = FilesState()
        for path in SYSTEM_IMAGES:
            self.provide(path, ImageKind.NORMAL)

    def rebind(self) -> None:
        """Nothing is cached."""

    def provide(self, path: str, kind: ImageKind) -> None:
        """Make an executable exist."""
        self.state.images[_key(path)] = kind

    def kind(self, path: str) -> ImageKind | None:
        """What an executable is; None when there is none."""
        return self.state.images.get(_key(path))

    def folder_exists(self, path: str) -> bool:
        """True when some executable lies in the same folder."""
        folder = _key(path).rpartition("\\")[0] + "\\"
        return any(image.startswith(folder) for image in self.state.images)

    @staticmethod
    def open_name(path: str) -> str:
        """The name that CreateProcess passes to the open: an NT path, with the caller's spelling kept."""
        for prefix in ("\\\\?\\", "\\\\.\\"):
            if path.startswith(prefix):
                return _NT_PREFIX + path[len(prefix) :]
        if path.startswith("\\\\"):
            return f"{_NT_PREFIX}UNC{path[1:]}"
        if path.startswith(("\\??\\", "\\Device\\", "\\SystemRoot\\")):
            return path
        return _NT_PREFIX + path

    @staticmethod
    def file_name(path: str) -> str:
        """The name on the volume, FILE_OBJECT.FileName: no device, no drive letter; a share's path whole."""
        plain = _dos_path(path)
        if plain[:4].upper() == "UNC\\":
            return plain[3:]
        return plain[1:] if plain.startswith("\\\\") else plain[2:]

    @staticmethod
    def device_path(file_name: str) -> str:
        """A volume-relative name with its device; the machine has one volume."""
        return f"\\Device\\{_VOLUMES}2{file_name}"


def _dos_path(path: str) -> str:
    for prefix in ("\\\\?\\", "\\\\.\\", _NT_PREFIX):
        if path.startswith(prefix):
            path = path[len(prefix) :]
            break
    if path.upper().startswith("\\SYSTEMROOT\\"):
        path = "C:\\Windows" + path[len("\\SystemRoot") :]
    if path.startswith(f"\\Device\\{_VOLUMES}"):
        path = "C:\\" + path.split("\\", 3)[3]
    return path.replace("/", "\\")


def _key(path: str) -> str:
    return _dos_path(path).upper()
