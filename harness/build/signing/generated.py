"""The test certificate that drivers are signed with: made once per build directory, never shared or committed.

Any certificate is accepted by a Windows system with test signing on (Microsoft: "The TESTSIGNING Boot Configuration
Option"); it is installed on test machines under Root and TrustedPublisher all the same.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from harness.build.files import digest_of, exclusive
from harness.build.signing.signer import SigningKey
from harness.build.signing.usable import require_code_signing, rsa_signature, usable_key
from harness.errors import ConfigurationError

COMMON_NAME: Final = "ntproof test signing"
KEY_BITS: Final = 3072
VALIDITY: Final = dt.timedelta(days=3650)
_CERTIFICATE_FILE: Final = "certificate.cer"
_KEY_FILE: Final = "private.key"


@dataclass(frozen=True)
class GeneratedIdentity:
    """A test certificate and where its private key is.

    Attributes:
        certificate_path: the certificate, DER.
        key_path: the private key, PEM PKCS#8, readable by its owner only.
        certificate: the certificate's bytes.
    """

    certificate_path: Path
    key_path: Path
    certificate: bytes = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate in hexadecimal."""
        return hashlib.sha256(self.certificate).hexdigest()

    @property
    def identity(self) -> str:
        """See `KeySource.identity`."""
        return digest_of("generated", self.fingerprint)

    @contextmanager
    def open(self) -> Iterator[SigningKey]:
        """See `KeySource.open`."""
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(self.key_path.read_bytes(), password=None)
            certificate = x509.load_der_x509_certificate(self.certificate)
        except (OSError, ValueError, TypeError):
            # The text of the error is left out: it may quote the file.
            message = f"{self.key_path.parent}: the signing key or certificate cannot be read; delete the directory"
            raise ConfigurationError(message) from None
        place = f"{self.key_path} (delete the directory to have a new one made)"
        require_code_signing(certificate, place)
        yield SigningKey(self.certificate, (), rsa_signature(usable_key(key, certificate, place)))


def ensure_identity(directory: Path) -> GeneratedIdentity:
    """The identity kept in `directory`; it is made there first if there is none yet.

    Raises:
        ConfigurationError: the directory holds only half of an identity, or cannot be written.
    """
    try:
        found = _find(directory)
        if found is None:
            with exclusive(directory.parent / f"{directory.name}.lock"):
                found = _find(directory) or _create(directory)
    except OSError as error:
        message = f"{directory}: the test certificate cannot be kept there: {error.strerror}; name another folder for "
        raise ConfigurationError(f"{message}what is built with NTPROOF_BUILD_DIR") from error
    return found


def _find(directory: Path) -> GeneratedIdentity | None:
    certificate, key = directory / _CERTIFICATE_FILE, directory / _KEY_FILE
    if not directory.exists():
        return None
    if not certificate.is_file() or not key.is_file():
        message = f"{directory}: holds no complete test certificate; delete the directory to have a new one made"
        raise ConfigurationError(message)
    return GeneratedIdentity(certificate, key, certificate.read_bytes())


def _create(directory: Path) -> GeneratedIdentity:
    # Imported here because a build with nothing to do must not pay for it.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME)])
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    usage = {
        name: name == "digital_signature"
        for name in (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        )
    }
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Guests' clocks may lag.
        .not_valid_before(now - dt.timedelta(days=2))
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    # Both files appear at once, or neither. mkdtemp makes the directory 0700.
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        (temporary / _CERTIFICATE_FILE).write_bytes(certificate.public_bytes(serialization.Encoding.DER))
        descriptor = os.open(temporary / _KEY_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
        temporary.replace(directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    found = _find(directory)
    assert found is not None
    return found
