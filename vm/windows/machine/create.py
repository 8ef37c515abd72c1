"""Makes a Windows machine: an image of the store, a domain leased for it, and the guest that runs there.

A name is that of an image, or of a profile or its alias for which an image of the profile's name exists.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from vm.errors import MachineConfigurationError
from vm.registry import MachineOptions
from vm.windows.hypervisor.leasing import LeaseRequest, lease_domain
from vm.windows.images.store import Image, ImageStore
from vm.windows.leased_domain import LeasedDomain
from vm.windows.machine.access import access_of
from vm.windows.machine.machine import WindowsMachine
from vm.windows.machine.programs import content_key, guest_files
from vm.windows.machine.settle import SETTLES_AS, settle
from vm.windows.names import image_of

logger = logging.getLogger(__name__)


def create_windows_machine(name: str, options: MachineOptions, environment: Mapping[str, str]) -> WindowsMachine:
    """Make a machine of an image.

    Args:
        name: of an image, a profile or an alias.
        options: how.
        environment: names the store and the hypervisor.

    Raises:
        MachineConfigurationError: there is no such image, it is damaged, or the hypervisor cannot run it.
        MachineBroken: the hypervisor failed, or the guest does not come up.
    """
    store = ImageStore.from_environment(environment)
    image = store.open(image_of(name, store.names()))
    return machine_of(name, image, options, lambda request: lease_domain(options.connect, request, environment))


def machine_of(
    name: str, image: Image, options: MachineOptions, lease: Callable[[LeaseRequest], LeasedDomain]
) -> WindowsMachine:
    """Make a machine of an image, on a domain that `lease` gives. Raises as create_windows_machine."""
    if options.tools is None:
        raise MachineConfigurationError(f"{name}: nobody builds the programs that run inside its guest")
    access = access_of(image)
    programs = guest_files(options.tools())
    request = LeaseRequest(
        image,
        f"{SETTLES_AS}-{content_key(programs)}",
        lambda domain: settle(domain, access, programs),
        worker=options.worker,
        slots=options.slots,
        progress=options.progress,
    )
    return WindowsMachine(
        name,
        lease(request),
        access,
        profile=image.manifest.profile.name,
        artefacts=options.artefacts,
        occasion=options.occasion,
        verifier=options.verifier,
        progress=options.progress,
    )
