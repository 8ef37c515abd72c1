"""Exactly the certificates in an image's signature are read out of it."""

from __future__ import annotations

import contextlib
import struct

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from harness.build import build_driver
from harness.build.signing.authenticode import sign
from harness.build.signing.signer import SigningKey
from harness.build.signing.usable import rsa_signature
from tests.fixtures.signing_keys import team
from vm.errors import MachineConfigurationError
from vm.windows.machine.embedded_certificates import certificates_of, thumbprint


@pytest.fixture(scope="module")
def image():
    return build_driver("procnotify").image.read_bytes()


def security_directory(image):
    (header,) = struct.unpack_from("<I", image, 0x3C)
    return header + 24 + 112 + 8 * 4


def test_a_signed_driver_has_its_signers_certificate(image):
    (certificate,) = certificates_of(image)

    read = x509.load_der_x509_certificate(certificate)
    assert "ntproof" in read.subject.rfc4514_string().lower()
    assert len(thumbprint(certificate)) == 40


def test_certificates_in_an_order_that_der_does_not_want_are_read_without_a_warning(image):
    """Many tools do not sort them; the ones made here are."""
    carried = sorted((team().der, *(one.public_bytes(Encoding.DER) for one in team().issuers)))
    key = SigningKey(team().der, tuple(carried), rsa_signature(team().key))
    signed = sign(image, key)
    unsorted = signed.replace(b"".join(carried), b"".join(reversed(carried)))

    assert unsorted != signed
    assert sorted(certificates_of(unsorted)) == sorted(certificates_of(signed)) == carried


def test_an_image_without_a_signature_has_none(image):
    place = security_directory(image)

    assert certificates_of(image[:place] + bytes(8) + image[place + 8 :]) == ()


def test_a_signature_outside_of_the_file_is_refused_with_advice(image):
    with pytest.raises(MachineConfigurationError, match=r"x\.sys: its signature lies outside of the file; sign it"):
        certificates_of(image[:-8], "x.sys")


def test_a_signature_that_is_none_is_refused_with_advice(image):
    offset, size = struct.unpack_from("<II", image, security_directory(image))
    broken = image[: offset + 8] + b"\x30" + b"\xff" * (size - 9)

    with pytest.raises(MachineConfigurationError, match="cannot be read"):
        certificates_of(broken)


def test_a_signature_of_another_content_type_is_refused_with_advice(image):
    offset, size = struct.unpack_from("<II", image, security_directory(image))
    # A ContentInfo of type data (RFC 2315, 14) instead of signedData.
    plain = bytes.fromhex("300f06092a864886f70d010701a0020400").ljust(size - 8, b"\0")

    with pytest.raises(MachineConfigurationError, match=r"cannot be read.*sign it again"):
        certificates_of(image[: offset + 8] + plain + image[offset + size :])


@pytest.mark.parametrize("content", [b"", b"MZ", b"no image at all", b"MZ" + bytes(2000)])
def test_what_is_no_image_is_refused(content):
    with pytest.raises(MachineConfigurationError, match="no 64-bit Windows driver image"):
        certificates_of(content, "x.sys")


def test_an_image_for_another_architecture_is_refused(image):
    (header,) = struct.unpack_from("<I", image, 0x3C)
    arm = image[: header + 4] + struct.pack("<H", 0xAA64) + image[header + 6 :]

    with pytest.raises(MachineConfigurationError, match="0xAA64"):
        certificates_of(arm)


@given(st.data())
def test_no_changed_byte_ends_in_another_error(image, data):
    changed = bytearray(image)
    offset, size = struct.unpack_from("<II", image, security_directory(image))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 0x400) | st.integers(offset, offset + size - 1))
        changed[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MachineConfigurationError):
        certificates_of(bytes(changed))
