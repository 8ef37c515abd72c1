"""Installation media: checks that an ISO is the Windows a profile asks for, and copies it without its key prompt.

Windows' media wait for a key before they boot from CD. For UEFI the boot image is ``efisys.bin``; beside it lies
``efisys_noprompt.bin``, which does not ask, so that the boot catalog of the copy names that one. For BIOS the boot code
asks only while ``bootfix.bin`` exists, so that the copy's directory has it under another name. Everything else stays
byte for byte, whereas a file system written anew would have to hold a file of more than 4 GiB in a way that Windows'
boot loader reads.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.images.boot_catalog import BIOS, SECTOR, UEFI, NotAnIso, boot_images, volume_size
from vm.windows.images.udf import Entry, UdfError, UdfReader, crc16, encode_identifier, tag_checksum
from vm.windows.images.wim import AMD64, WimError, WimImage, read_images
from vm.windows.profiles.profile import Firmware, Profile

IMAGE_FILES: Final = ("sources/install.wim", "sources/install.esd")
SPLIT_IMAGE_FILE: Final = "sources/install.swm"
EFI_WITHOUT_PROMPT: Final = "efi/microsoft/boot/efisys_noprompt.bin"
BIOS_PROMPT: Final = "boot/bootfix.bin"
BIOS_PROMPT_RENAMED: Final = "bootfix.off"
BUILT_OVER: Final = {
    **dict.fromkeys((19042, 19043, 19044, 19045), 19041),
    22631: 22621,
    26200: 26100,
}
"""Builds that are another build with features switched on by an enablement package (Microsoft, KB5015684, KB5027397 and
KB5054156). The list in install.wim may tell the build below: what was installed tells its own."""
_CHUNK: Final = 1 << 22

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are done."""


def silent(_done: int, _total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class WindowsMedia:
    """An installation medium that was looked at.

    Attributes:
        path: the ISO.
        size: its length in bytes.
        sha256: its hash, small hexadecimal digits.
        images: what can be installed from it.
    """

    path: Path
    size: int
    sha256: str
    images: tuple[WimImage, ...]


def sha256_of(path: Path, progress: Progress = silent) -> str:
    """The hash of a file, small hexadecimal digits.

    Raises:
        MachineConfigurationError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            total = os.fstat(stream.fileno()).st_size
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                progress(stream.tell(), total)
    except OSError as error:
        raise MachineConfigurationError(f"{path}: {error.strerror}; name a file that can be read") from error
    return digest.hexdigest()


def sha256_of_bytes(content: bytes) -> str:
    """The hash of bytes, small hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def inspect_media(path: Path, *, sha256: str | None = None, progress: Progress = silent) -> WindowsMedia:
    """Look at a Windows ISO.

    Args:
        path: the ISO.
        sha256: the hash that it must have, None to take any.
        progress: told how far the hashing is.

    Raises:
        MachineConfigurationError: it is missing, cut off, no ISO, no Windows installation medium, or another one than
            the hash says; or the hash is none.
    """
    wanted = None if sha256 is None else sha256.strip().lower()
    if wanted is not None and not re.fullmatch(r"[0-9a-f]{64}", wanted):
        raise MachineConfigurationError(f"--sha256: {wanted!r} is no SHA-256: give its 64 hexadecimal digits")
    images = list_images(path)
    found = sha256_of(path, progress)
    if wanted not in (None, found):
        raise MachineConfigurationError(
            f"{path}: its SHA-256 is {found}, expected {wanted}; download it again, or correct --sha256"
        )
    return WindowsMedia(path, path.stat().st_size, found, images)


def list_images(path: Path) -> tuple[WimImage, ...]:
    """What can be installed from an ISO, without hashing it.

    Raises:
        MachineConfigurationError: as for `inspect_media`.
    """
    try:
        with path.open("rb") as stream:
            _check_whole(path, stream)
            reader = UdfReader(stream)
            return _images(path, reader)
    except OSError as error:
        raise MachineConfigurationError(f"{path}: {error.strerror}; name a Windows ISO that can be read") from error
    except (NotAnIso, UdfError) as error:
        raise MachineConfigurationError(f"{path}: {error}; give the ISO as Microsoft offers it") from error


def _check_whole(path: Path, stream: BinaryIO) -> None:
    expected, size = volume_size(stream), stream.seek(0, os.SEEK_END)
    if size < expected:
        raise MachineConfigurationError(f"{path}: cut off: {size} of {expected} bytes; download it again")


def _images(path: Path, reader: UdfReader) -> tuple[WimImage, ...]:
    for name in IMAGE_FILES:
        entry = reader.find(name)
        if entry is not None:
            try:
                return read_images(entry.size, partial(_read_part, reader, entry))
            except WimError as error:
                raise MachineConfigurationError(f"{path}: {name}: {error}; download it again") from error
    if reader.find(SPLIT_IMAGE_FILE) is not None:
        raise MachineConfigurationError(
            f"{path}: its image is split for a USB stick; give the ISO as Microsoft offers it"
        )
    raise MachineConfigurationError(f"{path}: neither {' nor '.join(IMAGE_FILES)} is on it; give a Windows ISO")


def _read_part(reader: UdfReader, entry: Entry, start: int, length: int) -> bytes:
    return reader.read(entry, start=start, length=length)


def choose_image(path: Path, images: Iterable[WimImage], profile: Profile) -> WimImage:
    """The image that a profile installs.

    Args:
        path: the ISO, for messages.
        images: what is on it.
        profile: the profile.

    Raises:
        MachineConfigurationError: it is not there, or it has another build, architecture or language.
    """
    listed = tuple(images)
    wanted = profile.media
    names = {wanted.edition.casefold()}
    matching = [
        image
        for image in listed
        if (image.index == wanted.index if wanted.index is not None else _names(image) & names)
    ]
    if len(matching) != 1:
        what = f"image {wanted.index}" if wanted.index is not None else repr(wanted.edition)
        there = "; ".join(f"{image.index} {image.display_name!r}" for image in listed)
        how = "is not on it" if not matching else "is on it more than once: set media.index"
        raise MachineConfigurationError(f"{path}: {what} of profile {profile.name!r} {how}; there are: {there}")
    (image,) = matching
    place = f"{path}: image {image.index} ({image.display_name})"
    if wanted.index is not None and not _names(image) & names:
        raise MachineConfigurationError(
            f"{place}: media.edition of {profile.name!r} is {wanted.edition!r}; correct one"
        )
    if image.architecture != AMD64:
        raise MachineConfigurationError(f"{place}: not for x64; give an x64 ISO")
    below = BUILT_OVER.get(wanted.build)
    if image.build not in (wanted.build, below):
        listed_as = "" if below is None else f" ({below} in the ISO's own list)"
        raise MachineConfigurationError(
            f"{place}: build {image.build}, but profile {profile.name!r} is for {wanted.build}{listed_as};"
            " give another one"
        )
    if profile.locale.language not in image.languages:
        raise MachineConfigurationError(
            f"{place}: its languages are {', '.join(image.languages)}; set locale.language of profile {profile.name!r}"
        )
    return image


def _names(image: WimImage) -> set[str]:
    return {image.name.casefold(), image.display_name.casefold()}


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Refuse to begin what would fill the disk.

    Raises:
        MachineBroken: the folder's file system has less room than needed.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MachineBroken(
            f"{folder}: {purpose} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; make room, or set"
            " NTPROOF_IMAGE_DIR to a folder elsewhere"
        )


def copy_without_prompt(source: Path, target: Path, firmware: Firmware, progress: Progress = silent) -> None:
    """Copy an installation medium so that it boots without waiting for a key.

    The target appears only when it is complete.

    Args:
        source: the ISO.
        target: the copy.
        firmware: what will boot it.
        progress: told how much is copied.

    Raises:
        MachineConfigurationError: the ISO has no boot image for this firmware, or lacks the one without a prompt.
        MachineBroken: there is no room, or writing fails.
    """
    patches = key_prompt_patches(source, firmware)
    unfinished = target.with_name(target.name + ".partial")
    try:
        # What an earlier copy left takes the room that this one needs.
        for left in (unfinished, target):
            left.unlink(missing_ok=True)
        require_space(target.parent, source.stat().st_size, f"a copy of {source.name}")
        _copy(source, unfinished, progress)
        with unfinished.open("r+b") as stream:
            for offset, data in patches:
                stream.seek(offset)
                stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(target)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise MachineBroken(f"{target}: {error.strerror}; the copy of {source} was removed") from error


def key_prompt_patches(path: Path, firmware: Firmware) -> tuple[tuple[int, bytes], ...]:
    """What a copy without the key prompt has at which offsets.

    Raises:
        MachineConfigurationError: the ISO has no boot image for this firmware, or lacks the one without a prompt.
    """
    try:
        with path.open("rb") as stream:
            reader = UdfReader(stream)
            platform = UEFI if firmware is Firmware.UEFI else BIOS
            booting = [image for image in boot_images(stream) if image.platform == platform]
            if not booting:
                raise MachineConfigurationError(
                    f"{path}: it does not boot with {firmware.value}; set hardware.firmware of the profile"
                )
            if firmware is Firmware.BIOS:
                return _hidden_prompt(reader)
            without = reader.find(EFI_WITHOUT_PROMPT)
            if without is None or len(without.extents) != 1:
                raise MachineConfigurationError(
                    f"{path}: {EFI_WITHOUT_PROMPT} is not on it; give the ISO as Microsoft offers it"
                )
            sector = struct.pack("<I", without.extents[0].offset // SECTOR)
            return tuple((image.sector_offset, sector) for image in booting)
    except OSError as error:
        raise MachineConfigurationError(f"{path}: {error.strerror}; name a Windows ISO that can be read") from error
    except (NotAnIso, UdfError) as error:
        raise MachineConfigurationError(f"{path}: {error}; give the ISO as Microsoft offers it") from error


def _hidden_prompt(reader: UdfReader) -> tuple[tuple[int, bytes], ...]:
    """The directory's record of ``bootfix.bin`` under another name; nothing when it is not there."""
    entry = reader.find(BIOS_PROMPT)
    if entry is None or entry.identifier is None:
        return ()
    record = bytearray(reader.record(entry))
    old, new = encode_identifier(entry.name), encode_identifier(BIOS_PROMPT_RENAMED)
    if record.count(old) != 1:
        raise UdfError(f"the directory's record of {BIOS_PROMPT} is written in an unknown way")
    record[record.index(old) : record.index(old) + len(old)] = new
    # The CRC covers what follows the tag, as far as the tag says; the tag's sum covers the CRC.
    (crc_length,) = struct.unpack_from("<H", record, 10)
    struct.pack_into("<H", record, 8, crc16(bytes(record[16 : 16 + crc_length])))
    record[4] = tag_checksum(bytes(record))
    return ((entry.identifier.offset, bytes(record)),)


def _copy(source: Path, target: Path, progress: Progress) -> None:
    with source.open("rb") as reading, target.open("wb") as writing:
        total = os.fstat(reading.fileno()).st_size
        done = 0
        while done < total:
            copied = _copy_some(reading, writing, total - done)
            if not copied:
                raise OSError(errno.EIO, "the source became shorter while it was copied")
            done += copied
            progress(done, total)


def _copy_some(reading: BinaryIO, writing: BinaryIO, left: int) -> int:
    """Copy some bytes; file systems that can share blocks do."""
    try:
        return os.copy_file_range(reading.fileno(), writing.fileno(), min(left, 64 * _CHUNK))
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            raise
        return os.sendfile(writing.fileno(), reading.fileno(), None, min(left, _CHUNK))
