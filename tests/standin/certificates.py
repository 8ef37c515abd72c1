"""Self-made certificates, as a guest makes one for its listener."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Certificate:
    pem: bytes
    """The key and the certificate, as ssl.SSLContext.load_cert_chain wants them in one file."""
    der: bytes

    @property
    def fingerprint(self):
        return hashlib.sha256(self.der).hexdigest()

    def write(self, folder):
        path = folder / f"{self.fingerprint[:16]}.pem"
        path.write_bytes(self.pem)
        return path


def make_certificate(name="standin"):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(
        private + made.public_bytes(serialization.Encoding.PEM), made.public_bytes(serialization.Encoding.DER)
    )
