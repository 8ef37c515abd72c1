"""First phase of the installation, started from the medium: partitions the disk and applies the image.

Follows the pass windowsPE of the answer file; the answers go to the disk for the phases after the restart.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path

from tests.standin.guest import disk_layout
from tests.standin.guest.answers import WrongAnswers, read_answers
from tests.standin.guest.media import find_answers, mount_media, path_in
from tests.standin.guest.report import SerialReport
from tests.standin.guest.wim_reader import WimFile, WrongImage

STEP = "windows-pe"
ANSWERS_ON_DISK = "var/lib/standin/unattend.xml"
"""Where the answers wait for the first start from the disk, as in Windows' folder Panther."""
ROOT_ARCHIVE = "root.tar"
IDENTITY = "windows.json"
IDENTITY_ON_DISK = "usr/share/standin/windows.json"
EFI_FILES = "efi/"
WINDOWS_11_MEMORY_MIB = 4096
_EFI_MOUNT, _ROOT_MOUNT = Path("/mnt/efi"), Path("/mnt/root")


def check_computer(answers, memory_mib, has_tpm):
    """Windows 11's checks, as far as a computer of this kind can fail them. Raises WrongAnswers."""
    if memory_mib < WINDOWS_11_MEMORY_MIB and "BypassRAMCheck" not in answers.bypassed:
        raise WrongAnswers(f"this PC can't run Windows 11: {memory_mib} MiB of memory")
    if not has_tpm and "BypassTPMCheck" not in answers.bypassed:
        raise WrongAnswers("this PC can't run Windows 11: there is no TPM 2.0")


def install():
    """Do the whole phase."""
    media = mount_media()
    found = find_answers(media)
    if found is None:
        raise WrongAnswers("no medium has an autounattend.xml at its root: setup would ask a person")
    answers = read_answers(found.read_bytes())
    check_computer(answers, _memory_mib(), Path("/sys/firmware/acpi/tables/TPM2").exists())
    image = next(
        (path for medium in media if (path := path_in(media, f"{medium.letter}:\\sources\\install.wim"))), None
    )
    if image is None:
        raise WrongAnswers("no medium has sources\\install.wim")
    _prepare(answers)
    try:
        with image.open("rb") as stream:
            _apply(WimFile(stream), answers.image_index)
        kept = _ROOT_MOUNT / ANSWERS_ON_DISK
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.touch(0o600)
        kept.write_bytes(found.read_bytes())
    finally:
        for folder in (_EFI_MOUNT, _ROOT_MOUNT):
            subprocess.run(["umount", folder], check=True)


def _memory_mib():
    # What firmware and kernel keep for themselves counts as memory of the computer.
    return -(-os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (256 << 20)) * 256


def _prepare(answers):
    """Partition and format the disk, and mount what the system goes to."""
    disks = sorted(path.name for path in Path("/sys/block").glob("sd*"))
    if answers.disk.number >= len(disks):
        raise WrongAnswers(f"there is no disk {answers.disk.number}")
    disk = disks[answers.disk.number]
    sectors = int(Path(f"/sys/block/{disk}/size").read_text())
    partitions = answers.disk.partitions
    places = disk_layout.place(partitions, sectors)
    with Path(f"/dev/{disk}").open("r+b", buffering=0) as device:
        for offset, data in disk_layout.table(partitions, places, sectors).items():
            device.seek(offset)
            device.write(data)
        os.fsync(device.fileno())
    subprocess.run(["blockdev", "--rereadpt", f"/dev/{disk}"], check=True, capture_output=True)
    for number, partition in enumerate(partitions, 1):
        disk_layout.make_file_system(f"/dev/{disk}{number}", partition)
    efi = next((number for number, one in enumerate(partitions, 1) if one.kind == "EFI"), None)
    target_disk, target = answers.target
    if efi is None or target_disk != answers.disk.number or not 1 <= target <= len(partitions):
        raise WrongAnswers("the image goes to a partition that is not there, or nothing starts from it")
    if partitions[target - 1].format != "NTFS":
        raise WrongAnswers(f"partition {target} has no file system for Windows")
    kinds = ((_EFI_MOUNT, efi, "vfat", "rw"), (_ROOT_MOUNT, target, "ext4", "noinit_itable"))
    for folder, number, kind, options in kinds:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", kind, "-o", options, f"/dev/{disk}{number}", folder], check=True)


def _apply(wim, index):
    files = wim.files(index)
    for needed in (ROOT_ARCHIVE, IDENTITY):
        if needed not in files:
            raise WrongImage(f"image {index} of install.wim has no {needed}")
    placed = {_EFI_MOUNT / path.removeprefix(EFI_FILES): path for path in files if path.startswith(EFI_FILES)}
    for target, path in {**placed, _ROOT_MOUNT / IDENTITY_ON_DISK: IDENTITY}.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as stream:
            wim.copy(files[path], stream.write)
    with subprocess.Popen(["tar", "-x", "-C", _ROOT_MOUNT], stdin=subprocess.PIPE) as unpacking:
        wim.copy(files[ROOT_ARCHIVE], unpacking.stdin.write)
        unpacking.stdin.close()
        if unpacking.wait():
            raise WrongImage(f"{ROOT_ARCHIVE} cannot be unpacked")


def main():
    try:
        install()
    except (WrongAnswers, WrongImage) as error:
        SerialReport().send("failed", step=STEP, message=str(error), where="autounattend.xml")
    except Exception as error:  # noqa: BLE001 - whatever it is, the host must hear of it
        where = traceback.extract_tb(error.__traceback__)[-1]
        SerialReport().send(
            "failed",
            step=STEP,
            message=f"{type(error).__name__}: {error}",
            where=f"{Path(where.filename).name}:{where.lineno}",
        )
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
