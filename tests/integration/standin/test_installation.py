"""The image is made from generated media, by what makes images of Windows; wrong answers are found out by the guest."""

from __future__ import annotations

import hashlib

import pytest

from tests.integration.standin.image import NAME, PROFILES, make_medium
from tests.integration.standin.medium import PRO
from vm.errors import MachineBroken
from vm.windows.images import credentials
from vm.windows.images.answer_media import answer_files, setup_scripts, shipped_guest_module, write_answer_media
from vm.windows.images.build import SilentListener
from vm.windows.images.hypervisor import Installation, open_host
from vm.windows.images.installation import Deadlines, install
from vm.windows.images.media import copy_without_prompt
from vm.windows.profiles.profile import Firmware
from vm.windows.profiles.registry import shipped

DEADLINES = Deadlines(first_report=600, step=300, shutdown=120)
PROFILE = shipped().with_folder(PROFILES).load(NAME)


def test_the_image_is_as_it_was_sealed_and_tells_what_it_was_made_of(host):
    assert host.store.verify(NAME) == ()
    found = host.image.manifest

    assert (found.source.iso_image, found.source.iso_index) == (PRO, 2)
    assert found.guest.build == PROFILE.media.build
    assert found.observed["TestSigning"] == "on"
    assert found.observed["ComputerName"] == PROFILE.answers.computer_name
    assert hashlib.sha256(found.guest.certificate_der).hexdigest() == found.guest.certificate_sha256
    assert {stage.name for stage in found.stages} >= {"media", "boot-media", "answers", "install", "confirm", "probe"}


def test_the_log_of_the_build_has_each_step_of_the_set_up(host):
    text = (host.image.folder / "build.log").read_text()

    for path in setup_scripts():
        if path.startswith("steps/"):
            assert f"guest: step {path.removeprefix('steps/').removesuffix('.ps1')} done in" in text


@pytest.fixture
def install_with(host, tmp_path, nothing_left):
    """Installs with the answers for an image of the medium, as far as the guest goes."""

    def run(index, profile=PROFILE, prompt=False):
        iso, _ = make_medium()
        windows, answers = tmp_path / "windows.iso", tmp_path / "answers.iso"
        if prompt:
            windows = iso
        else:
            copy_without_prompt(iso, windows, Firmware.UEFI)
        accounts = credentials.new_credentials(profile)
        files = answer_files(profile, accounts, image_index=index, guest_module=shipped_guest_module())
        write_answer_media(answers, files)
        hypervisor = open_host(host.daemon.uri)
        hypervisor.create_disk(tmp_path / "disk.qcow2", profile.hardware.disk_gib)
        media = (windows, answers)
        wanted = Installation(
            "wrong", profile.hardware, nested_virtualization=False, disk=tmp_path / "disk.qcow2",
            nvram=tmp_path / "nvram.fd", media=media,
        )  # fmt: skip
        tmp_path.chmod(0o755)
        with hypervisor.run(wanted) as machine:
            return install(machine, SilentListener(), DEADLINES, pictures=tmp_path / "screen.png")

    return run


def test_answers_for_an_image_that_is_not_there_end_in_setup(install_with, tmp_path):
    with pytest.raises(MachineBroken, match=r"step windows-pe of the set-up failed .* has no image 7: it has 2"):
        install_with(7)
    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")


def test_answers_for_another_edition_are_found_by_the_first_step(install_with):
    with pytest.raises(
        MachineBroken, match=r"step 10-system .* Windows build 22631 was installed, the profile says 26100"
    ):
        install_with(1)
