"""A signing command is run without a shell, ended at its deadline, and believed only after its file was verified."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from harness.build import pe
from harness.build.signing.authenticode import without_signature
from harness.build.signing.external_command import FILE, INPUT, OUTPUT, TIMESTAMP, ExternalCommand, without_secrets
from harness.build.signing.files import NamedFile
from harness.build.signing.generated import ensure_identity
from harness.build.signing.signature import verify_image
from harness.build.signing.signer import KeySigner
from harness.errors import ConfigurationError, SigningFailed
from tests.fixtures.signing_keys import SERVER, make, rsa_key, write

SIGN = """
import sys, pathlib
from harness.build.signing.generated import ensure_identity
from harness.build.signing.signer import KeySigner
def signed(folder, data):
    return KeySigner(ensure_identity(pathlib.Path(folder))).sign(data).data
source = pathlib.Path(sys.argv[2])
target = pathlib.Path(sys.argv[3] if len(sys.argv) > 3 else sys.argv[2])
data = source.read_bytes()
"""


@pytest.fixture
def unsigned(minimal):
    return without_signature(minimal.image.read_bytes())


@pytest.fixture
def command(tmp_path, identity):
    """A command that runs a few lines of Python, which have `signed`, `data` and `target`."""

    def make_command(lines, *arguments, certificate=None, deadline=60, **options):
        script = write(tmp_path / "sign.py", (SIGN + lines).encode())
        listed = (sys.executable, str(script), str(identity.key_path.parent), *(arguments or (FILE,)))
        named = NamedFile(certificate or identity.certificate_path, "certificate")
        options = {"page_hashes": True, "timestamp": None, **options}
        return ExternalCommand(listed, named, deadline, option="command", **options)

    return make_command


GOOD = "target.write_bytes(signed(sys.argv[1], data))"


@pytest.mark.parametrize("arguments", [(FILE,), (INPUT, OUTPUT)])
def test_a_command_signs_in_place_or_to_another_file(command, unsigned, identity, arguments):
    made = command(GOOD, *arguments).sign(unsigned)

    assert made.certificate == identity.certificate
    assert made.data == KeySigner(identity).sign(unsigned).data


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("", "ended well but the image is not signed; see what it does"),
        ("target.write_bytes(b'')", "left a file that is no driver image"),
        ("target.write_bytes(data[:700])", "left a file that is no driver image"),
        ("target.unlink()", r"ended well but left no driver\.sys"),
        ("target.unlink(); __import__('os').mkfifo(target)", r"ended well but left no driver\.sys"),
        ("target.write_bytes(signed(sys.argv[1], data[:0x500] + b'!' + data[0x501:]))", "left another image"),
        ("print('not today'); sys.exit(3)", "failed with exit status 3\n    not today"),
        ("target.write_bytes(signed(sys.argv[1] + '-other', data))", "signed as CN=ntproof test signing, whose"),
        ("open(target, 'wb').truncate(1 << 29)", "left a file of more than"),
    ],
)
def test_a_command_that_does_not_do_its_work_is_told(command, unsigned, lines, complaint):
    with pytest.raises(SigningFailed, match=complaint) as caught:
        command(lines).sign(unsigned)

    assert f"command: {sys.executable}: " in str(caught.value)


def test_an_output_that_was_not_written_is_told(command, unsigned):
    with pytest.raises(SigningFailed, match=r"left no signed\.sys .*see what it does with \{output\}"):
        command("", INPUT, OUTPUT).sign(unsigned)


def test_a_signature_without_the_time_stamp_that_was_asked_for_is_refused(command, unsigned):
    stamping = command(GOOD, INPUT, OUTPUT, TIMESTAMP, timestamp="http://there/")

    with pytest.raises(SigningFailed, match="signed without a time stamp"):
        stamping.sign(unsigned)


def test_the_command_is_told_the_time_stamp_server(command, unsigned):
    with pytest.raises(SigningFailed, match="http://there/"):
        command("print(sys.argv[4]); sys.exit(1)", INPUT, OUTPUT, TIMESTAMP, timestamp="http://there/").sign(unsigned)


def test_a_command_that_hangs_is_ended_with_all_it_started(command, unsigned, tmp_path):
    note = tmp_path / "child"
    lines = f"""
import subprocess, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(note)!r}, "w").write(str(child.pid))
print("waiting for the token", flush=True)
time.sleep(600)
"""
    started = time.monotonic()

    with pytest.raises(
        SigningFailed, match=r"did not end within 4 s and was stopped.*deadline\n    waiting for the token"
    ):
        command(lines, deadline=4).sign(unsigned)

    assert time.monotonic() - started < 30
    assert _gone(int(note.read_text()))


def test_what_a_command_leaves_running_is_ended_too(command, unsigned, tmp_path):
    note = tmp_path / "child"
    lines = f"""
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(note)!r}, "w").write(str(child.pid))
{GOOD}
"""
    command(lines).sign(unsigned)

    assert _gone(int(note.read_text()))


def _gone(pid):
    """Whether a process ended; it may still wait to be reaped."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_a_program_that_is_not_there_is_told(unsigned, identity):
    absent = ExternalCommand(
        ("no-such-signer", FILE), NamedFile(identity.certificate_path, "certificate"), 5, True, None, "command"
    )

    with pytest.raises(SigningFailed, match="command: no-such-signer: cannot be run: No such file"):
        absent.sign(unsigned)


def test_arguments_reach_the_command_as_they_are(command, unsigned):
    """No shell has a say: nothing is expanded, split or run."""
    odd = ["$(touch x)", "a b", "*", "; exit 9", "\"'`"]

    with pytest.raises(SigningFailed, match="failed with exit status 1") as caught:
        command("print([a.encode().hex() for a in sys.argv[3:]]); sys.exit(1)", FILE, *odd).sign(unsigned)

    assert str([a.encode().hex() for a in odd]) in str(caught.value)


def test_what_the_command_says_is_told_without_secrets(command, unsigned, monkeypatch):
    monkeypatch.setenv("VAULT_TOKEN", "s.4f9c1d")
    lines = "import os; print('login', os.environ['VAULT_TOKEN'], sys.argv[3]); sys.exit(1)"
    secret = command(lines, FILE, "client-secret-value")

    with pytest.raises(SigningFailed) as caught:
        secret.sign(unsigned)

    told = f"{caught.value} {secret!r}"
    assert "login (value of VAULT_TOKEN) (argument 4)" in told
    assert "s.4f9c1d" not in told
    assert "client-secret-value" not in told


def test_a_secret_inside_another_is_hidden_with_it():
    told = without_secrets("x long-secret-and-more y", ("s", "long-secret", "long-secret-and-more"), {})

    assert told == "x (argument 2) y"


def test_a_secret_that_begins_before_what_is_shown_is_hidden_whole(command, unsigned, monkeypatch):
    monkeypatch.setenv("VAULT_TOKEN", "s." + "4f9c1d" * 20)
    lines = "import os; print(os.environ['VAULT_TOKEN'] + 'x' * 4000); sys.exit(1)"

    with pytest.raises(SigningFailed) as caught:
        command(lines).sign(unsigned)

    assert "4f9c1d" not in str(caught.value)


def test_the_current_folder_is_no_secret():
    environment = {"PWD": "/srv/team/driver", "OLDPWD": "/srv/team", "DB_PWD": "hunter2"}

    told = without_secrets("/srv/team/driver/a.key: no; hunter2", ("s",), environment)

    assert told == "/srv/team/driver/a.key: no; (value of DB_PWD)"


def test_much_output_is_told_by_its_end(command, unsigned):
    with pytest.raises(SigningFailed) as caught:
        command("print('x' * 10_000_000); print('the cause'); sys.exit(1)").sign(unsigned)

    assert len(str(caught.value)) < 6000
    assert str(caught.value).endswith("the cause")


def test_an_unsuitable_certificate_is_refused_before_the_command_runs(command, unsigned, tmp_path):
    path = write(tmp_path / "web.pem", make("Web", rsa_key(4), usages=(SERVER,)).pem())

    with pytest.raises(ConfigurationError, match=r"web\.pem: .*not meant for code signing"):
        command(f"open({str(tmp_path / 'ran')!r}, 'w')", certificate=path).sign(unsigned)

    assert not (tmp_path / "ran").exists()


def test_the_identity_shows_no_argument_and_follows_each(command):
    one, other = command(GOOD, FILE, "client-secret-value"), command(GOOD, FILE, "another-secret-value")

    assert "secret" not in one.identity
    assert one.identity != other.identity


def test_nothing_is_left_behind(command, unsigned, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))

    command(GOOD).sign(unsigned)

    assert list(scratch.iterdir()) == []


def test_a_signature_made_by_the_command_verifies(command, unsigned, tmp_path):
    ensure_identity(tmp_path / "unused")

    assert verify_image(pe.parse(command(GOOD).sign(unsigned).data)).page_hashes
