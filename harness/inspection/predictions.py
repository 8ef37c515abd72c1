"""Predicts what Windows will answer when a driver image is deployed, from nothing but the file.

Each prediction says where the answer comes, under which condition, how sure it is, and what it rests on. What depends
on the machine alone is said to be open. Sources: Microsoft Learn, "/INTEGRITYCHECK", "Driver Signing Policy",
"PsSetCreateProcessNotifyRoutineEx", "Installing a Test-Signed Catalog File for a Non-PnP Driver", "The TESTSIGNING Boot
Configuration Option", "Bug Check 0xC4", "Implement memory integrity compatible code" and "App Control for Business:
policy rules".
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from harness.build import pe
from harness.build.findings import Finding, Severity
from harness.build.signing.identifiers import WHQL_USAGE
from harness.build.signing.signature import SignatureInfo
from harness.inspection import answers

START: Final = "StartService"
_EX_REGISTRATIONS: Final = ("PsSetCreateProcessNotifyRoutineEx", "PsSetCreateProcessNotifyRoutineEx2")
_MICROSOFT_ROOTS: Final = ("CN=Microsoft Root", "CN=Microsoft Code Verification Root")
_HARDWARE_PUBLISHERS: Final = ("CN=Microsoft Windows Hardware Compatibility Publisher", "CN=Microsoft Windows,")
_NO_CATALOG: Final = "without an installed catalog that is signed for it"
"""A driver has a signature of its own, or a signed catalog in the driver database lists it ("Installing a Test-Signed
Catalog File for a Non-PnP Driver")."""
_MEMORY_INTEGRITY: Final = ("writable-code", "section-alignment", "import-table", "executable-pool")


class Certainty(enum.Enum):
    """How sure a prediction is."""

    WILL = "will"
    """Documented, and the file is all that it depends on under the condition."""
    MAY = "may"
    """Reported or undocumented in part, or the file shows only that it is possible."""
    OPEN = "open"
    """The file does not tell; the machine's own state decides."""


@dataclass(frozen=True)
class Prediction:
    """One answer of Windows.

    Attributes:
        where: the call or feature that answers.
        condition: when it does: ``always``, ``test signing on`` and so on.
        certainty: how sure that is.
        answer: the error or effect, by name and number.
        because: what in the file leads to it.
        advice: what to do about it.
    """

    where: str
    condition: str
    certainty: Certainty
    answer: str
    because: str
    advice: str


@dataclass(frozen=True)
class Evidence:
    """What predictions are made from.

    Attributes:
        image: the image.
        imports: what it imports; empty where its import table cannot be read.
        signature: its verified signature, or why there is none.
        findings: what the checks found.
        judged: whether all of the signature could be verified here.
    """

    image: pe.Image
    imports: tuple[pe.Import, ...]
    signature: SignatureInfo | str
    findings: Sequence[Finding]
    judged: bool = True


def predict(evidence: Evidence) -> list[Prediction]:
    """What Windows will answer, the surest first."""
    found = [prediction for rule in _RULES for prediction in rule(evidence)]
    order = list(Certainty)
    return sorted(found, key=lambda prediction: order.index(prediction.certainty))


def _start(answer: answers.Answer, condition: str, certainty: Certainty, because: str, advice: str = "") -> Prediction:
    return Prediction(START, condition, certainty, str(answer), because, advice or answer.advice)


def _format(evidence: Evidence) -> Iterator[Prediction]:
    image = evidence.image
    if image.machine != pe.MACHINE_AMD64:
        name = pe.MACHINE_NAMES.get(image.machine, f"machine 0x{image.machine:X}")
        for answer in (answers.BAD_FORMAT, answers.DRIVER_BLOCKED):
            yield _start(answer, "on an x64 system", Certainty.MAY, f"the image is for {name}")
    broken = {"subsystem": "the subsystem is not native", "section-layout": "its sections contradict each other"}
    for check, because in broken.items():
        if any(finding.check == check for finding in evidence.findings):
            yield _start(answers.BAD_FORMAT, "always", Certainty.MAY, because)
    if image.checksum != image.computed_checksum():
        yield _start(
            answers.BAD_FORMAT,
            "always",
            Certainty.MAY,
            "the header's checksum is wrong, and Windows checks that of drivers (PE Format, CheckSum)",
            "link with /release, and let the signing tool correct it",
        )


def _signature(evidence: Evidence) -> Iterator[Prediction]:
    if isinstance(evidence.signature, str):
        if evidence.judged:
            yield _start(answers.INVALID_IMAGE_HASH, _NO_CATALOG, Certainty.WILL, evidence.signature)
        else:
            because = f"{evidence.signature}, so it is not known whether Windows takes the signature"
            yield _start(answers.INVALID_IMAGE_HASH, _NO_CATALOG, Certainty.MAY, because)
        return
    for one in evidence.signature.all():
        if not one.for_code:
            yield _start(
                answers.INVALID_IMAGE_HASH,
                _NO_CATALOG,
                Certainty.MAY,
                f"the certificate of {one.subject} is not meant for code signing",
                "sign with one that has the extended key usage codeSigning (1.3.6.1.5.5.7.3.3)",
            )
    named = next((one for one in evidence.signature.all() if _names_microsoft_root(one)), None)
    if named is not None:
        yield _start(
            answers.INVALID_IMAGE_HASH,
            "if Microsoft's own root did not issue the chain",
            Certainty.OPEN,
            f"{named.chain[-1].issuer} is a name, which anyone can give a certificate",
            "hold the chain against Microsoft's roots on Windows (signtool verify /v /kp)",
        )
    if any(_from_hardware_publisher(one) for one in evidence.signature.all()):
        return
    name = evidence.signature.subject
    if named is not None:
        yield _start(
            answers.INVALID_IMAGE_HASH,
            "test signing off, Secure Boot on, Windows 10 1607 or later",
            Certainty.MAY,
            f"{name} is cross-signed, which suffices for certificates of before 29 July 2015, and on older systems",
            "have the driver signed through the Hardware Dev Center",
        )
        return
    yield _start(
        answers.INVALID_IMAGE_HASH,
        "test signing off",
        Certainty.WILL,
        f"{name} leads to no root that Windows trusts for drivers",
        "turn test signing on in the guest, or have the driver signed through the Hardware Dev Center",
    )


def _from_hardware_publisher(info: SignatureInfo) -> bool:
    """Whether Microsoft signed it for a hardware submission; the chain's end is named, its key is not pinned here."""
    return info.subject.startswith(_HARDWARE_PUBLISHERS) and _names_microsoft_root(info)


def _names_microsoft_root(info: SignatureInfo) -> bool:
    return info.chain[-1].issuer.startswith(_MICROSOFT_ROOTS)


def _policies(evidence: Evidence) -> Iterator[Prediction]:
    if isinstance(evidence.signature, str):
        return
    if not any(WHQL_USAGE in one.chain[0].usages for one in evidence.signature.all()):
        yield _start(
            answers.INTEGRITY[4583],
            "an App Control policy with Required:WHQL in force",
            Certainty.WILL,
            "no signature is by a certificate with the usage Windows Hardware Driver Verification",
        )
    yield _start(
        answers.INTEGRITY[4551],
        "an App Control policy in force",
        Certainty.OPEN,
        f"the policy decides whether it allows {evidence.signature.subject}",
    )
    yield _start(
        answers.DRIVER_BLOCKED,
        "Microsoft's vulnerable driver blocklist in force",
        Certainty.OPEN,
        "the list changes with Windows and is not known here",
    )
    reputation = (*range(4556, 4560), *range(4580, 4583))
    yield Prediction(
        START,
        "an App Control policy with reputation (Smart App Control) in force",
        Certainty.OPEN,
        f"one of {', '.join(str(code) for code in reputation)}",
        "a reputation service decides",
        answers.INTEGRITY[4556].advice,
    )


def _imports(evidence: Evidence) -> Iterator[Prediction]:
    for finding in evidence.findings:
        if finding.check != "imports" or finding.severity is Severity.NOTE:
            continue
        ordinal = "by ordinal" in finding.message
        sure = finding.severity is Severity.ERROR and not ordinal
        yield _start(
            answers.ORDINAL_NOT_FOUND if ordinal else answers.ENTRYPOINT_NOT_FOUND,
            "on the chosen build",
            Certainty.WILL if sure else Certainty.MAY,
            finding.message,
            finding.advice,
        )


def _registration(evidence: Evidence) -> Iterator[Prediction]:
    if evidence.image.dll_characteristics & pe.DLLCHARACTERISTICS_FORCE_INTEGRITY:
        return
    used = [one.name for one in evidence.imports if one.name in _EX_REGISTRATIONS]
    yield Prediction(
        " and ".join(dict.fromkeys(used)) or _EX_REGISTRATIONS[0],
        "always" if used else "if the driver finds it with MmGetSystemRoutineAddress",
        Certainty.WILL if used else Certainty.MAY,
        "STATUS_ACCESS_DENIED (0xC0000022)",
        "IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY is not set in the image that holds the routine",
        "link with /integritycheck, and sign again",
    )


def _memory_integrity(evidence: Evidence) -> Iterator[Prediction]:
    writable_code = [s for s in evidence.image.sections if s.writable and s.executable]
    # INIT sections of older kits are writable and executable, and gone once DriverEntry returned: not seen on Windows.
    only_at_first = all(section.characteristics & pe.SCN_MEM_DISCARDABLE for section in writable_code)
    for finding in evidence.findings:
        if finding.check in _MEMORY_INTEGRITY:
            certain = finding.severity is Severity.ERROR and not (finding.check == "writable-code" and only_at_first)
            yield Prediction(
                "executable memory at run time" if finding.check == "executable-pool" else START,
                "memory integrity on",
                Certainty.WILL if certain else Certainty.MAY,
                "refused; with which error is not documented",
                finding.message,
                finding.advice,
            )


_RULES: Final[Sequence[Callable[[Evidence], Iterator[Prediction]]]] = (
    _format,
    _signature,
    _imports,
    _registration,
    _memory_integrity,
    _policies,
)
