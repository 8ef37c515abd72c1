"""The first start of an image, over real TLS, authentication and PowerShell Remoting, against the stand-in."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest

from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows import profiles
from vm.windows.images import credentials
from vm.windows.images.credentials import Account, Credentials, Secret
from vm.windows.images.first_start import FirstStart
from vm.windows.images.guest_report import GuestFacts

WIN11 = profiles.load("win11")


class Host:
    """Starts nothing: the stand-in is there already."""

    def __init__(self, port):
        self.remoting = ("127.0.0.1", port)
        self.started = []
        self.running = 0
        self.dead = False

    def require_running(self):
        if self.dead:
            raise MachineBroken("the machine is off: it crashed")

    @contextmanager
    def start(self, start):
        self.started.append(start)
        self.running += 1
        try:
            yield self
        finally:
            self.running -= 1


@pytest.fixture
def host(standin):
    return Host(standin.port)


@pytest.fixture
def folder(tmp_path, standin):
    account = Account(standin.username, Secret(standin.password))
    credentials.save(Credentials(account, account), tmp_path)
    return tmp_path


@pytest.fixture
def guest(standin):
    """What a guest with the stand-in's certificate would have reported."""
    return GuestFacts(
        build=standin.windows.system.build,
        revision=0,
        edition="StandIn",
        powershell="5.1",
        certificate="AAAA",
        certificate_sha256=standin.certificate.fingerprint.replace(":", "").lower(),
        ssh_host_key="ssh-ed25519 AAAA",
        firewall_rules=(),
        secure_boot=False,
        test_signing=True,
        memory_integrity=False,
        crash_dump="complete",
        process_audit=True,
        defender=False,
    )


def observe(host, folder, guest, profile=WIN11):
    try:
        return FirstStart(host, reachable_within=20).observe(folder, "image", profile, guest)
    finally:
        assert host.running == 0


def test_a_guest_as_its_profile_says_tells_its_facts(host, folder, guest, standin):
    standin.windows.test_signing = True
    found = observe(host, folder, guest)

    assert found["TestSigning"] == "on"
    assert found["SecureBoot"] == "unknown"
    assert found["VerifierDrivers"] == "none"
    (started,) = host.started
    assert started.disk == folder / "disk.qcow2"
    assert started.nvram == folder / "nvram.fd"
    assert started.hardware is WIN11.hardware


def test_test_signing_that_is_not_in_effect_is_told(host, folder, guest, standin):
    standin.windows.test_signing = False

    with pytest.raises(MachineBroken, match="test signing is off, expected on: drivers that a test certificate signed"):
        observe(host, folder, guest)


def test_memory_integrity_that_is_not_in_effect_is_told(host, folder, guest, standin):
    standin.windows.test_signing = True
    profile = replace(WIN11, features=replace(WIN11.features, memory_integrity=True))

    with pytest.raises(MachineBroken, match=r"memory integrity is off, expected on: it needs .* nested virtualization"):
        observe(host, folder, guest, profile)


def test_another_certificate_is_refused(host, folder, guest):
    with pytest.raises(MachineBroken, match="certificate"):
        observe(host, folder, replace(guest, certificate_sha256="0" * 64))


def test_a_machine_that_went_off_is_told_at_once(host, folder, guest):
    host.dead = True

    with pytest.raises(MachineBroken, match="it crashed"):
        observe(host, folder, guest)


def test_credentials_that_others_can_read_are_not_used(host, folder, guest):
    (folder / credentials.FILE_NAME).chmod(0o644)

    with pytest.raises(MachineConfigurationError, match="others can read it"):
        observe(host, folder, guest)
