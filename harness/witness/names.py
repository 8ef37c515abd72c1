"""Compares what a driver and an event log say of the same process: image names in their several forms, command lines.

A driver hands on the name that was passed to the open of the image; an event log translates it. The same file is
(docs/reference/process-notify.md sections 2 and 8, Microsoft's pages "Naming Files, Paths, and Namespaces" and
PS_CREATE_NOTIFY_INFO):

    \\??\\C:\\Windows\\x.exe  \\\\?\\C:\\Windows\\x.exe  C:\\Windows\\x.exe     a DOS path
    \\SystemRoot\\x.exe                                          relative to the Windows folder, whichever it is
    \\Device\\HarddiskVolume3\\Windows\\x.exe                      a device path
    \\Windows\\x.exe                                             relative to a volume that is not told
    \\??\\UNC\\server\\share\\x.exe  \\Device\\Mup\\server\\share\\x.exe   \\\\server\\share\\x.exe

Which drive letter stands for which device is not known here, so two volumes are told apart only when both are named in
the same way. Names are compared without case, as file systems do.
"""

from __future__ import annotations

import enum
import functools
import re
from dataclasses import dataclass
from typing import Final


class Agreement(enum.Enum):
    """What a comparison came to."""

    SAME = "same"
    DIFFERENT = "different"
    UNKNOWN = "unknown"
    """One side does not say, or in a form that cannot be compared with the other's."""
    QUIRK = "quirk"
    """Different only by what is known of exporters."""


class Volume(enum.Enum):
    """How the volume of an image name is named."""

    DRIVE = "drive"
    DEVICE = "device"
    SHARE = "share"
    SYSTEM_ROOT = "system root"
    UNTOLD = "untold"


@dataclass(frozen=True, slots=True)
class ImagePath:
    """An image name taken apart: `path` begins with a backslash and is upper case."""

    kind: Volume
    volume: str
    path: str


_DRIVE: Final = re.compile(r"([A-Z]:)(\\.*)\Z", re.DOTALL)
_DEVICE: Final = re.compile(r"(\\DEVICE\\[^\\]+)(\\.*)\Z", re.DOTALL)
_SHORT_NAME: Final = re.compile(r"~[0-9]{1,6}(?:[.\\]|\Z)")
_WINDOWS_FOLDER: Final = re.compile(r"\\[^\\]+(\\.*)\Z", re.DOTALL)
NOT_XML: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no place for (section 2.2)."""
_LINE_END: Final = re.compile(r"\r\n?")
_STAND_IN: Final = 6
"""Most characters that stand for one that XML cannot carry, such as ``&#x1F;``."""
_FEW: Final = 16


def upper_case(text: str) -> str:
    """Upper case unit by unit, as file systems compare: what would change its length stays."""
    return "".join(unit if len(up := unit.upper()) != 1 else up for unit in text)


@functools.lru_cache(maxsize=1024)
def parse_image(name: str) -> ImagePath | None:
    """Take an image name apart; None for a name that is no path, such as that of a minimal process (``Registry``)."""
    text = upper_case(name)
    for prefix in ("\\??\\UNC\\", "\\\\?\\UNC\\", "\\DEVICE\\MUP\\"):
        if text.startswith(prefix):
            return ImagePath(Volume.SHARE, "", "\\" + text[len(prefix) :])
    for prefix in ("\\??\\", "\\\\?\\", "\\\\.\\"):
        text = text.removeprefix(prefix)
    if match := _DRIVE.match(text):
        return ImagePath(Volume.DRIVE, match[1], match[2])
    if match := _DEVICE.match(text):
        return ImagePath(Volume.DEVICE, match[1], match[2])
    if text.startswith("\\\\"):
        return ImagePath(Volume.SHARE, "", text[1:])
    if text.startswith("\\SYSTEMROOT\\"):
        return ImagePath(Volume.SYSTEM_ROOT, "", text[len("\\SYSTEMROOT") :])
    return ImagePath(Volume.UNTOLD, "", text) if text.startswith("\\") else None


def compare_images(first: str | None, second: str | None) -> Agreement:
    """Whether two image names may mean the same file.

    QUIRK: the second is from XML, which could not carry a character of the first.

    A short name (``PROGRA~1``) on one side alone gives UNKNOWN: only the volume knows what it stands for.
    """
    if first is None or second is None:
        return Agreement.UNKNOWN
    left, right = parse_image(first), parse_image(second)
    if left is None or right is None:
        return Agreement.SAME if upper_case(first) == upper_case(second) else Agreement.DIFFERENT
    if _same_file(left, right):
        return Agreement.SAME
    if left.kind is right.kind and left.volume != right.volume:
        return Agreement.DIFFERENT
    if _may_stand_for(right.path, left.path):
        return Agreement.QUIRK
    if bool(_SHORT_NAME.search(left.path)) != bool(_SHORT_NAME.search(right.path)):
        return Agreement.UNKNOWN
    return Agreement.DIFFERENT


def compare_command_lines(driver: str | None, witness: str | None) -> Agreement:
    """Whether a witness's command line is the driver's.

    QUIRK: an exporter doubled ``%``, or XML could not carry the text as it is: line ends became line feeds, other
    control characters and lone surrogates something else (W3C, Extensible Markup Language 1.0, sections 2.2 and 2.11).
    """
    if driver is None or witness is None:
        return Agreement.UNKNOWN
    if driver == witness:
        return Agreement.SAME
    if driver.replace("%%", "%") == witness.replace("%%", "%"):
        return Agreement.QUIRK
    carried, told = _LINE_END.sub("\n", driver), _LINE_END.sub("\n", witness)
    return Agreement.QUIRK if carried == told or _may_stand_for(told, carried) else Agreement.DIFFERENT


def is_minimal_process(name: str | None) -> bool:
    """Whether this is the name of a process without an image file, of which no routine is told."""
    return name is not None and "\\" not in name


def _same_file(left: ImagePath, right: ImagePath) -> bool:
    if left.kind is right.kind:
        return (left.volume, left.path) == (right.volume, right.path)
    kinds = {left.kind, right.kind}
    if Volume.SYSTEM_ROOT in kinds:
        rooted, other = (left, right) if left.kind is Volume.SYSTEM_ROOT else (right, left)
        below = _WINDOWS_FOLDER.match(other.path)
        return other.kind is not Volume.SHARE and below is not None and below[1] == rooted.path
    if Volume.SHARE in kinds:
        # What is relative to a share does not tell the share's name.
        share, other = (left, right) if left.kind is Volume.SHARE else (right, left)
        return other.kind is Volume.UNTOLD and share.path.endswith(other.path)
    return left.path == right.path


def _may_stand_for(told: str, text: str) -> bool:
    """Whether `told` is `text` with each unit that XML cannot carry as up to `_STAND_IN` others.

    All ends that a match could have reached in `told` are followed at once, a bit each, so that no text costs more than
    its length times that of the other.
    """
    if not NOT_XML.search(text):
        return False
    where: dict[str, list[int]] = {}
    for at, unit in enumerate(told):
        where.setdefault(unit, []).append(at)
    frequent = {unit: sum(1 << at for at in places) for unit, places in where.items() if len(places) > _FEW}
    whole = (1 << (len(told) + 1)) - 1
    ends = 1
    for unit in text:
        if NOT_XML.match(unit):
            for _ in range(_STAND_IN):
                ends |= ends << 1
            ends &= whole
        else:
            # Kept for every unit, these would take the square of the text's length in memory.
            places = frequent[unit] if unit in frequent else sum(1 << at for at in where.get(unit, ()))
            ends = (ends & places) << 1
        if not ends:
            return False
    return bool(ends >> len(told) & 1)
