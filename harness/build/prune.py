"""Keeps a build directory from growing for ever: what nobody has used for two weeks is deleted."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

KEEP_UNUSED_S: Final = 14 * 24 * 3600
_PATTERNS: Final = ("images/*/*", "objects/*", "requests/*")


def mark_used(path: Path) -> None:
    """Note that an entry of the build directory is in use now."""
    # Another process may have replaced it, or the directory may be shared read-only: then its age does not matter.
    with contextlib.suppress(OSError):
        os.utime(path)


def prune(base: Path) -> None:
    """Delete images, objects and requests of the build directory `base` that were not used lately."""
    oldest = time.time() - KEEP_UNUSED_S
    for pattern in _PATTERNS:
        for path in base.glob(pattern):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime >= oldest:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
