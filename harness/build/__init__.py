"""From driver sources to a signed image: toolchains, signing, image checks.

`build_driver` is the one function that the rest of the project calls; the modules beside it hold its parts.
"""

from __future__ import annotations

from harness.build.description import DriverSources, find_driver, load_descriptions
from harness.build.driver_build import BuiltDriver, build_driver
from harness.build.toolchain import Toolchain

__all__ = ["BuiltDriver", "DriverSources", "Toolchain", "build_driver", "find_driver", "load_descriptions"]
