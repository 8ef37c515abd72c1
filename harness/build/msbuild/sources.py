"""What of a driver's tree is sent to a build machine, and where it lies there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Final

from harness.build.files import digest_of, sha256_file
from harness.errors import ConfigurationError

if TYPE_CHECKING:
    from harness.build.description import DriverSources

ROOT: Final = PureWindowsPath(r"C:\ntproof\build")
_PROJECT_SUFFIXES: Final = (".vcxproj", ".props", ".targets", ".inf", ".rc", ".h")


@dataclass(frozen=True)
class RemoteTree:
    """A driver's tree on the build machine.

    Attributes:
        folder: its root there.
        files: files here by their paths there.
        project: the Visual Studio project there.
        outputs: the folder that receives what is made of exactly these files.
    """

    folder: PureWindowsPath
    files: dict[str, Path]
    project: PureWindowsPath
    outputs: PureWindowsPath


def remote_tree(driver: DriverSources) -> RemoteTree:
    """What to send of a driver.

    Raises:
        ConfigurationError: the driver has no Visual Studio project, or a file of it is missing.
    """
    if driver.project is None:
        raise ConfigurationError(
            f"driver {driver.name} has no Visual Studio project; name it in its description: project = "
            f'"{driver.name}/{driver.name}.vcxproj"'
        )
    project = PurePosixPath(driver.project)
    names = {*map(PurePosixPath, driver.sources), project}
    for directory in {*map(PurePosixPath, driver.include), project.parent}:
        found = (path for path in (driver.root / directory).iterdir() if path.suffix.lower() in _PROJECT_SUFFIXES)
        names.update(PurePosixPath(path.relative_to(driver.root).as_posix()) for path in found)
    missing = next((name for name in sorted(names) if not (driver.root / name).is_file()), None)
    if missing is not None:
        raise ConfigurationError(f"driver {driver.name}: there is no file {str(missing)!r} under {driver.root}")
    # A header that is gone here must not be found there, so another set of names gets another folder.
    folder = ROOT / f"{driver.name}-{digest_of(*map(str, sorted(names)))[:8]}"
    files = {str(folder / PureWindowsPath(name)): driver.root / name for name in sorted(names)}
    contents = digest_of(*(part for name, path in files.items() for part in (name, sha256_file(path))))
    return RemoteTree(folder, files, folder / PureWindowsPath(project), folder / "out" / contents[:16])
