"""A wheel built from the checkout is complete: installed elsewhere, it builds its driver and passes its own suite."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_PYTHON = (".c", ".h", ".toml", ".inf", ".rc", ".vcxproj", ".txt", ".typed", ".json")

pytestmark = pytest.mark.slow


def run(*command, cwd, **variables):
    """Run a program with nothing of this checkout in its environment; its output on failure."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "COVERAGE"))}
    kept.pop("NTPROOF_BUILD_DIR", None)
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # Through an sdist, as a release is made, so that a file which only the checkout has is missed.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The bin folder of an environment that holds the wheel, its dependencies and nothing else."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", environment, cwd=environment.parent)
    pip = (environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "--constraint", ROOT / "constraints.txt", wheel, cwd=environment.parent)
    return environment / "bin"


def tracked(folder):
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--", folder]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("package", ["harness", "vm"])
def test_every_tracked_file_of_a_package_is_in_the_wheel(contents, package):
    assert [name for name in tracked(package) if name not in contents] == []


def test_the_driver_sources_are_in_the_wheel(contents):
    sources = [name for name in tracked("driver") if name.endswith(NOT_PYTHON)]

    assert sources
    assert [name for name in sources if f"harness/_driver/{name.removeprefix('driver/')}" not in contents] == []


def test_the_wheel_holds_the_packages_and_nothing_else(contents):
    roots = {name.split("/")[0] for name in contents}

    assert {root for root in roots if not root.endswith(".dist-info")} == {"harness", "vm"}


def test_nothing_built_is_in_the_wheel(contents):
    built = (".sys", ".pdb", ".obj", ".o", ".so", ".pyc", ".pem", ".key")

    assert [name for name in contents if name.endswith(built)] == []


def test_the_installed_command_finds_all_that_it_needs(installed, tmp_path):
    output = run(installed / "ntproof", "doctor", cwd=tmp_path, NTPROOF_BUILD_DIR=str(tmp_path / "build"))

    assert "emulated machine: all found" in output
    assert str(ROOT) not in output


def test_the_installed_suite_passes_in_an_empty_folder(installed, tmp_path):
    # The build folder lies outside, as a user's cache would: an empty folder stays empty but for pytest's own cache.
    work = tmp_path / "empty"
    work.mkdir()

    output = run(
        installed / "pytest",
        "--pyargs",
        "harness.conformance",
        "--vm",
        "emulated",
        "-p",
        "no:cacheprovider",
        "-q",
        cwd=work,
        NTPROOF_BUILD_DIR=str(tmp_path / "build"),
    )

    assert " passed" in output
    assert list(work.iterdir()) == []
