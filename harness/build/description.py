"""What a driver is made of: the description of its sources, given in code or read from a ``drivers.toml``.

A description file holds one table per driver::

    [mydriver]
    sources = ["src/entry.c", "src/queue.c"]   # relative to the file's directory
    include = ["include"]                      # directories, relative likewise
    defines = ["POOL_TAG_CHECKS=1"]
    entry = "DriverEntry"                      # the symbol that the system calls
    integrity_check = true                     # /INTEGRITYCHECK, which the Ex notify APIs demand
    extra_exports = ["ExAllocatePool2"]        # ntoskrnl exports that the toolchain's import library lacks
    resource = "src/mydriver.rc"               # the resource script with the driver's version
    project = "src/mydriver.vcxproj"           # the Visual Studio project that builds the same

Only ``sources`` is required.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

from harness.build.layout import DESCRIPTION_FILE, driver_source_root
from harness.errors import ConfigurationError, InputError

_T = TypeVar("_T")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_DEFINE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(=.*)?\Z", re.DOTALL)
_KEYS: Final = ("sources", "include", "defines", "entry", "integrity_check", "extra_exports", "resource", "project")


@dataclass(frozen=True)
class DriverSources:
    """The sources of one driver and how they are linked.

    Attributes:
        name: the base name of the image, ``procnotify`` for ``procnotify.sys``.
        root: the directory that every path below is relative to.
        sources: C files.
        include: include directories.
        defines: preprocessor definitions, ``NAME`` or ``NAME=VALUE``.
        entry: the symbol of the entry point.
        integrity_check: whether the image demands a valid signature (IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY).
        extra_exports: exports of ntoskrnl.exe that the toolchain's import library does not know.
        label: what stands for `root` in debug information, ``__FILE__`` and diagnostics, wherever the root is.
        resource: the resource script with the driver's version, None where it has none.
        project: the Visual Studio project that builds the same, None where there is none.
    """

    name: str
    root: Path
    sources: tuple[str, ...]
    include: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()
    entry: str = "DriverEntry"
    integrity_check: bool = True
    extra_exports: tuple[str, ...] = ()
    label: str = "driver"
    resource: str | None = None
    project: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be built. Raises ConfigurationError naming the field."""
        if not _NAME.match(self.name):
            message = f"driver name {self.name!r}: letters, digits, '_', '.' and '-' are allowed"
            raise ConfigurationError(message)
        if not self.sources:
            message = f"driver {self.name}: no sources; name at least one C file"
            raise ConfigurationError(message)
        for path in (*self.sources, *self.include, *filter(None, (self.resource, self.project))):
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                message = f"driver {self.name}: path {path!r} must be relative to {self.root} and stay inside it"
                raise ConfigurationError(message)
        for symbol in (self.entry, *self.extra_exports):
            if not _IDENTIFIER.match(symbol):
                message = f"driver {self.name}: {symbol!r} is not a C identifier"
                raise ConfigurationError(message)
        for define in self.defines:
            if not _DEFINE.match(define):
                message = f"driver {self.name}: define {define!r} must be NAME or NAME=VALUE"
                raise ConfigurationError(message)

    def at(self, root: Path) -> DriverSources:
        """The same driver built from another copy of its tree; debug information still says `label`."""
        return replace(self, root=root.resolve())

    def defining(self, *defines: str) -> DriverSources:
        """The same driver with further preprocessor definitions."""
        return replace(self, defines=(*self.defines, *defines))


def load_descriptions(path: Path | None = None) -> dict[str, DriverSources]:
    """Read a description file: its drivers by name. Without a path, that of the bundled drivers.

    Raises:
        InputError: the file cannot be read or is malformed; the message names the file, the table and the key.
    """
    bundled = path is None
    file = driver_source_root() / DESCRIPTION_FILE if path is None else path
    if file.is_dir():
        file /= DESCRIPTION_FILE
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{file}: cannot be read: {error.strerror}"
        raise InputError(message) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"{file}: not valid TOML: {error}"
        raise InputError(message) from error
    root = file.resolve().parent
    drivers = {
        name: _driver(file, name, table, root, "driver" if bundled else root.name) for name, table in document.items()
    }
    if not drivers:
        message = f"{file}: no driver is described; add a table such as [mydriver] with sources = [...]"
        raise InputError(message)
    return drivers


def find_driver(name: str) -> DriverSources:
    """A bundled driver by name, or the only driver of a description file given by its path.

    Raises:
        ConfigurationError: there is no such driver, or the file describes several (append ``:name`` to choose).
        InputError: the description file is malformed.
    """
    # The name of a driver holds no colon, but the path of a file on Windows may.
    path, colon, chosen = name.rpartition(":")
    if not colon or not _is_described(path):
        path, chosen = name, ""
    if _is_described(path):
        drivers = load_descriptions(Path(path))
        if chosen in drivers:
            return drivers[chosen]
        if not chosen and len(drivers) == 1:
            return next(iter(drivers.values()))
        message = f"{path}: choose one of its drivers, for example {path}:{next(iter(drivers))}"
        raise ConfigurationError(message)
    drivers = load_descriptions()
    if name not in drivers:
        if Path(name).is_dir():
            raise InputError(f"{name}: holds no {DESCRIPTION_FILE}; describe its drivers in one")
        message = f"there is no driver {name!r}; known: {', '.join(sorted(drivers))}; or give a path to a drivers.toml"
        raise ConfigurationError(message)
    return drivers[name]


def _is_described(path: str) -> bool:
    """Whether a path is that of a description; a folder that merely has the name of a bundled driver is none."""
    return path.endswith(".toml") or (Path(path) / DESCRIPTION_FILE).is_file()


def _driver(file: Path, name: str, table: object, root: Path, label: str) -> DriverSources:
    if not isinstance(table, dict):
        message = f"{file}: {name}: expected a table [{name}]"
        raise InputError(message)
    unknown = sorted(set(table) - set(_KEYS))
    if unknown:
        message = f"{file}: [{name}]: unknown key {unknown[0]!r}; known keys: {', '.join(_KEYS)}"
        raise InputError(message)
    where = f"{file}: [{name}]"
    sources = _strings(where, table, "sources")
    resource = _typed(where, table, "resource", str, "") or None
    project = _typed(where, table, "project", str, "") or None
    missing = next((s for s in sources if not (root / s).is_file()), None)
    for key, path in (("resource", resource), ("project", project)):
        if path is not None and not (root / path).is_file():
            message = f"{where}: {key}: there is no file {path!r} under {root}"
            raise InputError(message)
    if missing is not None:
        message = f"{where}: sources: there is no file {missing!r} under {root}"
        raise InputError(message)
    try:
        return DriverSources(
            name=name,
            root=root,
            sources=sources,
            include=_strings(where, table, "include"),
            defines=_strings(where, table, "defines"),
            entry=_typed(where, table, "entry", str, "DriverEntry"),
            integrity_check=_typed(where, table, "integrity_check", bool, default=True),
            extra_exports=_strings(where, table, "extra_exports"),
            label=label,
            resource=resource,
            project=project,
        )
    except InputError:
        raise
    except ConfigurationError as error:
        message = f"{file}: {error}"
        raise InputError(message) from None


def _strings(where: str, table: dict[str, Any], key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        message = f"{where}: {key}: expected a list of strings"
        raise InputError(message)
    return tuple(value)


def _typed(where: str, table: dict[str, Any], key: str, kind: type[_T], default: _T) -> _T:
    value = table.get(key, default)
    if not isinstance(value, kind):
        message = f"{where}: {key}: expected a {kind.__name__}"
        raise InputError(message)
    return value
