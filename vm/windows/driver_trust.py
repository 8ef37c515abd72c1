"""Decides which certificates of a driver's signature a guest has to trust, and in which store: those and no others.

Sources: Microsoft Learn, "Installing Test Certificates" (a test certificate belongs into Root and TrustedPublisher) and
"Trusted Publishers Certificate Store" (the publisher's own certificate, not its issuers').
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID


class TrustStore(Enum):
    """A certificate store of the guest's LocalMachine, by the name that Windows has for it."""

    ROOT = "Root"
    """Whom chains may end at."""
    TRUSTED_PUBLISHER = "TrustedPublisher"
    """Whose drivers are installed without a question."""


def stores_for(certificates: Iterable[bytes]) -> tuple[tuple[bytes, TrustStore], ...]:
    """What to put where.

    The signer goes into TrustedPublisher; the root that it leads to goes into Root, which for a test certificate is the
    same one. Windows finds the issuers between them in the signature, and a time stamp's certificates are not needed.

    Args:
        certificates: those that the signature carries, DER.

    Raises:
        ValueError: one of them is no certificate.
    """
    try:
        return _placed([x509.load_der_x509_certificate(one) for one in certificates])
    except (x509.InvalidVersion, x509.DuplicateExtension) as error:
        # Beside ValueError, what the library has for certificates that are none.
        raise ValueError(str(error)) from error


def _placed(carried: Sequence[x509.Certificate]) -> tuple[tuple[bytes, TrustStore], ...]:
    signers = [one for one in carried if _may_sign_code(one)]
    roots = [root for signer in signers if (root := _root_of(signer, carried)) is not None]
    placed = [(one, TrustStore.ROOT) for one in roots] + [(one, TrustStore.TRUSTED_PUBLISHER) for one in signers]
    return tuple(dict.fromkeys((one.public_bytes(Encoding.DER), store) for one, store in placed))


def _may_sign_code(certificate: x509.Certificate) -> bool:
    return not _is_authority(certificate) and ExtendedKeyUsageOID.CODE_SIGNING in _usages(certificate)


def _usages(certificate: x509.Certificate) -> Iterable[x509.ObjectIdentifier]:
    try:
        return certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return ()


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _root_of(signer: x509.Certificate, carried: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """The self-signed end of a signer's chain, None where the signature does not carry it."""
    current, left = signer, list(carried)
    while current.subject != current.issuer:
        issuer = next((one for one in left if _is_authority(one) and _issued(one, current)), None)
        if issuer is None:
            return None
        left.remove(issuer)
        current = issuer
    return current


def _issued(issuer: x509.Certificate, issued: x509.Certificate) -> bool:
    try:
        issued.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
