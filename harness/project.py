"""Finds the user's pyproject.toml and hands out the tables that it has for ntproof."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.errors import InputError

FILE: Final = "pyproject.toml"
NTPROOF: Final = "tool.ntproof"


@dataclass(frozen=True)
class ProjectTable:
    """A table ``[tool.ntproof.NAME]``.

    Attributes:
        file: the pyproject.toml that it is from; paths in it are relative to its folder.
        name: its full name, ``tool.ntproof.NAME``.
        values: what it holds.
    """

    file: Path
    name: str
    values: dict[str, Any]

    @property
    def source(self) -> str:
        """File and table, for messages."""
        return f"{self.file}: {self.name}"

    def path(self, value: str) -> Path:
        """A path of the table, see `path_in`. Raises InputError."""
        return path_in(self.file, value)


def project_table(name: str, start: Path | None = None) -> ProjectTable | None:
    """The table ``[tool.ntproof.NAME]`` of the nearest pyproject.toml, None where there is none.

    Args:
        name: the table.
        start: the folder to begin at; the current one by default. Its parents follow.

    Raises:
        InputError: the file cannot be read or is no TOML, or what has the table's name is no table.
    """
    file = nearest_project(start or Path.cwd())
    if file is None:
        return None
    full = f"{NTPROOF}.{name}"
    found = ntproof_table(file)
    if name not in found:
        return None
    if not isinstance(found[name], dict):
        raise InputError(f"{file}: {full}: expected a table")
    return ProjectTable(file, full, found[name])


def path_in(file: Path, value: str) -> Path:
    """A path that a pyproject.toml names: from a user's home folder with ~, else relative to the file's folder.

    Raises:
        InputError: there is no user of that name.
    """
    try:
        return file.parent / Path(value).expanduser()
    except RuntimeError as error:
        raise InputError(f"{file}: {value}: no home folder of such a user; name the path from the root") from error


def nearest_project(start: Path) -> Path | None:
    """The pyproject.toml of a folder or of the nearest of its parents that has one; None where none has."""
    folder = start.resolve()
    return next((place / FILE for place in (folder, *folder.parents) if (place / FILE).is_file()), None)


def ntproof_table(file: Path) -> dict[str, Any]:
    """The table ``[tool.ntproof]`` of a pyproject.toml, unread; empty where there is none.

    Raises:
        InputError: the file cannot be read or is no TOML, or what has the table's name is no table.
    """
    try:
        found: Any = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{file}: not valid TOML: {error}") from error
    place = []
    for key in NTPROOF.split("."):
        place.append(key)
        found = found.get(key, {})
        if not isinstance(found, dict):
            raise InputError(f"{file}: {'.'.join(place)}: expected a table")
    return dict(found)
