"""Tests of the build: a guest that is a process installs itself from real media onto a real disk, or fails to."""

from __future__ import annotations

import hashlib
import json
import logging
import stat
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.fixtures.process_host import PICTURE, ProcessHost
from tests.fixtures.windows_media import Media, image_for, write_iso
from tests.unit.windows.test_answer_media import VIRTIO, virtio_iso
from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows import profiles
from vm.windows.images import build as build_module
from vm.windows.images import credentials, unattend
from vm.windows.images.build import BuildRequest, ImageBuild, SilentListener, differences
from vm.windows.images.guest_report import GuestFacts, StepStarted
from vm.windows.images.installation import Deadlines
from vm.windows.images.manifest import read_manifest
from vm.windows.images.store import ImageStore
from vm.windows.images.unattend import virtio_drivers
from vm.windows.profiles.profile import DiskBus, Profile

WIN11 = profiles.load("win11")
FAST = Deadlines(first_report=30, step=30, shutdown=30, look=0.05)
STAGES = ["media", "boot-media", "credentials", "answers", "install", "confirm", "hash"]


class Recorder(SilentListener):
    def __init__(self):
        self.done, self.kept, self.failed, self.guest, self.pictures = [], [], [], [], []

    def stage_ended(self, stage, seconds, *, again):
        (self.done if again else self.kept).append(stage.name)

    def stage_failed(self, stage, seconds):
        self.failed.append(stage.name)

    def guest_event(self, event):
        self.guest.append(event)

    def screenshot(self, path):
        self.pictures.append(path.read_bytes())


class Workshop:
    """A store, a host, media and what was recorded."""

    def __init__(self, folder):
        self.folder = folder
        self.images = ImageStore(folder / "images")
        self.host = ProcessHost()
        self.listener = Recorder()
        self.isos = {}
        self.package = folder / "OpenSSH-Win64.msi"
        self.package.write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + b"package")

    def iso(self, profile):
        if profile.name not in self.isos:
            path = self.folder / f"{profile.name}.iso"
            self.isos[profile.name] = write_iso(path, Media.windows([image_for(profile)]))
        return self.isos[profile.name]

    def build(self, profile=WIN11, *, behaviour="works", probe=None, **changes):
        self.host.behaviour = behaviour
        self.listener = Recorder()
        package = self.package if profile.needs_openssh_package else None
        settings = {"deadlines": FAST, "room": 1, "openssh": package, **changes}
        request = BuildRequest(profile, self.iso(profile), profile.name, **settings)
        now = datetime(2026, 1, 31, 12, tzinfo=UTC)
        made = ImageBuild(request, self.images, self.host, listener=self.listener, probe=probe, now=lambda: now)
        return made.run()


@pytest.fixture
def workshop(tmp_path):
    made = Workshop(tmp_path)
    yield made
    assert made.host.running == []


@pytest.mark.parametrize("profile", profiles.shipped().all(), ids=lambda profile: profile.name)
def test_every_profile_becomes_a_sealed_image(workshop, profile):
    image = workshop.build(profile)

    assert workshop.listener.done == STAGES
    assert workshop.images.names() == (profile.name,)
    assert workshop.images.verify(profile.name) == ()
    assert image.manifest.profile == profile.without_product_key()
    assert image.manifest.guest.build == profile.media.build
    assert image.manifest.created == "2026-01-31T12:00:00Z"
    assert image.manifest.tools["process-host"] == "1"
    assert {stage.name for stage in image.manifest.stages} == set(STAGES)
    assert (image.nvram is not None) == (profile.hardware.firmware.value == "uefi")
    assert workshop.images.unfinished() == ()
    assert image.credentials().administrator.name == profile.answers.administrator


def test_the_machine_gets_what_the_profile_says(workshop):
    profile = profiles.load("server2025")
    workshop.build(profile)

    (started,) = workshop.host.started
    assert started.hardware is profile.hardware
    assert started.nested_virtualization
    assert [path.name for path in started.media] == ["windows.iso", "answers.iso"]


def test_the_virtio_iso_is_the_third_medium(workshop, tmp_path):
    iso = virtio_iso(tmp_path / "virtio.iso", virtio_drivers(VIRTIO))
    image = workshop.build(VIRTIO, virtio_iso=iso)

    assert workshop.host.started[0].media[2] == iso
    assert image.manifest.source.virtio_sha256 is not None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip with the same programs", b"\xd0\xcf\x11\xe0"])
def test_an_openssh_package_that_is_none_is_refused_before_windows_is_installed(workshop, tmp_path, content):
    package = tmp_path / "OpenSSH-Win64.zip"
    package.write_bytes(content)

    with pytest.raises(
        MachineConfigurationError, match=r"--openssh .*zip: no package of Windows Installer; .* OpenSSH-Win64.*\.msi"
    ):
        workshop.build(openssh=package)
    assert workshop.listener.failed == ["media"]


def test_the_openssh_package_is_in_the_manifest(workshop):
    image = workshop.build()

    assert image.manifest.source.openssh_sha256 == hashlib.sha256(workshop.package.read_bytes()).hexdigest()


def test_a_windows_that_lacks_openssh_is_refused_at_once_without_its_package(workshop):
    with pytest.raises(MachineConfigurationError, match=r"no network to fetch it from.* with --openssh"):
        workshop.build(openssh=None)
    assert workshop.images.unfinished() == ()


def test_a_virtio_machine_without_its_drivers_is_refused_at_once(workshop):
    profile = replace(WIN11, hardware=replace(WIN11.hardware, disk_bus=DiskBus.VIRTIO_SCSI))

    with pytest.raises(MachineConfigurationError, match="give the drivers with --virtio-iso"):
        workshop.build(profile)


def test_the_guest_reports_every_step_of_its_set_up(workshop):
    workshop.build()

    steps = [event.step for event in workshop.listener.guest if isinstance(event, StepStarted)]
    assert steps == sorted(steps)
    assert len(steps) == 10


@pytest.mark.parametrize(
    ("behaviour", "changes", "message"),
    [
        (
            "fails",
            {},
            r"step 30-openssh of the set-up failed at 30-openssh\.ps1:31: no service sshd; the screen is in .*png",
        ),
        ("dies", {}, "the machine went off while waiting for the guest's first report"),
        ("babbles", {}, "which is no event: JSONDecodeError; the screen is in"),
        (
            "silent",
            {"first_report": 0.5},
            "nothing came while waiting for the guest's first report; the deadline has passed",
        ),
        ("hangs", {"step": 2.0}, "waiting for the end of step 50-crash"),
        ("stays-on", {"shutdown": 0.5}, "waiting for the machine to shut down"),
    ],
)
def test_a_failed_installation_is_told_with_its_picture_and_goes_on_later(workshop, behaviour, changes, message):
    with pytest.raises(MachineBroken, match=message):
        workshop.build(behaviour=behaviour, deadlines=replace(FAST, **changes))

    assert workshop.listener.failed == ["install"]
    if behaviour != "dies":
        assert workshop.listener.pictures == [PICTURE]
    assert workshop.images.names() == ()
    assert workshop.images.unfinished() == ("win11-24h2",)
    assert workshop.host.running == []

    workshop.build()
    assert workshop.listener.kept == STAGES[:4]
    assert workshop.listener.done == STAGES[4:]


def test_a_guest_that_is_not_as_its_profile_says_is_not_sealed(workshop):
    with pytest.raises(MachineBroken, match="'win11-24h2' says: test_signing is False, expected True"):
        workshop.build(behaviour="unsigned")

    assert workshop.listener.failed == ["confirm"]
    assert workshop.images.names() == ()


def test_a_screen_that_cannot_be_had_hides_no_cause(workshop):
    workshop.host.blind = True

    with pytest.raises(
        MachineBroken, match=r"no service sshd; there is no picture of the screen \(the display is gone\)"
    ):
        workshop.build(behaviour="fails")


def test_watching_takes_pictures_all_the_time(workshop):
    with pytest.raises(MachineBroken):
        workshop.build(behaviour="silent", watch=True, deadlines=replace(FAST, first_report=0.5, look=0.02))

    assert len(workshop.listener.pictures) > 3


def test_another_profile_does_again_what_depends_on_it(workshop):
    with pytest.raises(MachineBroken):
        workshop.build(behaviour="fails")
    changed = replace(WIN11, features=replace(WIN11.features, process_audit=False))
    image = workshop.build(changed)

    assert workshop.listener.done == STAGES
    assert not image.manifest.guest.process_audit


def test_answers_that_would_be_others_now_are_written_again(workshop, monkeypatch):
    """As after an update of the project that repairs what made the installation fail."""
    with pytest.raises(MachineBroken):
        workshop.build(behaviour="fails")
    monkeypatch.setattr(unattend, "UEFI_SYSTEM_MIB", 300)
    workshop.build()

    assert workshop.listener.kept == STAGES[:3]
    assert workshop.listener.done == STAGES[3:]


def stop_while_it_seals(workshop, monkeypatch):
    class Stopped(BaseException):
        pass

    def stop(self, folder, content):
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(ImageStore, "admit", stop)
        with pytest.raises(Stopped):
            workshop.build()


def test_a_build_that_was_stopped_while_it_sealed_is_sealed_next_time(workshop, monkeypatch):
    stop_while_it_seals(workshop, monkeypatch)
    workshop.build()

    assert workshop.listener.done == []
    assert len(workshop.host.started) == 1
    assert workshop.images.verify("win11-24h2") == ()


def test_a_build_that_lost_its_disk_while_it_was_sealed_is_done_again(workshop, monkeypatch):
    stop_while_it_seals(workshop, monkeypatch)
    (workshop.images.root / ".builds" / "win11-24h2" / "disk.qcow2").unlink()
    workshop.build()

    assert workshop.listener.done == STAGES
    assert workshop.images.verify("win11-24h2") == ()


def test_a_second_build_of_the_same_image_is_refused_until_it_is_sealed(workshop, monkeypatch):
    refused = []
    admit = ImageStore.admit

    def tried(self, folder, content):
        try:
            workshop.build()
        except MachineBroken as error:
            refused.append(str(error))
        return admit(self, folder, content)

    monkeypatch.setattr(ImageStore, "admit", tried)
    workshop.build()

    assert refused == ["another process builds image 'win11-24h2'; wait for it or end it"]
    assert workshop.images.verify("win11-24h2") == ()


def test_a_medium_that_was_damaged_is_copied_again(workshop):
    with pytest.raises(MachineBroken):
        workshop.build(behaviour="fails")
    (workshop.images.root / ".builds" / "win11-24h2" / "windows.iso").write_bytes(b"short")
    workshop.build()

    assert "boot-media" in workshop.listener.done
    assert workshop.listener.kept == ["media"]


def test_what_the_probe_sees_is_in_the_manifest(workshop):
    class Probe:
        def observe(self, folder, name, profile, guest):
            assert profile == WIN11
            return {"accounts": str((folder / credentials.FILE_NAME).exists()), "name": name, "build": str(guest.build)}

    image = workshop.build(probe=Probe())

    assert image.manifest.observed == {"accounts": "True", "name": "win11-24h2", "build": "26100"}
    assert workshop.listener.done == [*STAGES[:-1], "probe", "hash"]


def test_a_name_that_is_taken_is_refused_before_anything_is_done(workshop):
    workshop.build()

    with pytest.raises(MachineConfigurationError, match="ntproof image remove win11-24h2, or give --name"):
        workshop.build()


def test_a_package_that_is_missing_is_told_before_anything_is_copied(workshop, monkeypatch):
    workshop.iso(WIN11)
    monkeypatch.setitem(sys.modules, "pycdlib", None)

    with pytest.raises(
        MachineConfigurationError, match=r"pycdlib is missing; install it with: pip install ntproof\[windows\]"
    ):
        workshop.build()
    assert workshop.listener.failed == ["media"]


def test_a_disk_without_room_is_foreseen(workshop):
    with pytest.raises(MachineBroken, match="the guest's disk needs"):
        workshop.build(room=10**18)
    assert workshop.host.started == []


def test_no_secret_leaves_the_file_that_is_for_it(workshop, caplog, capfd):
    """Passwords are random, so that every place that could hold one can be searched for them."""
    caplog.set_level(logging.DEBUG)
    server = profiles.load("server2025")
    with pytest.raises(MachineBroken) as caught:
        workshop.build(server, behaviour="fails")
    folder = workshop.images.root / ".builds" / server.name
    words = [secret.reveal() for secret in credentials.load(folder).secrets()]
    during = {path.name: path.read_bytes() for path in folder.iterdir()}
    image = workshop.build(server)
    after = {path.name: path.read_bytes() for path in image.folder.iterdir()}
    printed = "".join(capfd.readouterr())

    assert len(words) == 3
    for word in words:
        for form in (word.encode(), word.encode("utf-16-le")):
            assert [name for name, content in during.items() if form in content] in ([], [credentials.FILE_NAME])
            assert [name for name, content in after.items() if form in content] in ([], [credentials.FILE_NAME])
        for text in (caplog.text, str(caught.value), printed, repr(image), repr(workshop.host.started)):
            assert word not in text
        assert not [line for line in workshop.host.command_lines if word.encode() in line]
    assert "answers.iso" in during
    assert "answers.iso" not in after
    assert stat.S_IMODE((image.folder / credentials.FILE_NAME).stat().st_mode) == 0o600


def test_a_product_key_is_in_no_file_of_the_image(workshop, caplog):
    """It may be someone's licence; who may read an image's manifest need not know it."""
    caplog.set_level(logging.DEBUG)
    key = "AAAAA-BBBBB-CCCCC-DDDDD-EEEEE"
    profile = replace(WIN11, answers=replace(WIN11.answers, product_key=key))
    image = workshop.build(profile)

    assert [path.name for path in image.folder.iterdir() if key.encode() in path.read_bytes()] == []
    assert key not in caplog.text
    assert image.manifest.profile == replace(profile, answers=replace(profile.answers, product_key=None))


def test_the_log_tells_each_stage_and_step_with_its_time(workshop):
    image = workshop.build()
    text = (image.folder / build_module.LOG).read_text()

    for stage in STAGES:
        assert f"stage {stage}: done in" in text
    assert "guest: step 20-remoting done in 0.1 s" in text


FACTS = GuestFacts(
    build=26100,
    revision=1,
    edition="Professional",
    powershell="5.1",
    certificate="AAAA",
    certificate_sha256="0" * 64,
    ssh_host_key="ssh-ed25519 AAAA",
    firewall_rules=(),
    secure_boot=False,
    test_signing=True,
    memory_integrity=False,
    crash_dump="complete",
    process_audit=True,
    defender=False,
)


@pytest.mark.parametrize(
    "change",
    [
        {"build": 22631},
        {"secure_boot": True},
        {"test_signing": False},
        {"memory_integrity": True},
        {"crash_dump": "small"},
        {"process_audit": False},
    ],
)
def test_each_difference_between_guest_and_profile_is_found(change):
    assert list(differences(FACTS, WIN11)) == []
    (found,) = differences(replace(FACTS, **change), WIN11)
    assert found.startswith(next(iter(change)))


def test_a_manifest_is_read_as_it_was_written(workshop):
    image = workshop.build()

    assert read_manifest(image.folder / "manifest.json") == image.manifest
    value = json.loads((image.folder / "manifest.json").read_text())
    assert Profile.from_mapping(value["profile"], "manifest") == WIN11.without_product_key()
