"""Checks every driver image should pass before it is loaded anywhere: `check_image` and `check_reproducible`.

Each check is one function from an image to findings. What the checks demand comes from Microsoft's pages "PE Format",
"/INTEGRITYCHECK", "Implement HVCI-compatible code" and "Windows Authenticode Portable Executable Signature Format".
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.build import pe
from harness.build.driver_build import build_unsigned
from harness.build.exports import JUDGED_MODULES, first_build
from harness.build.findings import Finding, Severity, error
from harness.build.llvm_mingw import LlvmMingw
from harness.build.signature_checks import check_signature
from harness.build.version_resource import read_version
from harness.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from harness.build.description import DriverSources
    from harness.build.toolchain import Toolchain

DEFAULT_WINDOWS_BUILD: Final = 17763
"""Windows 10 1809 and Server 2019."""
PAGE_SIZE: Final = 0x1000
_EXECUTABLE_POOL: Final = ("ExAllocatePool", "ExAllocatePoolWithTag", "ExAllocatePoolWithQuotaTag")
"""Allocate executable memory for NonPagedPool (Microsoft Learn, "Implement memory integrity compatible code")."""
_LOCAL_PATH: Final = re.compile(r"[\\/]|^[A-Za-z]:")


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
    findings = examine(pe.load(path), windows_build=windows_build, require_signature=require_signature)
    return [finding for finding in findings if finding.severity is not Severity.NOTE]


def examine(
    image: pe.Image, *, windows_build: int = DEFAULT_WINDOWS_BUILD, require_signature: bool = True
) -> list[Finding]:
    """As `check_image` for an image in memory, with notes."""
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            findings.extend(check(image))
        except ImageError as problem:
            findings.append(error(name, str(problem), "the image is damaged; build it again"))
    try:
        findings.extend(_check_imports(image, windows_build))
    except ImageError as problem:
        findings.append(error("imports", str(problem), "the image is damaged; build it again"))
    findings.extend(check_signature(image, required=require_signature))
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
                    error(
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


def _check_subsystem(image: pe.Image) -> Iterable[Finding]:
    if image.subsystem != pe.SUBSYSTEM_NATIVE:
        yield error(
            "subsystem",
            f"the subsystem is {image.subsystem}, not native (1)",
            "link with /subsystem:native and /driver",
        )


def _check_force_integrity(image: pe.Image) -> Iterable[Finding]:
    if not image.dll_characteristics & pe.DLLCHARACTERISTICS_FORCE_INTEGRITY:
        yield error(
            "force-integrity",
            "IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY is not set, so PsSetCreateProcessNotifyRoutineEx answers "
            "STATUS_ACCESS_DENIED",
            "link with /integritycheck (integrity_check = true in the driver's description)",
        )


def _check_nx(image: pe.Image) -> Iterable[Finding]:
    if not image.dll_characteristics & pe.DLLCHARACTERISTICS_NX_COMPAT:
        yield error("nx", "the image is not marked compatible with data execution prevention", "link with /nxcompat")


def _check_aslr(image: pe.Image) -> Iterable[Finding]:
    if not image.dll_characteristics & pe.DLLCHARACTERISTICS_DYNAMIC_BASE:
        yield error("aslr", "the image does not accept a random base address", "link with /dynamicbase")


def _check_checksum(image: pe.Image) -> Iterable[Finding]:
    computed = image.computed_checksum()
    if image.checksum != computed:
        yield error(
            "checksum",
            f"the header's checksum is 0x{image.checksum:X}, the file's is 0x{computed:X}",
            "link with /release, and let the signing tool correct it",
        )


def _check_alignment(image: pe.Image) -> Iterable[Finding]:
    if image.section_alignment < PAGE_SIZE or image.section_alignment % PAGE_SIZE:
        yield error(
            "section-alignment",
            f"sections are aligned to 0x{image.section_alignment:X} bytes; memory integrity wants whole pages",
            "remove /align and /driver:uponly tricks from the link",
        )
    for section in image.sections:
        if image.section_alignment and section.rva % image.section_alignment:
            yield error(
                "section-alignment",
                f"section {section.name} starts at 0x{section.rva:X}, which is not aligned",
                "the image is damaged; build it again",
            )


def _check_writable_code(image: pe.Image) -> Iterable[Finding]:
    for section in image.sections:
        if section.writable and section.executable:
            yield error(
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
        yield error(
            "security-cookie",
            f"the /GS cookie at 0x{rva:X} lies in {where}, which is not writable: the image stops the system when it "
            "initialises the cookie",
            "define __security_cookie in a writable section, or link with the linker of the WDK",
        )


def _check_imports(image: pe.Image, windows_build: int) -> Iterable[Finding]:
    imports = image.imports()
    for module in dict.fromkeys(one.module for one in imports if one.module.lower() not in JUDGED_MODULES):
        yield Finding(
            "imports",
            Severity.NOTE,
            f"what {module} exports is in no list here, so imports from it are not judged",
            f"make sure that Windows build {windows_build} has the module and its functions",
        )
    for imported in imports:
        if imported.module.lower() not in JUDGED_MODULES:
            continue
        if imported.name.startswith("#"):
            yield error(
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
            yield error(
                "imports",
                f"{imported.module}!{imported.name} came with Windows build {first}; build {windows_build} cannot load "
                "the image",
                "look it up with MmGetSystemRoutineAddress and do without where it is missing",
            )


def _check_layout(image: pe.Image) -> Iterable[Finding]:
    """Sections follow each other in memory and share nothing in the file ("PE Format", "Section Table")."""
    advice = "the image is damaged, or was made to deceive its readers; build it again"
    end, name = image.size_of_headers, "the headers"
    for section in image.sections:
        if section.rva < end:
            yield error("section-layout", f"section {section.name} overlaps {name} in memory", advice)
        # Windows maps as much as VirtualSize says, and SizeOfRawData only where that is 0.
        end, name = section.rva + (section.virtual_size or section.raw_size), f"section {section.name}"
    if end > image.size_of_image:
        yield error("section-layout", f"{name} ends at 0x{end:X}, behind the image's 0x{image.size_of_image:X}", advice)
    filled = sorted((s for s in image.sections if s.raw_size), key=lambda s: s.raw_offset)
    end, name = image.size_of_headers, "the headers"
    for section in filled:
        if section.raw_offset < end:
            yield error("section-layout", f"section {section.name} overlaps {name} in the file", advice)
        end, name = section.raw_offset + section.raw_size, f"section {section.name}"
    offset, _ = image.certificate_table
    if offset and offset < end:
        yield error("section-layout", f"the certificate table overlaps {name} in the file", advice)


def _check_import_table(image: pe.Image) -> Iterable[Finding]:
    rva, _ = image.directory(pe.DIRECTORY_IAT)
    section = image.section_at(rva) if rva else None
    if section is not None and section.executable:
        yield Finding(
            "import-table",
            Severity.WARNING,
            f"the import address table lies in section {section.name}, which is executable; memory integrity and "
            "Driver Verifier object (bugcheck 0xC4, 0x2005)",
            "leave the import table in .rdata: look for /merge",
        )


def _check_executable_pool(image: pe.Image) -> Iterable[Finding]:
    for imported in image.imports():
        if imported.name in _EXECUTABLE_POOL:
            yield Finding(
                "executable-pool",
                Severity.NOTE,
                f"{imported.name} gives executable memory for NonPagedPool; what it is asked for is not seen here",
                "use ExAllocatePool2, or NonPagedPoolNx, or build with POOL_NX_OPTIN",
            )


def _check_guard(image: pe.Image) -> Iterable[Finding]:
    if not image.dll_characteristics & pe.DLLCHARACTERISTICS_GUARD_CF:
        yield Finding(
            "control-flow-guard",
            Severity.NOTE,
            "the image has no control flow guard",
            "compile and link with /guard:cf where indirect calls are to be checked",
        )


def _check_repro(image: pe.Image) -> Iterable[Finding]:
    if not any(kind == pe.DEBUG_TYPE_REPRO for kind, _, _ in image.debug_entries()):
        yield Finding(
            "reproducible-mark",
            Severity.NOTE,
            "the image does not say that it can be built again with the same bytes",
            "link with /Brepro",
        )


def _check_version(image: pe.Image) -> Iterable[Finding]:
    try:
        version = read_version(image)
    except ImageError as problem:
        yield Finding("version", Severity.WARNING, str(problem), "the resources are damaged; build the image again")
        return
    if version is None:
        yield Finding(
            "version",
            Severity.NOTE,
            "the image has no version resource, which driver stores and crash reports show",
            "add a resource file with VS_VERSION_INFO",
        )


CHECKS: Final[Mapping[str, Callable[[pe.Image], Iterable[Finding]]]] = {
    "subsystem": _check_subsystem,
    "force-integrity": _check_force_integrity,
    "nx": _check_nx,
    "aslr": _check_aslr,
    "checksum": _check_checksum,
    "section-alignment": _check_alignment,
    "writable-code": _check_writable_code,
    "pdb-path": _check_pdb_path,
    "security-cookie": _check_security_cookie,
    "section-layout": _check_layout,
    "import-table": _check_import_table,
    "executable-pool": _check_executable_pool,
    "control-flow-guard": _check_guard,
    "reproducible-mark": _check_repro,
    "version": _check_version,
}
