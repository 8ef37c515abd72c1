"""The project's mark in a domain's metadata: what it is, who made it, and which lease it belongs to."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET

from vm.windows.hypervisor import xml_fields
from vm.windows.hypervisor.xml_fields import XmlError, choice, part, switch, text, whole

NAMESPACE: Final = "urn:ntproof:domain:1"
"""XML namespace of the mark; libvirt keeps one element of each namespace (virDomainSetMetadata)."""
PREFIX: Final = "ntproof"
TAG: Final = "mark"
_QUALIFIER: Final = f"{{{NAMESPACE}}}"

ET.register_namespace(PREFIX, NAMESPACE)


class Role(enum.Enum):
    """What a domain or a file is for."""

    LEASE = "lease"
    """A record of a slot; never started."""
    CLONE = "clone"
    """A machine that tests run on."""
    GOLDEN = "golden"
    """A machine whose memory is saved, to start clones from."""
    INSTALLATION = "installation"
    """A machine that installs itself."""
    PROBE = "probe"
    """A machine that shows whether an accelerator works."""


@dataclass(frozen=True)
class Owner:
    """A process that holds something.

    Attributes:
        host: name of the computer.
        boot: identifier of its current boot (``/proc/sys/kernel/random/boot_id``), empty where unknown.
        pid_namespace: identifier of the namespace in which `pid` counts, empty where unknown.
        user: name of the user.
        pid: process identifier.
        started: when the process started, in clock ticks since boot (``/proc/PID/stat``, field 22): with it, a pid that
            was given to another process is told apart.
        worker: name of the worker within a run, ``main`` or as pytest-xdist says.
    """

    host: str = text("@host")
    boot: str = text("@boot", default="")
    pid_namespace: str = text("@pid-namespace", default="")
    user: str = text("@user")
    pid: int = whole("@pid")
    started: int = whole("@started")
    worker: str = text("@worker", default="main")

    def __str__(self) -> str:
        return f"{self.user}@{self.host}, process {self.pid}, worker {self.worker}"


@dataclass(frozen=True)
class Term:
    """How long a lease holds.

    Attributes:
        heartbeat_ms: when its owner last said that it lives, in milliseconds since 1970 UTC by the owner's clock.
        lifetime_ms: how long that holds, in milliseconds.
        released: whether the owner gave it back.
    """

    heartbeat_ms: int = whole("@heartbeat-ms")
    lifetime_ms: int = whole("@lifetime-ms")
    released: bool = switch("@released", ("yes", "no"), default=False)

    @property
    def ends_ms(self) -> int:
        """When it ends unless it is renewed, by the owner's clock."""
        return self.heartbeat_ms + self.lifetime_ms


@dataclass(frozen=True)
class Mark:
    """What the project says of a domain or file of its own.

    Attributes:
        role: what it is for.
        created_by: the program and its version.
        created: when, in seconds since 1970 UTC.
        image: the image that it was made of.
        slot: the slot whose lease it belongs to; None for what belongs to its owner alone.
        owner: who made it.
        term: how long the lease holds; only the record of a slot has it.
    """

    role: Role = choice("@role", Role)
    created_by: str = text("@created-by")
    created: int = whole("@created")
    image: str | None = text("@image", default=None)
    slot: str | None = text("@slot", default=None)
    owner: Owner = part("owner", Owner)
    term: Term | None = part("lease", Term, default=None)

    def to_xml(self) -> str:
        """The mark as virDomainSetMetadata takes it: that call puts it into the namespace."""
        return xml_fields.render(xml_fields.write(self, TAG))

    @classmethod
    def from_xml(cls, xml: str) -> Mark:
        """Read a mark as virDomainGetMetadata gives it, which takes the namespace off again.

        Raises:
            XmlError: it is no mark, or damaged.
        """
        root = xml_fields.parse(xml, "metadata")
        if root.tag.removeprefix(_QUALIFIER) != TAG:
            raise XmlError(f"metadata: {root.tag!r} is no mark of this project")
        return xml_fields.read(cls, _plain(root))


@dataclass(frozen=True)
class MarkRule:
    """The mark within a domain's XML, in the project's namespace; what others keep there is left alone."""

    def write(self, element: ET.Element, value: Mark) -> None:
        """Put the mark below ``metadata``."""
        metadata = ET.SubElement(element, "metadata")
        metadata.append(_map_tags(xml_fields.write(value, TAG), lambda tag: _QUALIFIER + tag))

    def read(self, element: ET.Element) -> Mark | None:
        """The mark, None where there is none."""
        found = element.find(f"metadata/{_QUALIFIER}{TAG}")
        return None if found is None else xml_fields.read(Mark, _plain(found))


def _plain(element: ET.Element) -> ET.Element:
    return _map_tags(element, lambda tag: tag.removeprefix(_QUALIFIER))


def _map_tags(element: ET.Element, change: Callable[[str], str]) -> ET.Element:
    changed = ET.Element(change(element.tag), element.attrib)
    changed.text = element.text
    changed.extend(_map_tags(child, change) for child in element)
    return changed
