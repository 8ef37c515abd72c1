"""The guest programs are built the same everywhere, from what their description lists and nothing else."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.build.guest_tools import build_guest_tools, load_guest_description
from harness.build.layout import driver_source_root
from harness.build.llvm_mingw import LlvmMingw
from harness.errors import BuildError, ConfigurationError, InputError

SOURCES = driver_source_root() / "guest"
SUBSYSTEM_AT = 0x5C
DLL_CHARACTERISTICS_AT = 0x5E
DYNAMIC_BASE_NX_HIGH_ENTROPY = 0x40 | 0x100 | 0x20


@pytest.fixture
def sources(tmp_path):
    return shutil.copytree(SOURCES, tmp_path / "guest")


@pytest.fixture(scope="module")
def tools():
    return build_guest_tools()


def header_word(image, offset):
    """A 16-bit field at an offset from the PE signature (winnt.h: IMAGE_NT_HEADERS64)."""
    data = image.read_bytes()
    start = int.from_bytes(data[0x3C:0x40], "little") + offset
    return int.from_bytes(data[start : start + 2], "little")


def test_two_builds_from_different_places_give_the_same_bytes(sources, tmp_path, tools):
    elsewhere = build_guest_tools(build_root=tmp_path / "build", source_root=sources)

    assert elsewhere.ntguest != tools.ntguest
    assert elsewhere.sha256 == tools.sha256
    assert elsewhere.ntguest.read_bytes() == tools.ntguest.read_bytes()
    assert elsewhere.child.read_bytes() == tools.child.read_bytes()


def test_the_programs_hold_no_path_of_the_machine(tools):
    for image in (tools.ntguest, tools.child):
        assert str(SOURCES).encode() not in image.read_bytes()


def test_the_programs_load_where_windows_likes_and_the_child_has_no_console(tools):
    assert header_word(tools.ntguest, SUBSYSTEM_AT) == 3
    assert header_word(tools.child, SUBSYSTEM_AT) == 2
    for image in (tools.ntguest, tools.child):
        wanted = DYNAMIC_BASE_NX_HIGH_ENTROPY
        assert header_word(image, DLL_CHARACTERISTICS_AT) & wanted == wanted


def test_nothing_is_linked_but_the_listed_system_libraries(tools):
    data = tools.ntguest.read_bytes().lower()

    assert b"kernel32.dll" in data
    assert b"ntdll.dll" in data
    for runtime in (b"msvcrt", b"ucrtbase", b"vcruntime", b"api-ms-win-crt"):
        assert runtime not in data


def test_a_build_found_again_is_the_same_file(tools):
    before = tools.ntguest.stat().st_mtime_ns

    again = build_guest_tools()

    assert again == tools
    assert again.ntguest.stat().st_mtime_ns == before


def test_a_change_of_a_header_makes_another_build(sources, tmp_path):
    first = build_guest_tools(build_root=tmp_path / "build", source_root=sources)
    header = sources / "json_request.h"
    header.write_text(header.read_text().replace("(4u << 20)", "(5u << 20)"))

    second = build_guest_tools(build_root=tmp_path / "build", source_root=sources)

    assert second.sha256["ntguest.exe"] != first.sha256["ntguest.exe"]
    assert second.sha256["child.exe"] == first.sha256["child.exe"]


def test_those_that_want_the_programs_at_once_compile_them_once(monkeypatch, sources, tmp_path):
    compiled = []
    compile_one = LlvmMingw.compile

    def counted(self, driver, source, target):
        compiled.append(source)
        return compile_one(self, driver, source, target)

    monkeypatch.setattr(LlvmMingw, "compile", counted)
    barrier = threading.Barrier(3)

    def build(_):
        barrier.wait(10)
        return build_guest_tools(build_root=tmp_path / "build", source_root=sources)

    with ThreadPoolExecutor(3) as pool:
        built = list(pool.map(build, range(3)))

    assert built[0] == built[1] == built[2]
    assert len(compiled) == len(set(compiled))


def test_a_program_that_was_deleted_is_made_again(sources, tmp_path):
    built = build_guest_tools(build_root=tmp_path / "build", source_root=sources)
    built.child.unlink()

    again = build_guest_tools(build_root=tmp_path / "build", source_root=sources)

    assert again == built
    assert again.child.is_file()


def test_a_mistake_in_a_source_is_told_with_its_line(sources, tmp_path):
    (sources / "child.c").write_text("int start(void) { return missing; }\n")

    with pytest.raises(BuildError, match=r"guest/child\.c:1:\d+: error"):
        build_guest_tools(build_root=tmp_path / "build", source_root=sources)


def test_a_function_that_is_not_listed_is_told_with_the_remedy(sources, tmp_path):
    description = sources / "guest.toml"
    description.write_text(description.read_text().replace('"GetTickCount64", ', ""))

    with pytest.raises(BuildError, match=r"(?s)GetTickCount64.*listed under \[imports\] in guest\.toml"):
        build_guest_tools(build_root=tmp_path / "build", source_root=sources)


def test_missing_sources_are_a_mistake_of_configuration(tmp_path):
    with pytest.raises(ConfigurationError, match=r"guest\.toml: cannot be read"):
        build_guest_tools(build_root=tmp_path / "build", source_root=tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x", "not valid TOML"),
        ("", "programs: expected a table"),
        ("[programs]\n", "imports: expected a table"),
        ("[programs]\n[imports]\n", "child, ntguest must be described"),
        ("[programs.a]\nsources = ['a.c']\n[imports]\n", "programs.a: expected a table with sources and subsystem"),
        ("[programs.a]\nsources = ['a.c']\nsubsystem = 'native'\n[imports]\n", "expected one of console, windows"),
        ("[programs.a]\nsources = []\nsubsystem = 'console'\n[imports]\n", "sources: expected a list of names"),
        ("[programs.a]\nsources = [1]\nsubsystem = 'console'\n[imports]\n", "sources: expected a list of names"),
    ],
)
def test_a_malformed_description_names_its_place(tmp_path, text, complaint):
    path = tmp_path / "guest.toml"
    path.write_text(text)

    with pytest.raises(InputError, match=complaint):
        load_guest_description(path)
