"""Decides whether a certificate and a key can sign drivers, with one clear error for each reason why not."""

from __future__ import annotations

import datetime as dt
import warnings
from typing import TYPE_CHECKING, Final

from harness.build.signing.chain import usages_of
from harness.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

SMALLEST_KEY: Final = 2048
"""Bits: what Microsoft asks of code signing certificates (Trusted Root Program requirements, "Cryptography")."""


def read_certificates(data: bytes, place: str) -> list[Certificate]:
    """The certificates of a file: one in DER, or any number in PEM, the signer's own first.

    Args:
        data: the file's content.
        place: the file and the option that names it, for messages.

    Raises:
        ConfigurationError: it holds none, or one that cannot be read.
    """
    from cryptography import x509

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if b"-----BEGIN CERTIFICATE-----" in data:
                return x509.load_pem_x509_certificates(data)
            return [x509.load_der_x509_certificate(data)]
        except (ValueError, x509.InvalidVersion) as error:
            raise ConfigurationError(f"{place}: holds no certificate that can be read; give PEM or DER") from error


def require_code_signing(certificate: Certificate, place: str, now: dt.datetime | None = None) -> None:
    """Refuse a certificate that may not sign code now.

    Raises:
        ConfigurationError: it is for something else, expired, not yet valid, or its key is none that is used here.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import rsa

    name = certificate.subject.rfc4514_string() or "without a name"
    try:
        usages = usages_of(certificate)
        may_sign = _may_sign(certificate)
    except (ValueError, x509.DuplicateExtension) as error:
        raise ConfigurationError(f"{place}: the extensions of the certificate {name} cannot be read") from error
    if x509.oid.ExtendedKeyUsageOID.CODE_SIGNING.dotted_string not in usages or not may_sign:
        raise ConfigurationError(
            f"{place}: the certificate {name} is not meant for code signing; use one with the extended key usage "
            "codeSigning (1.3.6.1.5.5.7.3.3) and the key usage digitalSignature"
        )
    moment = now or dt.datetime.now(dt.UTC)
    if moment > certificate.not_valid_after_utc:
        raise ConfigurationError(
            f"{place}: the certificate {name} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; renew it, or "
            "look at this computer's clock"
        )
    if moment < certificate.not_valid_before_utc:
        raise ConfigurationError(
            f"{place}: the certificate {name} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} "
            "UTC; wait until then, or look at this computer's clock"
        )
    try:
        key = certificate.public_key()
        suitable = isinstance(key, rsa.RSAPublicKey) and key.key_size >= SMALLEST_KEY
    except (ValueError, UnsupportedAlgorithm):
        suitable = False
    if not suitable:
        raise ConfigurationError(
            f"{place}: the key of the certificate {name} is no RSA key of {SMALLEST_KEY} bits or more, which is what "
            "drivers are signed with; use another certificate"
        )


def _may_sign(certificate: Certificate) -> bool:
    """Whether the key usage, where there is one, allows signatures (RFC 5280 section 4.2.1.3)."""
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        return True


def usable_key(key: PrivateKeyTypes | None, certificate: Certificate, place: str) -> RSAPrivateKey:
    """The private key, if it is the certificate's. Raises ConfigurationError."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    if not isinstance(key, rsa.RSAPrivateKey) or key.public_key() != certificate.public_key():
        name = certificate.subject.rfc4514_string()
        raise ConfigurationError(f"{place}: not the private key of the certificate {name}; give the one that is")
    return key


def rsa_signature(key: RSAPrivateKey) -> Callable[[bytes], bytes]:
    """What signs with a private key in memory: RSA PKCS#1 v1.5 with SHA-256, which gives the same bytes each time."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    return lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256())
