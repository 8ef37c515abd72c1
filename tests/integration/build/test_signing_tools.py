"""Tools that nobody here wrote accept the signatures made here, and refuse what was altered."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pefile
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from harness.build import build_driver, find_driver, pe
from harness.build.findings import Severity
from harness.build.image_checks import check_image, check_reproducible
from harness.build.signing.authenticode import without_signature
from harness.build.signing.digests import page_hashes
from harness.build.signing.generated import ensure_identity
from harness.build.signing.signature import verify
from harness.errors import SignatureError
from tests.fixtures.built_drivers import signed as sign
from tests.fixtures.signing_keys import DAY, make, rsa_key, team, write


def require(found: object, what: str, remedy: str) -> None:
    """Skip without a tool on a developer's machine, fail on a build server."""
    if not found:
        message = f"{what} is missing: {remedy}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def osslsigncode() -> str:
    program = shutil.which("osslsigncode")
    require(program, "osslsigncode", "apt-get install osslsigncode")
    return program


@pytest.fixture(scope="session")
def lief():
    require(importlib.util.find_spec("lief"), "LIEF", "pip install lief")
    import lief

    return lief


@pytest.fixture(scope="session")
def authority(identity, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "certificate.pem"
    certificate = x509.load_der_x509_certificate(identity.certificate)
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture(scope="session")
def procnotify(build_root):
    return build_driver("procnotify", build_root=build_root)


@pytest.fixture(scope="session")
def altered(procnotify, tmp_path_factory) -> list[Path]:
    """The driver with one byte changed, once for each page."""
    directory = tmp_path_factory.mktemp("altered")
    image = pe.load(procnotify.image)
    paths = []
    for offset, _ in page_hashes(image)[:-1]:
        data = bytearray(image.data)
        data[offset + (0x10 if offset == 0 else 1)] ^= 0x40
        path = directory / f"page-{offset:x}.sys"
        path.write_bytes(data)
        paths.append(path)
    return paths


def run_osslsigncode(program: str, authority: Path, image: Path) -> subprocess.CompletedProcess[str]:
    command = [program, "verify", "-CAfile", str(authority), "-in", str(image)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_osslsigncode_accepts_the_driver_with_its_page_hashes(osslsigncode, authority, procnotify):
    done = run_osslsigncode(osslsigncode, authority, procnotify.image)

    assert done.returncode == 0, done.stdout
    assert "Page hash algorithm  : SHA256" in done.stdout
    assert "Number of verified signatures: 1" in done.stdout
    assert "mismatch" not in done.stdout.lower()


def test_osslsigncode_computes_the_same_digest(osslsigncode, authority, procnotify):
    done = run_osslsigncode(osslsigncode, authority, procnotify.image)

    assert verify(procnotify.image).digest.upper() in done.stdout


def test_osslsigncode_refuses_a_changed_byte_in_each_page(osslsigncode, authority, altered):
    assert len(altered) > 5
    accepted = [p.name for p in altered if run_osslsigncode(osslsigncode, authority, p).returncode == 0]

    assert accepted == []


def test_osslsigncode_refuses_a_certificate_that_is_not_trusted(osslsigncode, procnotify, build_root, tmp_path):
    stranger = ensure_identity(tmp_path / "signing")
    path = tmp_path / "stranger.sys"
    path.write_bytes(sign(procnotify.image.read_bytes(), stranger))
    trusted = tmp_path / "trusted.pem"
    certificate = x509.load_der_x509_certificate((build_root / "signing" / "certificate.cer").read_bytes())
    trusted.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    assert run_osslsigncode(osslsigncode, trusted, path).returncode != 0
    assert verify(path).certificate_sha256 == stranger.fingerprint


def test_a_signature_of_osslsigncode_verifies_here_and_lacks_page_hashes_unless_asked(
    osslsigncode, authority, identity, procnotify, tmp_path
):
    unsigned, plain, paged = (tmp_path / f"{name}.sys" for name in ("unsigned", "plain", "paged"))
    subprocess.run(
        [osslsigncode, "remove-signature", "-in", str(procnotify.image), "-out", str(unsigned)],
        check=True,
        capture_output=True,
    )
    command = [osslsigncode, "sign", "-certs", str(authority), "-key", str(identity.key_path), "-h", "sha256"]
    for options, target in (([], plain), (["-ph"], paged)):
        subprocess.run([*command, *options, "-in", str(unsigned), "-out", str(target)], check=True, capture_output=True)

    (finding,) = check_image(plain)

    assert (finding.check, "no page hashes" in finding.message) == ("signature", True)
    assert check_image(paged) == []
    assert verify(paged) == verify(procnotify.image)


def test_lief_accepts_the_driver(lief, procnotify):
    parsed = lief.PE.parse(str(procnotify.image))

    assert parsed.verify_signature() == lief.PE.Signature.VERIFICATION_FLAGS.OK


def test_pefile_computes_the_same_checksum(procnotify):
    with pefile.PE(str(procnotify.image)) as parsed:
        assert parsed.verify_checksum()


def test_lief_refuses_a_changed_byte_in_each_page(lief, altered):
    accepted = [
        p.name for p in altered if lief.PE.parse(str(p)).verify_signature() == lief.PE.Signature.VERIFICATION_FLAGS.OK
    ]

    assert accepted == []


@pytest.mark.parametrize("name", ["procnotify", "companion", "mission"])
def test_the_bundled_drivers_pass_every_image_check(build_root, name):
    assert check_image(build_driver(name, build_root=build_root).image) == []


def test_procnotify_is_reproducible():
    assert check_reproducible(find_driver("procnotify")) == []


@pytest.fixture
def foreign(osslsigncode, procnotify, tmp_path):
    """Has osslsigncode sign the driver with a key, in place of any signature or beside it."""

    def make_signature(owner, *options, image=None):
        if image is None:
            image = tmp_path / "unsigned.sys"
            image.write_bytes(without_signature(procnotify.image.read_bytes()))
        target = tmp_path / f"{len(list(tmp_path.iterdir()))}.sys"
        certificate, key = write(tmp_path / "c.pem", owner.pem()), write(tmp_path / "k.pem", owner.key_pem())
        command = [osslsigncode, "sign", "-certs", certificate, "-key", key, *options, "-in", image, "-out", target]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        return target

    return make_signature


@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha384", "sha512"])
def test_signatures_with_other_digests_are_verified(foreign, digest):
    info = verify(foreign(team(), "-h", digest))

    assert info.digest_algorithm == digest
    assert [one.subject for one in info.chain] == ["CN=Team", "CN=Test Issuer", "CN=Test Root"]


def test_page_hashes_with_sha1_are_verified_and_only_that_is_warned_of(foreign, procnotify):
    path = foreign(team(), "-h", "sha1", "-ph")

    assert verify(path).page_hashes == verify(procnotify.image).page_hashes
    (finding,) = check_image(path)
    assert (finding.severity, "SHA-1 digest only" in finding.message) == (Severity.WARNING, True)


def test_a_key_on_an_elliptic_curve_is_verified(foreign):
    owner = make("Curve", ec.generate_private_key(ec.SECP384R1()))

    assert verify(foreign(owner, "-h", "sha256", "-ph")).subject == "CN=Curve"


def test_a_nested_signature_is_verified_with_the_first(foreign):
    both = foreign(make("Second", rsa_key(9)), "-h", "sha256", "-ph", "-nest", image=foreign(team(), "-h", "sha1"))
    first, second = verify(both).all()

    assert (first.subject, first.digest_algorithm, first.page_hashes) == ("CN=Team", "sha1", 0)
    assert (second.subject, second.digest_algorithm) == ("CN=Second", "sha256")
    assert second.page_hashes > 5
    assert check_image(both) == []


def test_a_change_under_a_nested_signature_is_refused(foreign):
    both = foreign(make("Second", rsa_key(9)), "-h", "sha256", "-nest", image=foreign(team(), "-h", "sha256"))
    data = bytearray(both.read_bytes())
    data[pe.load(both).sections[0].raw_offset] ^= 1
    both.write_bytes(data)

    with pytest.raises(SignatureError, match="was changed after it was signed"):
        verify(both)


def test_a_certificate_that_expired_is_warned_of(foreign):
    old = make("Old", rsa_key(9), begins=-9 * DAY, ends=-DAY)
    (finding,) = check_image(foreign(old, "-h", "sha256", "-ph"))

    assert finding.severity is Severity.WARNING
    assert "the certificate of CN=Old is not valid now" in finding.message
