"""The commands `wdk` and `build`, and what `doctor` and pytest say of kits."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from harness.cli import main
from harness.exit_codes import ExitCode
from tests.fixtures.kits import BROKEN, NEWER, OLDER


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def build_root(tmp_path_factory):
    return tmp_path_factory.mktemp("build")


def said(capsys, *arguments: object) -> tuple[int, str]:
    code = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out + output.err


def test_a_kit_is_added_listed_shown_and_removed(capsys, installed):
    assert said(capsys, "wdk", "list") == (0, "no kit was added; `ntproof wdk add PATH` adds one\n")

    code, text = said(capsys, "wdk", "add", installed)
    assert code == ExitCode.PASSED
    assert f"{NEWER}  for x64  from {installed}" in text
    assert f"{BROKEN}  cannot be used:\n  Include/{BROKEN}/km lacks ntifs.h" in text
    assert said(capsys, "wdk", "list") == (code, text)

    code, shown = said(capsys, "wdk", "show", OLDER)
    assert f"  headers         {installed / 'Include' / OLDER / 'km' / 'crt'}" in shown
    assert f"  libraries x64   {installed / 'Lib' / OLDER / 'km' / 'x64'}" in shown

    code, removed = said(capsys, "wdk", "remove", OLDER)
    assert removed == f"kit {OLDER} is forgotten; its own files were not touched\n"
    assert said(capsys, "wdk", "show", OLDER) == (
        ExitCode.USER_ERROR,
        f"ntproof: error: there is no kit {OLDER}; known: {BROKEN}, {NEWER}\n",
    )


def test_json_has_the_same_kits(capsys, packages):
    code, text = said(capsys, "wdk", "add", "--json", packages)

    (kit,) = json.loads(text)["kits"]
    assert code == ExitCode.PASSED
    assert (kit["version"], kit["problems"], list(kit["libraries"])) == (NEWER, [], ["x64"])
    assert json.loads(said(capsys, "wdk", "list", "--json")[1])["kits"] == [kit]
    assert json.loads(said(capsys, "wdk", "show", "--json", NEWER)[1])["kits"] == [kit]
    assert json.loads(said(capsys, "wdk", "remove", "--json", NEWER)[1])["kits"] == [kit]
    assert json.loads(said(capsys, "wdk", "list", "--json")[1])["kits"] == []


def test_an_archive_needs_the_option_and_what_it_made_is_removed_with_the_kit(capsys, archives, tmp_path):
    code, refused = said(capsys, "wdk", "add", archives)
    assert code == ExitCode.USER_ERROR
    assert "--extract" in refused

    said(capsys, "wdk", "add", "--extract", archives)
    unpacked = tmp_path / "cache" / "ntproof" / "wdk" / NEWER
    assert unpacked.is_dir()
    assert f"  unpacked        {unpacked}" in said(capsys, "wdk", "show", NEWER)[1]

    assert f"and {unpacked} is deleted" in said(capsys, "wdk", "remove", NEWER)[1]
    assert not unpacked.exists()


def test_a_build_reports_what_it_made_and_analysed(capsys, installed, build_root, monkeypatch, tmp_path):
    monkeypatch.setenv("NTPROOF_BUILD_DIR", str(build_root))
    said(capsys, "wdk", "add", installed)

    code, text = said(
        capsys, "build", "mission", "--toolchain", "wdk", "--analyse", "--json", "--out", tmp_path / "out"
    )

    report = json.loads(text)
    assert code == ExitCode.PASSED
    assert report["toolchain"] == f"wdk {NEWER}"
    assert report["image"] == str(tmp_path / "out" / "mission.sys")
    assert report["analysed"]
    assert report["source_findings"] == report["image_findings"] == []
    lines = said(capsys, "build", "mission", "--toolchain", "wdk")[1].splitlines()
    assert lines[1].startswith(f"  built by wdk {NEWER} for x64 in ")


def test_the_project_chooses_toolchain_and_kit(capsys, installed, build_root, monkeypatch, tmp_path):
    monkeypatch.setenv("NTPROOF_BUILD_DIR", str(build_root))
    said(capsys, "wdk", "add", installed)
    (tmp_path / "pyproject.toml").write_text('[tool.ntproof]\ntoolchain = "wdk"\nwdk = "10.0.22621"\n')

    (tmp_path / "src" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "src" / "deep")

    report = json.loads(said(capsys, "build", "mission", "--json")[1])

    assert report["toolchain"] == f"wdk {OLDER}"


def test_findings_are_the_drivers_fault(capsys, installed, build_root, monkeypatch, tmp_path):
    monkeypatch.setenv("NTPROOF_BUILD_DIR", str(build_root))
    said(capsys, "wdk", "add", installed)
    tree = tmp_path / "noted"
    tree.mkdir()
    (tree / "entry.c").write_text(
        "#include <ntifs.h>\nDRIVER_INITIALIZE DriverEntry;\nNTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT D, "
        "PUNICODE_STRING R)\n{\n    UNREFERENCED_PARAMETER(D);\n    return R == NULL ? R->Length : 0;\n}\n"
    )
    (tree / "drivers.toml").write_text('[noted]\nsources = ["entry.c"]\n')

    # Where drivers are mostly built from.
    monkeypatch.chdir(tree)

    code, text = said(capsys, "build", tree, "--toolchain", "wdk", "--analyse")

    assert code == ExitCode.DRIVER_FAILED
    assert "  code analysis: 1 findings\n  noted/entry.c:6:" in text
    assert "[core.NullDereference]" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--toolchain", "gcc"], "--toolchain gcc: there is no such toolchain; known: llvm-mingw, wdk"),
        (["--toolchain", "wdk"], "no Windows kit is known; add one with `ntproof wdk add PATH`"),
        (["--architecture", "arm64"], "llvm-mingw builds for x64 only, not for arm64; use --toolchain wdk"),
        (["--analyse"], "--analyse: the toolchain llvm-mingw cannot do that; add --toolchain wdk"),
        (["--control-flow-guard"], "--control-flow-guard: the toolchain llvm-mingw cannot do that"),
        (
            ["--control-flow-guard", "--toolchain", "msbuild"],
            "--control-flow-guard: the toolchain msbuild takes it from",
        ),
    ],
)
def test_what_cannot_be_built_is_told_with_the_option(capsys, arguments, expected):
    code, text = said(capsys, "build", *arguments)

    assert code == ExitCode.USER_ERROR
    assert expected in text


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("toolchain = 5", "tool.ntproof.toolchain: expected a text, not 5"),
        ("wdk = 10.0", "tool.ntproof.wdk: expected a text, not 10.0"),
        ('control-flow-guard = "yes"', "tool.ntproof.control-flow-guard: expected true or false, not 'yes'"),
        ('toolchain = "gcc"', "[tool.ntproof] toolchain = gcc: there is no such toolchain"),
        ("toolchain =", "pyproject.toml: not valid TOML: "),
        ('tool-chain = "wdk"', "pyproject.toml: tool.ntproof: unknown key 'tool-chain'"),
    ],
)
def test_a_wrong_setting_names_its_key(capsys, tmp_path, table, expected):
    (tmp_path / "pyproject.toml").write_text(f"[tool.ntproof]\n{table}\n")

    code, text = said(capsys, "build")

    assert code == ExitCode.USER_ERROR
    assert expected in text


def test_what_should_hold_the_settings_and_is_no_table_is_named(capsys, tmp_path):
    (tmp_path / "pyproject.toml").write_text("tool = 5\n")

    code, text = said(capsys, "build")

    assert code == ExitCode.USER_ERROR
    assert "pyproject.toml: tool: expected a table" in text


def test_pytest_refuses_a_toolchain_that_cannot_be_used(tmp_path):
    command = [sys.executable, "-m", "pytest", "--toolchain", "wdk", "-p", "no:cacheprovider", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"})

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: --toolchain wdk: no Windows kit is known; add one with `ntproof wdk add PATH`" in done.stderr
