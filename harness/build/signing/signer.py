"""The seam between a build and whoever signs: what a signer is asked for and what it answers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from harness.build.files import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.build.signing.timestamp_client import TimestampAuthority


@dataclass(frozen=True)
class SignedImage:
    """What a signer made.

    Attributes:
        data: the signed image file.
        certificate: the signer's certificate, DER.
    """

    data: bytes = field(repr=False)
    certificate: bytes = field(repr=False)


class Signer(Protocol):
    """Signs driver images. Nothing secret is read before there is something to sign."""

    @property
    def identity(self) -> str:
        """A text that changes whenever the same image might be signed otherwise. Holds nothing secret."""

    def sign(self, image: bytes) -> SignedImage:
        """The image with a signature in place of any earlier one.

        Raises:
            ConfigurationError: key, certificate or passphrase are not what they must be; names file or option.
            SigningFailed: a token, a signing command or a time stamp authority did not do its work.
            ImageError: not a 64-bit image.
            SignatureError: the image cannot hold a signature.
        """


@dataclass(frozen=True)
class SigningKey:
    """A private key that can be used now.

    Attributes:
        certificate: its certificate, DER.
        issuers: the issuers' certificates that go into the signature beside it, DER.
        sign: RSA PKCS#1 v1.5 with SHA-256 over some bytes.
    """

    certificate: bytes = field(repr=False)
    issuers: tuple[bytes, ...] = field(repr=False)
    sign: Callable[[bytes], bytes] = field(repr=False)


class KeySource(Protocol):
    """Where a private key is: files, a token."""

    @property
    def identity(self) -> str:
        """As `Signer.identity`."""

    def open(self) -> AbstractContextManager[SigningKey]:
        """The key, until the context ends. Raises as `Signer.sign`."""


@dataclass(frozen=True)
class KeySigner:
    """Signs with a key, and asks an authority for the time where one is given."""

    source: KeySource
    authority: TimestampAuthority | None = None

    @property
    def identity(self) -> str:
        """See `Signer.identity`."""
        return digest_of(self.source.identity, "" if self.authority is None else self.authority.identity)

    def sign(self, image: bytes) -> SignedImage:
        """See `Signer.sign`."""
        from harness.build.signing.authenticode import sign

        with self.source.open() as key:
            data = sign(image, key, None if self.authority is None else self.authority.stamp)
            return SignedImage(data, key.certificate)
