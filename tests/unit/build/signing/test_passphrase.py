"""Passphrases come from a descriptor, the environment or the keyring, and only when they are asked for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harness.build.signing.passphrase import Passphrase, Secret
from harness.errors import ConfigurationError

keyring = pytest.importorskip("keyring") if os.environ.get("CI") != "true" else __import__("keyring")


@pytest.fixture
def backend():
    from tests.fixtures.keyring_backend import InMemory, Locked

    before = keyring.get_keyring()
    yield lambda locked: keyring.set_keyring(Locked() if locked else InMemory())
    keyring.set_keyring(before)


@pytest.mark.parametrize("line", [b"two words\n", b"two words", b"two words\r\nmore\n"])
def test_a_descriptor_gives_its_first_line_and_gives_it_again(line):
    reading, writing = os.pipe()
    try:
        os.write(writing, line)
        os.close(writing)
        source = Passphrase(f"fd:{reading}", "passphrase")

        assert source.read().reveal() == "two words"
        assert source.read().reveal() == "two words"
    finally:
        os.close(reading)


def test_a_descriptor_that_is_not_open_is_told_with_the_remedy():
    with pytest.raises(ConfigurationError, match=r"pin: file descriptor 987 cannot be read: .*987<FILE.*xdist"):
        Passphrase("fd:987", "pin").read()


def test_a_variable_that_is_not_set_is_told(monkeypatch):
    monkeypatch.delenv("ABSENT", raising=False)

    with pytest.raises(ConfigurationError, match="passphrase: the environment variable ABSENT is not set"):
        Passphrase("env:ABSENT", "passphrase").read()


def test_an_empty_passphrase_is_told(monkeypatch):
    monkeypatch.setenv("EMPTY", "")

    with pytest.raises(ConfigurationError, match="passphrase: what env:EMPTY gives is empty; set it, or leave"):
        Passphrase("env:EMPTY", "passphrase").read()


def test_the_keyring_gives_a_password(backend):
    backend(locked=False)

    assert Passphrase("keyring:signing/team", "passphrase").read().reveal() == "from the keyring"


def test_a_password_that_the_keyring_lacks_is_told_with_the_command_that_stores_it(backend):
    backend(locked=False)

    with pytest.raises(ConfigurationError, match="store it with keyring set signing nobody"):
        Passphrase("keyring:signing/nobody", "passphrase").read()


def test_a_locked_keyring_is_told_without_what_it_says(backend):
    backend(locked=True)

    with pytest.raises(ConfigurationError, match=r"cannot be read \(KeyringLocked\); unlock it") as caught:
        Passphrase("keyring:signing/team", "passphrase").read()

    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_keyring_package_that_is_absent_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "keyring", None)

    with pytest.raises(ConfigurationError, match="the keyring package is not installed; pip install keyring"):
        Passphrase("keyring:signing/team", "passphrase").read()


def test_a_secret_shows_itself_to_nobody_who_does_not_ask():
    secret = Secret("hunter2")

    assert "hunter2" not in f"{secret} {secret!r} {[secret]} {vars(Passphrase('env:A', 'pin'))}"


def test_neither_keyring_nor_token_library_is_imported_before_it_is_used():
    """A build with the test certificate must not pay for them, nor fail where they are not installed."""
    code = (
        "import sys, harness.build.signing.configured as c, pathlib\n"
        "c.configured_signer(pathlib.Path(sys.argv[1]))\n"
        "print({'keyring', 'pkcs11', 'requests'} & set(sys.modules))"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, f"{folder}/signing"], capture_output=True, text=True, timeout=60, check=True
        )

    assert done.stdout.strip() == "set()"
