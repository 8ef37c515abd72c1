"""A machine by the name of an image: its guest is leased, settled and reached with what the image says of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.standin.requirements import require_remoting

require_remoting("libvirt")

from tests.standin.local_guest import PASSWORD, USER_PASSWORD, LocalGuest  # noqa: E402
from tests.standin.windows import ADMINISTRATOR, STANDARD_USER  # noqa: E402
from tests.unit.windows.test_image_build import Workshop  # noqa: E402
from vm.errors import MachineBroken, MachineConfigurationError  # noqa: E402
from vm.machine import LaunchRequest  # noqa: E402
from vm.registry import GuestProgramFiles, MachineOptions  # noqa: E402
from vm.windows.images import credentials  # noqa: E402
from vm.windows.images.credentials import Account, Credentials, Secret  # noqa: E402
from vm.windows.machine.create import machine_of  # noqa: E402
from vm.windows.machine.programs import CHILD, NTGUEST  # noqa: E402

APP = "C:\\ntproof\\app.exe"


def build_tools():
    from harness.build.guest_tools import build_guest_tools

    tools = build_guest_tools()
    return GuestProgramFiles(tools.ntguest, tools.child)


@pytest.fixture
def local(monkeypatch):
    with LocalGuest() as guest:
        # Where pyspnego's NTLM acceptor looks for the users it knows.
        monkeypatch.setenv("NTLM_USER_FILE", str(guest.remoting.users_file))
        yield guest


@pytest.fixture
def image(local, tmp_path):
    """A sealed image that says of its guest what is true of the one in this process."""
    built = Workshop(tmp_path).build()
    built.folder.chmod(0o700)
    accounts = Credentials(Account(ADMINISTRATOR, Secret(PASSWORD)), Account(STANDARD_USER, Secret(USER_PASSWORD)))
    credentials.save(accounts, built.folder)
    key = " ".join(local.ssh.host_key.split()[:2])
    guest = replace(built.manifest.guest, certificate_sha256=local.remoting.certificate.fingerprint, ssh_host_key=key)
    return replace(built, manifest=replace(built.manifest, guest=guest))


@pytest.fixture
def lease(local):
    asked = []

    def give(request):
        asked.append(request)
        local.settle(request.settle)
        return local.domain

    give.asked = asked
    return give


def test_a_machine_of_an_image_is_settled_once_and_works(image, lease, local):
    options = MachineOptions(worker="gw1", slots=7, tools=build_tools)
    machine = machine_of("win11", image, options, lease)
    try:
        (request,) = lease.asked
        assert (request.image, request.worker, request.slots) == (image, "gw1", 7)
        assert {NTGUEST, CHILD} <= {file.path for file in local.windows.files.within("C:\\ntproof")}
        assert local.windows.auditing
        assert (machine.facts.machine, machine.facts.kind, machine.facts.profile) == ("win11", "windows", "win11-24h2")
        machine.provide_image(APP)
        mark = machine.witness_mark()
        pid = machine.launch(LaunchRequest(APP, "app <&> \ud800")).pid
        machine.exit_process(pid, 3)
        (log,) = machine.witnessed(mark)
        assert [f"{pid:#x}" in record for record in log.records] == [True, True]
        assert log.complete
    finally:
        machine.close()
    assert local.domain.asked == ["close"]


def test_what_is_put_into_the_guest_decides_whether_a_saved_guest_is_good(image, lease, tmp_path):
    other = tmp_path / "child.exe"
    tools = build_tools()
    other.write_bytes(tools.child.read_bytes() + b"\0")
    for programs in (tools, tools, GuestProgramFiles(tools.ntguest, other)):
        machine_of("win11", image, MachineOptions(tools=lambda programs=programs: programs), lease).close()

    first, second, third = (request.content_key for request in lease.asked)
    assert first == second != third


def test_a_machine_without_programs_for_its_guest_cannot_be(image, lease):
    with pytest.raises(MachineConfigurationError, match="programs that run inside its guest"):
        machine_of("win11", image, MachineOptions(), lease)
    assert lease.asked == []


def test_a_guest_that_cannot_be_reached_gives_its_domain_back(image, lease, local):
    other = replace(image.manifest.guest, ssh_host_key="ssh-ed25519 " + "A" * 68)
    changed = replace(image, manifest=replace(image.manifest, guest=other))

    with pytest.raises(MachineBroken, match="host key"):
        machine_of("win11", changed, MachineOptions(tools=build_tools), lease)
