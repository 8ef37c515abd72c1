"""Kits are found in every public layout, kept as an index alone, and refused with the one thing that is missing."""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
from pathlib import Path, PurePosixPath
from random import Random

import pytest

from harness.build.wdk.contents import Package
from harness.build.wdk.discovery import File
from harness.build.wdk.extraction import extract
from harness.build.wdk.registry import KitRegistry
from harness.build.wdk.selection import choose_kit
from harness.errors import ConfigurationError, InputError
from tests.fixtures.kits import BROKEN, NEWER, OLDER, burn, copy_headers, make_packages, pack
from vm.windows.images.udf import UdfReader


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def complaint(registry: KitRegistry, *paths: Path, unpack: bool = False) -> str:
    with pytest.raises((ConfigurationError, InputError)) as caught:
        registry.add(paths, unpack=unpack)
    assert not list(registry.folder.parent.rglob("*.json"))
    return str(caught.value)


def test_an_installed_kit_is_found_with_every_version_and_the_broken_one_says_what_it_lacks(registry, installed):
    kits = {kit.version: kit for kit in registry.add([installed])}

    assert list(kits) == [BROKEN, OLDER, NEWER]
    assert [kit.usable for kit in kits.values()] == [False, True, True]
    assert kits[BROKEN].problems == (
        f"Include/{BROKEN}/km lacks ntifs.h (absent or empty): unpacked in part; unpack the package again",
    )
    assert kits[NEWER].include == tuple(installed / "Include" / NEWER / part for part in ("km", "km/crt", "shared"))
    assert kits[NEWER].libraries == {"x64": (installed / "Lib" / NEWER / "km" / "x64",)}


def test_packages_make_one_kit_and_libraries_without_a_version_belong_to_the_headers_beside_them(registry, packages):
    (kit,) = registry.add([packages])

    assert kit.version == NEWER
    assert kit.usable
    assert kit.libraries == {"x64": (packages / "Microsoft.Windows.WDK.x64" / "c" / "km" / "x64",)}
    assert kit.library("NTOSKRNL.lib", "x64").name == "NtosKrnl.lib"
    assert kit.library("ntoskrnl.lib", "arm64") is None


@pytest.mark.parametrize("packed", [False, True])
def test_libraries_without_a_version_belong_to_the_tools_beside_them(registry, libraries, tmp_path, packed):
    for version in (OLDER, NEWER):
        copy_headers(tmp_path / "headers" / "c", version, "km", "shared")
        package = tmp_path / f"libraries-{version}"
        shutil.copytree(libraries, package / "c" / "km" / "x64")
        tool = package / "c" / "bin" / version / "x64" / "tracewpp.exe"
        tool.parent.mkdir(parents=True)
        tool.write_bytes(b"MZ")
    named = [tmp_path / "headers", *(tmp_path / f"libraries-{version}" for version in (OLDER, NEWER))]
    if packed:
        named = [pack(package, tmp_path / f"{package.name}.nupkg") for package in named]

    kits = registry.add(named, unpack=True)

    assert [(kit.version, kit.usable) for kit in kits] == [(OLDER, True), (NEWER, True)]
    if not packed:
        assert [kit.libraries["x64"] for kit in kits] == [
            (tmp_path / f"libraries-{version}" / "c" / "km" / "x64",) for version in (OLDER, NEWER)
        ]


def test_packages_named_one_by_one_make_the_same_kit_as_their_folder(registry, packages, tmp_path):
    (together,) = registry.add([packages])
    (apart,) = KitRegistry(tmp_path / "other", tmp_path / "cache").add(sorted(packages.iterdir()))

    assert together.fingerprint == apart.fingerprint
    assert together.include == apart.include


def test_adding_a_kit_copies_nothing(registry, installed):
    before = {path: path.stat().st_mtime_ns for path in files_below(installed)}

    registry.add([installed])

    assert {path: path.stat().st_mtime_ns for path in files_below(installed)} == before
    assert not registry.cache.exists()
    assert {path.suffix for path in files_below(registry.folder)} == {".json", ".yaml"}


@pytest.mark.parametrize("source", ["archives", "disc"])
def test_an_archive_is_unpacked_only_on_request_and_the_reason_is_told(registry, source, request):
    path = request.getfixturevalue(source)

    said = complaint(registry, path)

    assert str(path) in said
    assert "a compiler cannot read inside an archive" in said
    assert "--extract" in said
    assert not registry.cache.exists()


@pytest.mark.parametrize("source", ["archives", "disc"])
def test_an_unpacked_archive_is_the_kit_that_was_packed(registry, source, request):
    kits = registry.add([request.getfixturevalue(source)], unpack=True)

    kit = kits[-1]
    assert kit.version == NEWER
    assert kit.usable
    assert kit.extracted == registry.cache / NEWER
    original = (request.getfixturevalue("installed") / "Include" / NEWER / "km" / "NtIfs.h").read_bytes()
    assert (kit.include[0] / "NtIfs.h").read_bytes() == original
    # Only what a driver's compiler and linker read: no metadata of the package, no user mode.
    assert {path.suffix.lower() for path in files_below(kit.extracted)} == {".h", ".lib"}
    assert not any("um" in path.parts for path in files_below(kit.extracted))


def test_removing_a_kit_deletes_what_was_unpacked_and_nothing_else(registry, archives):
    (kit,) = registry.add([archives], unpack=True)
    before = files_below(archives)

    registry.remove(NEWER)

    assert registry.kits() == []
    assert not kit.extracted.exists()
    assert files_below(archives) == before


def test_the_newest_usable_kit_is_taken_unless_one_is_named(registry, installed):
    registry.add([installed])

    assert choose_kit(registry, None, "x64").version == NEWER
    assert choose_kit(registry, "10.0.22621", "x64").version == OLDER
    assert choose_kit(registry, NEWER, "x64").version == NEWER


@pytest.mark.parametrize(
    ("wanted", "architecture", "said"),
    [
        ("10.0.19041", "x64", "kit 10.0.19041.0 cannot be used: Include/10.0.19041.0/km lacks ntifs.h"),
        ("10.0.1", "x64", "no version of a kit; write it as 10.0.26100"),
        ("10.0.99999", "x64", f"there is no such kit; known: {BROKEN}, {OLDER}, {NEWER}"),
        (
            None,
            "arm64",
            f"kit {NEWER} has libraries for x64 and not for arm64: add the package Microsoft.Windows.WDK.arm64",
        ),
    ],
)
def test_a_kit_that_cannot_be_had_is_named_with_what_to_do(registry, installed, wanted, architecture, said):
    registry.add([installed])

    with pytest.raises(ConfigurationError) as caught:
        choose_kit(registry, wanted, architecture)

    assert said in str(caught.value)


def test_without_a_kit_the_command_that_adds_one_is_told(registry):
    with pytest.raises(ConfigurationError, match="no Windows kit is known; add one with `ntproof wdk add PATH`"):
        choose_kit(registry, None, "x64")


def test_a_kit_that_is_gone_is_named(registry, installed, tmp_path):
    mount = tmp_path / "mount"
    shutil.copytree(installed, mount)
    registry.add([mount])
    shutil.rmtree(mount)

    with pytest.raises(ConfigurationError, match=r"mount/Include/.*/km is gone; bring it back .mount the image again"):
        choose_kit(registry, None, "x64")


def test_a_kit_that_changed_since_it_was_added_is_not_used(registry, installed, tmp_path):
    copy = tmp_path / "kit"
    shutil.copytree(installed, copy)
    registry.add([copy])
    choose_kit(registry, None, "x64")
    header = copy / "Include" / NEWER / "shared" / "sal.h"
    header.write_text(header.read_text() + "\n")

    with pytest.raises(ConfigurationError, match=rf"kit {NEWER}: its files changed since it was added; .*{copy}"):
        choose_kit(registry, None, "x64")


def test_a_folder_without_a_kit_says_what_one_looks_like(registry, tmp_path):
    (tmp_path / "empty").mkdir()

    assert "there is no Windows kit: no folder Include/VERSION/km" in complaint(registry, tmp_path / "empty")


def test_a_path_that_is_not_there_is_named(registry, tmp_path):
    assert f"{tmp_path / 'nowhere'}: no such file or folder" in complaint(registry, tmp_path / "nowhere")


def test_a_file_of_another_kind_is_refused(registry, tmp_path):
    other = tmp_path / "kit.zip"
    other.write_bytes(b"PK")

    assert f"{other}: neither a folder nor a .nupkg nor an .iso" in complaint(registry, other)


def test_a_kit_without_kernel_headers_names_the_package_that_has_them(registry, tmp_path):
    copy_headers(tmp_path / "c", NEWER, "shared")

    said = complaint(registry, tmp_path)

    assert f"there are no headers Include/{NEWER}/km: add the package Microsoft.Windows.WDK.x64" in said
    assert "there are no kernel-mode libraries (km/x64)" in said


def test_a_kit_for_another_architecture_says_so(registry, libraries, tmp_path):
    make_packages(tmp_path, libraries, architecture="arm")

    assert "its kernel-mode libraries are for arm only" in complaint(registry, tmp_path)


def test_a_package_that_was_unpacked_in_part_names_what_is_missing(registry, packages, tmp_path):
    shutil.copytree(packages, tmp_path / "half")
    library = next((tmp_path / "half").rglob("BufferOverflow*.lib"))
    library.write_bytes(b"")

    said = complaint(registry, tmp_path / "half")

    assert "the libraries km/x64 lack bufferoverflowfastfailk.lib (absent or empty): unpack the package again" in said


@pytest.mark.parametrize("damage", ["cut", "garbage", "flipped"])
def test_a_damaged_package_is_named(registry, archives, tmp_path, damage):
    folder = tmp_path / "archives"
    shutil.copytree(archives, folder)
    package = folder / "Microsoft.Windows.WDK.x64.nupkg"
    content = bytearray(package.read_bytes())
    if damage == "flipped":
        with zipfile.ZipFile(package) as archive:
            entry = next(entry for entry in archive.infolist() if entry.filename.endswith("NtIfs.h"))
        content[entry.header_offset + 30 + len(entry.filename) + 20] ^= 0xFF
    package.write_bytes({"cut": content[: len(content) // 2], "garbage": b"no archive", "flipped": content}[damage])

    said = complaint(registry, folder, unpack=True)

    assert f"{package}: damaged package: " in said
    assert said.endswith("download it again")
    assert not registry.cache.exists() or files_below(registry.cache) == set()


@pytest.mark.parametrize(
    "name",
    [
        "../../evil.h",
        "/etc/evil.h",
        "c\\..\\evil.h",
        "C:/evil.h",
        "c/Include/%2E%2E/%2E%2E/%2E%2E/evil.h",
        "c/Include/10.0.26100.0/km/evil%00.h",
    ],
)
def test_a_name_that_leads_out_of_a_package_condemns_it(registry, tmp_path, name):
    package = tmp_path / "hostile.nupkg"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("c/Include/10.0.26100.0/km/wdm.h", "")
        archive.writestr(name, "")

    said = complaint(registry, package, unpack=True)

    assert f"{package}: the name" in said
    assert "leads out of the archive; do not use this file" in said
    assert not (tmp_path / "evil.h").exists()


def test_of_two_entries_with_one_name_the_one_is_read_whose_size_was_told(tmp_path):
    package = tmp_path / "twice.nupkg"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("km/wdm.h", "long as a bomb")
        archive.writestr("km/./wdm.h", "short")
    contents = Package(package)
    name = PurePosixPath("km/wdm.h")

    assert dict(contents.read([name])) == {name: b"short"}
    assert contents.sizes[name] == len(b"short")


def test_what_is_larger_than_any_kit_is_not_unpacked(archives, tmp_path):
    package = Package(archives / "Microsoft.Windows.WDK.x64.nupkg")
    files = [File(package, name, 1 << 30) for name in list(package.sizes)[:5]]

    with pytest.raises(
        InputError, match=r"WDK\.x64\.nupkg: 5\.4 GB of headers and libraries are more than any kit has"
    ):
        extract(files, tmp_path / "cache" / "kit")

    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["sal.h", "Inlined.inl"])
def test_a_header_that_changed_and_kept_its_size_makes_another_kit(registry, installed, tmp_path, name):
    copy = tmp_path / "kit"
    shutil.copytree(installed, copy)
    (copy / "Include" / NEWER / "shared" / "Inlined.inl").write_text("/* inlined */\n")
    before = {kit.version: kit.fingerprint for kit in registry.add([copy])}
    header = copy / "Include" / NEWER / "shared" / name
    header.write_text(header.read_text().swapcase())

    after = {kit.version: kit.fingerprint for kit in registry.add([copy])}

    assert after[NEWER] != before[NEWER]
    assert after[OLDER] == before[OLDER]


def test_a_disc_image_that_is_none_is_named(registry, tmp_path):
    image = tmp_path / "ewdk.iso"
    image.write_bytes(bytes(1 << 20))

    assert f"{image}: not a disc image that can be read" in complaint(registry, image)


def test_a_disc_image_that_is_cut_off_is_named(registry, tmp_path, packages):
    image = burn(packages, tmp_path / "ewdk.iso")
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])

    said = complaint(registry, image, unpack=True)

    assert f"{image}: not a disc image that can be read" in said


def test_a_disc_image_whose_folder_holds_itself_is_refused(registry, tmp_path, packages):
    image = burn(packages, tmp_path / "ewdk.iso")
    with image.open("r+b") as stream:
        reader = UdfReader(stream)
        outer = reader.find("Microsoft.Windows.WDK.x64")
        inner = reader.find("Microsoft.Windows.WDK.x64/c")
        # Where the folder's file entry lies (ECMA-167 4/14.4: a long_ad at 20, its block number at 24).
        block = reader.record(outer)[24:28]
        stream.seek(inner.identifier.offset + 24)
        stream.write(block)

    said = complaint(registry, image, unpack=True)

    assert f"{image}: the folder Microsoft.Windows.WDK.x64/c is another one's as well; do not use this file" in said


def test_a_damaged_index_is_named(registry, installed):
    registry.add([installed])
    index = registry.folder / f"{NEWER}.json"
    document = json.loads(index.read_text())
    for damaged in (
        "{",
        "[]",
        json.dumps(document | {"include": 5}),
        json.dumps(document | {"more": 1}),
        json.dumps(document | {"version": "newest"}),
    ):
        index.write_text(damaged)
        with pytest.raises(InputError, match=f"{NEWER}.json: .*add the kit again"):
            registry.kits()


def test_an_overlay_that_was_deleted_is_named(registry, installed):
    kit = registry.add([installed])[-1]
    registry.overlay(kit).unlink()

    with pytest.raises(
        ConfigurationError, match=rf"{NEWER}\.yaml: the overlay of kit {NEWER} is gone; add the kit again"
    ):
        registry.overlay(kit)


def test_a_cache_that_cannot_be_written_names_the_variable_to_set(archives, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")

    with pytest.raises(ConfigurationError, match="set XDG_CACHE_HOME to a folder with room"):
        KitRegistry(tmp_path / "config", tmp_path / "cache").add([archives], unpack=True)


def test_an_index_that_cannot_be_written_names_the_variable_to_set(installed, tmp_path):
    (tmp_path / "config").write_text("a file where a folder should be")

    with pytest.raises(ConfigurationError, match="set XDG_CONFIG_HOME to a folder that you may write to"):
        KitRegistry(tmp_path / "config", tmp_path / "cache").add([installed])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("source", ["archives", "disc"])
def test_whatever_is_damaged_ends_in_one_error_of_ours_or_in_a_kit(tmp_path, source, seed, request):
    original = request.getfixturevalue(source)
    whole = original if original.is_file() else original / "Microsoft.Windows.WDK.x64.nupkg"
    damaged = tmp_path / whole.name
    content = whole.read_bytes()
    random = Random(seed)
    for number in range(20):
        changed = bytearray(content)
        # Where names, sizes and places stand: the beginning of a disc image, the end of a package.
        low, high = (0x8000, 0xC0000) if source == "disc" else (len(content) - 2500, len(content))
        for _ in range(random.choice((1, 2, 5, 20))):
            changed[random.randrange(low, min(high, len(content)))] = random.choice((0, 0xFF, random.randrange(256)))
        damaged.write_bytes(changed)
        kits = KitRegistry(tmp_path / f"config{number}", tmp_path / "cache")
        with contextlib.suppress(ConfigurationError, InputError):
            assert kits.add([damaged, *original.glob("*SDK*")], unpack=True)


def test_a_file_without_a_name_condemns_a_package(registry, tmp_path):
    package = tmp_path / "nameless.nupkg"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("x", "")
    content = bytearray(package.read_bytes())
    central, end = content.rindex(b"PK\x01\x02"), content.rindex(b"PK\x05\x06")
    content[end + 12] -= 1  # size of the central directory
    content[central + 28] = 0  # length of the name in its only entry
    del content[central + 46]
    package.write_bytes(content)

    assert f"{package}: damaged package" in complaint(registry, package)


def test_packing_escapes_blanks_as_nuget_does(registry, packages, tmp_path):
    package = tmp_path / "with blank"
    shutil.copytree(packages / "Microsoft.Windows.WDK.x64", package / "some folder")
    shutil.copytree(packages / "Microsoft.Windows.SDK.CPP", package / "other folder")

    (kit,) = registry.add([pack(package, tmp_path / "kit.nupkg")], unpack=True)

    assert "some folder" in kit.include[0].parts
