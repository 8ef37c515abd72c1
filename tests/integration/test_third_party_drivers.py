"""Drivers that nobody here wrote: each loads, or ends with an error that names what is missing, never a traceback.

WinDivert (network packets, built on KMDF) comes inside the package pydivert, which the dev extra pins to the last
release that carries the driver whatever the system.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest

from vm.emulated.machine import EmulatedMachine
from vm.errors import DriverFault, MachineBroken, MachineConfigurationError, MissingExport, Win32Error


@pytest.fixture(scope="module")
def windivert():
    spec = importlib.util.find_spec("pydivert")
    assert spec is not None, "pydivert is not installed: pip install -e .[dev]"
    folder = Path(spec.origin).parent / "windivert_dll"
    assert (folder / "WinDivert64.sys").is_file(), f"this pydivert carries no driver: {folder}"
    return folder


@pytest.fixture
def machine():
    made = EmulatedMachine()
    yield made
    made.close()


def test_a_framework_driver_runs_up_to_the_import_that_this_kernel_lacks(machine, windivert):
    machine.install_driver("WinDivert", windivert / "WinDivert64.sys")
    with pytest.raises(MissingExport) as caught:
        machine.start_driver("WinDivert")
    text = str(caught.value)
    assert "wdfldr.sys!WdfVersionBind" in text
    assert "WinDivert64+0x" in text
    assert "start service WinDivert" in text


def test_after_the_missing_import_the_machine_can_be_restored_and_used(machine, windivert):
    saved = machine.checkpoint()
    machine.install_driver("WinDivert", windivert / "WinDivert64.sys")
    with pytest.raises(MissingExport):
        machine.start_driver("WinDivert")
    machine.restore(saved)
    with pytest.raises(Win32Error) as caught:
        machine.driver_state("WinDivert")
    assert caught.value.code == 1060


def test_a_32_bit_driver_is_refused_as_one_for_another_machine(machine, windivert):
    with pytest.raises(MachineConfigurationError, match="WinDivert32"):
        machine.install_driver("WinDivert", windivert / "WinDivert32.sys")


def _install_and_start(machine, file):
    machine.install_driver("altered", file)
    machine.start_driver("altered")


def test_a_driver_altered_anywhere_ends_in_an_error_of_this_project(windivert, tmp_path):
    original = (windivert / "WinDivert64.sys").read_bytes()
    for seed in range(24):
        position = int.from_bytes(hashlib.sha256(bytes([seed])).digest()[:4], "little") % len(original)
        altered = bytearray(original)
        altered[position] ^= 0xFF
        file = tmp_path / f"altered{seed}.sys"
        file.write_bytes(altered)
        machine = EmulatedMachine()
        with pytest.raises((MissingExport, MachineConfigurationError, Win32Error)):
            _install_and_start(machine, file)
        machine.close()


def test_what_the_kernel_lacks_is_no_failure_of_the_driver():
    assert issubclass(MissingExport, MachineBroken)
    assert not issubclass(MissingExport, DriverFault)
