"""Names of Windows machines: images, and profiles that there is an image of."""

from __future__ import annotations

from collections.abc import Collection

from vm.errors import MachineConfigurationError
from vm.windows.profiles.registry import shipped


def names_of(images: Collection[str]) -> tuple[str, ...]:
    """The names under which images can be had: their own, and the aliases of profiles that they are named after."""
    aliases = {alias for profile in shipped().all() if profile.name in images for alias in profile.aliases}
    return (*sorted(images), *sorted(aliases - set(images)))


def image_of(name: str, images: Collection[str]) -> str:
    """The image that a name stands for.

    Args:
        name: of an image, a profile or an alias.
        images: those that there are.

    Raises:
        MachineConfigurationError: there is none; says how to make one where a profile is meant.
    """
    if name in images:
        return name
    profiles = shipped()
    if name not in profiles.names():
        raise MachineConfigurationError(f"there is no machine {name!r}: choose from emulated, {_listed(images)}")
    profile = profiles.load(name)
    if profile.name in images:
        return profile.name
    raise MachineConfigurationError(
        f"there is no image of {profile.name} yet; make one with: ntproof image build {name} --iso FILE"
    )


def _listed(images: Collection[str]) -> str:
    return ", ".join((*names_of(images), *(f"{name} (not built)" for name in shipped().names() if name not in images)))
