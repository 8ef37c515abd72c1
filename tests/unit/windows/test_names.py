"""Machines are named by their images, and by the profiles that there is an image of."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vm.errors import MachineConfigurationError
from vm.registry import create_machine, machine_names
from vm.windows.names import image_of, names_of


def test_images_are_named_by_themselves_and_by_the_aliases_of_their_profiles():
    assert names_of(["win11-24h2", "mine"]) == ("mine", "win11-24h2", "win11")


def test_an_image_that_is_named_like_an_alias_is_itself():
    assert image_of("win11", ["win11", "win11-24h2"]) == "win11"
    assert names_of(["win11", "win11-24h2"]) == ("win11", "win11-24h2")


def test_an_alias_stands_for_the_image_of_its_profile():
    assert image_of("win11", ["win11-24h2"]) == "win11-24h2"


@pytest.mark.parametrize("name", ["win11", "win11-24h2"])
def test_a_profile_without_an_image_says_how_to_build_one(name):
    with pytest.raises(MachineConfigurationError, match=f"ntproof image build {name} --iso FILE"):
        image_of(name, ["other"])


def test_a_name_that_nobody_knows_lists_those_that_are_known():
    with pytest.raises(
        MachineConfigurationError, match=r"no machine 'win12': choose from emulated, mine, .*win11 \(not"
    ):
        image_of("win12", ["mine"])


def test_the_registry_names_what_the_store_holds(tmp_path, monkeypatch):
    (tmp_path / "win10-22h2").mkdir()
    (tmp_path / ".builds").mkdir()

    assert machine_names({"NTPROOF_IMAGE_DIR": str(tmp_path)}) == ("emulated", "win10-22h2", "win10")
    assert machine_names({}) == ("emulated",)


def test_an_unknown_machine_is_refused_before_anything_is_needed_to_run_it(tmp_path, monkeypatch):
    monkeypatch.setenv("NTPROOF_IMAGE_DIR", str(tmp_path))

    with pytest.raises(MachineConfigurationError, match="ntproof image build win10"):
        create_machine("win10")


def test_naming_machines_imports_no_hypervisor_and_no_remoting():
    code = (
        "import sys, vm.registry; vm.registry.machine_names(); "
        "print([name for name in sys.modules if name.split('.')[0] in ('libvirt', 'pypsrp', 'paramiko', 'pycdlib')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "[]"
