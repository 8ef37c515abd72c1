"""Where the machine's own compiled parts are kept."""

from __future__ import annotations

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
