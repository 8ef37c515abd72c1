"""Keys in PEM and PKCS#12 files: what signs, and one clear error for each way in which one cannot."""

from __future__ import annotations

import datetime as dt
import logging

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from harness.build import der, pe
from harness.build.signing.configured import configured_signer
from harness.build.signing.files import NamedFile
from harness.build.signing.generated import ensure_identity
from harness.build.signing.passphrase import Passphrase
from harness.build.signing.pem_files import PemFiles
from harness.build.signing.pkcs12_file import Pkcs12File
from harness.build.signing.signature import verify_image
from harness.build.signing.signer import KeySigner
from harness.build.signing.usable import require_code_signing
from harness.errors import ConfigurationError
from tests.fixtures.signing_keys import DAY, SERVER, make, root, rsa_key, team, write

SECRET = "correct horse battery"


@pytest.fixture
def passphrase(monkeypatch):
    monkeypatch.setenv("TEAM_PASSPHRASE", SECRET)
    return Passphrase("env:TEAM_PASSPHRASE", "passphrase")


@pytest.fixture
def files(tmp_path):
    def pem(owner, passphrase=None, key=None):
        certificate = NamedFile(write(tmp_path / "c.pem", owner.pem()), "certificate")
        encrypted = (key or owner).key_pem(SECRET if passphrase else None)
        return PemFiles(certificate, NamedFile(write(tmp_path / "k.pem", encrypted), "key"), passphrase)

    return pem


def opened(source):
    with source.open() as key:
        return key


def signature_of(source, minimal):
    signed = KeySigner(source).sign(minimal.image.read_bytes())
    return signed, verify_image(pe.parse(signed.data))


def test_a_pem_key_signs_with_its_chain(files, minimal):
    signed, info = signature_of(files(team()), minimal)

    assert signed.certificate == team().der
    assert [one.subject for one in info.chain] == ["CN=Team", "CN=Test Issuer", "CN=Test Root"]
    assert info.page_hashes > 4


def test_an_encrypted_pem_key_signs_and_gives_the_same_bytes_each_time(files, passphrase, minimal):
    source = files(team(), passphrase)

    assert signature_of(source, minimal)[0].data == signature_of(source, minimal)[0].data


def test_a_certificate_in_der_is_read_as_well(files, tmp_path, minimal):
    source = files(team())
    source.certificate.path.write_bytes(team().der)

    assert [one.subject for one in signature_of(source, minimal)[1].chain] == ["CN=Team"]


def test_a_pkcs12_file_signs_as_the_same_key_in_pem_does(files, tmp_path, passphrase, minimal):
    pfx = Pkcs12File(NamedFile(write(tmp_path / "t.pfx", team().pfx(SECRET)), "file"), passphrase)

    assert signature_of(pfx, minimal)[0].data == signature_of(files(team()), minimal)[0].data


@pytest.mark.parametrize(
    ("owner", "complaint"),
    [
        (lambda: make("Web", rsa_key(4), usages=(SERVER,)), "CN=Web is not meant for code signing; use one with"),
        (lambda: make("Bare", rsa_key(4), usages=()), "CN=Bare is not meant for code signing"),
        (lambda: make("Old", rsa_key(4), begins=-9 * DAY, ends=-DAY), "CN=Old expired on .*; renew it"),
        (lambda: make("Early", rsa_key(4), begins=DAY), "CN=Early is not valid before .*; wait until then"),
        (lambda: make("Curve", ec.generate_private_key(ec.SECP256R1())), "CN=Curve is no RSA key of 2048 bits or more"),
        (lambda: make("Small", rsa_key(5, 1024)), "CN=Small is no RSA key of 2048 bits or more"),
    ],
)
def test_a_certificate_that_may_not_sign_drivers_is_refused_by_file_and_reason(
    files, tmp_path, passphrase, owner, complaint
):
    pem = files(owner())
    pfx = Pkcs12File(NamedFile(write(tmp_path / "t.pfx", owner().pfx(SECRET)), "file"), passphrase)

    for source, path in ((pem, "c.pem"), (pfx, "t.pfx")):
        with pytest.raises(ConfigurationError, match=f"{path}: the .*{complaint}"):
            opened(source)


def test_validity_ends_with_its_last_second():
    certificate = team().certificate
    last = certificate.not_valid_after_utc

    require_code_signing(certificate, "c.pem", last)
    with pytest.raises(ConfigurationError, match="expired"):
        require_code_signing(certificate, "c.pem", last + dt.timedelta(seconds=1))


def test_a_key_that_does_not_match_is_refused_by_file(files):
    with pytest.raises(ConfigurationError, match=r"k\.pem: not the private key of the certificate CN=Team"):
        opened(files(team(), key=root()))


def test_an_encrypted_key_without_a_passphrase_names_the_option(files, passphrase):
    source = files(team(), passphrase)

    with pytest.raises(
        ConfigurationError, match="the key is encrypted; name its passphrase with the option passphrase"
    ):
        opened(PemFiles(source.certificate, source.key))


def test_a_passphrase_for_a_key_that_is_not_encrypted_is_refused(files, passphrase):
    source = files(team())

    with pytest.raises(ConfigurationError, match="the key is not encrypted; remove the option passphrase"):
        opened(PemFiles(source.certificate, source.key, passphrase))


@pytest.mark.parametrize("kind", ["pem", "pkcs12"])
def test_a_wrong_passphrase_is_told_without_it(files, tmp_path, monkeypatch, passphrase, kind, caplog):
    caplog.set_level(logging.DEBUG)
    sources = {
        "pem": files(team(), passphrase),
        "pkcs12": Pkcs12File(NamedFile(write(tmp_path / "t.pfx", team().pfx(SECRET)), "file"), passphrase),
    }
    monkeypatch.setenv("TEAM_PASSPHRASE", "not the right one")

    with pytest.raises(ConfigurationError, match="of env:TEAM_PASSPHRASE is wrong") as caught:
        opened(sources[kind])

    told = f"{caught.value} {caught.value.__context__!r} {sources[kind]!r} {caplog.text}"
    assert "not the right one" not in told


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "truncated value"),
        (b"-----BEGIN CERTIFICATE-----", "not a PKCS#12 file"),
        (b"\x30\x03\x02\x01\x03", "cannot be opened"),
    ],
)
def test_a_file_that_is_no_pkcs12_is_named(tmp_path, content, complaint):
    with pytest.raises(ConfigurationError, match=rf"t\.pfx: .*{complaint}"):
        opened(Pkcs12File(NamedFile(write(tmp_path / "t.pfx", content), "file")))


def test_a_pkcs12_file_in_ber_is_read_as_well(files, tmp_path, passphrase, minimal):
    """Its outer SEQUENCE does not say how long it is."""
    content = der.read(team().pfx(SECRET))[0].content
    path = write(tmp_path / "t.pfx", b"\x30\x80" + content + b"\0\0")
    pfx = Pkcs12File(NamedFile(path, "file"), passphrase)

    assert signature_of(pfx, minimal)[0].data == signature_of(files(team()), minimal)[0].data


def changed(old, new):
    data = team().der
    assert data.count(bytes.fromhex(old)) >= 1
    return data.replace(bytes.fromhex(old), bytes.fromhex(new), 1)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        # The version in [0], and the algorithm of the public key.
        (lambda: changed("a003020102", "a003020107"), r"c\.pem: holds no certificate that can be read"),
        (lambda: changed("06092a864886f70d010101", "06092a864886f70d010163"), r"CN=Team is no RSA key of 2048 bits"),
    ],
)
def test_a_certificate_of_a_kind_that_is_not_known_is_refused(files, content, complaint):
    source = files(team())
    source.certificate.path.write_bytes(content())

    with pytest.raises(ConfigurationError, match=complaint):
        opened(source)


def test_a_pkcs12_file_without_a_key_is_told(tmp_path, passphrase):
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

    data = pkcs12.serialize_key_and_certificates(
        None, None, team().certificate, None, BestAvailableEncryption(SECRET.encode())
    )

    with pytest.raises(ConfigurationError, match="holds no "):
        opened(Pkcs12File(NamedFile(write(tmp_path / "t.pfx", data), "file"), passphrase))


@pytest.mark.parametrize("content", [b"", b"MZ", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_without_a_certificate_is_named(files, content):
    source = files(team())
    source.certificate.path.write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"c\.pem: holds no certificate that can be read; give PEM or DER"):
        opened(source)


def test_a_damaged_key_is_told_without_quoting_it(files):
    source = files(team())
    secret = source.key.path.read_text().splitlines()[5]
    source.key.path.write_text(f"-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n")

    with pytest.raises(ConfigurationError, match=r"k\.pem: holds no private key in PEM") as caught:
        opened(source)

    assert secret not in f"{caught.value} {caught.value.__cause__!r}"


def test_an_absent_file_is_named_with_its_option(files):
    source = files(team())
    source.key.path.unlink()

    with pytest.raises(ConfigurationError, match=r"^key: .*k\.pem: cannot be read: No such file"):
        opened(source)


def test_a_huge_file_is_not_read(tmp_path, files):
    source = files(team())
    with source.key.path.open("wb") as file:
        file.truncate(1 << 30)

    with pytest.raises(ConfigurationError, match="larger than any certificate or key"):
        opened(source)


def test_what_signs_shows_no_key_and_no_passphrase(files, tmp_path, passphrase):
    pfx = Pkcs12File(NamedFile(write(tmp_path / "t.pfx", team().pfx(SECRET)), "file"), passphrase)
    shown = " ".join(
        [
            repr(opened(pfx)),
            repr(KeySigner(pfx)),
            repr(passphrase.read()),
            f"{passphrase.read()}",
            KeySigner(pfx).identity,
        ]
    )

    assert SECRET not in shown
    assert passphrase.read().reveal() == SECRET


def test_the_identity_changes_with_the_certificate_and_needs_no_passphrase(tmp_path):
    table = '[tool.ntproof.signing]\nsource = "pkcs12"\nfile = "t.pfx"\npassphrase = "env:NOT_SET_ANYWHERE"\n'
    write(tmp_path / "pyproject.toml", table.encode())
    write(tmp_path / "t.pfx", team().pfx(SECRET))
    before = configured_signer(tmp_path / "signing", tmp_path).identity
    write(tmp_path / "t.pfx", root().pfx(SECRET))

    assert configured_signer(tmp_path / "signing", tmp_path).identity != before


def test_a_time_stamp_server_changes_the_identity(tmp_path):
    identity = ensure_identity(tmp_path / "signing")
    write(tmp_path / "pyproject.toml", b'[tool.ntproof.signing]\ntimestamp = "http://there"\n')

    assert configured_signer(tmp_path / "signing", tmp_path).identity != KeySigner(identity).identity
