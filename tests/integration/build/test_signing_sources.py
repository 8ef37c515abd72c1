"""Each source of a signature end to end: from pyproject.toml to a driver that strangers' tools accept."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import lief
import pytest

from harness.build import build_driver, pe
from harness.build.signing.configured import configured_signer
from harness.build.signing.signature import verify
from harness.errors import ConfigurationError, InputError, SigningFailed
from tests.fixtures.built_drivers import DESCRIPTION
from tests.fixtures.signing_keys import make, root, rsa_key, team, write
from tests.fixtures.softhsm import PIN, find_module, make_token
from tests.fixtures.timestamp_server import Authority
from tests.standin.requirements import require_program

SECRET = "correct horse battery staple"
OK = lief.PE.Signature.VERIFICATION_FLAGS.OK


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A team's project folder, which is the current one; `table` writes its pyproject.toml."""

    class Project:
        folder = tmp_path / "project"

        def table(self, text):
            write(self.folder / "pyproject.toml", f"[tool.ntproof.signing]\n{text}".encode())

        def build(self):
            return build_driver(f"{DESCRIPTION}:minimal", build_root=tmp_path / "build")

        def sign_only(self):
            return configured_signer(tmp_path / "build" / "signing")

    Project.folder.mkdir()
    write(Project.folder / "team.pem", team().pem())
    write(Project.folder / "root.pem", root().pem())
    monkeypatch.chdir(Project.folder)
    monkeypatch.setenv("TEAM_PASSPHRASE", SECRET)
    monkeypatch.setenv("TEAM_PIN", PIN)
    return Project()


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory):
    """The PKCS#11 module of a token with the team's key. The module reads its configuration once in a process."""
    require_program("softhsm2-util", "softhsm2")
    make_token(tmp_path_factory.mktemp("softhsm"), os.environ)
    yield find_module()
    del os.environ["SOFTHSM2_CONF"]


@pytest.fixture
def token(project, softhsm):
    def write_table(**changes):
        keys = {
            "source": "pkcs11",
            "module": str(softhsm),
            "token": "team",
            "key": "signer",
            "certificate": "team.pem",
            "pin": "env:TEAM_PIN",
            **changes,
        }
        project.table("".join(f'{name} = "{value}"\n' for name, value in keys.items()))
        return project

    return write_table


def osslsigncode_verify(image, *options):
    require_program("osslsigncode", "osslsigncode")
    command = ["osslsigncode", "verify", "-CAfile", "root.pem", *options, "-in", str(image)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def assert_signed_by_the_team(built):
    info = verify(built.image)
    assert [one.subject for one in info.chain] == ["CN=Team", "CN=Test Issuer", "CN=Test Root"]
    assert info.page_hashes == 1 + len(pe.load(built.image).sections)
    assert built.certificate.read_bytes() == team().der
    assert lief.PE.parse(str(built.image)).verify_signature() == OK
    done = osslsigncode_verify(built.image)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Page hash algorithm  : SHA256" in done.stdout


def write_pem(project, passphrase=SECRET):
    write(project.folder / "team.key", team().key_pem(passphrase))
    project.table('source = "pem"\ncertificate = "team.pem"\nkey = "team.key"\npassphrase = "env:TEAM_PASSPHRASE"\n')


def write_pkcs12(project):
    write(project.folder / "team.pfx", team().pfx(SECRET))
    project.table('source = "pkcs12"\nfile = "team.pfx"\npassphrase = "env:TEAM_PASSPHRASE"\n')


def test_a_driver_is_signed_with_pem_files(project):
    write_pem(project)

    assert_signed_by_the_team(project.build())


def test_a_driver_is_signed_with_a_pkcs12_file(project):
    write_pkcs12(project)

    assert_signed_by_the_team(project.build())


def test_a_driver_is_signed_with_a_token_as_with_the_same_key_in_files(project, token):
    write_pem(project)
    from_files = project.build()
    built = token().build()

    assert_signed_by_the_team(built)
    assert built.image.read_bytes() == from_files.image.read_bytes()


def test_a_driver_is_signed_with_a_command(project):
    require_program("osslsigncode", "osslsigncode")
    write(project.folder / "team.key", team().key_pem())
    arguments = [
        "sign",
        "-certs",
        "team.pem",
        "-key",
        "team.key",
        "-h",
        "sha256",
        "-ph",
        "-in",
        "{input}",
        "-out",
        "{output}",
    ]
    project.table(f'source = "command"\ncertificate = "team.pem"\ncommand = {["osslsigncode", *arguments]}\n')

    assert_signed_by_the_team(project.build())


def test_a_command_that_makes_no_page_hashes_is_refused_unless_none_are_asked_for(project):
    require_program("osslsigncode", "osslsigncode")
    write(project.folder / "team.key", team().key_pem())
    arguments = ["sign", "-certs", "team.pem", "-key", "team.key", "-h", "sha256", "-in", "{input}", "-out", "{output}"]
    table = f'source = "command"\ncertificate = "team.pem"\ncommand = {["osslsigncode", *arguments]}\n'
    project.table(table)
    with pytest.raises(SigningFailed, match="signed without page hashes; add its option"):
        project.build()
    project.table(f"{table}page_hashes = false\n")

    assert verify(project.build().image).page_hashes == 0


def test_a_time_stamp_is_accepted_by_strangers(project, tmp_path):
    require_program("openssl", "openssl")
    folder = tmp_path / "authority"
    folder.mkdir()
    write_pkcs12(project)
    table = (project.folder / "pyproject.toml").read_text()
    with Authority(folder).serve() as url:
        write(
            project.folder / "pyproject.toml",
            f'{table}timestamp = "{url}"\ntimestamp_roots = "root.pem"\n'.encode(),
        )
        built = project.build()
        again = project.build()

    assert_signed_by_the_team(built)
    assert verify(built.image).timestamp.authority == "CN=Test Time"
    assert not again.rebuilt
    done = osslsigncode_verify(built.image, "-TSA-CAfile", "root.pem")
    assert "Timestamp verified using" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


def test_a_command_is_told_the_time_stamp_server_and_its_stamp_is_verified(project, tmp_path):
    require_program("osslsigncode", "osslsigncode")
    folder = tmp_path / "authority"
    folder.mkdir()
    write(project.folder / "team.key", team().key_pem())
    arguments = ["sign", "-certs", "team.pem", "-key", "team.key", "-h", "sha256", "-ph", "-ts", "{timestamp}",
                 "-in", "{input}", "-out", "{output}"]  # fmt: skip
    with Authority(folder).serve() as url:
        project.table(
            f'source = "command"\ncertificate = "team.pem"\ntimestamp = "{url}"\n'
            f"command = {['osslsigncode', *arguments]}\n"
        )
        built = project.build()

    assert verify(built.image).timestamp.authority == "CN=Test Time"


def test_without_a_time_stamp_the_same_sources_give_the_same_bytes(project, tmp_path):
    write_pkcs12(project)
    first = project.build().image.read_bytes()
    again = build_driver(f"{DESCRIPTION}:minimal", build_root=tmp_path / "elsewhere").image.read_bytes()

    assert first == again


def test_another_signer_gives_another_image_and_leaves_the_first(project):
    tested = build_driver(f"{DESCRIPTION}:minimal", build_root=project.folder / "build")
    write_pkcs12(project)
    built = build_driver(f"{DESCRIPTION}:minimal", build_root=project.folder / "build")

    assert verify(tested.image).subject == "CN=ntproof test signing"
    assert verify(built.image).subject == "CN=Team"


def test_a_build_with_nothing_to_sign_needs_no_passphrase(project, monkeypatch):
    write_pkcs12(project)
    project.build()
    monkeypatch.delenv("TEAM_PASSPHRASE")

    assert not project.build().rebuilt


def test_a_build_cannot_sign_without_the_passphrase(project, monkeypatch):
    write_pkcs12(project)
    monkeypatch.delenv("TEAM_PASSPHRASE")

    with pytest.raises(ConfigurationError, match="the environment variable TEAM_PASSPHRASE is not set"):
        project.build()


@pytest.mark.parametrize(
    ("changes", "error", "complaint"),
    [
        ({"token": "other"}, SigningFailed, r"there is no token 'other'; plug it in, .*\(tokens there: 'team'\)"),
        ({"key": "other"}, ConfigurationError, "the token 'team' has no private RSA key 'other'"),
        ({"key": "twin"}, ConfigurationError, "the token 'team' has several private keys 'twin'"),
        ({"module": "absent.so"}, ConfigurationError, r"signing\.module: .*absent\.so: no such file"),
        (
            {"module": "team.pem"},
            ConfigurationError,
            r"signing\.module: .*team\.pem: cannot be loaded as a PKCS#11 library",
        ),
        ({"pin": "env:NO_PIN"}, ConfigurationError, r"signing\.pin: the environment variable NO_PIN is not set"),
        (
            {"certificate": "stranger.pem"},
            ConfigurationError,
            r"stranger\.pem: not the certificate of the key 'signer'",
        ),
        ({"certificate": "absent.pem"}, ConfigurationError, r"signing\.certificate: .*absent\.pem: cannot be read"),
        ({"pin": "hunter2"}, InputError, "expected fd:NUMBER"),
    ],
)
def test_a_token_that_cannot_sign_is_told(project, token, changes, error, complaint):
    write(project.folder / "stranger.pem", make("Stranger", rsa_key(9)).pem())

    with pytest.raises(error, match=complaint) as caught:
        token(**changes).build()

    assert PIN not in str(caught.value)


def test_a_wrong_pin_is_told_without_it(token, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TEAM_PIN", "99990000")

    with pytest.raises(
        ConfigurationError, match=r"signing\.pin: the token 'team' refuses the PIN of env:TEAM_PIN"
    ) as caught:
        token().build()

    assert "99990000" not in f"{caught.value!r} {caught.value.__context__!r} {caplog.text}"


@pytest.mark.parametrize("source", ["pem", "pkcs12", "pkcs11"])
def test_no_passphrase_pin_or_key_is_left_anywhere(project, token, source, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    {"pem": write_pem, "pkcs12": write_pkcs12, "pkcs11": lambda _: token()}[source](project)
    built = project.build()
    number = team().key.private_numbers()
    traces = [
        *(secret.encode() for secret in (SECRET, PIN)),
        *(value.to_bytes(128, "big") for value in (number.p, number.q)),
        team().key_pem().splitlines()[5],
    ]
    told = repr((built, project.sign_only(), caplog.text, capfd.readouterr())).encode()
    left = [path for path in (tmp_path / "build").rglob("*") if path.is_file()]

    assert len(left) >= 5
    for content in (told, *(path.read_bytes() for path in left)):
        assert not any(trace in content for trace in traces)


def test_a_passphrase_comes_through_a_descriptor_of_the_shell(project, tmp_path):
    reading, writing = os.pipe()
    os.write(writing, f"{SECRET}\n".encode())
    os.close(writing)
    write_pkcs12(project)
    table = (project.folder / "pyproject.toml").read_text().replace("env:TEAM_PASSPHRASE", f"fd:{reading}")
    write(project.folder / "pyproject.toml", table.encode())
    code = (
        "import pathlib, sys\nfrom harness.build import build_driver\n"
        "print(build_driver(sys.argv[1], build_root=pathlib.Path(sys.argv[2])).image)"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, f"{DESCRIPTION}:minimal", tmp_path / "build"],
            pass_fds=[reading], capture_output=True, text=True, timeout=120, check=False,
            env={name: value for name, value in os.environ.items() if name != "TEAM_PASSPHRASE"},
        )  # fmt: skip
    finally:
        os.close(reading)

    assert done.returncode == 0, done.stderr
    assert verify(tmp_path / "build" / done.stdout.strip()).subject == "CN=Team"


def test_a_token_library_that_is_absent_is_told_with_the_remedy(token, monkeypatch):
    monkeypatch.setitem(sys.modules, "pkcs11", None)

    with pytest.raises(ConfigurationError, match=r"needs the python-pkcs11 package; pip install 'ntproof\[pkcs11\]'"):
        token().build()
