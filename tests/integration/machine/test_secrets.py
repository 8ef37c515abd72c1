"""No password appears in a log, a representation, an argument, a report or what is kept of a crash."""

from __future__ import annotations

import logging

import pytest

from tests.integration.machine.conftest import Misuse, with_access
from tests.standin.requirements import require_remoting

require_remoting()

from tests.standin.local_guest import PASSWORD, USER_PASSWORD  # noqa: E402
from vm.errors import MachineBroken, MachineCrashed, Win32Error  # noqa: E402
from vm.machine import Account  # noqa: E402
from vm.windows.remoting.endpoint import Credentials  # noqa: E402

SECRETS = (PASSWORD, USER_PASSWORD)


def test_no_secret_is_told(make_machine, make_guest, driver_path, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    guest = make_guest()
    machine = make_machine(guest)
    machine.install_driver("procnotify", driver_path)
    machine.start_driver("procnotify")
    with pytest.raises(Win32Error):
        machine.open_device("\\\\.\\ProcNotify", account=Account.STANDARD_USER)
    with pytest.raises(MachineCrashed) as crashed:
        Misuse(machine, guest).run("FastFail", 3)

    wrong = make_guest()
    with pytest.raises(MachineBroken) as refused:
        make_machine(wrong, access=with_access(wrong, administrator=Credentials("administrator", PASSWORD + "x")))

    told = [
        caplog.text,
        *capfd.readouterr(),
        repr(guest.access),
        repr(machine.__dict__),
        repr(machine.link.__dict__),
        str(refused.value),
        crashed.value.report.render(),
        *guest.ssh.commands,
        *(path.read_text(errors="replace") for path in tmp_path.rglob("*.txt")),
    ]
    assert "procnotify" in "".join(told)
    for text in told:
        assert not any(secret in text for secret in SECRETS)
