"""Builds mutants: the driver's sources with one patch, in a tree of their own."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from harness.build import BuiltDriver, build_driver
from harness.build.files import write_atomically
from harness.build.layout import build_directory, driver_source_root
from harness.build.toolchains import project_toolchain
from tests.mutants.patching import apply_patch

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mutants.catalogue import Mutant


def build_mutant(mutant: Mutant, toolchain: str | None = None) -> BuiltDriver:
    """Build a mutant with a toolchain, by default the project's, or find it built already.

    Its tree stays in the build directory, and objects, images and the certificate are those of every other build there:
    what the patch does not touch is not compiled again.

    Raises:
        PatchError: the patch does not fit the sources.
        BuildError: it does not compile without a warning.
    """
    sources = {
        # The patches name files as seen from the root of the checkout.
        PurePosixPath("driver", path.relative_to(driver_source_root()).as_posix()): path.read_text(encoding="utf-8")
        for path in driver_source_root().rglob("*")
        if path.suffix in {".c", ".h", ".rc", ".toml", ".vcxproj"}
    }
    if mutant.patch is not None:
        sources |= apply_patch(mutant.patch.read_text(encoding="utf-8"), sources)
    # The directory's name stands for the tree in debug information, so that objects are shared with ordinary builds.
    tree = build_directory() / "mutants" / mutant.name / "driver"
    _bring_up_to_date(tree, sources)
    return build_driver(f"{tree}:{mutant.driver}", toolchain=project_toolchain(toolchain))


def _bring_up_to_date(tree: Path, sources: dict[PurePosixPath, str]) -> None:
    wanted = {tree / path.relative_to("driver"): text.encode() for path, text in sources.items()}
    for path, content in wanted.items():
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content)
    for path in tree.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink(missing_ok=True)
