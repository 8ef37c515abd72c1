"""The kit that a build takes: the one that the project names, else the newest that is complete."""

from __future__ import annotations

from harness.build.wdk.kit import VERSION, Kit, version_key
from harness.build.wdk.registry import KitRegistry
from harness.errors import ConfigurationError

_OPTION = "[tool.ntproof] wdk"


def choose_kit(registry: KitRegistry, wanted: str | None, architecture: str) -> Kit:
    """The kit to build with.

    Args:
        registry: the kits of this user.
        wanted: a version as the project states it, ``10.0.26100`` or ``10.0.26100.0``; None for the newest.
        architecture: ``x64`` or ``arm64``.

    Raises:
        ConfigurationError: there is none, or it is not complete, or not for this architecture.
    """
    if wanted is not None and not VERSION.match(wanted):
        raise ConfigurationError(f"{_OPTION} = {wanted!r}: no version of a kit; write it as 10.0.26100")
    kits = registry.kits()
    if not kits:
        raise ConfigurationError("no Windows kit is known; add one with `ntproof wdk add PATH` (docs/how-to/wdk.md)")
    asked = None if wanted is None else version_key(wanted)
    fitting = [kit for kit in kits if asked is None or kit.sort_key[: len(asked)] == asked]
    if not fitting:
        known = ", ".join(kit.version for kit in kits)
        raise ConfigurationError(
            f"{_OPTION} = {wanted!r}: there is no such kit; known: {known}; add it, or name another"
        )
    usable = [kit for kit in fitting if kit.usable]
    if not usable:
        newest = fitting[-1]
        raise ConfigurationError(f"kit {newest.version} cannot be used: {'; '.join(newest.problems)}")
    linking = [kit for kit in usable if architecture in kit.libraries]
    if not linking:
        newest = usable[-1]
        raise ConfigurationError(
            f"kit {newest.version} has libraries for {', '.join(newest.libraries)} and not for {architecture}: add the "
            f"package Microsoft.Windows.WDK.{architecture} together with the others"
        )
    linking[-1].require_unchanged()
    return linking[-1]
