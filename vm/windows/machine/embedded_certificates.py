"""The certificates that a signed image carries: what a guest has to trust before it loads a test-signed driver.

Layout: Microsoft, "PE Format", "The Attribute Certificate Table"; the signature itself is PKCS #7 SignedData ("Windows
Authenticode Portable Executable Signature Format").
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from vm.errors import MachineConfigurationError

_PE32_PLUS: Final = 0x20B
_SECURITY_DIRECTORY: Final = 4
"""IMAGE_DIRECTORY_ENTRY_SECURITY (winnt.h). Its address is an offset in the file."""
_PKCS_SIGNED_DATA: Final = 2
"""WIN_CERT_TYPE_PKCS_SIGNED_DATA (wintrust.h)."""
_MACHINE_AMD64: Final = 0x8664
_NO_IMAGE: Final = "is no 64-bit Windows driver image"


def certificates_of(image: bytes, name: str = "the image") -> tuple[bytes, ...]:
    """The certificates in an image's signatures, in DER, each once; none for an image that is not signed.

    Args:
        image: the file's content.
        name: for messages.

    Raises:
        MachineConfigurationError: it is no image for this architecture, or its signature cannot be read.
    """
    found: dict[bytes, None] = {}
    for signature in _signatures(image, name):
        try:
            with warnings.catch_warnings():
                # Many tools do not sort the certificates as DER wants it.
                warnings.simplefilter("ignore", UserWarning)
                loaded = pkcs7.load_der_pkcs7_certificates(_without_padding(signature))
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise MachineConfigurationError(f"{name}: its signature cannot be read ({error}); sign it again") from error
        found.update(dict.fromkeys(one.public_bytes(Encoding.DER) for one in loaded))
    return tuple(found)


def thumbprint(certificate: bytes) -> str:
    """Windows' name of a certificate: its SHA-1 in capital hexadecimal digits."""
    # Windows names certificates so; nothing here relies on its strength.
    return x509.load_der_x509_certificate(certificate).fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303


def _signatures(image: bytes, name: str) -> Iterator[bytes]:
    try:
        offset, size = _certificate_table(image)
    except struct.error as error:
        raise MachineConfigurationError(f"{name} {_NO_IMAGE}: it is cut off") from error
    except ValueError as error:
        raise MachineConfigurationError(f"{name} {_NO_IMAGE}: {error}") from error
    end = offset + size
    if end > len(image):
        raise MachineConfigurationError(f"{name}: its signature lies outside of the file; sign it again")
    while offset + 8 <= end:
        length, _revision, kind = struct.unpack_from("<IHH", image, offset)
        if length < 8 or offset + length > end:
            raise MachineConfigurationError(f"{name}: its certificate table is damaged; sign it again")
        if kind == _PKCS_SIGNED_DATA:
            yield image[offset + 8 : offset + length]
        offset += (length + 7) & ~7


def _without_padding(signature: bytes) -> bytes:
    """The DER element that a signature begins with: entries of the table are filled up to a multiple of eight bytes."""
    if len(signature) < 2 or signature[1] < 0x80:
        return signature[: 2 + signature[1]] if len(signature) > 1 else signature
    octets = signature[1] & 0x7F
    return signature[: 2 + octets + int.from_bytes(signature[2 : 2 + octets])]


def _certificate_table(image: bytes) -> tuple[int, int]:
    """Offset and size of the certificate table; raises ValueError or struct.error for anything but an x64 image."""
    if image[:2] != b"MZ":
        raise ValueError("it does not begin with MZ")
    (header,) = struct.unpack_from("<I", image, 0x3C)
    signature, machine, _sections = struct.unpack_from("<4sHH", image, header)
    (magic,) = struct.unpack_from("<H", image, header + 24)
    if signature != b"PE\0\0" or magic != _PE32_PLUS:
        raise ValueError("it has no PE32+ header")
    if machine != _MACHINE_AMD64:
        raise ValueError(f"it is for machine type 0x{machine:04X}, not x64")
    (directories,) = struct.unpack_from("<I", image, header + 24 + 108)
    if directories <= _SECURITY_DIRECTORY:
        return 0, 0
    offset, size = struct.unpack_from("<II", image, header + 24 + 112 + 8 * _SECURITY_DIRECTORY)
    return offset, size
