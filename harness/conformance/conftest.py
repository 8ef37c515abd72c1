"""Fixtures of the conformance suite beside those of the plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.conformance.companion import Companion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vm.machine import Machine, RegistryValue


@pytest.fixture(scope="session")
def companion_image(pytestconfig: pytest.Config) -> Path:
    """The companion driver, built from the sources."""
    from harness.build import build_driver
    from harness.build.toolchains import project_toolchain

    return build_driver("companion", toolchain=project_toolchain(pytestconfig.getoption("--toolchain"))).image


@pytest.fixture
def install_companion(companion_image: Path) -> Iterator[Callable[..., Companion]]:
    """Installs the companion: ``install_companion(machine, Slots=64)``; it is removed when the test ends."""
    installed: list[Companion] = []

    def install(machine: Machine, **parameters: RegistryValue) -> Companion:
        companion = Companion(machine, companion_image, parameters)
        installed.append(companion)
        return companion

    yield install
    for companion in installed:
        companion.remove()
