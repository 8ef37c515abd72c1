"""The seam between the build and the programs that do it: what a toolchain is asked for and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from harness.build.description import DriverSources

COMMON_LINK_OPTIONS: Final = (
    "/nologo",
    "/nodefaultlib",
    "/dynamicbase",
    "/nxcompat",
    "/release",
    "/Brepro",
    "/debug",
    "/pdbaltpath:%_PDB%",
    "/pdbsourcepath:.",
    "/WX",
    "/ignore:longsections",
)
"""For every image: relocatable, no executable data, a PDB, and the same bytes wherever and whenever it is linked."""


@dataclass(frozen=True)
class LinkOutputs:
    """Files that a link leaves behind, unsigned.

    Attributes:
        image: the image that ships, without DWARF.
        twin: the image at the same addresses with DWARF, None where the toolchain makes none.
        pdb: the program database, None likewise.
    """

    image: Path
    twin: Path | None
    pdb: Path | None


class Toolchain(Protocol):
    """A compiler and linker for kernel drivers. Instances are immutable and safe to use from several threads."""

    @property
    def name(self) -> str:
        """Its name for people, such as ``llvm-mingw``."""

    @property
    def identity(self) -> str:
        """A text that changes whenever the same sources might give other outputs: versions, own headers."""

    def compile_options(self, driver: DriverSources) -> tuple[str, ...]:
        """The options that decide what an object holds, with no path of this machine in them."""

    def link_options(self, driver: DriverSources) -> tuple[str, ...]:
        """The options that decide what the image holds besides its objects, likewise."""

    def compile(self, driver: DriverSources, source: str, target: Path) -> list[Path]:
        """Compile one source to the object file `target`; returns the project's headers that it read.

        Raises:
            BuildError: the compiler refused it; the message starts with ``file:line``.
            ConfigurationError: the compiler cannot be run.
        """

    def link(self, driver: DriverSources, objects: list[Path], directory: Path) -> LinkOutputs:
        """Link objects to an image in an empty directory.

        Raises:
            BuildError: the linker refused; the message names the symbol and who refers to it.
            ConfigurationError: the linker cannot be run.
        """
