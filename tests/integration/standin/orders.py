"""Tells the guest to misbehave, over SSH, as nobody would tell a Windows."""

from __future__ import annotations

import base64

import paramiko

from tests.integration.standin.image import NAME

ANSWERS_WITHIN = 60.0


def order(host, domain, text):
    """Give one order to the guest of a domain; it has taken it when this returns."""
    image = host.store.open(NAME)
    account = image.credentials().administrator
    address = domain.address_of(22)
    kind, blob = image.manifest.guest.ssh_host_key.split()
    with paramiko.SSHClient() as client:
        keys = client.get_host_keys()
        keys.add(f"[{address.host}]:{address.port}", kind, paramiko.PKey.from_type_string(kind, base64.b64decode(blob)))
        client.connect(
            address.host, address.port, account.name, account.password.reveal(), allow_agent=False, look_for_keys=False,
            timeout=ANSWERS_WITHIN, banner_timeout=ANSWERS_WITHIN, auth_timeout=ANSWERS_WITHIN,
        )  # fmt: skip
        _, answer, error = client.exec_command(f"standin-control {text}", timeout=ANSWERS_WITHIN)
        said = answer.read().decode() + error.read().decode()
    assert said == "ok\n", said
