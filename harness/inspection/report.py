"""Tells an inspection: as JSON for scripts, as lines for logs. What a hostile file says reaches a terminal escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.build.signing.chain import CertificateFacts
    from harness.build.signing.signature import SignatureInfo
    from harness.inspection.inspect import Inspection

FORMAT_NAME = "ntproof-inspection"
FORMAT_VERSION = 1


def to_json(inspection: Inspection) -> dict[str, Any]:
    """The inspection as JSON values."""
    signature = inspection.signature
    version = inspection.version
    return {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "passed": inspection.passed,
        "path": str(inspection.path),
        "sha256": inspection.sha256,
        "size": inspection.size,
        "windows_build": inspection.windows_build,
        "machine": inspection.machine,
        "subsystem": inspection.subsystem,
        "characteristics": list(inspection.characteristics),
        "absent_characteristics": list(inspection.absent_characteristics),
        "sections": [vars(section) for section in inspection.sections],
        "imports": {module: list(names) for module, names in inspection.imports.items()},
        "pdb": list(inspection.pdb),
        "reproducible": inspection.reproducible,
        "version_resource": None
        if version is None
        else {
            "file_version": version.file_version,
            "product_version": version.product_version,
            "strings": dict(version.strings),
        },
        "signatures": [] if isinstance(signature, str) else [_signature_json(one) for one in signature.all()],
        "signature_error": signature if isinstance(signature, str) else None,
        "findings": [
            {
                "check": finding.check,
                "severity": finding.severity.value,
                "message": finding.message,
                "advice": finding.advice,
            }
            for finding in inspection.findings
        ],
        "predictions": [
            {**vars(prediction), "certainty": prediction.certainty.value} for prediction in inspection.predictions
        ],
    }


def _signature_json(info: SignatureInfo) -> dict[str, Any]:
    stamp = info.timestamp
    return {
        "digest_algorithm": info.digest_algorithm,
        "digest": info.digest,
        "page_hashes": info.page_hashes,
        "chain": [_certificate_json(one) for one in info.chain],
        "timestamp": None
        if stamp is None
        else {"time": stamp.time.isoformat(), "chain": [_certificate_json(one) for one in stamp.chain]},
    }


def _certificate_json(facts: CertificateFacts) -> dict[str, Any]:
    return {
        "subject": facts.subject,
        "issuer": facts.issuer,
        "sha256": facts.sha256,
        "not_before": facts.not_before.isoformat(),
        "not_after": facts.not_after.isoformat(),
        "usages": list(facts.usages),
        "self_signed": facts.self_signed,
    }


def fact_rows(inspection: Inspection) -> Iterator[tuple[str, str]]:
    """Name and value of each fact, for tables and lines."""
    yield "file", f"{inspection.path}, {inspection.size} bytes"
    yield "sha256", inspection.sha256
    yield "machine", inspection.machine
    yield "subsystem", "native" if inspection.subsystem == 1 else str(inspection.subsystem)
    absent = f"; not set: {', '.join(inspection.absent_characteristics)}" if inspection.absent_characteristics else ""
    yield "flags", (", ".join(inspection.characteristics) or "none") + absent
    for section in inspection.sections:
        yield f"section {section.name}", f"0x{section.address:X}, 0x{section.size:X} bytes, {section.rights}"
    for module, names in inspection.imports.items():
        yield f"imports of {module}", ", ".join(names)
    yield "PDB", ", ".join(inspection.pdb) or "none"
    mark = {True: "marked so (/Brepro)", False: "not marked", None: "cannot be read"}
    yield "reproducible", mark[inspection.reproducible]
    yield from _version_rows(inspection)
    yield from _signature_rows(inspection.signature)


def _version_rows(inspection: Inspection) -> Iterator[tuple[str, str]]:
    version = inspection.version
    if version is None:
        yield "version", "none"
        return
    yield "version", f"file {version.file_version}, product {version.product_version}"
    yield from version.strings.items()


def _signature_rows(signature: SignatureInfo | str) -> Iterator[tuple[str, str]]:
    if isinstance(signature, str):
        yield "signature", signature
        return
    for number, info in enumerate(signature.all(), 1):
        pages = f"{info.page_hashes} page hashes" if info.page_hashes else "no page hashes"
        yield f"signature {number}", f"{info.digest_algorithm} {info.digest}, verified; {pages}"
        for depth, one in enumerate(info.chain):
            role = "signer" if depth == 0 else "issued by"
            yield f"  {role}", f"{one.subject} ({one.not_before:%Y-%m-%d} to {one.not_after:%Y-%m-%d})"
        last = info.chain[-1]
        yield "  chain ends", "self-signed" if last.self_signed else f"at {last.issuer}, which the file does not carry"
        stamp = info.timestamp
        yield "  time stamp", "none" if stamp is None else f"{stamp.time:%Y-%m-%d %H:%M:%S} UTC by {stamp.authority}"


def lines(inspection: Inspection) -> Iterator[str]:
    """The inspection as plain lines."""
    for name, value in fact_rows(inspection):
        yield printable(f"{name}: {value}")
    yield "findings:" if inspection.findings else "findings: none"
    for finding in inspection.findings:
        yield printable(f"  {finding.severity.value}: {finding.check}: {finding.message}")
        yield printable(f"    advice: {finding.advice}")
    yield f"what Windows will answer (imports held against build {inspection.windows_build}):"
    for one in inspection.predictions:
        yield printable(f"  {one.certainty.value}: {one.where}, {one.condition}: {one.answer}")
        yield printable(f"    why: {one.because}")
        yield printable(f"    advice: {one.advice}")
