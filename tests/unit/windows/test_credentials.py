"""Tests of credentials: random, complete for Windows, for their owner's eyes only, and never in a text by accident."""

from __future__ import annotations

import json
import logging
import pickle
import stat
import string
import traceback

import pytest

from vm.errors import MachineConfigurationError
from vm.windows import profiles
from vm.windows.images import credentials as module
from vm.windows.images.credentials import Secret, load, new_credentials, new_password, save

WIN11 = profiles.load("win11")


def test_passwords_are_different_and_complex_enough_for_windows():
    drawn = [new_password().reveal() for _ in range(200)]

    assert len(set(drawn)) == 200
    for password in drawn:
        assert len(password) == module.PASSWORD_LENGTH
        for kind in (string.ascii_lowercase, string.ascii_uppercase, string.digits, string.punctuation):
            assert set(password) & set(kind)


def test_each_image_gets_its_own_passwords():
    first, second = new_credentials(WIN11), new_credentials(WIN11)

    assert len({secret.reveal() for secret in (*first.secrets(), *second.secrets())}) == 4
    assert len(new_credentials(profiles.load("server2025")).secrets()) == 3


def test_what_is_saved_is_loaded_again(tmp_path):
    for name in ("win11", "server2022"):
        made = new_credentials(profiles.load(name))
        save(made, tmp_path)

        assert load(tmp_path) == made


def test_only_the_owner_may_read_the_file_even_under_a_lax_umask(tmp_path, monkeypatch):
    import os

    before = os.umask(0)
    path = save(new_credentials(WIN11), tmp_path)
    os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / module.FILE_NAME).symlink_to(tmp_path / "elsewhere")
    save(new_credentials(WIN11), tmp_path)

    assert (tmp_path / "elsewhere").read_text() == "kept"


def test_a_file_that_others_can_read_is_refused(tmp_path):
    save(new_credentials(WIN11), tmp_path).chmod(0o640)

    with pytest.raises(MachineConfigurationError, match=r"others can read it \(mode 640\); chmod 600"):
        load(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", '{"administrator": {"name": "a", "password": "hunter22"}}', '["hunter22"]']
)
def test_a_damaged_file_is_named_and_not_quoted(tmp_path, content):
    path = save(new_credentials(WIN11), tmp_path)
    path.write_text(content)

    with pytest.raises(MachineConfigurationError, match=r"credentials\.json: .*build the image anew") as caught:
        load(tmp_path)
    assert "hunter22" not in "".join(traceback.format_exception(caught.value))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MachineConfigurationError, match="No such file"):
        load(tmp_path)


def test_a_secret_does_not_show_itself(caplog):
    secret = Secret("hunter2")
    caplog.set_level(logging.DEBUG)
    logging.getLogger("test").debug("%s %r %s", secret, secret, f"{secret} {secret!r} {secret:>20}")

    for text in (
        str(secret),
        repr(secret),
        repr([secret]),
        repr({"a": secret}),
        caplog.text,
        str(new_credentials(WIN11)),
    ):
        assert "hunter2" not in text
        assert "Secret(...)" in text
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)


def test_secrets_are_equal_when_their_texts_are():
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
