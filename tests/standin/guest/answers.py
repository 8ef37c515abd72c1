"""Reads an answer file as Windows setup does: by pass and component, refusing what it could not follow.

Only what the guest acts on is taken; what it takes has Windows' meaning (Microsoft Learn, "Unattended Windows Setup
Reference").
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from xml.etree import ElementTree as ET

SPACE = "{urn:schemas-microsoft-com:unattend}"
_REG_ADD = re.compile(
    r'reg\.exe add (?:"(?P<quoted>HKLM\\[^"]+)"|(?P<key>HKLM\\\S+))'
    r" /v (?P<name>\S+) /t REG_DWORD /d (?P<value>\d+) /f",
    re.IGNORECASE,
)
_LAB_CONFIG = "HKLM\\SYSTEM\\Setup\\LabConfig"


class WrongAnswers(Exception):
    """The answers cannot be followed; says where and why."""


@dataclass(frozen=True)
class Partition:
    """A partition to make; a size of None takes the rest of the disk."""

    kind: str
    size_mib: int | None
    format: str | None
    label: str | None


@dataclass(frozen=True)
class PlannedDisk:
    number: int
    partitions: tuple[Partition, ...]


@dataclass(frozen=True)
class Account:
    name: str
    password: str
    group: str


@dataclass(frozen=True)
class Answers:
    """What the file says.

    `registry` has the values that its commands set, by key and name.
    """

    disk: PlannedDisk
    image_index: int
    target: tuple[int, int]
    bypassed: frozenset[str]
    computer_name: str
    accounts: tuple[Account, ...]
    auto_logon: str
    first_logon: tuple[str, ...]
    registry: dict[str, int]


def read_answers(data):
    """The answers in a file. Raises WrongAnswers."""
    try:
        root = ET.fromstring(data)
    except ET.ParseError as error:
        raise WrongAnswers(f"it is no XML: {error}") from error
    pe = _component(root, "windowsPE", "Microsoft-Windows-Setup")
    registry = {
        **_registry(pe.iterfind(f"{SPACE}RunSynchronous/{SPACE}RunSynchronousCommand")),
        **_registry(root.iterfind(f"{SPACE}settings[@pass='specialize']//{SPACE}RunSynchronousCommand")),
    }
    specialize = _component(root, "specialize", "Microsoft-Windows-Shell-Setup")
    oobe = _component(root, "oobeSystem", "Microsoft-Windows-Shell-Setup")
    if _text(pe, "UserData/AcceptEula") != "true":
        raise WrongAnswers("UserData/AcceptEula is not true")
    accounts = tuple(_account(element) for element in oobe.iter(f"{SPACE}LocalAccount"))
    return Answers(
        disk=_disk(pe),
        image_index=_image_index(pe),
        target=(
            _number(pe, "ImageInstall/OSImage/InstallTo/DiskID"),
            _number(pe, "ImageInstall/OSImage/InstallTo/PartitionID"),
        ),
        bypassed=frozenset(
            key.rpartition("\\")[2] for key, value in registry.items() if key.startswith(_LAB_CONFIG + "\\") and value
        ),
        computer_name=_text(specialize, "ComputerName"),
        accounts=accounts,
        auto_logon=_auto_logon(oobe, accounts),
        first_logon=tuple(
            _text(command, "CommandLine")
            for command in _ordered(oobe.iterfind(f"{SPACE}FirstLogonCommands/{SPACE}SynchronousCommand"))
        ),
        registry=registry,
    )


def _component(root, setup_pass, name):
    found = root.find(f"{SPACE}settings[@pass='{setup_pass}']/{SPACE}component[@name='{name}']")
    if found is None:
        raise WrongAnswers(f"pass {setup_pass} has no component {name}")
    if found.get("processorArchitecture") != "amd64":
        raise WrongAnswers(f"component {name} is not for amd64")
    return found


def _text(element, path):
    found = element.findtext("/".join(SPACE + part for part in path.split("/")))
    if not found:
        raise WrongAnswers(f"{path} is missing")
    return found


def _number(element, path):
    found = _text(element, path)
    if not found.isdecimal():
        raise WrongAnswers(f"{path} is {found!r}, which is no number")
    return int(found)


def _ordered(elements):
    return sorted(elements, key=lambda element: _number(element, "Order"))


def _registry(commands):
    found = {}
    for command in _ordered(commands):
        line = _text(command, "Path")
        match = _REG_ADD.fullmatch(line)
        if match is None:
            raise WrongAnswers(f"{line!r} is no command that is known here")
        found[f"{match['quoted'] or match['key']}\\{match['name']}"] = int(match["value"])
    return found


def _disk(pe):
    disks = list(pe.iterfind(f"{SPACE}DiskConfiguration/{SPACE}Disk"))
    if len(disks) != 1 or _text(disks[0], "WillWipeDisk") != "true":
        raise WrongAnswers("DiskConfiguration is not one disk that is wiped")
    (disk,) = disks
    modified = {_number(one, "PartitionID"): one for one in disk.iterfind(f"{SPACE}ModifyPartitions/*")}
    partitions = []
    for number, created in enumerate(_ordered(disk.iterfind(f"{SPACE}CreatePartitions/*")), 1):
        change = modified.get(number)
        rest = created.findtext(f"{SPACE}Extend") == "true"
        partitions.append(
            Partition(
                _text(created, "Type"),
                None if rest else _number(created, "Size"),
                None if change is None else change.findtext(f"{SPACE}Format"),
                None if change is None else change.findtext(f"{SPACE}Label"),
            )
        )
    return PlannedDisk(_number(disk, "DiskID"), tuple(partitions))


def _image_index(pe):
    metadata = pe.find(f"{SPACE}ImageInstall/{SPACE}OSImage/{SPACE}InstallFrom/{SPACE}MetaData")
    if metadata is None or _text(metadata, "Key") != "/IMAGE/INDEX":
        raise WrongAnswers("OSImage/InstallFrom names no image by its index")
    return _number(metadata, "Value")


def _account(element):
    return Account(_text(element, "Name"), _password(element), _text(element, "Group"))


def _password(element):
    """A password as Windows System Image Manager writes it: the element's name is added, and all is base64."""
    if _text(element, "Password/PlainText") != "false":
        raise WrongAnswers("a password is in plain text")
    word = base64.b64decode(_text(element, "Password/Value"), validate=True).decode("utf-16-le")
    if not word.endswith("Password"):
        raise WrongAnswers("a password does not end as setup expects it")
    return word.removesuffix("Password")


def _auto_logon(oobe, accounts):
    logon = oobe.find(f"{SPACE}AutoLogon")
    if logon is None or _text(logon, "Enabled") != "true":
        raise WrongAnswers("nobody is logged on, so that no command of a first logon runs")
    name, word = _text(logon, "Username"), _password(logon)
    if not any((account.name, account.password) == (name, word) for account in accounts):
        raise WrongAnswers(f"AutoLogon: the user name or password of {name!r} is incorrect")
    return name
