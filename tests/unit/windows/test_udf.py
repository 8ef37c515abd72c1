"""Tests of the UDF reader: what is unusual is read or refused by its name, never guessed."""

from __future__ import annotations

import io
import struct

import pytest

from tests.fixtures.windows_media import Media, write_iso
from vm.windows.images.udf import SECTOR, Extent, UdfError, UdfReader, tag_checksum


@pytest.fixture
def image(tmp_path):
    return bytearray(write_iso(tmp_path / "windows.iso", Media.windows()).read_bytes())


def reader(image):
    return UdfReader(io.BytesIO(bytes(image)))


def descriptors(image, wanted):
    """Offsets of intact descriptors with a tag."""
    for offset in range(256 * SECTOR, len(image), SECTOR):
        tag = image[offset : offset + 16]
        if struct.unpack_from("<H", tag)[0] == wanted and tag_checksum(bytes(tag)) == tag[4] and any(tag):
            yield offset


def volume(image, tag):
    """Offset of a descriptor of the main volume descriptor sequence."""
    length, start = struct.unpack_from("<II", image, 256 * SECTOR + 16)
    for sector in range(start, start + length // SECTOR):
        if struct.unpack_from("<H", image, sector * SECTOR)[0] == tag:
            return sector * SECTOR
    raise AssertionError(tag)


def retag(image, offset, tag):
    struct.pack_into("<H", image, offset, tag)
    image[offset + 4] = tag_checksum(bytes(image[offset : offset + 16]))


def test_case_does_not_matter_and_a_file_is_no_folder(image):
    found = reader(image)

    assert found.find("EFI/Microsoft/BOOT/efisys.bin").size == 8192
    assert found.find("setup.exe/x") is None
    assert found.find("none") is None
    with pytest.raises(UdfError, match=r"'setup.exe' is no folder"):
        list(found.entries(found.find("setup.exe")))


def test_a_part_of_a_file_may_begin_and_end_anywhere(image):
    found = reader(image)
    entry = found.find("boot/bootfix.bin")
    whole = found.read(entry)

    for start, length in ((0, 5), (3, 4), (30, 100), (100, 5)):
        assert found.read(entry, start=start, length=length) == whole[start : start + length]


def test_a_file_in_several_extents_is_joined(image):
    found = reader(image)
    entry = found.find("boot/etfsboot.com")
    (extent,) = entry.extents
    halves = (Extent(extent.offset, 2048), Extent(extent.offset + 2048, 2048))
    split = type(entry)(entry.name, entry.is_folder, entry.size, halves)

    assert found.read(split) == found.read(entry)
    assert found.read(split, start=2000, length=100) == found.read(entry)[2000:2100]


def test_the_root_has_no_record(image):
    found = reader(image)

    with pytest.raises(UdfError, match="the root folder has no record"):
        found.record(found.root)


def file_entry(image, path):
    """Offset of the file entry of a path."""
    found = reader(image)
    wanted = found.find(path).extents[0].offset
    for offset in descriptors(image, 261):
        length = struct.unpack_from("<I", image, offset + 168)[0]
        block = struct.unpack_from("<I", image, offset + 176 + length + 4)[0]
        if found._partition_start + block * SECTOR == wanted:
            return offset
    raise AssertionError(path)


def spoil_partition(image):
    retag(image, volume(image, 5), 99)


def spoil_maps(image):
    image[volume(image, 6) + 440] = 2


def spoil_file_set(image):
    found = reader(image)
    retag(image, found._partition_start, 99)


def spoil_root(image):
    block = struct.unpack_from("<I", image, reader(image)._partition_start + 404)[0]
    retag(image, reader(image)._partition_start + block * SECTOR, 99)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_partition, "the volume descriptors are incomplete"),
        (spoil_maps, "not the one plain partition"),
        (spoil_file_set, "the file set descriptor is missing"),
        (spoil_root, "the file entry of 'the root folder' is damaged"),
        (lambda image: image.__delitem__(slice(288 * SECTOR, None)), "cut off or damaged"),
    ],
)
def test_a_damaged_volume_is_refused_by_what_is_wrong(image, spoil, message):
    spoil(image)

    with pytest.raises(UdfError, match=message):
        boot_image(image)


def boot_image(image):
    found = reader(image)
    return found.read(found.find("efi/microsoft/boot/efisys.bin"))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (34, 2, "extended allocation descriptors"),
        (172, 4000, "the file entry of 'etfsboot.com' is damaged"),
    ],
)
def test_a_damaged_file_entry_is_refused_by_what_is_wrong(image, place, value, message):
    struct.pack_into("<H", image, file_entry(image, "boot/etfsboot.com") + place, value)

    with pytest.raises(UdfError, match=message):
        reader(image).find("boot/etfsboot.com")


def test_descriptors_that_continue_elsewhere_are_refused(image):
    offset = file_entry(image, "boot/etfsboot.com")
    attributes = struct.unpack_from("<I", image, offset + 168)[0]
    struct.pack_into("<I", image, offset + 176 + attributes, 3 << 30 | 2048)

    with pytest.raises(UdfError, match="continue elsewhere"):
        reader(image).find("boot/etfsboot.com")


def test_a_small_file_inside_its_entry_is_read(image):
    """oscdimg keeps none there, but the standard allows it (ECMA-167 4/14.6.8)."""
    offset = file_entry(image, "boot/bootfix.bin")
    attributes = struct.unpack_from("<I", image, offset + 168)[0]
    struct.pack_into("<H", image, offset + 34, 3)
    struct.pack_into("<I", image, offset + 172, 5)
    struct.pack_into("<Q", image, offset + 56, 5)
    image[offset + 176 + attributes : offset + 181 + attributes] = b"hello"

    found = reader(image)
    assert found.read(found.find("boot/bootfix.bin")) == b"hello"


def test_a_damaged_folder_is_refused_by_its_name(image):
    found = reader(image)
    folder = found.find("boot").extents[0].offset
    image[folder] ^= 0xFF

    with pytest.raises(UdfError, match="the folder 'boot' is damaged"):
        list(reader(image).entries(reader(image).find("boot")))
