"""Tests of `ntproof doctor`: what is missing is named with its remedy, and only the emulated machine decides."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from harness.build.wdk import Kit
from harness.build.wdk.kit import state_of
from harness.commands import doctor as command
from harness.doctor import (
    EMULATED,
    WDK,
    WINDOWS,
    DoctorError,
    ThisComputer,
    examine,
    examine_kits,
    usable,
)
from harness.doctor_windows import examine_windows
from harness.errors import ConfigurationError
from harness.exit_codes import ExitCode

FOLDER = Path("/somewhere/build")
FOLDER_OF_KIT = Path(__file__).parents[2] / "fixtures" / "kit"
HERE = "qemu:///session"
ELSEWHERE = "qemu+ssh://lab/system"


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
    unreachable: str = ""
    accelerated: tuple = (True, "KVM: the probe ran in 0.7 s")
    image_names: tuple = ("win11-24h2",)
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

    def reach(self, uri):
        if self.unreachable:
            raise DoctorError(self.unreachable)
        return f"{uri}: libvirt 9.0.0, qemu 7.2.0"

    def accelerator(self, uri):
        return self.accelerated

    def images(self):
        return Path("/somewhere/images"), self.image_names

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
    return [need for need in everything(computer) if not need.met]


def everything(computer, uri=HERE):
    return [*examine(computer, [FOLDER]), *examine_windows(computer, uri), *examine_kits(computer)]


def test_a_complete_computer_needs_nothing():
    needs = everything(Computer())

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

    (need,) = [need for need in missing(computer) if need.kind == EMULATED]

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

    (need,) = [need for need in missing(computer) if need.kind == EMULATED]

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
        ({"unreachable": "qemu:///session: nobody answers; start libvirt"}, "hypervisor"),
        ({"accelerated": (False, "TCG, slow: the hypervisor offers no KVM")}, "accelerator"),
        ({"image_names": ()}, "images"),
        ({"free": 9 * 10**9}, "room for machines"),
    ],
)
def test_what_windows_machines_lack_leaves_the_emulated_machine_usable(change, name):
    needs = everything(Computer(**change))

    assert [need.name for need in needs if not need.met] == [name]
    assert all(need.remedy for need in needs if not need.met)
    assert usable(EMULATED, needs)
    assert not usable(WINDOWS, needs)


def test_what_the_hypervisor_says_is_found_and_what_to_do_is_the_remedy():
    (need,) = missing(Computer(unreachable="qemu:///session: nobody answers; start libvirt"))

    assert (need.found, need.remedy) == ("qemu:///session: nobody answers", "start libvirt")


def test_kvm_counts_only_where_it_ran_something():
    needs = {need.name: need for need in everything(Computer())}

    assert needs["accelerator"].found == "KVM: the probe ran in 0.7 s"


def test_what_a_hypervisor_elsewhere_has_installed_is_not_looked_for_here():
    bare = Computer(missing_programs=("qemu-system-x86_64", "swtpm"), missing_paths=("/usr/share/OVMF",))

    assert [need.name for need in everything(bare, ELSEWHERE) if not need.met] == []
    assert [need.name for need in everything(bare, HERE) if not need.met] == ["QEMU", "TPM emulator"]


def test_a_first_image_needs_more_room_than_machines():
    needs = {need.name: need for need in everything(Computer(image_names=(), free=15 * 10**9))}

    assert not needs["room for machines"].met
    assert "20 GB" in needs["room for machines"].remedy


def test_missing_windows_parts_do_not_fail_the_command(capsys):
    status = command.report(Computer(missing_programs=("qemu-system-x86_64",)), HERE, as_json=False)

    assert status is ExitCode.PASSED
    output = capsys.readouterr().out.splitlines()
    assert "emulated machine: all found" in output
    assert "Windows machines (optional): 1 missing" in output


def test_an_unusable_emulated_machine_fails_the_command(capsys):
    status = command.report(Computer(missing_packages=("unicorn",)), HERE, as_json=False)

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
    assert command.report(Computer(windows_kits=kits), HERE, as_json=True) is ExitCode.PASSED


def test_the_json_form_has_every_need(capsys):
    command.report(Computer(missing_modules=("pypsrp",)), HERE, as_json=True)

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


def test_a_hypervisor_that_does_not_answer_is_told_with_its_uri():
    with pytest.raises(DoctorError, match="test:///nowhere/at/all"):
        ThisComputer().reach("test:///nowhere/at/all")
