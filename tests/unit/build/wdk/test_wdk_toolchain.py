"""Drivers are built with a kit as Windows loads them, the same bytes from anywhere, and refused like elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from harness.build import DriverSources, build_driver, find_driver, pe
from harness.build.driver_build import build_unsigned
from harness.build.image_checks import check_image, check_reproducible
from harness.build.layout import driver_source_root
from harness.build.llvm_mingw import LlvmMingw
from harness.build.report import image_findings
from harness.build.signing.generated import ensure_identity
from harness.build.wdk import Wdk
from harness.build.wdk.cookie import require_writable_cookie
from harness.build.wdk.registry import KitRegistry
from harness.errors import BuildError, ConfigurationError
from tests.fixtures.built_drivers import DESCRIPTION, signed
from tests.fixtures.kits import NEWER, OLDER, make_installed_kit, make_libraries
from vm.emulated.machine import EmulatedMachine
from vm.errors import MachineCrashed

GUARD_CF = 0x4000  # IMAGE_DLLCHARACTERISTICS_GUARD_CF, winnt.h
FAST_FAIL_GS_COOKIE_INIT = 6  # winnt.h
KERNEL_SECURITY_CHECK_FAILURE = 0x139

ENTRY = """\
#include <ntproof_compat.h>
DRIVER_INITIALIZE DriverEntry;
NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    UNREFERENCED_PARAMETER(DriverObject);
    UNREFERENCED_PARAMETER(RegistryPath);
    BODY
}
"""


@pytest.fixture(scope="module")
def build_root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="module")
def procnotify(wdk, build_root):
    return build_driver("procnotify", toolchain=wdk, build_root=build_root)


def one_file_driver(root: Path, body: str) -> DriverSources:
    root.mkdir(exist_ok=True)
    (root / "entry.c").write_text(ENTRY.replace("BODY", body))
    shutil.copytree(driver_source_root() / "compat", root / "compat")
    return DriverSources("single", root, ("entry.c",), ("compat",))


def with_read_only_cookie(tmp_path: Path) -> Wdk:
    """A kit whose cookie is placed as lld-link places some kits' own."""
    libraries = make_libraries(tmp_path / "libraries", cookie_section=".rdata", writable=False)
    kits = KitRegistry(tmp_path / "config", tmp_path / "cache")
    (kit,) = kits.add([make_installed_kit(tmp_path / "kit", libraries)])
    return Wdk(kit, kits.overlay(kit))


class KitsOwnCookie(Wdk):
    """The toolchain without the object that keeps the cookie writable."""

    def _cookie_object(self, driver, directory):
        source = directory / "nothing.c"
        source.write_text("")
        options = ["clang", "--driver-mode=cl", "--target=x86_64-pc-windows-msvc", "/Zl", "/c", "/Focookie.obj"]
        assert self.run([*options, "--", source.name], directory)[0] == 0
        source.unlink()
        return "cookie.obj"


@pytest.mark.parametrize("driver", ["procnotify", "companion", "mission"])
def test_every_driver_builds_and_nothing_is_wrong_with_its_image(wdk, build_root, driver):
    built = build_driver(driver, toolchain=wdk, build_root=build_root)

    assert check_image(built.image) == []
    image = pe.load(built.image)
    assert image.dll_characteristics & pe.DLLCHARACTERISTICS_FORCE_INTEGRITY
    assert image.pdb_references() == [f"{driver}.pdb"]
    assert built.pdb.stat().st_size > 0
    assert any(section.name == ".debug_info" for section in pe.load(built.debug_image).sections)


def test_the_kits_headers_are_used_and_none_of_the_other_toolchain(wdk, build_root):
    # Not declared by mingw-w64, and inline there: what is only in the kit's headers compiles.
    imports = {
        imported.name
        for imported in pe.load(build_driver("procnotify", toolchain=wdk, build_root=build_root).image).imports()
    }

    assert {"KeAcquireSpinLockRaiseToDpc", "PsGetProcessExitStatus"} <= imports
    assert "KeQuerySystemTime" not in imports


def test_the_compat_header_collapses_to_nothing(wdk, tmp_path):
    source = tmp_path / "compat.c"
    source.write_text("#include <ntproof_compat.h>\n")
    driver = DriverSources("compat", driver_source_root(), ("procnotify/entry.c",), ("compat",))

    status, output = wdk.run([*wdk.compile_command(driver), "/EP", "--", str(source)], tmp_path)
    (tmp_path / "plain.c").write_text("#include <ntifs.h>\n")
    _, plain = wdk.run([*wdk.compile_command(driver), "/EP", "--", str(tmp_path / "plain.c")], tmp_path)

    assert status == 0, output
    assert output.split() == plain.split()


def test_images_of_two_trees_are_the_same_bytes(wdk):
    assert check_reproducible(find_driver("procnotify"), wdk) == []


def test_where_the_kit_lies_does_not_matter_for_the_bytes(wdk, installed, tmp_path):
    moved = tmp_path / "a kit elsewhere, in a longer folder"
    shutil.copytree(installed, moved)
    kits = KitRegistry(tmp_path / "config", tmp_path / "cache")
    kit = next(kit for kit in kits.add([moved]) if kit.version == NEWER)
    driver = find_driver("procnotify")

    here = build_unsigned(driver, wdk, tmp_path / "here")
    there = build_unsigned(driver, Wdk(kit, kits.overlay(kit)), tmp_path / "there")

    for one, other in ((here.image, there.image), (here.twin, there.twin), (here.pdb, there.pdb)):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("source", ["packages", "archives", "disc"])
def test_every_form_of_the_kit_gives_the_same_bytes(wdk, registry, source, request, tmp_path):
    kit = registry.add([request.getfixturevalue(source)], unpack=True)[-1]
    driver = find_driver("procnotify")

    first = build_unsigned(driver, wdk, tmp_path / "installed")
    second = build_unsigned(driver, Wdk(kit, registry.overlay(kit)), tmp_path / "other")

    assert kit.version == wdk.kit.version
    for one, other in ((first.image, second.image), (first.pdb, second.pdb)):
        assert one.read_bytes() == other.read_bytes()


def test_no_output_holds_a_path_of_this_machine(procnotify, build_root, wdk):
    for path in (procnotify.image, procnotify.debug_image, procnotify.pdb):
        content = path.read_bytes()
        for secret in (str(driver_source_root()), str(build_root), str(wdk.kit.include[0]), str(wdk.programs.headers)):
            assert secret.encode() not in content, (path.name, secret)


def test_two_versions_side_by_side_do_not_share_objects(installed, build_root, registry):
    kits = {kit.version: kit for kit in registry.add([installed])}
    chains = [Wdk(kits[version], registry.overlay(kits[version])) for version in (OLDER, NEWER)]

    assert chains[0].identity != chains[1].identity
    assert [chain.name for chain in chains] == [f"wdk {OLDER}", f"wdk {NEWER}"]


def test_control_flow_guard_is_there_on_request_only(wdk, build_root):
    guarded = build_driver("procnotify", toolchain=replace(wdk, control_flow_guard=True), build_root=build_root)
    plain = build_driver("procnotify", toolchain=wdk, build_root=build_root)

    assert pe.load(guarded.image).dll_characteristics & GUARD_CF
    assert not pe.load(plain.image).dll_characteristics & GUARD_CF
    assert check_image(guarded.image) == []
    machine = EmulatedMachine()
    machine.install_driver("procnotify", guarded.image)
    machine.start_driver("procnotify")


def test_a_driver_that_overruns_its_stack_is_stopped_by_the_cookie(wdk, tmp_path, build_root):
    body = (
        "volatile CHAR text[16]; ULONG i; "
        "for (i = 0; i < RegistryPath->Length; i++) text[i] = 'A'; "
        "return text[0] == 'B' ? STATUS_UNSUCCESSFUL : STATUS_SUCCESS;"
    )
    driver = one_file_driver(tmp_path / "tree", body)
    built = build_driver(driver, toolchain=wdk, build_root=build_root)

    crash = crash_of(built.image)

    assert (crash.code, crash.parameters[0]) == (KERNEL_SECURITY_CHECK_FAILURE, 2)


def crash_of(image: Path):
    machine = EmulatedMachine()
    machine.install_driver("single", image)
    with pytest.raises(MachineCrashed) as caught:
        machine.start_driver("single")
    return caught.value.report


def test_a_cookie_in_a_read_only_section_stops_the_system_when_the_driver_is_loaded(tmp_path, build_root):
    chain = with_read_only_cookie(tmp_path)
    driver = one_file_driver(tmp_path / "tree", "return STATUS_SUCCESS;")
    trapped = KitsOwnCookie(chain.kit, chain.overlay)

    with pytest.raises(BuildError, match=r"the /GS cookie lies in the section \.rdata, which is not writable"):
        build_driver(driver, toolchain=trapped, build_root=tmp_path / "build")

    objects = tmp_path / "objects"
    objects.mkdir()
    trapped.compile(driver, "entry.c", objects / "entry.obj")
    image = link_without_check(trapped, driver, objects / "entry.obj", tmp_path / "linked")
    crash = crash_of(image)
    assert (crash.code, crash.parameters[0]) == (KERNEL_SECURITY_CHECK_FAILURE, FAST_FAIL_GS_COOKIE_INIT)


def link_without_check(chain: Wdk, driver: DriverSources, compiled: Path, directory: Path) -> Path:
    directory.mkdir()
    libraries = [str(chain.kit.library(name, "x64")) for name in ("ntoskrnl.lib", "bufferoverflowfastfailk.lib")]
    image = directory / "single.sys"
    arguments = ["lld-link", *chain.link_options(driver), f"/out:{image}", str(compiled), *libraries]
    status, output = chain.run(arguments, directory)
    assert status == 0, output
    image.write_bytes(signed(image.read_bytes(), ensure_identity(directory / "signing")))
    return image


def test_the_same_kit_gives_a_driver_that_loads(tmp_path, build_root):
    chain = with_read_only_cookie(tmp_path)
    driver = one_file_driver(tmp_path / "tree", "return STATUS_SUCCESS;")

    built = build_driver(driver, toolchain=chain, build_root=tmp_path / "build")

    image = pe.load(built.image)
    assert image.section_at(image.security_cookie_rva()).name == ".data"
    machine = EmulatedMachine()
    machine.install_driver("single", built.image)
    machine.start_driver("single")


def test_an_image_whose_load_configuration_names_no_cookie_is_refused(tmp_path):
    image = build_unsigned(find_driver(f"{DESCRIPTION}:minimal"), LlvmMingw(), tmp_path / "out").image

    with pytest.raises(BuildError, match="its load configuration names no /GS cookie"):
        require_writable_cookie(image, NEWER)


def test_arm64_is_a_build_target(libraries, tmp_path):
    root = make_installed_kit(tmp_path / "kit", libraries)
    shutil.copytree(make_libraries(tmp_path / "arm", "arm64"), root / "Lib" / NEWER / "km" / "arm64")
    kits = KitRegistry(tmp_path / "config", tmp_path / "cache")
    (kit,) = kits.add([root])

    built = build_driver("procnotify", toolchain=Wdk(kit, kits.overlay(kit), "arm64"), build_root=tmp_path / "build")

    image = pe.load(built.image, pe.ALL_64_BIT)
    assert image.machine == pe.MACHINE_ARM64
    assert image.section_at(image.security_cookie_rva()).writable
    assert image_findings(built.image) == []
    assert built.debug_image is None
    assert built.pdb.stat().st_size > 0


def test_a_clang_on_the_path_builds_the_same_driver(wdk, tmp_path, monkeypatch):
    # The wheel's own compiler under the names that Debian's packages use.
    zig = wdk.programs.commands["clang"][0]
    for name, program in (("clang-99", "clang"), ("lld-link-99", "lld-link")):
        script = tmp_path / name
        script.write_text(
            f'#!/bin/sh\nif [ "$1" = -print-resource-dir ]; then echo {wdk.programs.headers.parent}; exit; fi\n'
            f'exec {zig} {program} "$@"\n'
        )
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    driver = find_driver("procnotify")

    with_wheel = build_unsigned(driver, wdk, tmp_path / "wheel")
    with_path = build_unsigned(driver, replace(wdk, clang="clang-99"), tmp_path / "path")

    assert with_path.image.read_bytes() == with_wheel.image.read_bytes()
    assert replace(wdk, clang="clang-99").identity != wdk.identity


@pytest.mark.parametrize(
    ("clang", "said"),
    [
        ("clang-98", r"clang = 'clang-98': clang-98 is not on PATH; apt-get install clang-98"),
        ("sh", r"clang = 'sh': not the name of a clang; write it as clang-19"),
    ],
)
def test_a_clang_that_is_not_there_is_named_with_its_package(wdk, clang, said):
    with pytest.raises(ConfigurationError, match=said):
        _ = replace(wdk, clang=clang).identity


def test_a_source_that_does_not_compile_is_told_with_its_place(wdk, tmp_path, build_root):
    driver = one_file_driver(tmp_path / "tree", "return STATUS_NOT_THERE;")

    with pytest.raises(BuildError) as caught:
        build_driver(driver, toolchain=wdk, build_root=build_root)

    assert str(caught.value).startswith("driver/entry.c:7:12: error: use of undeclared identifier 'STATUS_NOT_THERE'")


def test_a_warning_is_an_error(wdk, tmp_path, build_root):
    driver = one_file_driver(tmp_path / "tree", "ULONG unused = 0; return STATUS_SUCCESS;")

    with pytest.raises(BuildError, match="unused variable 'unused'"):
        build_driver(driver, toolchain=wdk, build_root=build_root)


def test_an_error_in_a_header_of_the_kit_names_the_header_below_wdk(wdk, tmp_path, build_root):
    driver = one_file_driver(
        tmp_path / "tree", "InitializeListHead(DriverObject, RegistryPath); return STATUS_SUCCESS;"
    )

    with pytest.raises(BuildError) as caught:
        build_driver(driver, toolchain=wdk, build_root=build_root)

    assert "wdk/km/wdm.h:" in str(caught.value)
    assert str(wdk.kit.include[0]) not in str(caught.value)


def test_a_function_that_the_kit_does_not_have_is_told_with_its_caller(wdk, tmp_path, build_root):
    driver = one_file_driver(tmp_path / "tree", "extern NTSTATUS NTAPI ZwNotThere(VOID); return ZwNotThere();")

    with pytest.raises(BuildError) as caught:
        build_driver(driver, toolchain=wdk, build_root=build_root)

    assert str(caught.value).startswith("driver/entry.c:7: error: undefined symbol ZwNotThere: no library of the kit")


def test_an_edited_header_of_the_driver_compiles_what_includes_it(wdk, tmp_path, build_root):
    driver = one_file_driver(tmp_path / "tree", "return PROBE;")
    header = tmp_path / "tree" / "compat" / "ntproof_compat.h"
    original = header.read_text()
    header.write_text(original + "#define PROBE STATUS_SUCCESS\n")
    first = build_driver(driver, toolchain=wdk, build_root=build_root)
    header.write_text(original + "#define PROBE STATUS_UNSUCCESSFUL\n")

    second = build_driver(driver, toolchain=wdk, build_root=build_root)

    assert second.rebuilt
    assert first.sha256 != second.sha256


def test_llvm_reads_the_pdb(procnotify, wdk):
    # Symbolisation on Windows reads the PDB; its publics must name the driver's own functions.
    found = subprocess.run(["strings", procnotify.pdb], capture_output=True, text=True, check=True).stdout

    assert "PnProcessNotify" in found
    assert "driver/procnotify/notify.c" in found.replace("\\", "/")
