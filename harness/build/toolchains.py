"""The toolchains by name: `llvm-mingw`, which needs nothing but the ziglang package, and `wdk` over a Windows kit."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from harness.build.llvm_mingw import LlvmMingw
from harness.build.settings import BuildSettings, read_build_settings
from harness.build.toolchain import Toolchain
from harness.build.wdk import Wdk
from harness.build.wdk.registry import KitRegistry
from harness.build.wdk.selection import choose_kit
from harness.errors import ConfigurationError

NAMES: Final = ("llvm-mingw", "wdk")
"""What builds on this computer. `msbuild` builds on a Windows computer, see `harness.build.msbuild`."""


def toolchain_named(
    name: str | None, settings: BuildSettings, *, architecture: str = "x64", registry: KitRegistry | None = None
) -> Toolchain:
    """A toolchain, ready to use.

    Args:
        name: as the user named it; None for the project's own.
        settings: the project's.
        architecture: ``x64`` or ``arm64``.
        registry: the kits; the user's own by default.

    Raises:
        ConfigurationError: there is no such toolchain, no kit for it, or it does not build for the architecture.
    """
    chosen = name or settings.toolchain
    if chosen == "wdk":
        kits = registry or KitRegistry.of_user()
        kit = choose_kit(kits, settings.wdk, architecture)
        return Wdk(kit, kits.overlay(kit), architecture, settings.control_flow_guard, settings.clang)
    if chosen == "msbuild":
        raise ConfigurationError(
            "the toolchain msbuild builds on a Windows computer: run `ntproof build --toolchain msbuild --out FOLDER` "
            "and name what it made with --driver"
        )
    if chosen != "llvm-mingw":
        origin = "--toolchain" if name else "[tool.ntproof] toolchain ="
        raise ConfigurationError(f"{origin} {chosen}: there is no such toolchain; known: {', '.join(NAMES)}")
    if architecture != "x64":
        raise ConfigurationError(f"llvm-mingw builds for x64 only, not for {architecture}; use --toolchain wdk")
    return LlvmMingw()


def project_toolchain(name: str | None = None, folder: Path | None = None) -> Toolchain:
    """The toolchain that a project's drivers are built with: the one named, else that of its pyproject.toml.

    Raises:
        ConfigurationError: see `toolchain_named`.
        InputError: the pyproject.toml is malformed.
    """
    return toolchain_named(name, read_build_settings(folder or Path.cwd()))
