"""The guest's system without the project's own code: packages, wheels, kernel, compiled for the guest's own Python.

Made once for its content in a folder of the cache; what is there is only read.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.integration.standin import packages

ROOT = Path(__file__).resolve().parents[3]
SITE = "opt/standin/site"
PYTHON = "usr/bin/python3.11"
LOADER = "lib64/ld-linux-x86-64.so.2"
LIBRARIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
STDLIB = "usr/lib/python3.11"

WHEELS = ("capstone", "cryptography", "psrpcore", "pyelftools", "pypsrp", "pyspnego", "unicorn")
_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux_2_34_x86_64", "any")

MODULES = frozenset(
    [
        "scsi_common",
        "scsi_mod",
        "crc-t10dif",
        "crct10dif_common",
        "crct10dif_generic",
        "crc64",
        "crc64_rocksoft_generic",
        "crc64-rocksoft",
        "t10-pi",
        "sd_mod",
        "cdrom",
        "sr_mod",
        "libata",
        "libahci",
        "ahci",
        "crc-itu-t",
        "udf",
        "isofs",
        "crc16",
        "mbcache",
        "crc32c_generic",
        "jbd2",
        "ext4",
        "nls_cp437",
        "nls_ascii",
        "fat",
        "vfat",
        "efivarfs",
        "efi-pstore",
        "pvpanic",
        "pvpanic-mmio",
        "e1000e",
    ]
)
"""Drivers of the devices that a profile of Windows asks for, and file systems."""
MODULE_FOLDER = "lib/modules/standin"
MODULE_ORDER = f"{MODULE_FOLDER}/order"
KERNEL = "boot/vmlinuz"
BOOT_LOADER = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"

_ONLY = {
    "dosfstools": ("sbin/mkfs.fat",),
    "e2fsprogs": ("sbin/mke2fs", "etc/mke2fs.conf"),
    "openssh-client": ("usr/bin/ssh-keygen",),
    "openssh-server": ("usr/sbin/sshd",),
    "systemd-boot-efi": (BOOT_LOADER,),
}
"""Of these packages little is needed; of others all but documents."""
_LEFT_OUT = re.compile(
    r"usr/share/|var/|etc/(?!ssl|ld)|usr/include/|"
    r"usr/lib/python3\.11/(?:test|idlelib|lib2to3|ensurepip|turtledemo|distutils|tkinter|unittest|pydoc_data|sqlite3"
    r"|curses|dbm|wsgiref|xmlrpc|asyncio|multiprocessing|venv|config-[^/]*)/|.*/(?:gconv|audit)/|.*/__pycache__/"
)
_LEFT_OUT_OF_WHEELS = ("*.a", "*.pyi", "*.h", "tests", "include", "bin")


def base_system(cache):
    """The folder that holds it, made where it is not there yet."""
    offered = packages.offered((packages.kernel_package(), *packages.SYSTEM, *packages.PYTHON, *packages.SSH))
    key = hashlib.sha256()
    for package in offered:
        key.update(f"{package.file} {package.sha256}\n".encode())
    for path in (ROOT / "constraints.txt", Path(__file__), Path(packages.__file__)):
        key.update(path.read_bytes())
    folder = cache / f"base-{key.hexdigest()[:16]}"
    if not folder.is_dir():
        partial = cache / f"{folder.name}.partial-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            _make(partial, packages.download(offered, cache / "packages"), offered)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def run_python(tree, *arguments):
    """Run the guest's own Python here, with nothing of this computer's."""
    command = [tree / LOADER, "--library-path", ":".join(str(tree / one) for one in LIBRARIES), tree / PYTHON]
    environment = {"PYTHONHOME": str(tree / "usr"), "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}
    subprocess.run([*command, *arguments], env=environment, check=True, capture_output=True)


def compile_python(tree, folder, strip=None):
    """Compile a folder's modules for the guest, where no process looks at their sources again.

    `strip` is what their paths begin with here and not there; None for the tree itself.
    """
    options = ["-q", "--invalidation-mode", "unchecked-hash", "-s", strip or tree, "-p", "/"]
    run_python(tree, "-m", "compileall", *options, folder)


def _make(tree, files, offered):
    for path, package in zip(files, offered, strict=True):
        kernel = package.name.startswith("linux-image-")
        packages.unpack(path, tree, _is_kernel_part if kernel else _wanted(package.name))
    _arrange_kernel(tree)
    _install_wheels(tree)
    for folder in (STDLIB, SITE):
        compile_python(tree, tree / folder)


def _wanted(name):
    only = _ONLY.get(name)
    if only is not None:
        return lambda path: path in only
    return lambda path: _LEFT_OUT.match(path) is None


def _is_kernel_part(path):
    name = path.rpartition("/")[2]
    return path.startswith("boot/vmlinuz-") or (name.endswith(".ko") and name.removesuffix(".ko") in MODULES)


def _arrange_kernel(tree):
    """Kernel and modules at places without a version, and the order in which modules can be loaded."""
    (kernel,) = (tree / "boot").iterdir()
    kernel.rename(tree / KERNEL)
    target = tree / MODULE_FOLDER
    target.mkdir()
    needs = {}
    for path in list((tree / "lib/modules").rglob("*.ko")):
        found = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        needs[path.stem.replace("-", "_")] = [one.replace("-", "_") for one in found[1].decode().split(",") if one]
        path.rename(target / (path.stem.replace("-", "_") + path.suffix))
    for folder in (tree / "lib/modules").iterdir():
        if folder != target:
            shutil.rmtree(folder)
    order = []

    def load(name):
        if name not in order:
            for needed in needs[name]:
                load(needed)
            order.append(name)

    # Drivers of disks come before the controller's, whose own start waits until all are found.
    for name in sorted(needs, key=lambda name: (name == "ahci", name)):
        load(name)
    (tree / MODULE_ORDER).write_text("".join(f"{name}\n" for name in order))


def _install_wheels(tree):
    site = tree / SITE
    platforms = [part for one in _PLATFORMS for part in ("--platform", one)]
    options = ["--target", site, "--python-version", "3.11", "--only-binary=:all:", "--no-compile", *platforms]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *options]
    subprocess.run([*command, "--constraint", ROOT / "constraints.txt", *WHEELS], check=True, capture_output=True)
    for pattern in _LEFT_OUT_OF_WHEELS:
        for path in list(site.rglob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    # The emulated machine asks for its compiler by name; what it would compile is there already.
    ziglang = importlib.metadata.distribution("ziglang")
    for name in ("ziglang/__init__.py", f"ziglang-{ziglang.version}.dist-info/METADATA"):
        target = site / name
        target.parent.mkdir(parents=True)
        shutil.copyfile(ziglang.locate_file(name), target)
