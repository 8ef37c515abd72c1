"""Where driver sources are read from and where build outputs go, in a checkout and in an installed wheel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

BUILD_DIRECTORY_VARIABLE: Final = "NTPROOF_BUILD_DIR"
DESCRIPTION_FILE: Final = "drivers.toml"

_PACKAGE: Final = Path(__file__).resolve().parent.parent


def checkout_root() -> Path | None:
    """The root of the checkout that this package runs from, None for an installed wheel."""
    root = _PACKAGE.parent
    return root if (root / "driver").is_dir() and (root / "pyproject.toml").is_file() else None


def driver_source_root() -> Path:
    """The directory of the bundled driver sources: ``driver`` in a checkout, ``harness/_driver`` in a wheel.

    Raises:
        ConfigurationError: neither exists, so the installation is incomplete.
    """
    for candidate in (_PACKAGE / "_driver", _PACKAGE.parent / "driver"):
        if (candidate / DESCRIPTION_FILE).is_file():
            return candidate
    message = (
        f"the driver sources are missing: neither {_PACKAGE / '_driver'} nor {_PACKAGE.parent / 'driver'} holds "
        f"{DESCRIPTION_FILE}; reinstall ntproof or complete the checkout"
    )
    raise ConfigurationError(message)


def build_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """The directory for everything a build leaves behind; it need not exist yet.

    ``NTPROOF_BUILD_DIR`` if set, else ``build`` in a checkout, else ``ntproof`` under the user's cache directory
    (``XDG_CACHE_HOME``, ``~/.cache``).
    """
    if chosen := environment.get(BUILD_DIRECTORY_VARIABLE):
        return Path(chosen).expanduser().resolve()
    if root := checkout_root():
        return root / "build"
    cache = environment.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "ntproof"
