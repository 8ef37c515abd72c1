"""Partitions a disk as the answer file says, and formats it: GPT, FAT32, and ext4 where Windows has NTFS."""

from __future__ import annotations

import struct
import subprocess
import uuid
import zlib

from tests.standin.guest.answers import WrongAnswers

SECTOR = 512
_MIB = 2048
_ENTRIES, _ENTRY_SIZE = 128, 128
_TABLE_SECTORS = _ENTRIES * _ENTRY_SIZE // SECTOR
_TYPES = {
    # UEFI specification, table "Defined GPT Partition Entry"; Microsoft, "PARTITION_INFORMATION_GPT".
    "EFI": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "MSR": "e3c9e316-0b5c-4db8-817d-f92df00215ae",
    "Primary": "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7",
}


def place(partitions, sectors):
    """First and last sector of each partition, on whole MiB; raises WrongAnswers when they do not fit."""
    last_usable = sectors - _TABLE_SECTORS - 2
    start, places = _MIB, []
    for number, partition in enumerate(partitions, 1):
        if partition.kind not in _TYPES:
            raise WrongAnswers(f"a disk of this firmware has no partition of type {partition.kind!r}")
        if partition.size_mib is None and number < len(partitions):
            raise WrongAnswers(f"partition {number} takes the rest of the disk, and others follow it")
        end = last_usable // _MIB * _MIB if partition.size_mib is None else start + partition.size_mib * _MIB
        if end > last_usable:
            raise WrongAnswers(f"partition {number} does not fit on a disk of {sectors // _MIB} MiB")
        places.append((start, end - 1))
        start = end
    return places


def table(partitions, places, sectors):
    """What is written where, in bytes: the protective MBR, and both copies of the GPT."""
    entries = b"".join(
        struct.pack(
            "<16s16sQQQ72s",
            uuid.UUID(_TYPES[partition.kind]).bytes_le,
            uuid.uuid4().bytes_le,
            first,
            last,
            0,
            (partition.label or "").encode("utf-16-le"),
        )
        for partition, (first, last) in zip(partitions, places, strict=True)
    ).ljust(_ENTRIES * _ENTRY_SIZE, b"\0")
    identity = uuid.uuid4().bytes_le
    backup = sectors - 1 - _TABLE_SECTORS

    def header(mine, other, entries_at):
        def packed(checksum):
            return struct.pack(
                "<8sIIIIQQQQ16sQIII",
                b"EFI PART", 0x10000, 92, checksum, 0, mine, other, 2 + _TABLE_SECTORS, backup - 1, identity,
                entries_at, _ENTRIES, _ENTRY_SIZE, zlib.crc32(entries),
            )  # fmt: skip

        return packed(zlib.crc32(packed(0))).ljust(SECTOR, b"\0")

    protective = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(sectors - 1, 0xFFFFFFFF))
    return {
        0: bytes(446) + protective + bytes(48) + b"\x55\xaa",
        SECTOR: header(1, sectors - 1, 2),
        2 * SECTOR: entries,
        backup * SECTOR: entries,
        (sectors - 1) * SECTOR: header(sectors - 1, 1, backup),
    }


def make_file_system(device, partition):
    """Format one partition; nothing for one without a format."""
    match partition.format:
        case "FAT32":
            subprocess.run(
                ["mkfs.fat", "-F", "32", "-n", (partition.label or "").upper(), device], check=True, capture_output=True
            )
        case "NTFS":
            # Folders can be told to look names up without regard to case, which Windows does everywhere.
            options = ["-O", "casefold", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-J", "size=16"]
            command = ["mke2fs", "-q", "-F", "-t", "ext4", *options, "-L", partition.label or "", device]
            subprocess.run(command, check=True, capture_output=True)
        case None:
            pass
        case other:
            raise WrongAnswers(f"there is no file system {other!r}")
