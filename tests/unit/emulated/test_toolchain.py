"""Where the machine's own compiled parts are kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.build.layout import build_directory
from vm.emulated.toolchain import cache_directory


def test_a_checkout_keeps_the_machines_compiled_parts_beside_its_drivers():
    root = Path(__file__).resolve().parents[3]
    assert cache_directory(environment={}) == root / "build" / "machine"


@pytest.mark.parametrize("variable", ["NTPROOF_BUILD_DIR", "XDG_CACHE_HOME"])
def test_the_environment_moves_what_is_compiled_and_what_is_built_alike(variable, tmp_path):
    environment = {variable: str(tmp_path / "elsewhere")}
    assert cache_directory(environment=environment) == build_directory(environment) / "machine"


def test_an_installed_package_keeps_them_in_the_users_cache_folder(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert cache_directory(tmp_path / "site-packages", environment) == tmp_path / "cache" / "ntproof" / "machine"
    assert cache_directory(tmp_path / "site-packages", {}) == Path.home() / ".cache" / "ntproof" / "machine"


def test_what_was_compiled_is_found_by_a_checkout_elsewhere(tmp_path):
    here = Path(__file__).resolve().parents[3]
    # By its path one of them comes before the cache and one after it, since some of the sources lie there.
    cache, before, after = tmp_path / "compiled", tmp_path / "before", tmp_path / "elsewhere"
    for checkout in (before, after):
        shutil.copytree(here / "vm", checkout / "vm", ignore=shutil.ignore_patterns("__pycache__"))

    def start_machine(checkout):
        environment = {**os.environ, "PYTHONPATH": str(checkout), "NTPROOF_BUILD_DIR": str(cache)}
        program = "from vm.emulated import machine; machine.EmulatedMachine(); print(machine.__file__)"
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=True)
        assert Path(done.stdout.strip()).is_relative_to(checkout)
        return sorted(cache.rglob("*"))

    made = start_machine(here)
    assert {path.name for path in made} >= {"hooks.so", "ntoskrnl.exe"}
    assert start_machine(before) == made
    assert start_machine(after) == made
