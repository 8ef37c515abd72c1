"""Checks of an image's signature: that it matches, that each page is covered, that it will last."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from harness.build.findings import Finding, Severity, error
from harness.build.signing.signature import SignatureInfo, verify_image
from harness.errors import ImageError, SignatureError, UnverifiedSignature

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.build.pe import Image

_CHECK: Final = "signature"


def check_signature(image: Image, *, required: bool, now: dt.datetime | None = None) -> Iterable[Finding]:
    """What is wrong with an image's signature.

    Args:
        image: the image.
        required: whether a missing signature is a finding.
        now: the moment that certificates are judged at.
    """
    try:
        offset, _ = image.certificate_table
        if not offset and not required:
            return
        info = verify_image(image)
    except UnverifiedSignature as problem:
        yield error(_CHECK, str(problem), "verify it on Windows (signtool verify /v), or sign it otherwise")
        return
    except (SignatureError, ImageError) as problem:
        yield error(_CHECK, str(problem), "sign the image again, after its last change")
        return
    for one in info.all():
        if not one.for_code:
            yield error(
                _CHECK,
                f"the certificate of {one.subject} is not meant for code signing",
                "sign with one that has the extended key usage codeSigning (1.3.6.1.5.5.7.3.3)",
            )
    if not any(one.page_hashes for one in info.all()):
        yield error(
            _CHECK,
            "the signature has no page hashes, so a page changed on disk after loading would not be noticed",
            "sign with page hashes (signtool /ph, osslsigncode -ph)",
        )
    if all(one.digest_algorithm == "sha1" for one in info.all()):
        yield Finding(
            _CHECK,
            Severity.WARNING,
            "the image is signed over a SHA-1 digest only, which Windows no longer accepts of new signatures",
            "sign with SHA-256 (signtool /fd sha256)",
        )
    yield from _check_validity(info, now or dt.datetime.now(dt.UTC))


def _check_validity(info: SignatureInfo, now: dt.datetime) -> Iterable[Finding]:
    """A time stamp keeps a signature good after its certificate expired ("Time Stamping Authenticode Signatures")."""
    for one in info.all():
        leaf = one.chain[0]
        moment = now if one.timestamp is None else one.timestamp.time
        if leaf.valid_at(moment):
            continue
        when = "now" if one.timestamp is None else f"at the time of its time stamp, {one.timestamp.time:%Y-%m-%d}"
        yield Finding(
            _CHECK,
            Severity.WARNING,
            f"the certificate of {leaf.subject} is not valid {when} "
            f"({leaf.not_before:%Y-%m-%d} to {leaf.not_after:%Y-%m-%d})",
            "sign with a certificate that is valid, and with a time stamp",
        )
