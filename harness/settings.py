"""A project's own defaults: the ``[tool.ntproof]`` table of its pyproject.toml, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from harness.build.settings import KEYS as BUILD_KEYS
from harness.errors import InputError
from harness.project import FILE, NTPROOF, ntproof_table, path_in
from harness.pytest_options import DEFAULT_SLOTS, MOST_SLOTS
from vm.windows.strict import read, text, whole

_PROFILES: Final = "profiles"
_READ_ELSEWHERE: Final = ("signing", *BUILD_KEYS)
"""What is read by those who need it: `harness.build.signing.configured`, `harness.build.settings`."""


@dataclass(frozen=True)
class Settings:
    """Defaults for options that are not given, in the pyproject.toml of the root directory.

    Attributes:
        connect: libvirt URI of the hypervisor.
        slots: how many machines of one image may run on the hypervisor at once.
        artefacts: folder for what shows why tests failed; relative to the pyproject.toml.
        verifier: Driver Verifier's settings for the driver, as ``--verifier`` takes them.
    """

    connect: str | None = text(r"[a-z][a-z0-9+.-]*://\S*", "a libvirt URI such as qemu:///system", default=None)
    slots: int = whole(1, MOST_SLOTS, "machines of one image at once", default=DEFAULT_SLOTS)
    artefacts: str | None = text(r"[^\x00-\x1f]{1,4096}", "a folder", default=None)
    verifier: str | None = text(r"[!-~]{1,500}", "Driver Verifier's options such as standard,io", default=None)


@dataclass(frozen=True)
class Project:
    """What a pyproject.toml says of ntproof.

    Attributes:
        path: the file.
        settings: defaults for options.
        profiles: profiles of machines by name, unread.
    """

    path: Path
    settings: Settings = field(default_factory=Settings)
    profiles: Mapping[str, Any] = field(default_factory=dict)

    @property
    def artefacts(self) -> Path | None:
        """The folder of the settings, absolute. Raises InputError."""
        given = self.settings.artefacts
        return None if given is None else path_in(self.path, given).absolute()


def read_project(folder: Path) -> Project:
    """What the pyproject.toml of a folder says; all defaults where there is none.

    Raises:
        InputError: the file cannot be read or is no TOML, or a table is none.
        MachineConfigurationError: a key is unknown, or a value does not fit.
    """
    path = folder / FILE
    if not path.is_file():
        return Project(path)
    found = {key: value for key, value in ntproof_table(path).items() if key not in _READ_ELSEWHERE}
    profiles = found.pop(_PROFILES, {})
    if not isinstance(profiles, dict):
        raise InputError(f"{path}: {NTPROOF}.{_PROFILES}: expected a table of profiles by name")
    return Project(path, read(Settings, found, f"{path}: {NTPROOF}"), profiles)
