"""What Windows machines need: packages, a hypervisor that answers and is fast, firmware, images, room for them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from harness.doctor import WINDOWS, DoctorError, Host, Need, need_of

RUNNING_ROOM: Final = 10 * 10**9
"""Bytes for saved memory and overlays of a few machines."""

_PACKAGES: Final = ("paramiko", "pypsrp")
_FIRMWARE: Final = ("/usr/share/OVMF", "/usr/share/edk2", "/usr/share/edk2-ovmf", "/usr/share/qemu/ovmf-x86_64.bin")


def examine_windows(host: Host, uri: str) -> list[Need]:
    """Every need of Windows machines, in order.

    Args:
        host: the computer to examine.
        uri: libvirt URI of the hypervisor. What one elsewhere has installed is not looked for here.
    """
    needs = [_libvirt(host), *(_importable(host, name, f"pip install {name}") for name in _PACKAGES)]
    if ":///" in uri:
        needs += [_qemu(host), _firmware(host), _tpm(host)]
    reached = _hypervisor(host, uri)
    needs.append(reached)
    if reached.met:
        needs.append(_accelerator(host, uri))
    return [*needs, *_images(host)]


def _libvirt(host: Host) -> Need:
    remedy = "apt-get install libvirt-dev pkg-config gcc python3-dev, then pip install libvirt-python"
    need = _importable(host, "libvirt", remedy)
    return Need(need.kind, "module libvirt", need.met, need.found, need.remedy)


def _importable(host: Host, module: str, remedy: str) -> Need:
    problem = host.import_error(module)
    return need_of(WINDOWS, f"package {module}", problem is None, problem or "can be imported", remedy)


def _qemu(host: Host) -> Need:
    found = host.program("qemu-system-x86_64")
    return need_of(WINDOWS, "QEMU", found is not None, found or "not on PATH", "apt-get install qemu-system-x86")


def _firmware(host: Host) -> Need:
    found = next((path for path in _FIRMWARE if host.exists(path)), None)
    return need_of(WINDOWS, "UEFI firmware", found is not None, found or "not found", "apt-get install ovmf")


def _tpm(host: Host) -> Need:
    found = host.program("swtpm") if host.program("swtpm_setup") else None
    remedy = "apt-get install swtpm swtpm-tools"
    return need_of(WINDOWS, "TPM emulator", found is not None, found or "swtpm or swtpm_setup not on PATH", remedy)


def _hypervisor(host: Host, uri: str) -> Need:
    try:
        return Need(WINDOWS, "hypervisor", met=True, found=host.reach(uri))
    except DoctorError as error:
        found, _, remedy = str(error).partition("; ")
        return Need(WINDOWS, "hypervisor", met=False, found=found, remedy=remedy or "start libvirt, or give --connect")


def _accelerator(host: Host, uri: str) -> Need:
    remedy = "enable virtualisation in the firmware, or real nested virtualisation for this virtual machine"
    try:
        met, found = host.accelerator(uri)
    except DoctorError as error:
        return Need(WINDOWS, "accelerator", met=False, found=str(error), remedy=remedy)
    return need_of(WINDOWS, "accelerator", met, found, remedy)


def _images(host: Host) -> list[Need]:
    from vm.windows.images.store import ROOM_TO_INSTALL

    remedy = "ntproof image build win11 --iso FILE"
    try:
        root, names = host.images()
    except DoctorError as error:
        return [Need(WINDOWS, "images", met=False, found=str(error), remedy=remedy)]
    found = ", ".join(names) or "none"
    needs = [need_of(WINDOWS, "images", bool(names), f"{found} in {root}", remedy)]
    return [*needs, _room(host, root, RUNNING_ROOM if names else ROOM_TO_INSTALL)]


def _room(host: Host, root: Path, wanted: int) -> Need:
    name = "room for machines"
    remedy = f"free {wanted / 1e9:.0f} GB, or set NTPROOF_IMAGE_DIR to a folder on a larger disk"
    try:
        free = host.free_bytes(root)
    except OSError as error:
        return Need(WINDOWS, name, met=False, found=f"{root}: {error.strerror}", remedy=remedy)
    return need_of(WINDOWS, name, free >= wanted, f"{free / 1e9:.0f} GB free for {root}", remedy)
