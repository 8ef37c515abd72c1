"""The report of a build: what was built with what, and what was found in its sources and in its image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.build import pe
from harness.build.findings import Finding, Severity
from harness.build.image_checks import examine
from harness.build.source_findings import SourceFinding


def image_findings(path: Path) -> list[Finding]:
    """What is wrong with an image for any architecture that is built for.

    Raises:
        ImageError: the file is no such image.
    """
    findings = examine(pe.load(path, pe.ALL_64_BIT))
    return [finding for finding in findings if finding.severity is not Severity.NOTE]


@dataclass(frozen=True)
class BuildReport:
    """What came of a build.

    Attributes:
        driver: its name.
        toolchain: what built it, with its version.
        architecture: ``x64`` or ``arm64``.
        image: the ``.sys``.
        pdb: the program database, None where there is none.
        sha256: of the image.
        signed: whether the image is signed.
        duration: seconds.
        source_findings: of compilers and code analysis.
        image_findings: of the checks of the image.
        files: what else was made: catalog, INF, logs.
        analysed: whether code analysis ran.
    """

    driver: str
    toolchain: str
    architecture: str
    image: Path
    pdb: Path | None
    sha256: str
    signed: bool
    duration: float
    source_findings: tuple[SourceFinding, ...] = ()
    image_findings: tuple[Finding, ...] = ()
    files: tuple[Path, ...] = ()
    analysed: bool = False

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.source_findings and not self.image_findings

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.image}"
        signature = "signed" if self.signed else "not signed"
        yield f"  built by {self.toolchain} for {self.architecture} in {self.duration:.1f} s, {signature}"
        yield f"  sha256 {self.sha256}"
        for path in (*((self.pdb,) if self.pdb is not None else ()), *self.files):
            yield f"  {path}"
        if self.analysed:
            yield f"  code analysis: {len(self.source_findings) or 'no'} findings"
        for source_finding in self.source_findings:
            yield f"  {source_finding}"
        for image_finding in self.image_findings:
            yield f"  {image_finding}"

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "driver": self.driver,
            "toolchain": self.toolchain,
            "architecture": self.architecture,
            "image": str(self.image),
            "pdb": None if self.pdb is None else str(self.pdb),
            "sha256": self.sha256,
            "signed": self.signed,
            "seconds": round(self.duration, 3),
            "files": [str(path) for path in self.files],
            "analysed": self.analysed,
            "source_findings": [finding.to_json() for finding in self.source_findings],
            "image_findings": [
                {
                    "check": finding.check,
                    "severity": finding.severity.value,
                    "message": finding.message,
                    "advice": finding.advice,
                }
                for finding in self.image_findings
            ],
        }
