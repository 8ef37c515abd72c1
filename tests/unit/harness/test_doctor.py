"""Tests of `ntproof doctor`: what is missing is named with its remedy, and only the emulated machine decides."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from harness.build.wdk import Kit
from harness.build.wdk.kit import state_of
from harness.commands import doctor as command
from harness.doctor import EMULATED, WDK, WINDOWS, DoctorError, ThisComputer, examine, usable
from harness.errors import ConfigurationError
from harness.exit_codes import ExitCode

FOLDER = Path("/somewhere/build")
FOLDER_OF_KIT = Path(__file__).parents[2] / "fixtures" / "kit"


def failing(error):
    def fail(*_arguments):
        raise error

    return fail


@dataclasses.dataclass
class Computer:
    """A computer that has everything, less what a test takes away."""

    version: tuple = (3, 12, 1)
    missing_packages: tuple = ()
    missing_modules: tuple = ()
    missing_programs: tuple = ()
    missing_paths: tuple = ()
    closed_paths: tuple = ()
    free: int = 1 << 40
    result: int = 42
    windows_kits: tuple = (
        Kit("10.0.26100.0", (), (FOLDER_OF_KIT,), {"x64": (FOLDER_OF_KIT,)}, "", state_of([FOLDER_OF_KIT])),
    )

    def python(self):
        return self.version

    def package(self, name):
        return None if name in self.missing_packages else "1.0"

    def import_error(self, module):
        return f"No module named {module!r}" if module in self.missing_modules else None

    def program(self, name):
        return None if name in self.missing_programs else f"/usr/bin/{name}"

    def exists(self, path):
        return path not in self.missing_paths

    def accessible(self, path):
        return self.exists(path) and path not in self.closed_paths

    def free_bytes(self, folder):
        return self.free

    def try_write(self, folder):
        pass

    def emulate(self):
        return self.result

    def compile(self):
        return "0.17.1"

    def driver_sources(self):
        return Path("/somewhere/driver")

    def kits(self):
        return list(self.windows_kits)


def missing(computer):
    return [need for need in examine(computer, [FOLDER]) if not need.met]


def test_a_complete_computer_needs_nothing():
    needs = examine(Computer(), [FOLDER])

    assert usable(EMULATED, needs)
    assert usable(WINDOWS, needs)
    assert usable(WDK, needs)
    assert not any(need.remedy for need in needs)


@pytest.mark.parametrize(
    ("change", "name", "remedy"),
    [
        ({"version": (3, 10, 9)}, "Python", "3.11"),
        ({"missing_packages": ("capstone",)}, "package capstone", "pip install capstone"),
        ({"result": 41}, "CPU emulator", "unicorn"),
        ({"free": 10}, "disk space", "NTPROOF_BUILD_DIR"),
    ],
)
def test_what_the_emulated_machine_lacks_makes_it_unusable(change, name, remedy):
    computer = Computer(**change)

    (need,) = missing(computer)

    assert (need.kind, need.name) == (EMULATED, name)
    assert remedy in need.remedy
    assert not usable(EMULATED, [need])


@pytest.mark.parametrize(
    ("method", "error", "name"),
    [
        ("emulate", DoctorError("cannot be imported: no libunicorn"), "CPU emulator"),
        ("compile", DoctorError("No module named ziglang"), "C compiler"),
        ("driver_sources", ConfigurationError("the driver sources are missing"), "driver sources"),
        ("try_write", PermissionError(13, "Permission denied"), "build folder"),
        ("free_bytes", OSError(5, "Input/output error"), "disk space"),
    ],
)
def test_a_trial_that_fails_is_told_with_its_cause(monkeypatch, method, error, name):
    computer = Computer()
    monkeypatch.setattr(computer, method, failing(error))

    (need,) = missing(computer)

    assert need.name == name
    assert (getattr(error, "strerror", None) or str(error)) in need.found
    assert need.remedy


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"missing_modules": ("libvirt",)}, "module libvirt"),
        ({"missing_modules": ("paramiko",)}, "package paramiko"),
        ({"missing_modules": ("pypsrp",)}, "package pypsrp"),
        ({"missing_programs": ("qemu-system-x86_64",)}, "QEMU"),
        ({"missing_programs": ("swtpm",)}, "TPM emulator"),
        ({"missing_programs": ("swtpm_setup",)}, "TPM emulator"),
        ({"missing_paths": ("/dev/kvm",)}, "KVM"),
        ({"closed_paths": ("/dev/kvm",)}, "KVM"),
        ({"missing_paths": ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")}, "libvirt daemon"),
        ({"closed_paths": ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")}, "libvirt daemon"),
    ],
)
def test_what_windows_machines_lack_leaves_the_emulated_machine_usable(change, name):
    needs = examine(Computer(**change), [FOLDER])

    assert [need.name for need in needs if not need.met] == [name]
    assert usable(EMULATED, needs)
    assert not usable(WINDOWS, needs)


def test_a_device_that_may_be_opened_is_not_called_working():
    (kvm,) = [need for need in examine(Computer(), [FOLDER]) if need.name == "KVM"]

    assert "only a guest that starts proves" in kvm.found


def test_a_closed_socket_is_told_apart_from_a_missing_daemon():
    closed = missing(Computer(closed_paths=("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")))
    absent = missing(Computer(missing_paths=("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")))

    assert "group libvirt" in closed[0].remedy
    assert "apt-get install" in absent[0].remedy


def test_missing_windows_parts_do_not_fail_the_command(capsys):
    status = command.report(Computer(missing_programs=("qemu-system-x86_64",)), as_json=False)

    assert status is ExitCode.PASSED
    output = capsys.readouterr().out.splitlines()
    assert "emulated machine: all found" in output
    assert "Windows machines (optional): 1 missing" in output


def test_an_unusable_emulated_machine_fails_the_command(capsys):
    status = command.report(Computer(missing_packages=("unicorn",)), as_json=False)

    assert status is ExitCode.MACHINE_ERROR
    output = capsys.readouterr().out
    assert "MISSING package unicorn: not installed" in output
    assert "pip install unicorn" in output


@pytest.mark.parametrize(
    ("kits", "found"),
    [
        ((), "none was added"),
        ((Kit("10.0.26100.0", (), (), {}, "", state_of([]), ("no headers",)),), "10.0.26100.0 cannot be used"),
        ((Kit("10.0.26100.0", (), (Path("/not/mounted"),), {}, ""),), "kit 10.0.26100.0: /not/mounted is gone"),
    ],
)
def test_a_missing_kit_is_told_and_leaves_the_machines_usable(kits, found):
    (need,) = missing(Computer(windows_kits=kits))

    assert need.kind == WDK
    assert need.found.startswith(found)
    assert "ntproof wdk add" in need.remedy
    assert command.report(Computer(windows_kits=kits), as_json=True) is ExitCode.PASSED


def test_the_json_form_has_every_need(capsys):
    command.report(Computer(missing_modules=("pypsrp",)), as_json=True)

    found = json.loads(capsys.readouterr().out)
    assert found["usable"] == {"emulated": True, "windows": False, "wdk": True}
    assert [need["name"] for need in found["needs"] if not need["met"]] == ["package pypsrp"]


def test_this_computer_runs_the_emulated_machine(tmp_path):
    needs = examine(ThisComputer(), [tmp_path / "build"])

    assert [need for need in needs if need.kind == EMULATED and not need.met] == []


def test_a_folder_that_cannot_be_made_is_found_out(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")

    needs = examine(ThisComputer(), [blocked / "build"])

    assert [need.name for need in needs if need.kind == EMULATED and not need.met] == ["build folder"]
