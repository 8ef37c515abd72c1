"""Golden sets: the disk, saved memory and firmware variables that the clones of a slot start from, kept between runs.

A set is complete once its description is there, which is written last and names the size of each file; a set whose
making was interrupted has none, and is removed when the next one is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vm.windows.hypervisor.domain_xml import Accelerator, Domain
from vm.windows.hypervisor.domains import Files, build_domain
from vm.windows.hypervisor.file_marks import mark_of, name_in, remove_set, set_of, write_mark
from vm.windows.hypervisor.host_folder import HostFolder
from vm.windows.hypervisor.mark import Mark
from vm.windows.images.store import Image

FORMAT: Final = 1
"""Raised when sets of an earlier program must not be used any more."""
DISK: Final = "qcow2"
MEMORY: Final = "save"
VARIABLES: Final = "nvram"
DESCRIPTION: Final = "golden"
_KEY_LENGTH: Final = 16
"""Hexadecimal digits of the key in names; the description has all of them."""
_LONGEST_DESCRIPTION: Final = 1 << 16


def key_of(
    image: Image, *, domain: Domain, accelerator: Accelerator, versions: Mapping[str, str], content_key: str
) -> str:
    """What a golden set depends on, as a hash: when any of it is another, the set is made again.

    Args:
        image: the image.
        domain: the domain as it is made of the image's profile; its files and its mark do not count.
        accelerator: what runs it.
        versions: of the hypervisor's parts.
        content_key: what the caller puts on the guest before its memory is saved.
    """
    parts = {
        "format": FORMAT,
        "image": image.manifest.to_json(),
        "domain": domain.to_xml(),
        "accelerator": accelerator.value,
        "versions": dict(versions),
        "content": content_key,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def bare_domain(image: Image, name: str, accelerator: Accelerator, mark: Mark) -> Domain:
    """The domain of an image without what differs between two runs: for `key_of`.

    Raises:
        MachineConfigurationError: the profile's hardware cannot be had.
    """
    profile = image.manifest.profile
    variables = None if image.nvram is None else Path("/variables")
    domain = build_domain(
        profile.hardware,
        Files(disk=Path("/disk"), backing=Path("/image"), variables=variables),
        name=name,
        accelerator=accelerator,
        mark=mark,
        nested=profile.features.memory_integrity,
    )
    return replace(domain, mark=None)


@dataclass(frozen=True)
class GoldenSet:
    """The files of a set on the hypervisor's host.

    Attributes:
        name: the set's name, as `file_marks` has it.
        key: what it depends on.
        disk: the disk, an overlay of the image's.
        memory: the saved memory.
        variables: the firmware's variables, None for BIOS.
    """

    name: str
    key: str
    disk: Path
    memory: Path
    variables: Path | None


class GoldenSets:
    """The golden sets of a slot.

    Args:
        folder: where they are.
        slot: the slot.
        uefi: whether its machine has firmware variables.
    """

    def __init__(self, folder: HostFolder, slot: str, *, uefi: bool) -> None:
        self._folder = folder
        self._slot = slot
        self._uefi = uefi

    def at(self, key: str) -> GoldenSet:
        """The set for a key, whether it is there or not."""
        name = f"{self._slot}.{key[:_KEY_LENGTH]}"
        return GoldenSet(
            name=name,
            key=key,
            disk=self._folder.path_of(name_in(name, DISK)),
            memory=self._folder.path_of(name_in(name, MEMORY)),
            variables=self._folder.path_of(name_in(name, VARIABLES)) if self._uefi else None,
        )

    def find(self, key: str) -> GoldenSet | None:
        """The complete set for a key, None where there is none.

        Raises:
            MachineBroken: the hypervisor failed.
        """
        golden = self.at(key)
        content = self._folder.read(name_in(golden.name, DESCRIPTION), _LONGEST_DESCRIPTION)
        if content is None:
            return None
        try:
            description = json.loads(content)
        except ValueError:
            return None
        return golden if description == self._description(golden) else None

    def begin(self, golden: GoldenSet, mark: Mark) -> None:
        """Make room for a set: remove this user's other sets of the slot, and mark the new one.

        Args:
            golden: the set that is to be made.
            mark: its mark.

        Raises:
            MachineBroken: the hypervisor failed.
        """
        names = self._folder.names()
        for other in {set_of(name) for name in names}:
            if other == golden.name or self._is_earlier(other, mark):
                remove_set(self._folder, other, names)
        write_mark(self._folder, golden.name, mark)

    def complete(self, golden: GoldenSet) -> None:
        """Say that a set is complete.

        Raises:
            MachineBroken: the hypervisor failed.
        """
        description = json.dumps(self._description(golden), sort_keys=True, indent=2) + "\n"
        self._folder.write(name_in(golden.name, DESCRIPTION), description.encode())

    def discard(self, golden: GoldenSet) -> None:
        """Remove a set, its description first, so that what is left of it never looks complete.

        Raises:
            MachineBroken: the hypervisor failed.
        """
        self._folder.remove(name_in(golden.name, DESCRIPTION))
        remove_set(self._folder, golden.name, self._folder.names())

    def _is_earlier(self, file_set: str, mark: Mark) -> bool:
        if not file_set.startswith(f"{self._slot}."):
            return False
        found = mark_of(self._folder, file_set)
        if found is None or (found.role, found.slot) != (mark.role, mark.slot):
            return False
        return (found.owner.host, found.owner.user) == (mark.owner.host, mark.owner.user)

    def _description(self, golden: GoldenSet) -> dict[str, object]:
        kinds = (DISK, MEMORY, VARIABLES) if self._uefi else (DISK, MEMORY)
        return {
            "format": FORMAT,
            "key": golden.key,
            "bytes": {kind: self._folder.size(name_in(golden.name, kind)) for kind in kinds},
        }
