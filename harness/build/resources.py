"""Compiles a driver's version resource with the resource compiler of the ziglang wheel."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BuildError

if TYPE_CHECKING:
    from harness.build.description import DriverSources

Run = Callable[[Sequence[str], Path], tuple[int, str]]
"""Runs a program of the wheel in a directory: its exit status and what it printed."""


def compile_resource(driver: DriverSources, directory: Path, run: Run) -> list[str]:
    """Compile the resource of a driver in the directory where it is linked; the names of the files made: one, or none.

    Raises:
        BuildError: the resource compiler refused it.
        ConfigurationError: it cannot be run.
    """
    if driver.resource is None:
        return []
    source = directory / "resource.rc"
    shutil.copyfile(driver.root / driver.resource, source)
    # No header is needed or looked for: what a resource says must not depend on what is installed.
    status, output = run(["rc", "/:no-preprocess", "/fo", "resource.res", "--", source.name], directory)
    source.unlink()
    if status:
        text = output.replace(f"{source.name}:", f"{driver.label}/{driver.resource}:").strip()
        raise BuildError(f"{text}\nwhile compiling {driver.resource} of {driver.name} in {driver.root}")
    return ["resource.res"]
