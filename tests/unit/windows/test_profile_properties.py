"""Every property of a profile changes something: an answer, what the scripts are told, or the virtual machine.

A property that is in no table here fails, and one that changes nothing does.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import pytest

from tests.fixtures.windows_media import image_for, wim
from tests.unit.windows.test_unattend import credentials
from vm.errors import MachineConfigurationError
from vm.windows import profiles
from vm.windows.images.media import choose_image
from vm.windows.images.setup_data import setup_data
from vm.windows.images.unattend import build_unattend
from vm.windows.images.wim import read_images
from vm.windows.profiles.profile import (
    CrashDump,
    DiskBus,
    Family,
    Firmware,
    NetworkModel,
    OpenSsh,
    Profile,
)

WIN11 = profiles.load("win11")
IMAGES = (image_for(WIN11, display_name="Other"), image_for(WIN11, name="Other"))

# Another value for each property.
OTHER = {
    "media.family": Family.SERVER,
    "media.build": 22631,
    "media.edition": "Windows 11 Home",
    "media.index": 1,
    "hardware.firmware": Firmware.BIOS,
    "hardware.secure_boot": True,
    "hardware.tpm": False,
    "hardware.memory_mib": 2048,
    "hardware.cpus": 3,
    "hardware.disk_gib": 60,
    "hardware.disk_bus": DiskBus.VIRTIO_SCSI,
    "hardware.network": NetworkModel.VIRTIO,
    "hardware.hyperv_panic": False,
    "hardware.enlightenments": ("relaxed",),
    "locale.language": "de-DE",
    "locale.formats": "de-DE",
    "locale.keyboard": "0407:00000407",
    "locale.time_zone": "W. Europe Standard Time",
    "answers.computer_name": "OTHER",
    "answers.organization": "Other",
    "answers.administrator": "other-admin",
    "answers.standard_user": "other-user",
    "answers.product_key": None,
    "features.test_signing": False,
    "features.memory_integrity": True,
    "features.crash_dump": CrashDump.SMALL,
    "features.openssh": OpenSsh.INBOX,
    "features.process_audit": False,
    "features.defender": True,
    "features.updates": True,
    "features.virtio_folder": "w10",
}
# These only a hypervisor takes; it is given the hardware whole, and its own tests hold what it makes of each.
HARDWARE_ALONE = {"hardware.cpus", "hardware.hyperv_panic", "hardware.enlightenments"}
# These name the profile and change nothing in a guest; the tests of the registry and the command use them.
NAMES = {"name", "description", "licence", "aliases"}


def properties(kind=Profile, prefix=""):
    for field in fields(kind):
        value = getattr(WIN11 if not prefix else getattr(WIN11, prefix), field.name)
        if is_dataclass(value):
            yield from properties(type(value), field.name)
        else:
            yield f"{prefix}.{field.name}".lstrip(".")


def changed(path):
    part, name = path.split(".")
    return replace(WIN11, **{part: replace(getattr(WIN11, part), **{name: OTHER[path]})})


def image_index(profile):
    """What the medium gives for a profile; the complaint where it gives nothing."""
    data = wim(IMAGES[:1])
    try:
        return choose_image("iso", read_images(len(data), lambda a, b: data[a : a + b]), profile).index
    except MachineConfigurationError as error:
        return str(error)


def consequences(profile):
    """What a guest and its machine are made of."""
    return (
        build_unattend(profile, credentials(profile), image_index=6, with_virtio=True),
        setup_data(profile),
        image_index(profile),
        profile.needs_virtio_drivers,
        profile.needs_openssh_package,
        profile.features.memory_integrity,
    )


def test_every_property_has_another_value_here():
    assert set(properties()) == set(OTHER) | NAMES


@pytest.mark.parametrize("path", sorted(set(OTHER) - HARDWARE_ALONE - {"media.index"}))
def test_a_property_changes_the_guest(path):
    assert consequences(changed(path)) != consequences(WIN11)


def test_an_index_decides_between_images_of_one_name():
    data = wim((IMAGES[0], IMAGES[0]))
    listed = read_images(len(data), lambda a, b: data[a : a + b])

    assert choose_image("iso", listed, changed("media.index")).index == 1
    with pytest.raises(MachineConfigurationError, match="more than once"):
        choose_image("iso", listed, WIN11)


@pytest.mark.parametrize("path", sorted(HARDWARE_ALONE))
def test_a_property_of_the_hardware_alone_changes_nothing_else(path):
    """One that begins to matter in the guest belongs to the other test."""
    assert consequences(changed(path)) == consequences(WIN11)
    assert changed(path).hardware != WIN11.hardware
