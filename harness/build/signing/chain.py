"""The chain of certificates that a signature carries, and what each of them says of itself."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from cryptography.x509 import Certificate

_LONGEST: Final = 10
_MOST_CERTIFICATES: Final = 64


@dataclass(frozen=True)
class CertificateFacts:
    """What a certificate says.

    Attributes:
        subject: its owner (RFC 4514).
        issuer: who signed it.
        sha256: its fingerprint in hexadecimal.
        not_before: first moment of its validity, UTC.
        not_after: last moment of its validity, UTC.
        usages: its extended key usages, dotted; empty when it names none.
        self_signed: whether its issuer is itself.
    """

    subject: str
    issuer: str
    sha256: str
    not_before: datetime
    not_after: datetime
    usages: tuple[str, ...]
    self_signed: bool

    def valid_at(self, moment: datetime) -> bool:
        """Whether a moment lies in its validity."""
        return self.not_before <= moment <= self.not_after


def facts_of(certificate: Certificate) -> CertificateFacts:
    """What a certificate says. Raises ValueError and what else cryptography raises for a malformed one."""
    from cryptography.hazmat.primitives import hashes

    return CertificateFacts(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        usages=usages_of(certificate),
        self_signed=certificate.subject == certificate.issuer,
    )


def usages_of(certificate: Certificate) -> tuple[str, ...]:
    """The extended key usages of a certificate, dotted; empty when it names none."""
    from cryptography import x509

    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(one.dotted_string for one in usage)


def chain_of(leaf: Certificate, carried: Iterable[bytes]) -> tuple[CertificateFacts, ...]:
    """The leaf, its issuer and so on, as far as the carried certificates go; each link's signature is verified."""
    from cryptography import x509

    known = []
    for encoded in list(carried)[:_MOST_CERTIFICATES]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                known.append(x509.load_der_x509_certificate(encoded))
            except (ValueError, x509.InvalidVersion):
                # A certificate that cannot be read links nothing; the signer's own was read before.
                continue
    chain = [leaf]
    while len(chain) < _LONGEST and chain[-1].subject != chain[-1].issuer:
        issuer = next((one for one in known if one not in chain and _issued(one, chain[-1])), None)
        if issuer is None:
            break
        chain.append(issuer)
    return tuple(facts_of(one) for one in chain)


def _issued(issuer: Certificate, issued: Certificate) -> bool:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not constraints.ca:
            return False
    except x509.ExtensionNotFound:
        # Only roots from before X.509 version 3 have none.
        if issuer.subject != issuer.issuer:
            return False
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return False
    try:
        issued.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
