"""Profiles by name: those that are shipped, those in a folder, and those in a ``[tool.ntproof.profiles]`` table."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Final

from vm.errors import MachineConfigurationError
from vm.windows.profiles.profile import NAME_HINT, Profile, is_name

SUFFIX: Final = ".toml"


class Profiles:
    """Profiles by name and alias. A later one of the same name takes the place of an earlier one."""

    def __init__(self, profiles: Iterable[Profile] = ()) -> None:
        self._profiles: dict[str, Profile] = {}
        self._aliases: dict[str, str] = {}
        for profile in profiles:
            self._add(profile)

    def _add(self, profile: Profile) -> None:
        self._profiles[profile.name] = profile
        self._aliases = {alias: name for alias, name in self._aliases.items() if name != profile.name}
        for alias in profile.aliases:
            other = self._aliases.get(alias, alias if alias in self._profiles else profile.name)
            if other != profile.name:
                raise MachineConfigurationError(
                    f"profile {profile.name!r}: alias {alias!r} is taken by profile {other!r}; choose another alias"
                )
            self._aliases[alias] = profile.name

    def names(self) -> tuple[str, ...]:
        """Names and aliases, sorted."""
        return tuple(sorted({*self._profiles, *self._aliases}))

    def all(self) -> tuple[Profile, ...]:
        """Every profile once, sorted by name."""
        return tuple(self._profiles[name] for name in sorted(self._profiles))

    def load(self, name: str) -> Profile:
        """The profile of a name or alias.

        Raises:
            MachineConfigurationError: there is none.
        """
        profile = self._profiles.get(name) or self._profiles.get(self._aliases.get(name, ""))
        if profile is None:
            raise MachineConfigurationError(f"there is no profile {name!r}: choose from {', '.join(self.names())}")
        return profile

    def with_folder(self, folder: Path) -> Profiles:
        """These profiles and those of a folder's TOML files; a file's name is the profile's name.

        Raises:
            MachineConfigurationError: the folder or a file cannot be read, or a profile is wrong.
        """
        try:
            files = sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)
        except OSError as error:
            raise MachineConfigurationError(f"{folder}: {error.strerror}; name a folder with profiles") from error
        return Profiles([*self.all(), *map(read_file, files)])

    def with_table(self, table: Mapping[str, object], source: str) -> Profiles:
        """These profiles and those of a ``[tool.ntproof.profiles]`` table, by their names.

        A profile may start from another: ``extends = "win11-24h2"`` takes every key that it does not give itself.

        Args:
            table: profiles by name, each as in a profile's file but without the name.
            source: the file that the table is from, for messages.

        Raises:
            MachineConfigurationError: a profile is wrong; names the file and the key.
        """
        found = self
        for name, value in table.items():
            place = f"{source}: tool.ntproof.profiles.{name}"
            if not is_name(name):
                raise MachineConfigurationError(f"{place}: a profile's name is {NAME_HINT}")
            if not isinstance(value, Mapping):
                raise MachineConfigurationError(f"{place}: expected a table with the keys of a profile")
            found = Profiles([*found.all(), Profile.from_mapping(found._extended(name, value, place), place)])
        return found

    def _extended(self, name: str, value: Mapping[str, object], place: str) -> dict[str, object]:
        given = {"name": name, **value}
        base = given.pop("extends", None)
        if base is None:
            return given
        if not isinstance(base, str) or base not in self.names():
            raise MachineConfigurationError(
                f"{place}: extends: there is no profile {base!r}: {', '.join(self.names())}"
            )
        return _merged({**self.load(base).to_mapping(), "aliases": []}, given)


def _merged(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def read_file(path: Path) -> Profile:
    """The profile of a TOML file, named as the file is.

    Raises:
        MachineConfigurationError: the file cannot be read, is no TOML, or is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise MachineConfigurationError(f"{path}: {reason}; a profile is a TOML file in UTF-8") from error
    return _parsed(text, path.stem, str(path))


def _parsed(text: str, stem: str, source: str) -> Profile:
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MachineConfigurationError(f"{source}: not TOML: {error}") from error
    if not is_name(stem):
        raise MachineConfigurationError(f"{source}: the file's name is the profile's name: {NAME_HINT}")
    if "name" in value:
        raise MachineConfigurationError(f"{source}: name: the file's name is the profile's name; leave the key out")
    return Profile.from_mapping({"name": stem, **value}, source)


def shipped() -> Profiles:
    """The profiles that come with the project."""
    folder = resources.files("vm.windows.profiles")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(SUFFIX)), key=lambda entry: entry.name)
    return Profiles(
        _parsed(entry.read_text(encoding="utf-8"), entry.name.removesuffix(SUFFIX), entry.name) for entry in files
    )


def names() -> tuple[str, ...]:
    """Names and aliases of the profiles that come with the project."""
    return shipped().names()


def load(name: str) -> Profile:
    """A profile that comes with the project, by name or alias.

    Raises:
        MachineConfigurationError: there is none of that name.
    """
    return shipped().load(name)
