"""Signs with a certificate file and a private key file, as OpenSSL writes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.build.files import digest_of
from harness.build.signing.files import NamedFile
from harness.build.signing.passphrase import Passphrase
from harness.build.signing.signer import SigningKey
from harness.build.signing.usable import read_certificates, require_code_signing, rsa_signature, usable_key
from harness.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes


@dataclass(frozen=True)
class PemFiles:
    """A key in two files.

    Attributes:
        certificate: the signer's certificate, and behind it those of its issuers; PEM, or one certificate in DER.
        key: the private key, PEM.
        passphrase: of the key, None for a key that is not encrypted.
    """

    certificate: NamedFile
    key: NamedFile
    passphrase: Passphrase | None = None

    @property
    def identity(self) -> str:
        """See `KeySource.identity`: the certificates decide it, since only one key belongs to them."""
        return digest_of("pem", self.certificate.sha256)

    @contextmanager
    def open(self) -> Iterator[SigningKey]:
        """See `KeySource.open`."""
        from cryptography.hazmat.primitives.serialization import Encoding

        leaf, *issuers = read_certificates(self.certificate.read(), self.certificate.place)
        require_code_signing(leaf, self.certificate.place)
        key = usable_key(self._load_key(), leaf, self.key.place)
        yield SigningKey(
            leaf.public_bytes(Encoding.DER),
            tuple(one.public_bytes(Encoding.DER) for one in issuers),
            rsa_signature(key),
        )

    def _load_key(self) -> PrivateKeyTypes:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        data = self.key.read()
        password = (
            None if self.passphrase is None else self.passphrase.read().reveal().encode("utf-8", "surrogateescape")
        )
        try:
            return load_pem_private_key(data, password=password)
        except TypeError:
            # Raised for a passphrase without an encrypted key, and for an encrypted key without a passphrase.
            if password is None:
                raise ConfigurationError(
                    f"{self.key.place}: the key is encrypted; name its passphrase with the option passphrase"
                ) from None
            raise ConfigurationError(
                f"{self.key.place}: the key is not encrypted; remove the option passphrase"
            ) from None
        except (ValueError, UnsupportedAlgorithm):
            # The text of the error is left out: it may quote the file.
            wrong = "" if self.passphrase is None else f", or the passphrase of {self.passphrase.where} is wrong"
            raise ConfigurationError(f"{self.key.place}: holds no private key in PEM that can be read{wrong}") from None
