"""Signs with a private key that never leaves its token: a PKCS#11 module of a smart card, an HSM, or SoftHSM."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from harness.build import der
from harness.build.files import digest_of
from harness.build.signing import identifiers
from harness.build.signing.files import NamedFile
from harness.build.signing.passphrase import Passphrase
from harness.build.signing.signer import SigningKey
from harness.build.signing.usable import read_certificates, require_code_signing
from harness.errors import ConfigurationError, SigningFailed

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_INSTALL: Final = "pip install 'ntproof[pkcs11]'"


@dataclass(frozen=True)
class HardwareToken:
    """A key in a token.

    Attributes:
        module: the PKCS#11 library of the token's maker.
        token: the token's label.
        key: the private key's label.
        certificate: the key's certificate and its issuers', in a file; what tokens hold of these differs.
        pin: the user's PIN.
    """

    module: NamedFile
    token: str
    key: str
    certificate: NamedFile
    pin: Passphrase

    @property
    def identity(self) -> str:
        """See `KeySource.identity`: the certificates decide it, since only one key belongs to them."""
        return digest_of("pkcs11", self.certificate.sha256)

    @contextmanager
    def open(self) -> Iterator[SigningKey]:
        """See `KeySource.open`."""
        from cryptography.hazmat.primitives.serialization import Encoding

        leaf, *issuers = read_certificates(self.certificate.read(), self.certificate.place)
        require_code_signing(leaf, self.certificate.place)
        with self._session() as session:
            key = self._private_key(session)
            yield SigningKey(
                leaf.public_bytes(Encoding.DER),
                tuple(one.public_bytes(Encoding.DER) for one in issuers),
                lambda data: self._sign(key, data, leaf),
            )

    @contextmanager
    def _session(self) -> Iterator[Any]:
        try:
            import pkcs11
            from pkcs11 import exceptions
        except ImportError:
            raise ConfigurationError(f"{self.module.option}: needs the python-pkcs11 package; {_INSTALL}") from None
        if not self.module.path.is_file():
            raise ConfigurationError(
                f"{self.module.place}: no such file; name the PKCS#11 library of the token's maker"
            )
        try:
            library = pkcs11.lib(str(self.module.path))
        except (RuntimeError, exceptions.PKCS11Error) as error:
            raise ConfigurationError(
                f"{self.module.place}: cannot be loaded as a PKCS#11 library ({_told(error)})"
            ) from error
        try:
            token = library.get_token(token_label=self.token)
        except exceptions.NoSuchToken:
            found = ", ".join(repr(label) for label in self._labels(library)) or "none"
            raise SigningFailed(
                f"{self.module.place}: there is no token {self.token!r}; plug it in, or correct the option token "
                f"(tokens there: {found})"
            ) from None
        except exceptions.PKCS11Error as error:
            raise SigningFailed(
                f"{self.module.place}: the token {self.token!r} cannot be used ({_told(error)})"
            ) from error
        pin = self.pin.read()
        try:
            session = token.open(user_pin=pin.reveal())
        except UnicodeEncodeError:
            raise ConfigurationError(
                f"{self.pin.option}: the PIN of {self.pin.where} is not UTF-8; correct it"
            ) from None
        except (exceptions.PinIncorrect, exceptions.PinInvalid, exceptions.PinLenRange):
            raise ConfigurationError(
                f"{self.pin.option}: the token {self.token!r} refuses the PIN of {self.pin.where}; correct it before "
                "the token locks itself"
            ) from None
        except exceptions.PKCS11Error as error:
            raise SigningFailed(f"the token {self.token!r} cannot be opened ({_told(error)})") from None
        with session:
            yield session

    @staticmethod
    def _labels(library: Any) -> list[str]:
        from pkcs11 import exceptions

        try:
            return [str(token.label) for token in library.get_tokens() if token.label]
        except exceptions.PKCS11Error:
            return []

    def _private_key(self, session: Any) -> Any:
        from pkcs11 import Attribute, KeyType, ObjectClass, exceptions

        wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.KEY_TYPE: KeyType.RSA, Attribute.LABEL: self.key}
        try:
            # All of them: a search that is left in the middle stays open in the token.
            found = list(session.get_objects(wanted))
        except exceptions.PKCS11Error as error:
            raise SigningFailed(f"the token {self.token!r} cannot be searched ({_told(error)})") from error
        if not found:
            raise ConfigurationError(
                f"the token {self.token!r} has no private RSA key {self.key!r}; correct the option key"
            )
        if len(found) > 1:
            raise ConfigurationError(
                f"the token {self.token!r} has several private keys {self.key!r}; give them labels of their own"
            )
        return found[0]

    def _sign(self, key: Any, data: bytes, certificate: Certificate) -> bytes:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding, rsa
        from pkcs11 import Mechanism, exceptions

        # CKM_RSA_PKCS over a DigestInfo (RFC 8017 section 9.2) is what every token can do; it gives the same bytes.
        digest_info = der.sequence(der.algorithm(identifiers.SHA256), der.octet_string(hashlib.sha256(data).digest()))
        try:
            signature = bytes(key.sign(digest_info, mechanism=Mechanism.RSA_PKCS))
        except exceptions.PKCS11Error as error:
            raise SigningFailed(
                f"the token {self.token!r} does not sign with the key {self.key!r} ({_told(error)})"
            ) from error
        public = certificate.public_key()
        assert isinstance(public, rsa.RSAPublicKey)
        try:
            public.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            raise ConfigurationError(
                f"{self.certificate.place}: not the certificate of the key {self.key!r} in the token {self.token!r}; "
                "give the one that is"
            ) from None
        return signature


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
