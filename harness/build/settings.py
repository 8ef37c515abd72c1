"""What a project says of its builds: `toolchain`, `wdk` and the like in ``[tool.ntproof]`` of its pyproject.toml.

For example::

    [tool.ntproof]
    toolchain = "wdk"               # llvm-mingw by default
    wdk = "10.0.26100"              # the newest kit by default
    control-flow-guard = true       # /guard:cf, for the wdk toolchain
    clang = "clang-19"              # a clang on PATH with its lld-link; the ziglang package's by default
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from harness.errors import InputError
from harness.project import FILE, ntproof_table

KEYS: Final = ("toolchain", "wdk", "control-flow-guard", "clang", "build-machine")
"""The keys of ``[tool.ntproof]`` that are read here."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class BuildSettings:
    """Defaults for options of builds that are not given.

    Attributes:
        toolchain: its name.
        wdk: the version of the kit, None for the newest.
        control_flow_guard: whether the `wdk` toolchain has calls through pointers checked.
        clang: the name of a clang on PATH for it; None for that of the ziglang package.
        build_machine: the table ``[tool.ntproof.build-machine]``, unread; None where there is none.
    """

    toolchain: str = "llvm-mingw"
    wdk: str | None = None
    control_flow_guard: bool = False
    clang: str | None = None
    build_machine: Mapping[str, Any] | None = None


def read_build_settings(start: Path) -> BuildSettings:
    """What the nearest pyproject.toml says; all defaults where there is none.

    Args:
        start: the folder where the search for it begins; its parents follow.

    Raises:
        InputError: the file is malformed, or a value has the wrong type; the message names file and key.
    """
    folder = start.resolve()
    path = next((place / FILE for place in (folder, *folder.parents) if (place / FILE).is_file()), None)
    if path is None:
        return BuildSettings()
    table = ntproof_table(path)
    return BuildSettings(
        toolchain=_typed(path, table, "toolchain", str, BuildSettings.toolchain),
        wdk=_typed(path, table, "wdk", str, None),
        control_flow_guard=_typed(path, table, "control-flow-guard", bool, default=False),
        clang=_typed(path, table, "clang", str, None),
        build_machine=_typed(path, table, "build-machine", dict, None),
    )


def _typed(path: Path, table: Mapping[str, Any], key: str, kind: type[_T], default: _T | None) -> Any:
    value = table.get(key, default)
    if value is not None and not isinstance(value, kind):
        expected = {str: "a text", bool: "true or false"}.get(kind, "a table")
        raise InputError(f"{path}: tool.ntproof.{key}: expected {expected}, not {value!r}")
    return value
