"""Checks every driver image should pass before it is loaded anywhere: `check_image` and `check_reproducible`.

Each check is one function from an image to findings. What the checks demand comes from Microsoft's pages "PE Format",
"/INTEGRITYCHECK", "Implement HVCI-compatible code" and "Windows Authenticode Portable Executable Signature Format".
"""

from __future__ import annotations

import enum
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.build import pe
from harness.build.driver_build import build_unsigned
from harness.build.exports import JUDGED_MODULES, first_build
from harness.build.llvm_mingw import LlvmMingw
from harness.build.signing.signature import verify_image
from harness.errors import ImageError, SignatureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from harness.build.description import DriverSources
    from harness.build.toolchain import Toolchain

DEFAULT_WINDOWS_BUILD: Final = 17763
"""Windows 10 1809 and Server 2019."""
PAGE_SIZE: Final = 0x1000
_LOCAL_PATH: Final = re.compile(r"[\\/]|^[A-Za-z]:")


class Severity(enum.Enum):
    """How bad a finding is."""

    ERROR = "error"
    """The image will not load or work as intended where it should."""
    WARNING = "warning"
    """It will load, but something is not as it should be."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with an image.

    Attributes:
        check: the name of the check, stable.
        severity: how bad it is.
        message: what is wrong.
        advice: what to do about it.
    """

    check: str
    severity: Severity
    message: str
    advice: str

    def __str__(self) -> str:
        return f"{self.severity.value}: {self.check}: {self.message}; {self.advice}"


def check_image(
    path: Path, *, windows_build: int = DEFAULT_WINDOWS_BUILD, require_signature: bool = True
) -> list[Finding]:
    """Everything wrong with a driver image, in the order of the checks; an empty list when nothing is.

    Args:
        path: the ``.sys`` file.
        windows_build: the oldest Windows build that must load it; decides which imports exist.
        require_signature: whether a missing signature is a finding.

    Raises:
        ImageError: the file is no x64 image, or is truncated.
    """
    image = pe.load(path)
    findings: list[Finding] = []
    for name, check in _CHECKS.items():
        try:
            findings.extend(check(image))
        except ImageError as error:
            findings.append(_error(name, str(error), "the image is damaged; build it again"))
    try:
        findings.extend(_check_imports(image, windows_build))
    except ImageError as error:
        findings.append(_error("imports", str(error), "the image is damaged; build it again"))
    findings.extend(_check_signature(image, required=require_signature))
    return findings


def check_reproducible(sources: DriverSources, toolchain: Toolchain | None = None) -> list[Finding]:
    """Build twice, from two copies of the tree in directories of different length, and compare every output.

    Raises:
        BuildError: the sources do not build.
        ConfigurationError: the toolchain is not installed.
    """
    chain = toolchain or LlvmMingw()
    findings = []
    with tempfile.TemporaryDirectory(prefix="ntproof-reproducible-") as temporary:
        outputs = []
        for name in ("a", "a longer name for the second directory"):
            tree = Path(temporary) / name / "tree"
            _copy_tree(sources, tree)
            outputs.append(build_unsigned(replace(sources, root=tree), chain, Path(temporary) / name / "out"))
        first, second = outputs
        for what in ("image", "twin", "pdb"):
            one, other = getattr(first, what), getattr(second, what)
            if one is not None and one.read_bytes() != other.read_bytes():
                findings.append(
                    _error(
                        "reproducible",
                        f"{one.name} differs between two builds of the same sources in two directories",
                        "look for __DATE__, __TIME__ and absolute paths in the sources and compiler options",
                    )
                )
    return findings


def _copy_tree(sources: DriverSources, target: Path) -> None:
    for path in sorted(sources.root.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(sources.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _error(check: str, message: str, advice: str) -> Finding:
    return Finding(check, Severity.ERROR, message, advice)


def _check_subsystem(image: pe.Image) -> Iterable[Finding]:
    if image.subsystem != pe.SUBSYSTEM_NATIVE:
        yield _error(
            "subsystem",
            f"the subsystem is {image.subsystem}, not native (1)",
            "link with /subsystem:native and /driver",
        )


def _check_force_integrity(image: pe.Image) -> Iterable[Finding]:
    if not image.dll_characteristics & pe.DLLCHARACTERISTICS_FORCE_INTEGRITY:
        yield _error(
            "force-integrity",
            "IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY is not set, so PsSetCreateProcessNotifyRoutineEx answers "
            "STATUS_ACCESS_DENIED",
            "link with /integritycheck (integrity_check = true in the driver's description)",
        )


def _check_nx(image: pe.Image) -> Iterable[Finding]:
    if not image.dll_characteristics & pe.DLLCHARACTERISTICS_NX_COMPAT:
        yield _error("nx", "the image is not marked compatible with data execution prevention", "link with /nxcompat")


def _check_aslr(image: pe.Image) -> Iterable[Finding]:
    if not image.dll_characteristics & pe.DLLCHARACTERISTICS_DYNAMIC_BASE:
        yield _error("aslr", "the image does not accept a random base address", "link with /dynamicbase")


def _check_checksum(image: pe.Image) -> Iterable[Finding]:
    computed = image.computed_checksum()
    if image.checksum != computed:
        yield _error(
            "checksum",
            f"the header's checksum is 0x{image.checksum:X}, the file's is 0x{computed:X}",
            "link with /release, and let the signing tool correct it",
        )


def _check_alignment(image: pe.Image) -> Iterable[Finding]:
    if image.section_alignment < PAGE_SIZE or image.section_alignment % PAGE_SIZE:
        yield _error(
            "section-alignment",
            f"sections are aligned to 0x{image.section_alignment:X} bytes; memory integrity wants whole pages",
            "remove /align and /driver:uponly tricks from the link",
        )
    for section in image.sections:
        if image.section_alignment and section.rva % image.section_alignment:
            yield _error(
                "section-alignment",
                f"section {section.name} starts at 0x{section.rva:X}, which is not aligned",
                "the image is damaged; build it again",
            )


def _check_writable_code(image: pe.Image) -> Iterable[Finding]:
    for section in image.sections:
        if section.writable and section.executable:
            yield _error(
                "writable-code",
                f"section {section.name} is both writable and executable; memory integrity refuses it",
                "separate code and data: look for /section, /merge and #pragma section",
            )


def _check_pdb_path(image: pe.Image) -> Iterable[Finding]:
    for path in image.pdb_references():
        if _LOCAL_PATH.search(path):
            yield Finding(
                "pdb-path",
                Severity.WARNING,
                f"the reference to the PDB holds a path of the machine that built it: {path}",
                "link with /pdbaltpath:%_PDB%",
            )


def _check_security_cookie(image: pe.Image) -> Iterable[Finding]:
    rva = image.security_cookie_rva()
    if rva is None:
        return
    section = image.section_at(rva)
    if section is None or not section.writable:
        where = f"section {section.name}" if section else "no section"
        yield _error(
            "security-cookie",
            f"the /GS cookie at 0x{rva:X} lies in {where}, which is not writable: the image stops the system when it "
            "initialises the cookie",
            "define __security_cookie in a writable section, or link with the linker of the WDK",
        )


def _check_imports(image: pe.Image, windows_build: int) -> Iterable[Finding]:
    for imported in image.imports():
        if imported.module.lower() not in JUDGED_MODULES:
            continue
        if imported.name.startswith("#"):
            yield _error(
                "imports",
                f"{imported.module} is imported from by ordinal ({imported.name}); ordinals change between builds",
                "import by name",
            )
            continue
        first = first_build(imported.name)
        if first is None:
            yield Finding(
                "imports",
                Severity.WARNING,
                f"{imported.module}!{imported.name} is not in any list of exports known here",
                f"make sure that Windows build {windows_build} exports it, or look it up with "
                "MmGetSystemRoutineAddress",
            )
        elif first > windows_build:
            yield _error(
                "imports",
                f"{imported.module}!{imported.name} came with Windows build {first}; build {windows_build} cannot load "
                "the image",
                "look it up with MmGetSystemRoutineAddress and do without where it is missing",
            )


def _check_signature(image: pe.Image, *, required: bool) -> Iterable[Finding]:
    try:
        offset, _ = image.certificate_table
        if not offset and not required:
            return
        if verify_image(image).page_hashes == 0:
            yield _error(
                "signature",
                "the signature has no page hashes, so a page changed on disk after loading would not be noticed",
                "sign with page hashes (signtool /ph, osslsigncode -ph)",
            )
    except (SignatureError, ImageError) as error:
        yield _error("signature", str(error), "sign the image again, after its last change")


_CHECKS: Final[Mapping[str, Callable[[pe.Image], Iterable[Finding]]]] = {
    "subsystem": _check_subsystem,
    "force-integrity": _check_force_integrity,
    "nx": _check_nx,
    "aslr": _check_aslr,
    "checksum": _check_checksum,
    "section-alignment": _check_alignment,
    "writable-code": _check_writable_code,
    "pdb-path": _check_pdb_path,
    "security-cookie": _check_security_cookie,
}
