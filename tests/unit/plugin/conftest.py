"""Runs pytest in a folder of its own with the plugin loaded and machines that are not real."""

from __future__ import annotations

from pathlib import Path

import pytest

# pytester forgets what a run inside this process imported; a module that is imported twice has two sets of classes.
import harness.lease
import harness.model.check
import harness.pytest_reports
import harness.pytest_run
import harness.runner
from harness.build import pe

assert harness.lease
assert harness.model.check
assert harness.pytest_reports
assert harness.pytest_run
assert harness.runner

ROOT = Path(__file__).resolve().parents[3]

CONFTEST = """
from tests.fixtures.fake_stations import WitnessedStation, make, makes

RELAPSING = makes(("unmakable",), ())
PASSING_AWAY = makes((), ("unmakable",))

def pytest_ntproof_machines():
    return {
        "fake": lambda options: make(),
        "other": lambda options: make(),
        "emulated": lambda options: make(profile=options.profile),
        "plain": lambda options: make("no-checkpoints"),
        "failing": lambda options: make("crashes-at-start"),
        "refusing": lambda options: make("does-not-start"),
        "deviceless": lambda options: make("no-device"),
        "leaking": lambda options: make("leaks"),
        "dangling": lambda options: make("crashes-after-unload"),
        "skipping": lambda options: make("skips-a-number"),
        "witnessed": lambda options: WitnessedStation(),
        "misled": lambda options: WitnessedStation("names-another-image"),
        "forgetful": lambda options: WitnessedStation("names-another-image", "loses-records"),
        "babbling": lambda options: WitnessedStation("garbage-in-its-log"),
        "slow": lambda options: (options.progress("waiting for the guest"), make())[1],
        "telling": lambda options: make("tells"),
        "keeping": lambda options: make("keeps", options=options),
        "passing-away": PASSING_AWAY,
        "relapsing": RELAPSING,
        "irresettable": lambda options: make("no-checkpoints", "no-reset"),
        "unconfigured": lambda options: make("unconfigured"),
        "unmakable": lambda options: make("unmakable"),
    }
"""


@pytest.fixture
def image(pytester) -> Path:
    """A file that passes for a driver image."""
    path = pytester.path / "built" / "procnotify.sys"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(smallest_image())
    return path


def smallest_image(machine: int = 0x8664) -> bytes:
    """An x64 image with headers alone."""
    data = bytearray(0x200)
    data[:2] = b"MZ"
    data[0x3C:0x40] = (0x40).to_bytes(4, "little")
    data[0x40:0x44] = b"PE\0\0"
    data[0x44:0x46] = machine.to_bytes(2, "little")
    data[0x54:0x56] = (0xF0).to_bytes(2, "little")
    data[0x58:0x5A] = pe.PE32_PLUS_MAGIC.to_bytes(2, "little")
    data[0x58 + 60 : 0x58 + 64] = (0x200).to_bytes(4, "little")
    data[0x58 + 108 : 0x58 + 112] = (16).to_bytes(4, "little")
    return bytes(data)


@pytest.fixture
def run(pytester, image, monkeypatch):
    """Runs pytest: ``run(test_source, *arguments)``, on the fake machine and the fake image unless told otherwise."""
    pytester.makeconftest(CONFTEST)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\naddopts = --strict-markers -ra -p no:cacheprovider\n")

    def run_tests(
        source: str,
        *arguments: str,
        vm: str | None = "fake",
        driver: bool = True,
        artefacts: bool = True,
        subprocess: bool = False,
    ):
        pytester.makepyfile(source)
        options = ["-p", "harness.plugin"]
        options += ["--vm", vm] if vm is not None else []
        options += ["--driver", str(image)] if driver else []
        options += ["--artefacts", str(pytester.path / "kept")] if artefacts else []
        if subprocess:
            monkeypatch.setenv("PYTHONPATH", str(ROOT))
            return pytester.runpytest_subprocess(*options, *arguments)
        return pytester.runpytest_inprocess(*options, *arguments)

    return run_tests
