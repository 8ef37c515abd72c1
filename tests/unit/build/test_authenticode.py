"""Signatures are deterministic, complete and refuse every change."""

from __future__ import annotations

import stat
import struct
import sys

import pytest
from cryptography import x509

from harness.build import pe
from harness.build.signing import authenticode
from harness.build.signing.digests import image_digest, page_hashes
from harness.build.signing.generated import GeneratedIdentity, ensure_identity
from harness.build.signing.signature import verify, verify_image
from harness.build.signing.signer import SigningKey
from harness.build.signing.usable import rsa_signature
from harness.errors import ConfigurationError, SignatureError
from tests.fixtures.built_drivers import signed as sign
from tests.fixtures.signing_keys import make, rsa_key


def test_a_signature_verifies_and_names_its_signer(minimal, identity):
    info = verify(minimal.image)

    assert info.subject == "CN=ntproof test signing"
    assert info.certificate_sha256 == identity.fingerprint
    assert info.page_hashes == 1 + len(pe.load(minimal.image).sections)


def test_signing_again_gives_the_same_bytes(minimal, identity):
    data = minimal.image.read_bytes()

    assert sign(data, identity) == data


def test_the_digest_does_not_depend_on_the_signature(minimal, tmp_path):
    other = ensure_identity(tmp_path / "signing")
    resigned = pe.parse(sign(minimal.image.read_bytes(), other))

    assert image_digest(resigned) == image_digest(pe.load(minimal.image))
    assert verify_image(resigned).certificate_sha256 == other.fingerprint


def test_the_checksum_is_right_after_signing(minimal):
    image = pe.load(minimal.image)

    assert image.checksum == image.computed_checksum()


def test_one_changed_byte_in_each_page_is_refused_and_the_page_is_named(minimal):
    image = pe.load(minimal.image)
    pages = [offset for offset, _ in page_hashes(image)[:-1]]
    assert len(pages) >= 5
    for offset in pages:
        data = bytearray(image.data)
        # Past the header fields that a reader needs; the first section's pages start at their own offset.
        data[offset + (0x10 if offset == 0 else 1)] ^= 0x01
        with pytest.raises(SignatureError, match=f"file offset 0x{offset:X} "):
            verify_image(pe.parse(bytes(data)))


def test_a_byte_outside_every_page_is_refused(minimal):
    """Between the last section and the signature no page hash reaches; the image digest does."""
    image = pe.load(minimal.image)
    offset, size = image.certificate_table
    data = bytearray(image.data[:offset] + b"\x01" + bytes(7) + image.data[offset:])
    struct.pack_into("<II", data, image.directory_offset(pe.DIRECTORY_SECURITY), offset + 8, size)

    with pytest.raises(SignatureError, match="digest does not match"):
        verify_image(pe.parse(bytes(data)))


@pytest.mark.parametrize(
    "carried",
    [
        b"\x30\x00",
        b"\xa1\x03\x02\x01\x05",
        make("Old", rsa_key(4)).der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020107"), 1),
    ],
    ids=["empty", "of another kind", "of another version"],
)
def test_a_certificate_that_cannot_be_read_and_signed_nothing_does_no_harm(minimal, carried):
    owner = make("Team", rsa_key(5))
    data = authenticode.sign(minimal.image.read_bytes(), SigningKey(owner.der, (carried,), rsa_signature(owner.key)))

    assert [one.subject for one in verify_image(pe.parse(data)).chain] == ["CN=Team"]


def test_the_checksum_is_not_covered(minimal):
    image = pe.load(minimal.image)
    data = bytearray(image.data)
    data[image.checksum_offset] ^= 0xFF

    assert verify_image(pe.parse(bytes(data))) == verify(minimal.image)


def test_data_after_the_signature_is_refused(minimal):
    with pytest.raises(SignatureError, match="after the signature"):
        verify_image(pe.parse(minimal.image.read_bytes() + b"extra"))


def test_data_hidden_behind_the_signature_is_refused(minimal):
    image = pe.load(minimal.image)
    offset, size = image.certificate_table
    data = bytearray(image.data + b"payload!")
    struct.pack_into("<I", data, offset, size + 8)
    struct.pack_into("<II", data, image.directory_offset(pe.DIRECTORY_SECURITY), offset, size + 8)

    with pytest.raises(SignatureError, match="hidden data"):
        verify_image(pe.parse(bytes(data)))


def test_a_signature_made_with_another_key_is_refused(minimal, identity, tmp_path):
    """The certificate of one identity with the key of another never makes it into an image."""
    other = ensure_identity(tmp_path / "signing")
    mixed = GeneratedIdentity(identity.certificate_path, other.key_path, identity.certificate)

    with pytest.raises(ConfigurationError, match="not the private key"):
        sign(minimal.image.read_bytes(), mixed)


def test_a_swapped_certificate_is_refused(minimal, identity, tmp_path):
    data = minimal.image.read_bytes()
    certificate = bytearray(identity.certificate)
    key = x509.load_der_x509_certificate(identity.certificate).public_key().public_numbers()
    modulus = key.n.to_bytes(384, "big")
    place = certificate.index(modulus)
    certificate[place + 100] ^= 0x10

    with pytest.raises(SignatureError, match="does not match the signer's certificate"):
        verify_image(pe.parse(data.replace(identity.certificate, bytes(certificate))))


def test_an_unsigned_image_is_refused(minimal):
    with pytest.raises(SignatureError, match="not signed"):
        verify(minimal.debug_image)


def test_the_identity_is_made_once(tmp_path):
    first = ensure_identity(tmp_path / "signing")

    assert ensure_identity(tmp_path / "signing") == first


def test_the_certificate_is_for_code_signing_only(identity):
    certificate = x509.load_der_x509_certificate(identity.certificate)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value

    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.CODE_SIGNING]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permission bits")
def test_only_the_owner_reads_the_key(identity):
    assert stat.S_IMODE(identity.key_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(identity.key_path.parent.stat().st_mode) == 0o700


def test_half_an_identity_is_reported_with_the_remedy(tmp_path):
    made = ensure_identity(tmp_path / "signing")
    made.key_path.unlink()

    with pytest.raises(ConfigurationError, match="delete the directory"):
        ensure_identity(tmp_path / "signing")


def test_a_damaged_key_is_reported_without_quoting_it(minimal, tmp_path):
    made = ensure_identity(tmp_path / "signing")
    secret = made.key_path.read_text().splitlines()[5]
    made.key_path.write_text(secret)

    with pytest.raises(ConfigurationError, match="delete the directory") as caught:
        sign(minimal.image.read_bytes(), made)

    assert secret not in str(caught.value)
    assert secret not in repr(made)


@pytest.mark.parametrize("folder", ["x" * 300, "file/below"])
def test_a_place_where_no_identity_can_be_kept_is_the_users_error(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot be kept there: .*NTPROOF_BUILD_DIR"):
        ensure_identity(tmp_path / folder)


def test_an_image_for_arm64_is_signed_and_verified_as_well(minimal, identity):
    data = bytearray(minimal.image.read_bytes())
    struct.pack_into("<H", data, pe.load(minimal.image).header_offset + 4, pe.MACHINE_ARM64)
    image = pe.parse(sign(bytes(data), identity), pe.ALL_64_BIT)

    assert verify_image(image).page_hashes == 1 + len(image.sections)
    assert image.checksum == image.computed_checksum()
