"""Makes the kits available here."""

from __future__ import annotations

from tests.fixtures.built_drivers import identity
from tests.fixtures.built_kits import (
    archives,
    disc,
    installed,
    kit_folder,
    libraries,
    packages,
    registry,
    wdk,
)

__all__ = ["archives", "disc", "identity", "installed", "kit_folder", "libraries", "packages", "registry", "wdk"]
