"""Version resources are read as linkers write them, and hostile ones end in one error."""

from __future__ import annotations

import struct
import subprocess
import sys

import pefile
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.build import pe
from harness.build.version_resource import read_version
from harness.errors import ImageError
from tests.fixtures.resources import aligned, block, directory, fixed, string, tree, version_info, with_resources

GOOD = version_info(string("CompanyName", "Ünïcode GmbH"), string("FileVersion", "1.2.3.4"))


def image_with(minimal, data, **options):
    return pe.parse(with_resources(minimal.image.read_bytes(), lambda rva: tree(data, rva, **options)))


def test_numbers_and_texts_are_read(minimal):
    found = read_version(image_with(minimal, GOOD))

    assert (found.file_version, found.product_version) == ("1.2.3.4", "5.6.7.8")
    assert found.strings == {"CompanyName": "Ünïcode GmbH", "FileVersion": "1.2.3.4"}


def test_pefile_reads_the_same(minimal):
    """The resource of these tests is a resource to others as well."""
    with pefile.PE(data=image_with(minimal, GOOD).data) as parsed:
        (fixed_part,) = parsed.VS_FIXEDFILEINFO
        (table,) = (entry for info in parsed.FileInfo for entry in info if entry.Key == b"StringFileInfo")

    assert (fixed_part.FileVersionMS, fixed_part.ProductVersionLS) == (1 << 16 | 2, 7 << 16 | 8)
    assert table.StringTable[0].entries[b"CompanyName"] == "Ünïcode GmbH".encode()


def test_an_image_without_resources_has_no_version(minimal):
    assert read_version(pe.load(minimal.image)) is None


def test_other_resources_are_no_version(minimal):
    assert read_version(image_with(minimal, GOOD, kind=24)) is None


def test_a_version_without_texts_is_one(minimal):
    found = read_version(image_with(minimal, block("VS_VERSION_INFO", fixed())))

    assert (found.file_version, found.strings) == ("1.2.3.4", {})


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "truncated"),
        (GOOD[:5], "truncated"),
        (GOOD[:100], "has 260 bytes where 100 are left"),
        (block("VS_VERSION_INFO", fixed(), length=3), "has 3 bytes"),
        (block("SOMETHING_ELSE", fixed()), "does not begin with VS_VERSION_INFO"),
        (block("VS_VERSION_INFO", b"short"), "does not begin with VS_VERSION_INFO"),
        (block("VS_VERSION_INFO", fixed(signature=0)), "has signature 0x0"),
        (struct.pack("<HHH", 40, 0, 0) + b"A\0" * 17, "a key of the version resource is not terminated"),
        (version_info(*(string(f"n{i}", "") for i in range(300))), "more entries than any has"),
        (block("VS_VERSION_INFO", fixed(), aligned(block("StringFileInfo", length=0x8000))), "bytes where"),
    ],
)
def test_a_damaged_version_is_told(minimal, data, complaint):
    with pytest.raises(ImageError, match=complaint):
        read_version(image_with(minimal, data))


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda _: directory((16, 0x80001000)), "lies outside"),
        (lambda _: directory((16, 72)), "has no language below it"),
        (lambda _: directory((16, 0x80000000 | 24)) + directory((1, 72)), "has no language below it"),
        (
            lambda _: directory((16, 0x80000000 | 24)) + directory((1, 0x80000000 | 48)) + directory((9, 0x80000000)),
            "a directory where its data should be",
        ),
        (lambda _: struct.pack("<IIHHHH", 0, 0, 0, 0, 0xFFFF, 0xFFFF), "entries, more than any has"),
        (lambda rva: tree(GOOD, rva, size=0x20000), "more than any has"),
        (lambda rva: tree(GOOD, rva + 0x100000), "lies outside"),
        (lambda rva: tree(GOOD, -88), "bytes where"),
    ],
)
def test_a_hostile_resource_directory_is_told(minimal, build, complaint):
    with pytest.raises(ImageError, match=complaint):
        read_version(pe.parse(with_resources(minimal.image.read_bytes(), build)))


def test_a_directory_that_leads_to_itself_ends(minimal):
    """The depth of the tree is fixed, so a circle is followed three times and no more."""
    circle = directory((16, 0x80000000))

    with pytest.raises(ImageError):
        read_version(pe.parse(with_resources(minimal.image.read_bytes(), lambda _: circle)))


@given(data=st.data())
def test_a_mutated_resource_is_read_or_refused(minimal, data):
    content = bytearray(tree(GOOD, 0))
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=8)
    ):
        content[position] = value

    def build(rva):
        (where,) = struct.unpack_from("<I", content, 72)
        struct.pack_into("<I", content, 72, (where + rva) & 0xFFFFFFFF)
        return bytes(content)

    try:
        found = read_version(pe.parse(with_resources(minimal.image.read_bytes(), build)))
    except ImageError:
        return
    assert found is None or found.file_version.count(".") == 3


def test_a_resource_compiler_of_others_is_read(minimal, tmp_path):
    """llvm-rc is not in the wheel; zig's own resource compiler is."""
    source = tmp_path / "v.rc"
    source.write_text(
        "1 VERSIONINFO FILEVERSION 9,8,7,6 PRODUCTVERSION 5,4,3,2\n"
        'BEGIN BLOCK "StringFileInfo" BEGIN BLOCK "040904b0" BEGIN VALUE "ProductName", "Watcher" END END END\n'
    )
    subprocess.run(
        [sys.executable, "-m", "ziglang", "rc", "/:no-preprocess", "v.rc"],
        cwd=tmp_path, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    resource = (tmp_path / "v.res").read_bytes()
    # A .res file is a list of resources, the first empty, each behind a header that begins with both sizes.
    size, header = struct.unpack_from("<II", resource, 32)
    found = read_version(image_with(minimal, resource[32 + header : 32 + header + size]))

    assert (found.file_version, found.product_version) == ("9.8.7.6", "5.4.3.2")
    assert found.strings == {"ProductName": "Watcher"}
