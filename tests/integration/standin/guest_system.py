"""What is installed: the root file system with the project's code in it, the kernel, and how both are started.

Made once for its content in a folder of the cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.integration.standin import archives, base_system
from tests.integration.standin.archives import Member
from tests.integration.standin.base_system import ROOT

PROJECT = "opt/standin/project"
BUILD = "opt/standin/build"
SHELL = "usr/bin/standin-shell"
GUEST = ROOT / "tests" / "standin" / "guest"
COMMAND_LINE = (
    "console=ttyS0 quiet loglevel=4 mitigations=off random.trust_cpu=on apparmor=0 audit=0 nmi_watchdog=0"
    # Started by UEFI on an emulated processor with five levels of page tables, Linux 6.1 tells every path as "xxx".
    " no5lvl"
    # Debian leaves the kernel's last words unsaved unless told otherwise.
    " efi_pstore.pstore_disable=0"
)
_SYSTEM_FILES = {"inittab": 0o644, "rcS": 0o755, "start-windows": 0o755, "udhcpc.sh": 0o755}
_FOLDERS = ("dev", "proc", "sys", "run", "tmp", "mnt", "media", "root", "var/lib/standin", "etc/ssh")
_CONSOLE = {"dev/console": Member(None, 0o600, device=(5, 1))}
_NOT_IN_THE_GUEST = ("vm/windows/hypervisor/", "vm/windows/images/", "vm/windows/profiles/")
_PE_PROGRAMS = (base_system.PYTHON, base_system.LOADER, "sbin/mkfs.fat", "sbin/mke2fs", "etc/mke2fs.conf")
_PE_LIBRARY = ("xml/", "encodings/", "collections/", "importlib/", "json/", "re/", "urllib/", "lib-dynload/termios")
_PE_SHARED = (
    "ld-linux",
    *(f"lib{name}.so." for name in ["blkid", "c", "com_err", "e2p", "expat", "ext2fs", "m", "uuid", "z"]),
)


@dataclass(frozen=True)
class GuestSystem:
    """Files of what is installed, and of what installs it."""

    root_archive: Path
    kernel: Path
    boot_loader: Path
    initrd: Path
    setup_initrd: Path


def project_files():
    """The project's code in the guest, by path."""
    found = {}
    for folder in ("vm", "tests/standin"):
        for path in sorted((ROOT / folder).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and "__pycache__" not in path.parts and not name.startswith(_NOT_IN_THE_GUEST):
                found[name] = path.read_bytes()
    return found


def guest_system(cache):
    """What is installed, made where it is not there yet."""
    base = base_system.base_system(cache)
    files = project_files()
    key = hashlib.sha256(base.name.encode())
    for path, content in files.items():
        key.update(f"{path} {len(content)}\n".encode() + content)
    for path in (Path(__file__), Path(archives.__file__)):
        key.update(path.read_bytes())
    folder = cache / f"system-{key.hexdigest()[:16]}"
    if not folder.is_dir():
        partial = cache / f"{folder.name}.partial-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            _make(base, files, partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return GuestSystem(
        folder / "root.tar",
        base / base_system.KERNEL,
        base / base_system.BOOT_LOADER,
        folder / "initrd",
        folder / "setup",
    )


def _make(base, files, target):
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        stage = Path(scratch)
        for path, content in files.items():
            place = stage / PROJECT / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        base_system.compile_python(base, stage / PROJECT, strip=stage)
        _compile_machine(stage)
        _compile_shell(stage)
        project = archives.members_of(stage)
    busybox = _busybox(base)
    system = archives.members_of(base, wanted=lambda path: not path.startswith(("boot/", "lib/modules/")))
    etc = {f"etc/{name}": Member((GUEST / "system" / name).read_bytes(), mode) for name, mode in _SYSTEM_FILES.items()}
    etc["etc/ssh/sshd_config"] = Member((GUEST / "system" / "sshd_config").read_bytes(), 0o600)
    etc["etc/nsswitch.conf"] = Member(b"passwd: files\ngroup: files\nshadow: files\nhosts: files\n", 0o644)
    root = {**{name: Member(None, 0o755) for name in _FOLDERS}, **busybox, **system, **etc, **project}
    with (target / "root.tar").open("wb") as stream:
        archives.write_tar(stream, root)
    first = _first_programs(base, busybox)
    (target / "initrd").write_bytes(archives.cpio(first))
    (target / "setup").write_bytes(archives.cpio({**first, **_set_up(base, project)}))


def _compile_machine(stage):
    """The emulated machine's compiled parts, which it finds in the guest by their content."""
    program = "from vm.emulated.machine import EmulatedMachine; EmulatedMachine()"
    environment = {**os.environ, "NTPROOF_BUILD_DIR": str(stage / BUILD), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True)


def _compile_shell(stage):
    target = stage / SHELL
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu.2.31", "-O2", "-s", "-Wall"]
    subprocess.run([*command, "-Wextra", "-Werror", GUEST / "shell.c", "-o", target], check=True, capture_output=True)


def _busybox(base):
    """The program and a link for each of its tools."""
    listed = subprocess.run([base / "bin/busybox", "--list-full"], check=True, capture_output=True, text=True).stdout
    links = {path: Member("/bin/busybox", 0o777) for path in listed.split()}
    return {**links, "bin/busybox": Member((base / "bin/busybox").read_bytes(), 0o755)}


def _first_programs(base, busybox):
    modules = archives.members_of(base / base_system.MODULE_FOLDER, prefix=f"{base_system.MODULE_FOLDER}/")
    script = Member((GUEST / "system" / "initrd.sh").read_bytes(), 0o755)
    folders = {name: Member(None, 0o755) for name in ("dev", "proc", "sys", "mnt")}
    return {**folders, **_CONSOLE, **busybox, **modules, "init": script}


def _set_up(base, project):
    """What the set-up from the medium needs besides: Python with the part of its library that it imports."""

    def wanted(path):
        library = f"{base_system.STDLIB}/"
        if path.startswith(library):
            rest = path.removeprefix(library)
            return rest.startswith(_PE_LIBRARY) or "/" not in rest.removeprefix("__pycache__/")
        return path in _PE_PROGRAMS or path.rpartition("/")[2].startswith(_PE_SHARED)

    system = archives.members_of(base, wanted=wanted)
    code = {path: member for path, member in project.items() if path.startswith(f"{PROJECT}/tests/standin/guest/")}
    setup = Member((GUEST / "system" / "setup.sh").read_bytes(), 0o755)
    return {**system, **code, "setup": setup}
