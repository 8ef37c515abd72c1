"""Builds do no more than they must, say what is wrong in one place, and stand being run many at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.build import DriverSources, build_driver, find_driver, pe
from harness.build.driver_build import facts_path
from harness.build.files import exclusive
from harness.build.llvm_mingw import LlvmMingw
from harness.build.prune import prune
from harness.errors import BuildError, ConfigurationError
from tests.fixtures.built_drivers import DESCRIPTION

MINIMAL = f"{DESCRIPTION}:minimal"
ENTRY = """\
#include <ntddk.h>
DRIVER_INITIALIZE DriverEntry;
NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    UNREFERENCED_PARAMETER(DriverObject);
    UNREFERENCED_PARAMETER(RegistryPath);
    BODY
}
"""


class CountingToolchain(LlvmMingw):
    """Remembers what it was asked to do."""

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "compiled", [])
        object.__setattr__(self, "linked", [])

    def compile(self, driver, source, target):
        self.compiled.append(source)
        return super().compile(driver, source, target)

    def link(self, driver, objects, directory):
        self.linked.append(driver.name)
        return super().link(driver, objects, directory)


class Meddler(LlvmMingw):
    """Does something while a source is compiled: before the compiler reads it, and after."""

    def __init__(self, before=lambda: None, after=lambda: None):
        super().__init__()
        object.__setattr__(self, "before", before)
        object.__setattr__(self, "after", after)

    def compile(self, driver, source, target):
        self.before()
        read = super().compile(driver, source, target)
        self.after()
        return read


@pytest.fixture
def tree(tmp_path) -> Path:
    return copy_of_sources(tmp_path / "tree")


@pytest.fixture
def toolchain():
    return CountingToolchain()


def copy_of_sources(target: Path) -> Path:
    for name in ("minimal.c", "greeting.c", "include/greeting.h"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(DESCRIPTION.parent / name, target / name)
    return target


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def one_file_driver(root: Path, body: str) -> DriverSources:
    root.mkdir(exist_ok=True)
    (root / "entry.c").write_text(ENTRY.replace("BODY", body))
    return DriverSources("single", root, ("entry.c",))


def test_the_outputs_lie_together(minimal, identity):
    assert minimal.image.name == "minimal.sys"
    assert minimal.debug_image == minimal.image.with_name("minimal.sys.dwarf")
    assert minimal.pdb == minimal.image.with_name("minimal.pdb")
    assert all(p.is_file() for p in (minimal.image, minimal.debug_image, minimal.pdb))
    assert minimal.certificate == minimal.image.with_name("minimal.cer")
    assert minimal.certificate.read_bytes() == identity.certificate
    facts = json.loads(facts_path(minimal.image).read_text())
    assert facts["debug_image"] == "minimal.sys.dwarf"
    assert facts["sha256"] == minimal.sha256


def test_the_shipped_image_has_no_dwarf_and_the_twin_has_the_same_code_at_the_same_addresses(minimal):
    image, twin = pe.load(minimal.image), pe.load(minimal.debug_image)

    assert not any(s.name.startswith(".debug") for s in image.sections)
    assert {".debug_info", ".debug_line"} <= {s.name for s in twin.sections}
    assert image.sections == twin.sections[: len(image.sections)]
    for section in image.sections:
        assert image.read(section.rva, section.raw_size, "") == twin.read(section.rva, section.raw_size, "")
    assert image.entry_rva == twin.entry_rva
    assert image.pdb_references() == twin.pdb_references() == ["minimal.pdb"]


def test_functions_have_unwind_data(minimal):
    _, size = pe.load(minimal.image).directory(pe.DIRECTORY_EXCEPTION)

    assert size >= 12


def test_no_output_holds_a_path_of_this_machine(minimal, build_root):
    for path in (minimal.image, minimal.debug_image, minimal.pdb, facts_path(minimal.image)):
        content = path.read_bytes()
        for secret in (str(DESCRIPTION.parent), str(build_root), str(Path(sys.prefix))):
            assert secret.encode() not in content


def test_unchanged_sources_start_no_compiler(tree, build_root, toolchain):
    build_driver(MINIMAL, source_root=tree, build_root=build_root)

    again = build_driver(MINIMAL, source_root=tree, build_root=build_root, toolchain=toolchain)

    assert not again.rebuilt
    assert toolchain.compiled == toolchain.linked == []


def test_a_touched_file_starts_no_compiler(tree, build_root, toolchain):
    build_driver(MINIMAL, source_root=tree, build_root=build_root)
    os.utime(tree / "minimal.c", ns=(1, 1))

    again = build_driver(MINIMAL, source_root=tree, build_root=build_root, toolchain=toolchain)

    assert toolchain.compiled == toolchain.linked == []
    assert not again.rebuilt


def test_an_edited_source_is_the_only_one_compiled(tree, build_root, toolchain):
    before = build_driver(MINIMAL, source_root=tree, build_root=build_root)
    edit(tree / "greeting.c", "= Value;", "= Value + 1;")

    after = build_driver(MINIMAL, source_root=tree, build_root=build_root, toolchain=toolchain)

    assert after.rebuilt
    assert toolchain.compiled == ["greeting.c"]
    assert after.sha256 != before.sha256
    assert before.image.read_bytes() != after.image.read_bytes(), "the image of the earlier sources is still there"


def test_an_edit_that_is_taken_back_starts_no_compiler(tree, build_root, toolchain):
    before = build_driver(MINIMAL, source_root=tree, build_root=build_root)
    edit(tree / "greeting.c", "= Value;", "= Value + 2;")
    build_driver(MINIMAL, source_root=tree, build_root=build_root)
    edit(tree / "greeting.c", "= Value + 2;", "= Value;")

    after = build_driver(MINIMAL, source_root=tree, build_root=build_root, toolchain=toolchain)

    assert (after.image, after.rebuilt) == (before.image, False)
    assert toolchain.compiled == []


def once(action):
    """What does something the first time that it is called."""
    waiting = [action]
    return lambda: waiting.pop()() if waiting else None


def test_a_source_that_is_saved_while_it_is_compiled_is_not_taken_for_what_it_was(tmp_path):
    driver = one_file_driver(tmp_path / "src", "return 1;")
    expected = build_driver(driver, build_root=tmp_path / "expected").sha256
    saved = once(lambda: edit(driver.root / "entry.c", "return 1;", "return 2;"))
    identity = tmp_path / "expected" / "signing"
    shutil.copytree(identity, tmp_path / "build" / "signing")

    build_driver(driver, build_root=tmp_path / "build", toolchain=Meddler(before=saved))
    edit(driver.root / "entry.c", "return 2;", "return 1;")

    assert build_driver(driver, build_root=tmp_path / "build").sha256 == expected


def test_a_header_that_is_saved_behind_the_compiler_does_not_lend_its_name_to_the_object(tmp_path):
    driver = one_file_driver(tmp_path / "src", "return ANSWER;")
    header = driver.root / "answer.h"
    edit(driver.root / "entry.c", "#include <ntddk.h>", '#include <ntddk.h>\n#include "answer.h"')
    header.write_text("#define ANSWER 1\n")
    expected = build_driver(driver, build_root=tmp_path / "build")
    header.write_text("#define ANSWER 2\n")

    saved = once(lambda: header.write_text("#define ANSWER 1\n"))
    build_driver(driver, build_root=tmp_path / "build", toolchain=Meddler(after=saved))
    shutil.rmtree(expected.image.parent)

    assert build_driver(driver, build_root=tmp_path / "build").sha256 == expected.sha256


def test_a_source_that_never_rests_is_told(tmp_path):
    driver = one_file_driver(tmp_path / "src", "return 1;")
    source = driver.root / "entry.c"

    with pytest.raises(BuildError, match=r"driver/entry\.c: it, or a header of it, changed each of 5 times"):
        build_driver(
            driver,
            build_root=tmp_path / "build",
            toolchain=Meddler(after=lambda: source.write_text(source.read_text() + "\n")),
        )


def test_a_source_from_the_future_is_compiled_and_remembered(tree, build_root, toolchain):
    edit(tree / "greeting.c", "= Value;", "= Value + 6;")
    os.utime(tree / "greeting.c", ns=(1 << 62, 1 << 62))
    build_driver(MINIMAL, source_root=tree, build_root=build_root)

    again = build_driver(MINIMAL, source_root=tree, build_root=build_root, toolchain=toolchain)

    assert toolchain.compiled == []
    assert not again.rebuilt


def test_an_edited_header_recompiles_what_includes_it(tree, build_root, toolchain):
    build_driver(MINIMAL, source_root=tree, build_root=build_root)
    edit(tree / "include" / "greeting.h", "'geeG'", "'teeG'")

    build_driver(MINIMAL, source_root=tree, build_root=build_root, toolchain=toolchain)

    assert sorted(toolchain.compiled) == ["greeting.c", "minimal.c"]


def test_a_new_header_that_shadows_another_is_noticed(tree, build_root, toolchain):
    build_driver(MINIMAL, source_root=tree, build_root=build_root)
    shadow = (tree / "include" / "greeting.h").read_text().replace("'geeG'", "'hseG'")
    (tree / "greeting.h").write_text(shadow)

    after = build_driver(MINIMAL, source_root=tree, build_root=build_root, toolchain=toolchain)

    assert after.rebuilt
    assert b"Gesh" in after.image.read_bytes()


def test_copies_of_the_tree_share_what_is_the_same(tree, tmp_path, build_root, toolchain):
    first = build_driver(MINIMAL, source_root=tree, build_root=build_root)
    patched = copy_of_sources(tmp_path / "elsewhere" / "patched")
    edit(patched / "greeting.c", "= Value;", "= Value + 3;")

    second = build_driver(MINIMAL, source_root=patched, build_root=build_root, toolchain=toolchain)

    assert toolchain.compiled == ["greeting.c"]
    assert second.image != first.image


def test_a_define_makes_another_image_beside_the_first(tree, build_root):
    plain = build_driver(MINIMAL, source_root=tree, build_root=build_root)
    told = build_driver(MINIMAL, source_root=tree, build_root=build_root, defines=['MINIMAL_WHERE="here"'])

    assert b"built in %s" in told.image.read_bytes()
    assert b"built in %s" not in plain.image.read_bytes()


def test_the_outputs_can_be_put_elsewhere(minimal, build_root, tmp_path):
    copied = build_driver(MINIMAL, build_root=build_root, out=tmp_path / "out")

    assert copied.image == tmp_path / "out" / "minimal.sys"
    assert copied.image.read_bytes() == minimal.image.read_bytes()
    assert copied.debug_image.is_file()
    assert copied.pdb.is_file()
    assert (copied.sha256, copied.rebuilt) == (minimal.sha256, False)


@pytest.mark.parametrize("victim", ["minimal.sys", "minimal.pdb", "minimal.sys.dwarf", "minimal.sys.json"])
def test_an_output_that_was_deleted_is_made_again(tree, tmp_path, build_root, victim):
    edit(tree / "greeting.c", "= Value;", "= Value + 4;")
    built = build_driver(MINIMAL, source_root=tree, build_root=build_root)
    content = built.image.read_bytes()
    built.image.with_name(victim).unlink()

    again = build_driver(MINIMAL, source_root=tree, build_root=build_root)

    assert again.rebuilt
    assert again.image.read_bytes() == content
    assert again.image.with_name(victim).is_file()


def test_a_damaged_manifest_costs_nothing_but_a_look(tree, build_root):
    build_driver(MINIMAL, source_root=tree, build_root=build_root)
    for manifest in (build_root / "requests").glob("minimal-*.json"):
        manifest.write_bytes(b'{"inputs": 3}')

    assert not build_driver(MINIMAL, source_root=tree, build_root=build_root).rebuilt


def test_a_syntax_error_is_reported_by_file_and_line_first(tmp_path, build_root):
    driver = one_file_driver(tmp_path / "src", "return 1 +;")

    with pytest.raises(BuildError) as caught:
        build_driver(driver, build_root=build_root)

    assert str(caught.value).startswith("driver/entry.c:7:15: error: expected expression")
    assert str(tmp_path) in str(caught.value).splitlines()[-1], "and the last line says where the sources are"


def test_an_error_in_a_header_is_reported_by_file_and_line_first(tree, build_root):
    edit(tree / "include" / "greeting.h", "NTSTATUS GreetingStore", "NTSTATUSS GreetingStore")

    with pytest.raises(BuildError) as caught:
        build_driver(MINIMAL, source_root=tree, build_root=build_root)

    assert str(caught.value).startswith("drivers/include/greeting.h:9:1: error: unknown type name 'NTSTATUSS'")


def test_errors_of_all_sources_are_reported_together(tree, build_root):
    edit(tree / "greeting.c", "= Value;", "= Valeu;")
    edit(tree / "minimal.c", "Loads++;", "Laods++;")

    with pytest.raises(BuildError, match=r"(?s)minimal\.c:\d+:.*Laods.*greeting\.c:\d+:.*Valeu"):
        build_driver(MINIMAL, source_root=tree, build_root=build_root)


def test_a_warning_is_an_error(tmp_path, build_root):
    driver = one_file_driver(tmp_path / "src", "int unused; return 0;")

    with pytest.raises(BuildError, match="unused variable"):
        build_driver(driver, build_root=build_root)


def test_a_time_stamp_in_the_sources_is_an_error(tmp_path, build_root):
    driver = one_file_driver(tmp_path / "src", "return sizeof(__TIME__) > 3;")

    with pytest.raises(BuildError, match="__TIME__"):
        build_driver(driver, build_root=build_root)


def test_an_unknown_import_is_reported_with_place_and_remedy(tmp_path, build_root):
    driver = one_file_driver(tmp_path / "src", "extern NTSTATUS ExNewThing(void); return ExNewThing();")

    with pytest.raises(BuildError) as caught:
        build_driver(driver, build_root=build_root)

    assert str(caught.value).startswith("driver/entry.c:7: error: undefined symbol ExNewThing")
    assert "extra_exports" in str(caught.value)


def test_an_extra_export_links(tmp_path, build_root):
    driver = one_file_driver(tmp_path / "src", "extern NTSTATUS ExNewThing(void); return ExNewThing();")
    driver = DriverSources("single", driver.root, driver.sources, extra_exports=("ExNewThing",))

    built = build_driver(driver, build_root=build_root)

    assert pe.Import("ntoskrnl.exe", "ExNewThing") in pe.load(built.image).imports()


def test_a_missing_entry_point_is_reported_by_name(tmp_path, build_root):
    driver = one_file_driver(tmp_path / "src", "return 0;")
    driver = DriverSources("single", driver.root, driver.sources, entry="DriverStart")

    with pytest.raises(BuildError, match="DriverStart"):
        build_driver(driver, build_root=build_root)


def test_integrity_check_can_be_left_out(tmp_path, build_root):
    driver = one_file_driver(tmp_path / "src", "return 0;")
    driver = DriverSources("single", driver.root, driver.sources, integrity_check=False)

    image = pe.load(build_driver(driver, build_root=build_root).image)

    assert not image.dll_characteristics & pe.DLLCHARACTERISTICS_FORCE_INTEGRITY


def test_data_imports_link_and_paths_may_hold_blanks(tmp_path, build_root):
    driver = one_file_driver(
        tmp_path / "a directory with blanks # and $signs", "return *PsProcessType == NULL ? STATUS_UNSUCCESSFUL : 0;"
    )
    (driver.root / "a header.h").write_text("#include <ntifs.h>\n")
    edit(driver.root / "entry.c", "#include <ntddk.h>", '#include "a header.h"')

    first = build_driver(driver, build_root=build_root)
    edit(driver.root / "a header.h", "<ntifs.h>", "<ntddk.h>")

    assert pe.Import("ntoskrnl.exe", "PsProcessType") in pe.load(first.image).imports()
    assert build_driver(driver, build_root=build_root).rebuilt, "the header was recorded"


def test_a_path_that_compilers_misread_is_refused(tmp_path):
    driver = one_file_driver(tmp_path / "a=b", "return 0;")

    with pytest.raises(ConfigurationError, match="a=b: compilers take what is before '=' for the whole path"):
        build_driver(driver, build_root=tmp_path / "build")


def test_missing_sources_are_the_users_mistake(tree, build_root):
    (tree / "greeting.c").unlink()

    with pytest.raises(ConfigurationError, match=r"greeting\.c"):
        build_driver(MINIMAL, source_root=tree, build_root=build_root)


def test_a_build_directory_that_cannot_be_written_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(ConfigurationError, match="file"):
        build_driver(MINIMAL, build_root=tmp_path / "file" / "build")


def test_a_folder_for_the_outputs_that_cannot_be_written_is_named_and_not_the_build_directory(tmp_path, build_root):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(ConfigurationError, match=r"file: the finished files cannot be put there: .*; name another"):
        build_driver(MINIMAL, build_root=build_root, out=tmp_path / "file")


def test_threads_that_want_the_same_image_link_it_once(tree, build_root, toolchain):
    edit(tree / "greeting.c", "= Value;", "= Value + 5;")
    barrier = threading.Barrier(4)

    def build(_):
        barrier.wait(10)
        return build_driver(MINIMAL, source_root=tree, build_root=build_root, toolchain=toolchain)

    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(build, range(4)))

    assert len({b.image for b in built}) == 1
    assert [b.rebuilt for b in built].count(True) == 1
    assert toolchain.linked == ["minimal"]


def test_processes_that_build_at_once_in_an_empty_directory_agree(tmp_path):
    script = (
        "import sys; from pathlib import Path; from harness.build import build_driver;"
        "b = build_driver(sys.argv[1], build_root=Path(sys.argv[2])); print(b.sha256, b.rebuilt)"
    )
    command = [sys.executable, "-c", script, MINIMAL, str(tmp_path / "build")]
    root = Path(__file__).resolve().parents[3]
    running = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [process.communicate(timeout=60)[0].split() for process in running]

    assert all(process.returncode == 0 for process in running)
    assert len({sha256 for sha256, _ in answers}) == 1
    assert [rebuilt for _, rebuilt in answers].count("True") == 1
    assert not list((tmp_path / "build").rglob(".link-*"))


def test_nothing_to_do_does_not_load_cryptography(minimal, build_root):
    script = (
        "import sys; from pathlib import Path; from harness.build import build_driver;"
        "b = build_driver(sys.argv[1], build_root=Path(sys.argv[2])); print(b.rebuilt, 'cryptography' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script, MINIMAL, str(build_root)], cwd=root, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["False", "False"]


def test_the_bundled_procnotify_is_found_by_name():
    assert find_driver("procnotify").label == "driver"


def test_a_missing_toolchain_is_reported_with_the_remedy(monkeypatch, tree, build_root):
    monkeypatch.setattr("harness.build.llvm_mingw.importlib.util.find_spec", lambda _: None)

    with pytest.raises(ConfigurationError, match="pip install ziglang"):
        build_driver(MINIMAL, source_root=tree, build_root=build_root)


def test_source_lines_name_the_label_whatever_the_directory(tree, build_root):
    built = build_driver(MINIMAL, source_root=tree, build_root=build_root)
    twin = pe.load(built.debug_image)
    lines = next(s for s in twin.sections if s.name == ".debug_line")
    content = twin.read(lines.rva, lines.raw_size, "")

    assert b"\0drivers\0" in content, "the label is the description's own directory, not the copy's"
    assert b"minimal.c\0" in content
    assert str(tree).encode() not in content


def test_a_lock_that_is_held_is_not_pruned_however_old_its_file_is(tmp_path):
    lock = tmp_path / "requests" / "minimal.lock"
    lock.parent.mkdir()
    lock.touch()
    os.utime(lock, ns=(1, 1))

    with exclusive(lock):
        prune(tmp_path)
        assert lock.exists()


def test_what_was_not_used_lately_is_deleted_and_the_rest_kept(tree, tmp_path):
    base = tmp_path / "build"
    forgotten = build_driver(MINIMAL, source_root=tree, build_root=base, defines=["OLD"])
    used = build_driver(MINIMAL, source_root=tree, build_root=base)
    for path in (*base.glob("images/*/*"), *base.glob("objects/*"), *base.glob("requests/*")):
        os.utime(path, ns=(1, 1))

    build_driver(MINIMAL, source_root=tree, build_root=base)
    build_driver(MINIMAL, source_root=tree, build_root=base, defines=["NEW"])

    assert not forgotten.image.exists()
    assert used.image.exists()
    assert (base / "signing" / "certificate.cer").exists()
    assert build_driver(MINIMAL, source_root=tree, build_root=base, defines=["OLD"]).image == forgotten.image
