"""What each kind of machine needs of this computer: looked up, tried where that is cheap, and told with its remedy.

A `Need` belongs to one machine kind. It is met, or it is missing and says how to get it. Nothing here changes the
computer beyond a scratch folder that is removed again.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Protocol

from harness.build.layout import build_directory, driver_source_root
from harness.build.wdk.kit import Kit
from harness.build.wdk.registry import KitRegistry
from harness.errors import ConfigurationError
from vm.errors import MachineError

EMULATED: Final = "emulated"
WINDOWS: Final = "windows"
WDK: Final = "wdk"
OLDEST_PYTHON: Final = (3, 11)
ROOM_NEEDED: Final = 500 * 1024 * 1024
"""Bytes for the build and for the compiler's cache; a first build was seen to take a fraction of it."""

_CORE: Final = ("unicorn", "dissect.cstruct", "pyelftools", "capstone", "cryptography", "ziglang", "rich")
_REINSTALL_UNICORN: Final = "pip install --force-reinstall unicorn"
_ANSWER: Final = 42
_THREE_INSTRUCTIONS: Final = bytes.fromhex("b806000000 6bc007 90")  # mov eax, 6; imul eax, eax, 7; nop
_SOURCE: Final = "int ntproof_doctor(int value) { return value + 1; }\n"


class DoctorError(Exception):
    """A trial went wrong; the message says how."""


@dataclass(frozen=True)
class Need:
    """Something that a machine kind needs.

    Attributes:
        kind: the machine kind, ``emulated`` or ``windows``; ``wdk`` for builds with a Windows kit.
        name: what is needed.
        met: whether it is there and, where that was tried, works.
        found: what was found, or what is wrong.
        remedy: how to get it; empty when it is met.
    """

    kind: str
    name: str
    met: bool
    found: str
    remedy: str = ""


class Host(Protocol):
    """What the checks ask of the computer."""

    def python(self) -> tuple[int, int, int]:
        """Version of the interpreter."""

    def package(self, name: str) -> str | None:
        """Version of an installed distribution, None when it is not installed."""

    def import_error(self, module: str) -> str | None:
        """Why a module cannot be imported, None when it can."""

    def program(self, name: str) -> str | None:
        """Path of a program on PATH."""

    def exists(self, path: str) -> bool:
        """Whether a path exists."""

    def free_bytes(self, folder: Path) -> int:
        """Free space of the file system that holds a folder, or would hold it. Raises OSError."""

    def try_write(self, folder: Path) -> None:
        """Make the folder and a file in it. Raises OSError."""

    def emulate(self) -> int:
        """Run three instructions and return the result register. Raises DoctorError."""

    def compile(self) -> str:
        """Compile a function for Windows and return the compiler's version. Raises DoctorError."""

    def driver_sources(self) -> Path:
        """Where the driver's sources are. Raises ConfigurationError."""

    def kits(self) -> list[Kit]:
        """The Windows kits that this user has added. Raises ConfigurationError."""

    def reach(self, uri: str) -> str:
        """Connect to a hypervisor and return what answers. Raises DoctorError."""

    def accelerator(self, uri: str) -> tuple[bool, str]:
        """Whether guests of a hypervisor run at speed, and why, by running one. Raises DoctorError."""

    def images(self) -> tuple[Path, tuple[str, ...]]:
        """The image store's folder, and the images in it. Raises DoctorError."""


class ThisComputer:
    """The computer that ntproof runs on."""

    def python(self) -> tuple[int, int, int]:
        """Version of the interpreter."""
        return sys.version_info[:3]

    def package(self, name: str) -> str | None:
        """Version of an installed distribution, None when it is not installed."""
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    def import_error(self, module: str) -> str | None:
        """Why a module cannot be imported, None when it can."""
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:
            return str(error)
        return None

    def program(self, name: str) -> str | None:
        """Path of a program on PATH."""
        return shutil.which(name)

    def exists(self, path: str) -> bool:
        """Whether a path exists."""
        return Path(path).exists()

    def free_bytes(self, folder: Path) -> int:
        """Free space of the file system that holds a folder, or would hold it. Raises OSError."""
        present = next(place for place in (folder, *folder.parents) if place.exists())
        return shutil.disk_usage(present).free

    def try_write(self, folder: Path) -> None:
        """Make the folder and a file in it. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="doctor-") as file:
            file.write(b"\0")

    def emulate(self) -> int:
        """Run three instructions and return the result register. Raises DoctorError."""
        try:
            from unicorn import UC_ARCH_X86, UC_MODE_64, Uc, UcError
            from unicorn.x86_const import UC_X86_REG_RAX
        except (ImportError, OSError) as error:
            raise DoctorError(f"cannot be imported: {error}") from error
        start = 0x1000
        try:
            engine = Uc(UC_ARCH_X86, UC_MODE_64)
            engine.mem_map(start, 0x1000)
            engine.mem_write(start, _THREE_INSTRUCTIONS)
            engine.emu_start(start, start + len(_THREE_INSTRUCTIONS))
            return int(engine.reg_read(UC_X86_REG_RAX))
        except UcError as error:
            raise DoctorError(f"cannot run code: {error}") from error

    def compile(self) -> str:
        """Compile a function for Windows and return the compiler's version. Raises DoctorError."""
        with tempfile.TemporaryDirectory(prefix="ntproof-doctor-") as scratch:
            source = Path(scratch) / "doctor.c"
            source.write_text(_SOURCE)
            output = source.with_suffix(".obj")
            target = ("clang", "--target=x86_64-w64-windows-gnu", "-c", "-ffreestanding")
            _zig(*target, str(source), "-o", str(output))
            if not output.is_file():
                raise DoctorError("the compiler ended well but wrote nothing")
        return _zig("version").strip()

    def driver_sources(self) -> Path:
        """Where the driver's sources are. Raises ConfigurationError."""
        return driver_source_root()

    def kits(self) -> list[Kit]:
        """The Windows kits that this user has added. Raises ConfigurationError."""
        return KitRegistry.of_user().kits()

    def reach(self, uri: str) -> str:
        """Connect to a hypervisor and return what answers. Raises DoctorError."""
        try:
            from vm.windows.hypervisor.connection import Connection

            with Connection.open(uri) as connection:
                versions = connection.versions()
                return f"{connection.uri.text}: {', '.join(f'{name} {one}' for name, one in versions.items())}"
        except (ImportError, MachineError) as error:
            raise DoctorError(str(error)) from error

    def accelerator(self, uri: str) -> tuple[bool, str]:
        """Whether guests of a hypervisor run at speed, and why, by running one. Raises DoctorError."""
        try:
            from vm.windows.hypervisor.domain_xml import Accelerator
            from vm.windows.hypervisor.workplace import open_workplace

            with open_workplace(uri, self.images()[0]) as place:
                found = place.accelerator
        except (ImportError, MachineError) as error:
            raise DoctorError(str(error)) from error
        return found.accelerator is Accelerator.KVM, found.reason

    def images(self) -> tuple[Path, tuple[str, ...]]:
        """The image store's folder, and the images in it. Raises DoctorError."""
        from vm.windows.images.store import ImageStore

        try:
            store = ImageStore.from_environment(os.environ)
            return store.root, store.names()
        except MachineError as error:
            raise DoctorError(str(error)) from error


def examine(host: Host, folders: Sequence[Path] | None = None) -> list[Need]:
    """Every need of the emulated machine, in order.

    Args:
        host: the computer to examine.
        folders: where the emulated machine writes; by default the build folder.
    """
    return _emulated(host, tuple(folders) if folders is not None else (build_directory(),))


def usable(kind: str, needs: Sequence[Need]) -> bool:
    """Whether all that a machine kind needs is there."""
    return all(need.met for need in needs if need.kind == kind)


def _emulated(host: Host, folders: Sequence[Path]) -> list[Need]:
    needs = [_python(host)]
    needs += [_package(host, name) for name in _CORE]
    needs += [_emulation(host), _compiler(host), _sources(host)]
    for folder in folders:
        needs += [_writable(host, folder), _room(host, folder)]
    return needs


def _python(host: Host) -> Need:
    found = ".".join(map(str, host.python()))
    wanted = ".".join(map(str, OLDEST_PYTHON))
    met = host.python() >= OLDEST_PYTHON
    return need_of(EMULATED, "Python", met, found, f"install Python {wanted} or newer and make the environment with it")


def _package(host: Host, name: str) -> Need:
    found = host.package(name)
    return need_of(EMULATED, f"package {name}", found is not None, found or "not installed", f"pip install {name}")


def _emulation(host: Host) -> Need:
    try:
        result = host.emulate()
    except DoctorError as error:
        return Need(EMULATED, "CPU emulator", met=False, found=str(error), remedy=_REINSTALL_UNICORN)
    met = result == _ANSWER
    found = "three instructions gave the right result" if met else f"three instructions gave {result}, not {_ANSWER}"
    return need_of(EMULATED, "CPU emulator", met, found, _REINSTALL_UNICORN)


def _compiler(host: Host) -> Need:
    try:
        found = host.compile()
    except DoctorError as error:
        return Need(EMULATED, "C compiler", met=False, found=str(error), remedy="pip install --force-reinstall ziglang")
    return Need(EMULATED, "C compiler", met=True, found=f"zig {found} compiles for Windows x64")


def _sources(host: Host) -> Need:
    try:
        return Need(EMULATED, "driver sources", met=True, found=str(host.driver_sources()))
    except ConfigurationError as error:
        return Need(EMULATED, "driver sources", met=False, found=str(error), remedy="reinstall ntproof")


def _writable(host: Host, folder: Path) -> Need:
    name = "build folder"
    try:
        host.try_write(folder)
    except OSError as error:
        remedy = "set NTPROOF_BUILD_DIR to a folder that you may write to"
        return Need(EMULATED, name, met=False, found=f"{folder}: {error.strerror}", remedy=remedy)
    return Need(EMULATED, name, met=True, found=str(folder))


def _room(host: Host, folder: Path) -> Need:
    name = "disk space"
    remedy = f"free {megabytes(ROOM_NEEDED)}, or set NTPROOF_BUILD_DIR to a folder on a larger disk"
    try:
        free = host.free_bytes(folder)
    except OSError as error:
        return Need(EMULATED, name, met=False, found=f"{folder}: {error.strerror}", remedy=remedy)
    return need_of(EMULATED, name, free >= ROOM_NEEDED, f"{megabytes(free)} free for {folder}", remedy)


def examine_kits(host: Host) -> list[Need]:
    """What builds with a Windows kit need: a kit that was added and can be used."""
    name, remedy = "Windows kit", "ntproof wdk add PATH, see docs/how-to/wdk.md"
    try:
        kits = host.kits()
        for kit in kits:
            kit.require_unchanged()
    except ConfigurationError as error:
        return [Need(WDK, name, met=False, found=str(error), remedy=remedy)]
    usable = [f"{kit.version} for {', '.join(kit.libraries)}" for kit in kits if kit.usable]
    broken = [f"{kit.version} cannot be used" for kit in kits if not kit.usable]
    return [need_of(WDK, name, bool(usable), "; ".join([*usable, *broken]) or "none was added", remedy)]


def need_of(kind: str, name: str, met: bool, found: str, remedy: str) -> Need:
    """A need that tells its remedy only where it is not met."""
    return Need(kind, name, met, found, "" if met else remedy)


def megabytes(count: int) -> str:
    """Bytes in words for people."""
    return f"{count // (1024 * 1024):,} MiB"


def _zig(*arguments: str) -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ziglang", *arguments], capture_output=True, text=True, check=True, timeout=120
        )
    except subprocess.CalledProcessError as error:
        raise DoctorError((error.stderr or f"ended with status {error.returncode}").strip().splitlines()[-1]) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DoctorError(str(error)) from error
    return done.stdout
