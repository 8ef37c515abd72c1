"""Signs with a PKCS#12 file (.pfx, .p12), which holds certificate and private key under a passphrase."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from harness.build import der
from harness.build.files import digest_of
from harness.build.signing.files import NamedFile
from harness.build.signing.passphrase import Passphrase
from harness.build.signing.signer import SigningKey
from harness.build.signing.usable import require_code_signing, rsa_signature, usable_key
from harness.errors import ConfigurationError

_INDEFINITE: Final = b"\x30\x80"
"""How a PFX in BER may begin (RFC 7292 section 3 allows it): a SEQUENCE that does not say how long it is."""


@dataclass(frozen=True)
class Pkcs12File:
    """A key in one file.

    Attributes:
        file: the PKCS#12 file.
        passphrase: what opens it, None for a file without a passphrase.
    """

    file: NamedFile
    passphrase: Passphrase | None = None

    @property
    def identity(self) -> str:
        """See `KeySource.identity`: what the file holds is not known before it is opened, so all of it counts."""
        return digest_of("pkcs12", self.file.sha256)

    @contextmanager
    def open(self) -> Iterator[SigningKey]:
        """See `KeySource.open`."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

        place = self.file.place
        data = self.file.read()
        if not data.startswith(_INDEFINITE):
            try:
                der.read(data)[0].expect(der.SEQUENCE, "PFX")
            except der.DerError as error:
                raise ConfigurationError(f"{place}: not a PKCS#12 file, or cut short: {error}") from error
        password = (
            None if self.passphrase is None else self.passphrase.read().reveal().encode("utf-8", "surrogateescape")
        )
        try:
            with warnings.catch_warnings():
                # cryptography warns of what is no DER, and of odd certificates.
                warnings.simplefilter("ignore")
                key, certificate, issuers = pkcs12.load_key_and_certificates(data, password)
        except UnsupportedAlgorithm as error:
            raise ConfigurationError(
                f"{place}: encrypted with an algorithm that OpenSSL has retired; export it again with AES"
            ) from error
        except (ValueError, TypeError):
            # The text of the error is left out: it is not known to quote nothing.
            where = None if self.passphrase is None else self.passphrase.where
            given = "no passphrase is named" if where is None else f"the passphrase of {where} is wrong"
            raise ConfigurationError(
                f"{place}: cannot be opened: {given}, or the file is damaged; correct the option passphrase"
            ) from None
        if certificate is None or key is None:
            absent = "certificate" if certificate is None else "private key"
            raise ConfigurationError(f"{place}: holds no {absent}; export it with certificate and private key")
        require_code_signing(certificate, place)
        yield SigningKey(
            certificate.public_bytes(Encoding.DER),
            tuple(one.public_bytes(Encoding.DER) for one in issuers),
            rsa_signature(usable_key(key, certificate, place)),
        )
