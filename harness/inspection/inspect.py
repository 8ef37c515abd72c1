"""Examines an image file: its facts, the findings of every check, and what Windows will answer to it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.build import pe
from harness.build.findings import Finding, Severity
from harness.build.image_checks import DEFAULT_WINDOWS_BUILD, examine
from harness.build.signing.signature import SignatureInfo, verify_image
from harness.build.version_resource import VersionInfo, read_version
from harness.errors import ImageError, SignatureError, UnverifiedSignature
from harness.inspection.predictions import Evidence, Prediction, predict

LARGEST: Final = 1 << 28
"""Bytes; no driver comes near, and a file of this size is still read in a second."""
_CHARACTERISTICS: Final = {
    pe.DLLCHARACTERISTICS_FORCE_INTEGRITY: "FORCE_INTEGRITY",
    pe.DLLCHARACTERISTICS_NX_COMPAT: "NX_COMPAT",
    pe.DLLCHARACTERISTICS_DYNAMIC_BASE: "DYNAMIC_BASE",
    pe.DLLCHARACTERISTICS_HIGH_ENTROPY_VA: "HIGH_ENTROPY_VA",
    pe.DLLCHARACTERISTICS_GUARD_CF: "GUARD_CF",
}


@dataclass(frozen=True)
class SectionFacts:
    """One section: name, address, size in memory, and its rights as ``rwx`` letters, ``d`` for discardable."""

    name: str
    address: int
    size: int
    rights: str


@dataclass(frozen=True)
class Inspection:
    """Everything that is known of an image.

    Attributes:
        path: the file.
        sha256: of the file, in hexadecimal.
        size: of the file, in bytes.
        windows_build: the build whose exports the imports were held against.
        machine: the processor that it is for.
        subsystem: its number; drivers have 1, native.
        characteristics: names of the flags that are set, of those that matter to drivers.
        absent_characteristics: names of those that are not.
        sections: every section.
        imports: names of imported functions by module.
        pdb: the PDB files that it refers to.
        reproducible: whether it says that it can be built again with the same bytes; None where that cannot be read.
        version: its version resource, None where it has none or a damaged one.
        signature: its signature, or why there is none that holds.
        findings: what is wrong, and what is worth knowing.
        predictions: what Windows will answer.
    """

    path: Path
    sha256: str
    size: int
    windows_build: int
    machine: str
    subsystem: int
    characteristics: tuple[str, ...]
    absent_characteristics: tuple[str, ...]
    sections: tuple[SectionFacts, ...]
    imports: dict[str, tuple[str, ...]]
    pdb: tuple[str, ...]
    reproducible: bool | None
    version: VersionInfo | None
    signature: SignatureInfo | str
    findings: tuple[Finding, ...]
    predictions: tuple[Prediction, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing that was found is an error."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)


def inspect(path: Path, *, windows_build: int = DEFAULT_WINDOWS_BUILD, require_signature: bool = True) -> Inspection:
    """Examine an image file.

    Args:
        path: the ``.sys`` file.
        windows_build: the Windows build that must load it.
        require_signature: whether a missing signature is a finding.

    Raises:
        ImageError: the file cannot be read, or is no 64-bit PE image; the message names it.
    """
    try:
        too_large = path.stat().st_size > LARGEST
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    if too_large:
        raise ImageError(f"{path}: larger than {LARGEST} bytes, which no driver is")
    image = pe.load(path, pe.ALL_64_BIT)
    findings = tuple(examine(image, windows_build=windows_build, require_signature=require_signature))
    imports = _imports(image)
    signature, judged = _signature(image)
    evidence = Evidence(image, imports, signature, findings, judged)
    return Inspection(
        path=path,
        sha256=hashlib.sha256(image.data).hexdigest(),
        size=len(image.data),
        windows_build=windows_build,
        machine=pe.MACHINE_NAMES[image.machine],
        subsystem=image.subsystem,
        characteristics=_flags(image, present=True),
        absent_characteristics=_flags(image, present=False),
        sections=tuple(_section(section) for section in image.sections),
        imports=_by_module(imports),
        pdb=_pdb(image),
        reproducible=_reproducible(image),
        version=_version(image),
        signature=signature,
        findings=findings,
        predictions=tuple(predict(evidence)),
    )


def _flags(image: pe.Image, *, present: bool) -> tuple[str, ...]:
    set_flags = image.dll_characteristics
    return tuple(name for flag, name in _CHARACTERISTICS.items() if bool(set_flags & flag) is present)


def _section(section: pe.Section) -> SectionFacts:
    letters = {
        "r": pe.SCN_MEM_READ,
        "w": pe.SCN_MEM_WRITE,
        "x": pe.SCN_MEM_EXECUTE,
        "d": pe.SCN_MEM_DISCARDABLE,
    }
    rights = "".join(letter if section.characteristics & flag else "-" for letter, flag in letters.items())
    return SectionFacts(section.name, section.rva, section.virtual_size or section.raw_size, rights)


# What cannot be read is told by the check that reads it as well; the facts then leave it out.


def _imports(image: pe.Image) -> tuple[pe.Import, ...]:
    try:
        return tuple(image.imports())
    except ImageError:
        return ()


def _by_module(imports: tuple[pe.Import, ...]) -> dict[str, tuple[str, ...]]:
    modules: dict[str, list[str]] = {}
    for one in imports:
        modules.setdefault(one.module, []).append(one.name)
    return {module: tuple(names) for module, names in modules.items()}


def _pdb(image: pe.Image) -> tuple[str, ...]:
    try:
        return tuple(image.pdb_references())
    except ImageError:
        return ()


def _reproducible(image: pe.Image) -> bool | None:
    try:
        return any(kind == pe.DEBUG_TYPE_REPRO for kind, _, _ in image.debug_entries())
    except ImageError:
        return None


def _version(image: pe.Image) -> VersionInfo | None:
    try:
        return read_version(image)
    except ImageError:
        return None


def _signature(image: pe.Image) -> tuple[SignatureInfo | str, bool]:
    """The signature or why there is none that holds, and whether that could be judged here."""
    try:
        return verify_image(image), True
    except (SignatureError, ImageError) as error:
        return str(error), not isinstance(error, UnverifiedSignature)
