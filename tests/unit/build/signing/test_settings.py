"""[tool.ntproof.signing] is read strictly: what is not known, missing or senseless is one error with its remedy."""

from __future__ import annotations

import pytest

from harness.build.signing.configured import configured_signer
from harness.build.signing.external_command import ExternalCommand
from harness.build.signing.generated import GeneratedIdentity
from harness.build.signing.hardware_token import HardwareToken
from harness.build.signing.pem_files import PemFiles
from harness.build.signing.pkcs12_file import Pkcs12File
from harness.errors import InputError

PEM = 'source = "pem"\ncertificate = "c.pem"\nkey = "k.pem"\n'
COMMAND = 'source = "command"\ncertificate = "c.pem"\n'


@pytest.fixture
def signer_of(tmp_path):
    def make(table):
        (tmp_path / "pyproject.toml").write_text(table if "[" in table[:6] else f"[tool.ntproof.signing]\n{table}")
        return configured_signer(tmp_path / "test-certificate", tmp_path)

    return make


def test_without_a_table_the_test_certificate_signs(tmp_path, signer_of):
    assert isinstance(signer_of("[tool.other]\n").source, GeneratedIdentity)
    assert isinstance(signer_of("").source, GeneratedIdentity)


def test_each_source_is_what_its_table_says(tmp_path, signer_of):
    pem = signer_of(PEM).source
    pkcs12 = signer_of('source = "pkcs12"\nfile = "/keys/team.pfx"\npassphrase = "env:TEAM"\n').source
    token = signer_of(
        'source = "pkcs11"\nmodule = "m.so"\ntoken = "team"\nkey = "k"\ncertificate = "c.pem"\npin = "fd:3"\n'
    ).source
    command = signer_of(COMMAND + 'command = ["signtool", "sign", "{file}"]\ndeadline = 7\n')

    assert isinstance(pem, PemFiles)
    assert pem.key.path == tmp_path / "k.pem"
    assert pem.passphrase is None
    assert isinstance(pkcs12, Pkcs12File)
    assert str(pkcs12.file.path) == "/keys/team.pfx"
    assert pkcs12.passphrase.where == "env:TEAM"
    assert isinstance(token, HardwareToken)
    assert token.pin.where == "fd:3"
    assert isinstance(command, ExternalCommand)
    assert (command.deadline, command.page_hashes) == (7, True)


def test_the_nearest_pyproject_counts_and_its_paths_are_its_own(tmp_path):
    inner = tmp_path / "project" / "tests" / "deep"
    inner.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[tool.ntproof.signing]\nsource = "generated"\n')
    (tmp_path / "project" / "pyproject.toml").write_text(f"[tool.ntproof.signing]\n{PEM}")

    found = configured_signer(tmp_path / "signing", inner)

    assert found.source.certificate.path == tmp_path / "project" / "c.pem"


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ('source = "usb-stick"', r"signing\.source: 'usb-stick' is not known; choose from generated, pem, pkcs12"),
        ("source = 3", r"signing\.source: 3 is not known"),
        ('source = "pem"\ncertificate = "c.pem"', r"signing: 'key' is missing"),
        (PEM + 'pin = "env:A"', r"signing: unknown key 'pin'; known here: .*certificate, key, passphrase"),
        (PEM + 'passphrase = "hunter2"', "expected fd:NUMBER, env:VARIABLE or keyring:SERVICE/USER"),
        (PEM + 'certificate = ""', "TOML"),
        ('source = "pkcs12"\nfile = ""', r"signing: file: '' does not fit; expected a path"),
        ('timestamp = "ftp://there"', r"signing: timestamp: .*http"),
        ('timestamp = "http://user:hunter2@there/"', r"signing: timestamp: .*without a password"),
        ("timestamp_deadline = 0", r"timestamp_deadline: 0 is out of range; expected 1 to 600 \(seconds\)"),
        ('timestamp_roots = "r.pem"', r"timestamp_roots: has no use without timestamp"),
        ('source = "pkcs12"\nfile = "a\\u0000b"', r"signing: file: .* does not fit; expected a path"),
        (COMMAND + 'command = ["s", "{file}", "a\\u0000b"]', "an argument holds the character 0"),
        (COMMAND + "command = []", r"command: names no program"),
        (COMMAND + 'command = ["{file}"]', r"command: names no program"),
        (COMMAND + 'command = "signtool {file}"', r"command: expected a list of texts, found a text"),
        (COMMAND + 'command = ["signtool", 3]', r"command\.1: expected a text, found an integer"),
        (COMMAND + 'command = ["s", "--in={input}", "{output}"]', r"\{input\} is part of a longer argument"),
        (COMMAND + 'command = ["s"]', r"give either \{file\} once, or \{input\} and \{output\}"),
        (COMMAND + 'command = ["s", "{file}", "{output}"]', r"give either \{file\} once"),
        (COMMAND + 'command = ["s", "{input}"]', r"give either \{file\} once"),
        (COMMAND + 'command = ["s", "{file}", "{timestamp}"]', r"\{timestamp\} and the option timestamp go together"),
        (COMMAND + 'command = ["s", "{file}"]\ntimestamp = "http://t"', r"go together"),
        (
            COMMAND + 'command = ["s", "{file}", "{timestamp}"]\ntimestamp = "http://t"\ntimestamp_roots = "r"',
            r"timestamp_roots: has no use with a command",
        ),
        ("[tool]\nntproof = 3", r"tool\.ntproof: expected a table"),
        ("[tool.ntproof]\nsigning = 3", r"tool\.ntproof\.signing: expected a table"),
        ("[tool.ntproof\n", "not valid TOML"),
    ],
)
def test_a_table_that_says_nothing_sensible_is_refused_by_file_and_key(signer_of, tmp_path, table, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        signer_of(table)

    assert str(tmp_path / "pyproject.toml") in str(caught.value)
    # A passphrase in the wrong place must not be quoted back.
    assert "hunter2" not in str(caught.value)


def test_a_pyproject_that_cannot_be_decoded_is_an_input_error(tmp_path):
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(InputError, match="not valid TOML"):
        configured_signer(tmp_path / "signing", tmp_path)


def test_braces_that_are_no_placeholder_are_left_alone(signer_of):
    guid = "{9E1F5C6A-0000-4000-8000-000000000000}"

    assert guid in signer_of(COMMAND + f'command = ["s", "{{file}}", "{guid}"]').command
