"""Drivers on a Windows machine: sent once, trusted, refused with the reason, verified where that is asked for."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.standin.requirements import require_remoting

require_remoting()

from harness.build.signing.authenticode import sign  # noqa: E402
from harness.build.signing.signer import SigningKey  # noqa: E402
from harness.build.signing.usable import rsa_signature  # noqa: E402
from tests.fixtures.signing_keys import root, team  # noqa: E402
from vm import win32  # noqa: E402
from vm.errors import MachineConfigurationError, UnsupportedByMachine, Win32Error  # noqa: E402
from vm.machine import Account, LaunchRequest, Machine, ServiceState, WitnessedMachine  # noqa: E402
from vm.verifier import parse_verifier  # noqa: E402
from vm.windows.machine.embedded_certificates import certificates_of, thumbprint  # noqa: E402
from vm.windows.remoting.transfer import GuestFiles  # noqa: E402

DEVICE = "\\\\.\\ProcNotify"


def code_of(action, *arguments):
    with pytest.raises(Win32Error) as refused:
        action(*arguments)
    return refused.value.code


def test_the_machine_is_a_machine(machine):
    assert isinstance(machine, Machine)
    assert isinstance(machine, WitnessedMachine)


def test_a_driver_is_sent_and_trusted_once(machine, guest, driver_path):
    for _ in range(3):
        machine.install_driver("procnotify", driver_path)
        machine.delete_driver("procnotify")
    before = list(guest.remoting.requests)
    machine.install_driver("procnotify", driver_path)

    assert guest.remoting.requests == before, "the fourth time nothing goes over PowerShell Remoting"
    assert set(guest.windows.roots) == {thumbprint(one) for one in certificates_of(driver_path.read_bytes())}
    assert guest.windows.publishers == guest.windows.roots


def test_of_a_teams_signature_the_signer_and_its_root_are_trusted_and_no_other(machine, guest, driver_path, tmp_path):
    key = SigningKey(team().der, tuple(map(encoded, team().issuers)), rsa_signature(team().key))
    signed = tmp_path / "procnotify.sys"
    signed.write_bytes(sign(driver_path.read_bytes(), key))

    machine.install_driver("procnotify", signed)
    machine.start_driver("procnotify")

    assert set(guest.windows.roots) == {thumbprint(encoded(root().certificate))}
    assert set(guest.windows.publishers) == {thumbprint(team().der)}


def encoded(certificate):
    return certificate.public_bytes(Encoding.DER)


def test_a_guest_that_was_put_back_gets_its_driver_again(machine, guest, driver_path):
    machine.install_driver("procnotify", driver_path)
    machine.reset(fresh=True)
    assert not guest.windows.roots

    machine.install_driver("procnotify", driver_path)
    machine.start_driver("procnotify")

    assert machine.driver_state("procnotify") is ServiceState.RUNNING


def test_a_driver_that_was_changed_after_it_was_signed_is_refused(machine, driver_path, tmp_path):
    content = bytearray(driver_path.read_bytes())
    content[0x600] ^= 1
    changed = tmp_path / "procnotify.sys"
    changed.write_bytes(content)
    machine.install_driver("procnotify", changed)

    assert code_of(machine.start_driver, "procnotify") == win32.ERROR_INVALID_IMAGE_HASH


def test_no_driver_is_started_where_test_signing_cannot_work(machine, guest, driver_path):
    guest.windows.test_signing = False
    machine.install_driver("procnotify", driver_path)

    with pytest.raises(MachineConfigurationError, match="bcdedit /set testsigning on"):
        machine.start_driver("procnotify")
    assert machine.facts.details["test signing"] == "off"


def test_a_file_that_is_no_driver_is_refused_before_anything_is_sent(machine, guest, tmp_path):
    text = tmp_path / "driver.sys"
    text.write_text("no driver")
    before = len(guest.remoting.requests)

    with pytest.raises(MachineConfigurationError, match="no 64-bit Windows driver image"):
        machine.install_driver("procnotify", text)
    with pytest.raises(MachineConfigurationError, match="cannot be read"):
        machine.install_driver("procnotify", tmp_path / "absent.sys")
    assert len(guest.remoting.requests) == before


def test_service_errors_are_the_guests_own(machine, driver_path):
    machine.install_driver("procnotify", driver_path)

    assert code_of(machine.install_driver, "procnotify", driver_path) == win32.ERROR_SERVICE_EXISTS
    assert code_of(machine.install_driver, "a/b", driver_path) == win32.ERROR_INVALID_NAME
    assert code_of(machine.stop_driver, "procnotify") == win32.ERROR_SERVICE_NOT_ACTIVE
    machine.start_driver("procnotify")
    assert code_of(machine.start_driver, "procnotify") == win32.ERROR_SERVICE_ALREADY_RUNNING
    machine.delete_driver("procnotify")
    assert code_of(machine.install_driver, "procnotify", driver_path) == win32.ERROR_SERVICE_MARKED_FOR_DELETE
    machine.stop_driver("procnotify")
    assert code_of(machine.driver_state, "procnotify") == win32.ERROR_SERVICE_DOES_NOT_EXIST


def test_parameters_of_every_type_reach_the_registry(machine, guest, driver_path):
    machine.install_driver(
        "procnotify", driver_path, parameters={"N": 7, "M": -1, "T": "text\ud800", "B": b"\0\xff", "On": True}
    )

    registry = guest.windows.system._machine.kernel.registry
    key = "\\Registry\\Machine\\SYSTEM\\CurrentControlSet\\Services\\procnotify\\Parameters"
    found = {name: registry.value(key, name) for name in ("N", "M", "T", "B", "On")}
    assert found["N"].data == (7).to_bytes(4, "little")
    assert found["M"].data == b"\xff" * 4
    assert found["T"].data.rstrip(b"\0").startswith("text".encode("utf-16-le"))
    assert found["B"].data == b"\0\xff"
    assert found["On"].data == (1).to_bytes(4, "little")


@pytest.mark.parametrize("value", ["x" * (1 << 19), bytes((1 << 20) + 1)], ids=["text", "data"])
def test_a_parameter_that_the_agent_does_not_take_is_unsupported(machine, driver_path, value):
    with pytest.raises(UnsupportedByMachine, match="1048576"):
        machine.install_driver("procnotify", driver_path, parameters={"V": value})
    assert machine.system_time() > 0, "the machine is as good as before"


def test_a_standard_user_makes_calls_of_its_own(machine, guest, driver_path):
    machine.install_driver("procnotify", driver_path)
    machine.start_driver("procnotify")

    machine.open_device(DEVICE).close()
    assert code_of(lambda: machine.open_device(DEVICE, account=Account.STANDARD_USER)) == win32.ERROR_ACCESS_DENIED
    assert guest.ssh.logins == 3, "one while the guest settled, one for each account"


def test_driver_verifier_watches_the_driver_from_its_load_on_and_is_undone_by_a_revert(
    make_machine, guest, driver_path
):
    machine = make_machine(guest, verifier=parse_verifier("deadlock,low-resources=0.05,pool-tag=Tag1"))
    machine.install_driver("procnotify", driver_path)
    assert guest.windows.verifier_flags == 0
    machine.start_driver("procnotify")

    assert guest.windows.verified == {"procnotify.sys"}
    assert guest.windows.verifier_flags == 0x20 | 0x4
    assert guest.windows.low_resources == {"procnotify.sys": (500, "Tag1")}
    machine.reset()
    assert guest.domain.asked == ["revert"]
    assert not guest.windows.verified


def test_an_option_of_driver_verifier_that_needs_a_restart_is_refused_by_name(make_machine, guest, driver_path):
    machine = make_machine(guest, verifier=parse_verifier("ddi"))
    machine.install_driver("procnotify", driver_path)

    with pytest.raises(MachineConfigurationError, match="--verifier ddi"):
        machine.start_driver("procnotify")


def test_an_image_that_is_built_anew_while_it_is_sent_is_not_taken_for_the_one_before(
    machine, driver_path, tmp_path, monkeypatch
):
    image = tmp_path / "procnotify.sys"
    image.write_bytes(driver_path.read_bytes())
    send = GuestFiles.send

    def meanwhile(files, wanted, **how):
        image.write_bytes(driver_path.read_bytes() + bytes(8))
        return send(files, wanted, **how)

    with monkeypatch.context() as patched:
        patched.setattr(GuestFiles, "send", meanwhile)
        with pytest.raises(MachineConfigurationError, match="was changed while it was sent"):
            machine.install_driver("procnotify", image)
    image.write_bytes(driver_path.read_bytes())
    machine.install_driver("procnotify", image)
    machine.start_driver("procnotify")


@pytest.mark.parametrize("name", ["a:b.sys", "a|b.sys", "a\\..\\b.sys", "b.sys.", "\n.sys"])
def test_an_image_of_a_name_that_windows_does_not_have_is_the_users_to_rename(machine, driver_path, tmp_path, name):
    named = tmp_path / name
    named.write_bytes(driver_path.read_bytes())

    with pytest.raises(MachineConfigurationError, match="another one"):
        machine.install_driver("procnotify", named)
    assert machine.system_time() > 0


def test_a_driver_whose_name_verifier_cannot_be_told_is_the_users_to_rename(make_machine, guest, driver_path, tmp_path):
    spaced = tmp_path / "my driver.sys"
    spaced.write_bytes(driver_path.read_bytes())
    machine = make_machine(guest, verifier=parse_verifier("deadlock"))
    machine.install_driver("procnotify", spaced)

    with pytest.raises(MachineConfigurationError, match=r"my driver\.sys"):
        machine.start_driver("procnotify")
    assert machine.driver_state("procnotify") is ServiceState.STOPPED


def test_a_guest_without_an_ssh_server_is_served_over_powershell_remoting_alone(make_guest, make_machine, driver_path):
    guest = make_guest(ssh=False)
    machine = make_machine(guest)
    machine.install_driver("procnotify", driver_path)
    machine.start_driver("procnotify")
    machine.provide_image("C:\\ntproof\\app.exe")
    result = machine.launch(LaunchRequest("C:\\ntproof\\app.exe", "app \ud800"))

    assert result.succeeded
    assert result.command_line == "app \ud800"
    assert guest.ssh.logins == 0
    with pytest.raises(UnsupportedByMachine, match="no SSH server"):
        machine.open_device(DEVICE, account=Account.STANDARD_USER)
    machine.reset()
    assert machine.running_processes() == {}
