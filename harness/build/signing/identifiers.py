"""Object identifiers of Authenticode, CMS and time stamps, each by the name that its specification gives it.

Sources: "Windows Authenticode Portable Executable Signature Format" and wintrust.h (1.3.6.1.4.1.311), RFC 5652 (CMS),
RFC 3161 and RFC 5035 (time stamps), RFC 3279, RFC 5754 and RFC 5758 (algorithms).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.build import der
from harness.errors import UnverifiedSignature

if TYPE_CHECKING:
    from collections.abc import Mapping

SIGNED_DATA: Final = "1.2.840.113549.1.7.2"
CONTENT_TYPE: Final = "1.2.840.113549.1.9.3"
MESSAGE_DIGEST: Final = "1.2.840.113549.1.9.4"
SIGNING_TIME: Final = "1.2.840.113549.1.9.5"
COUNTERSIGNATURE: Final = "1.2.840.113549.1.9.6"
SIGNING_CERTIFICATE: Final = "1.2.840.113549.1.9.16.2.12"
SIGNING_CERTIFICATE_V2: Final = "1.2.840.113549.1.9.16.2.47"
TST_INFO: Final = "1.2.840.113549.1.9.16.1.4"

SPC_INDIRECT_DATA: Final = "1.3.6.1.4.1.311.2.1.4"
SPC_STATEMENT_TYPE: Final = "1.3.6.1.4.1.311.2.1.11"
SPC_SP_OPUS_INFO: Final = "1.3.6.1.4.1.311.2.1.12"
SPC_PE_IMAGE_DATA: Final = "1.3.6.1.4.1.311.2.1.15"
SPC_INDIVIDUAL_CODE_SIGNING: Final = "1.3.6.1.4.1.311.2.1.21"
SPC_PAGE_HASHES_V1: Final = "1.3.6.1.4.1.311.2.3.1"
SPC_PAGE_HASHES_V2: Final = "1.3.6.1.4.1.311.2.3.2"
NESTED_SIGNATURE: Final = "1.3.6.1.4.1.311.2.4.1"
RFC3161_TIMESTAMP: Final = "1.3.6.1.4.1.311.3.3.1"

RSA_ENCRYPTION: Final = "1.2.840.113549.1.1.1"
RSASSA_PSS: Final = "1.2.840.113549.1.1.10"
SHA256: Final = "2.16.840.1.101.3.4.2.1"

CODE_SIGNING_USAGE: Final = "1.3.6.1.5.5.7.3.3"
"""id-kp-codeSigning (RFC 5280 section 4.2.1.12)."""
ANY_USAGE: Final = "2.5.29.37.0"
"""anyExtendedKeyUsage (RFC 5280 section 4.2.1.12)."""
WHQL_USAGE: Final = "1.3.6.1.4.1.311.10.3.5"
"""szOID_WHQL_CRYPTO (wincrypt.h): Windows Hardware Driver Verification."""

_DIGESTS: Final[Mapping[str, str]] = {
    "1.3.14.3.2.26": "sha1",
    SHA256: "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}
DIGEST_NAMES: Final[Mapping[bytes, str]] = {der.object_identifier(dotted): name for dotted, name in _DIGESTS.items()}
"""The names that `hashlib` has for digest algorithms, by the encoding of their identifier."""


def digest_name(algorithm: der.Value) -> str:
    """The `hashlib` name of the digest in an AlgorithmIdentifier.

    Raises:
        DerError: it is no AlgorithmIdentifier.
        UnverifiedSignature: it is a digest that is not known here.
    """
    identifier = algorithm.expect(der.SEQUENCE, "AlgorithmIdentifier").children()[0]
    name = DIGEST_NAMES.get(identifier.encoding)
    if name is None:
        raise UnverifiedSignature(f"the digest algorithm {der.dotted(identifier)} is not known here")
    return name
