"""Compilers and linkers see nothing of the user's environment that could change what they make, and no secrets."""

from __future__ import annotations

import sys

from harness.build import find_driver
from harness.build.driver_build import build_unsigned
from harness.build.invocation import run_tool
from harness.build.llvm_mingw import LlvmMingw
from tests.fixtures.built_drivers import DESCRIPTION


def test_a_passphrase_in_the_environment_reaches_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("TEAM_PASSPHRASE", "correct horse")

    _, output = run_tool([sys.executable, "-c", "import os; print(dict(os.environ))"], tmp_path, "reinstall it")

    assert "PATH" in output
    assert "correct horse" not in output


def test_options_in_the_environment_change_no_image(monkeypatch, tmp_path):
    sources = find_driver(f"{DESCRIPTION}:minimal")
    plain = build_unsigned(sources, LlvmMingw(), tmp_path / "plain")
    for name, value in (
        ("LINK", "/stack:0x200000"),
        ("_LINK_", "/version:3.4"),
        ("CCC_OVERRIDE_OPTIONS", "+-DMINIMAL_WHERE=1"),
    ):
        monkeypatch.setenv(name, value)

    told = build_unsigned(sources, LlvmMingw(), tmp_path / "told")

    assert told.image.read_bytes() == plain.image.read_bytes()
