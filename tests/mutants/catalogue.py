"""The mutants as mutants.toml describes them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).resolve().parent
ROOT: Final = FOLDER.parents[1]
PATCHES: Final = FOLDER / "patches"
MANIFEST: Final = FOLDER / "mutants.toml"
SUITE: Final = "harness/conformance"
DRIVER: Final = "procnotify"

_KEYS: Final = {"name", "defect", "killed_by", "patch", "driver"}


@dataclass(frozen=True)
class Mutant:
    """A driver with one defect.

    Attributes:
        name: unique.
        defect: one sentence: what is wrong and whom it hurts.
        killed_by: node ids of conformance tests, relative to the suite, each of which must fail on it.
        patch: what is changed in driver/; None for a driver that is wrong as it stands.
        driver: which driver of driver/drivers.toml is built.
    """

    name: str
    defect: str
    killed_by: tuple[str, ...]
    patch: Path | None
    driver: str = DRIVER


def load_mutants(manifest: Path = MANIFEST) -> tuple[Mutant, ...]:
    """All mutants, in the order of the file.

    Raises:
        ValueError: an entry is malformed; the message names it.
    """
    document = tomllib.loads(manifest.read_text(encoding="utf-8"))
    mutants = tuple(_mutant(entry, manifest.parent / PATCHES.name) for entry in document["mutant"])
    names = [mutant.name for mutant in mutants]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{manifest.name}: two mutants are named {doubled.pop()!r}")
    return mutants


def _mutant(entry: dict[str, Any], patches: Path) -> Mutant:
    name = entry.get("name", "?")
    if unknown := set(entry) - _KEYS:
        raise ValueError(f"mutant {name}: unknown key {unknown.pop()!r}; known: {', '.join(sorted(_KEYS))}")
    if missing := {"name", "defect", "killed_by"} - set(entry):
        raise ValueError(f"mutant {name}: no {missing.pop()}")
    if not entry["killed_by"]:
        raise ValueError(f"mutant {name}: name at least one test that fails on it in killed_by")
    if ("patch" in entry) == ("driver" in entry):
        raise ValueError(f"mutant {name}: either a patch of procnotify or another driver")
    patch = patches / entry["patch"] if "patch" in entry else None
    return Mutant(name, entry["defect"], tuple(entry["killed_by"]), patch, entry.get("driver", DRIVER))
