"""What a Windows image is made of: the typed content of a profile, and the rules that span several of its keys."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from vm.windows.strict import Place, choice, flag, part, read, text, texts, whole, write

NAME_PATTERN: Final = r"[a-z0-9][a-z0-9-]{0,39}"
NAME_HINT: Final = "at most 40 small letters, digits and hyphens"

# What XML can hold on one line.
_CHARACTER: Final = r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]"
_LINE: Final = rf"{_CHARACTER}{{1,200}}"
_LOCALE: Final = r"[a-z]{2,3}(?:-[A-Z][a-z]{3})?-[A-Z]{2}"
# Characters that no local account may have (Microsoft-Windows-Shell-Setup | LocalAccount | Name); 20 at most.
_ACCOUNT: Final = r"[A-Za-z][A-Za-z0-9_-]{0,19}"
# As tzutil /l prints them (Microsoft Learn, "Default time zones"); setup stops at another one. The suffix turns
# summer time off (Microsoft-Windows-Shell-Setup | TimeZone).
_TIME_ZONE: Final = (
    r"(?:UTC(?:[+-]\d\d)?|Russia Time Zone \d{1,2}|[A-Z][A-Za-z .-]{1,40} Standard Time(?: \(Mexico\))?)(?:_dstoff)?"
)
_RESERVED_ACCOUNTS: Final = frozenset(
    {"administrator", "guest", "defaultaccount", "wdagutilityaccount", "system", "none"}
)

GIBIBYTE: Final = 1024
"""Mebibytes in a gibibyte."""
ROOM_FOR_WINDOWS_GIB: Final = 20
"""Disk space that Windows itself takes after setup, with room for its own logs."""
DUMP_HEADROOM_MIB: Final = 257
"""A complete dump needs a page file of the memory's size and this much more (Microsoft Learn, "Complete Memory Dump":
memory plus 1 MB for the header, and up to 256 MB of driver data)."""


class Family(enum.Enum):
    """Client or server: they differ in how they are set up and in what is installed."""

    CLIENT = "client"
    SERVER = "server"


class Firmware(enum.Enum):
    """Firmware of the virtual machine, which decides the disk's layout."""

    BIOS = "bios"
    UEFI = "uefi"


class DiskBus(enum.Enum):
    """How the system disk is attached."""

    SATA = "sata"
    NVME = "nvme"
    VIRTIO_SCSI = "virtio-scsi"


class NetworkModel(enum.Enum):
    """The network adapter."""

    E1000E = "e1000e"
    VIRTIO = "virtio"


class CrashDump(enum.Enum):
    """What Windows writes at a bugcheck; a minidump is kept besides."""

    COMPLETE = "complete"
    KERNEL = "kernel"
    SMALL = "small"


class OpenSsh(enum.Enum):
    """Where the OpenSSH server comes from."""

    INBOX = "inbox"
    """Windows has it installed (Server 2025)."""
    PACKAGE = "package"
    """It is installed from the package that is given to the build. Windows would fetch its own from Windows Update, but
    a guest's network leads nowhere."""


@dataclass(frozen=True)
class Media:
    """Which Windows is installed from the ISO.

    Attributes:
        family: client or server.
        build: the Windows build that is installed.
        edition: the image's name or display name in install.wim, as ``wiminfo`` or DISM prints them.
        index: the image's number in install.wim; None to look the edition up.
    """

    family: Family = choice(Family)
    build: int = whole(17763, 99999, "Windows build number")
    edition: str = text(_LINE, "the name of an image in install.wim, such as Windows 11 Pro")
    index: int | None = whole(1, 64, "image number in install.wim", default=None)


@dataclass(frozen=True)
class Hardware:
    """The virtual machine.

    Attributes:
        firmware: BIOS or UEFI.
        secure_boot: whether the firmware enforces Secure Boot with Microsoft's keys.
        tpm: whether there is a TPM 2.0.
        memory_mib: memory in MiB.
        cpus: virtual processors.
        disk_gib: size of the system disk in GiB.
        disk_bus: how the disk is attached.
        network: the network adapter.
        hyperv_panic: whether a bugcheck is reported through the Hyper-V crash registers, with its parameters.
        enlightenments: Hyper-V enlightenments by libvirt's names.
    """

    firmware: Firmware = choice(Firmware)
    secure_boot: bool = flag(default=False)
    tpm: bool = flag(default=False)
    memory_mib: int = whole(2048, 1 << 20, "MiB")
    cpus: int = whole(1, 64, "processors")
    disk_gib: int = whole(32, 4096, "GiB")
    disk_bus: DiskBus = choice(DiskBus, default=DiskBus.SATA)
    network: NetworkModel = choice(NetworkModel, default=NetworkModel.E1000E)
    hyperv_panic: bool = flag(default=True)
    enlightenments: tuple[str, ...] = texts(r"[a-z]+", "an enlightenment of libvirt, such as relaxed", default=())


@dataclass(frozen=True)
class Locale:
    """Language and region.

    Attributes:
        language: display language; the ISO must have it.
        formats: the language whose formats are used for dates and numbers, and for programs without Unicode.
        keyboard: keyboard layout, a locale name or ``0409:00000409``.
        time_zone: Windows name of the time zone.
    """

    language: str = text(_LOCALE, "a language name such as en-US", default="en-US")
    formats: str = text(_LOCALE, "a language name such as en-US", default="en-US")
    keyboard: str = text(
        rf"{_LOCALE}|[0-9A-Fa-f]{{4}}:[0-9A-Fa-f]{{8}}",
        "a language name, or a layout such as 0409:00000409",
        default="en-US",
    )
    time_zone: str = text(
        _TIME_ZONE, "a name that tzutil /l prints, such as UTC or W. Europe Standard Time", default="UTC"
    )


@dataclass(frozen=True)
class Answers:
    """What setup asks.

    Attributes:
        computer_name: NetBIOS name.
        organization: registered organization.
        administrator: name of the local administrator that the project uses.
        standard_user: name of the standard user.
        product_key: key that names the edition to setup; None for media that ask for none.
    """

    computer_name: str = text(
        r"(?!\d+$)[A-Za-z0-9][A-Za-z0-9-]{0,13}[A-Za-z0-9]", "2 to 15 letters, digits and hyphens"
    )
    organization: str = text(rf"{_CHARACTER}{{1,63}}", "a line of at most 63 characters", default="ntproof")
    administrator: str = text(_ACCOUNT, "at most 20 letters, digits, _ and -", default="ntproof-admin")
    standard_user: str = text(_ACCOUNT, "at most 20 letters, digits, _ and -", default="ntproof-user")
    product_key: str | None = text(
        r"[A-Z0-9]{5}(?:-[A-Z0-9]{5}){4}", "five groups of five capitals and digits", default=None, quoted=False
    )


@dataclass(frozen=True)
class Features:
    """How the installed Windows is set.

    Attributes:
        test_signing: load drivers that any certificate signed (``bcdedit /set testsigning on``).
        memory_integrity: run kernel code integrity under the hypervisor (HVCI).
        crash_dump: what is written at a bugcheck.
        openssh: where the OpenSSH server comes from.
        process_audit: record process creation and termination, with command lines, in the security log.
        defender: leave Defender's real-time protection on.
        updates: leave automatic updates on.
        virtio_folder: folder for this Windows in the virtio-win ISO, such as ``w11``.
    """

    test_signing: bool = flag(default=True)
    memory_integrity: bool = flag(default=False)
    crash_dump: CrashDump = choice(CrashDump, default=CrashDump.COMPLETE)
    openssh: OpenSsh = choice(OpenSsh, default=OpenSsh.PACKAGE)
    process_audit: bool = flag(default=True)
    defender: bool = flag(default=False)
    updates: bool = flag(default=False)
    virtio_folder: str = text(r"[a-z0-9]{1,16}", "a folder such as w11 or 2k22")


@dataclass(frozen=True)
class Profile:
    """A Windows that images can be made of.

    Attributes:
        name: what ``--vm`` and ``ntproof image build`` call it.
        description: one line for people.
        licence: what a user must have to install it.
        aliases: further names.
        media: which Windows.
        hardware: the virtual machine.
        locale: language and region.
        answers: what setup asks.
        features: how the installed Windows is set.
    """

    name: str = text(NAME_PATTERN, NAME_HINT)
    description: str = text(_LINE, "a line of text")
    licence: str = text(_LINE, "a line of text")
    aliases: tuple[str, ...] = texts(NAME_PATTERN, NAME_HINT, default=())
    media: Media = part(Media)
    hardware: Hardware = part(Hardware)
    locale: Locale = part(Locale)
    answers: Answers = part(Answers)
    features: Features = part(Features)

    @classmethod
    def from_mapping(cls, value: Mapping[str, object], source: str) -> Profile:
        """Make a profile from the content of a TOML file.

        Args:
            value: the content.
            source: the file that it is from, for messages.

        Raises:
            MachineConfigurationError: a value is missing, unknown or impossible; names file, key and remedy.
        """
        profile = read(cls, value, source)
        _check_hardware(profile, Place(source))
        _check_answers(profile, Place(source))
        return profile

    def to_mapping(self) -> dict[str, object]:
        """The content of the TOML file that `from_mapping` reads."""
        return write(self)

    def without_product_key(self) -> Profile:
        """The profile as others may read it: the key may be someone's licence."""
        return replace(self, answers=replace(self.answers, product_key=None))

    @property
    def needs_virtio_drivers(self) -> bool:
        """Whether Windows sees neither disk nor network without the virtio drivers."""
        return self.hardware.disk_bus is DiskBus.VIRTIO_SCSI or self.hardware.network is NetworkModel.VIRTIO

    @property
    def needs_openssh_package(self) -> bool:
        """Whether Windows has no OpenSSH server, so that its package has to be given."""
        return self.features.openssh is OpenSsh.PACKAGE

    @property
    def page_file_mib(self) -> int:
        """Size of the page file on the system disk in MiB, enough for a complete dump."""
        return self.hardware.memory_mib + DUMP_HEADROOM_MIB


def _check_hardware(profile: Profile, place: Place) -> None:
    hardware, features = profile.hardware, profile.features
    if hardware.secure_boot and features.test_signing:
        place.at("features").at("test_signing").fail(
            "Windows refuses test signing while Secure Boot is on; set hardware.secure_boot or this to false"
        )
    if hardware.firmware is Firmware.BIOS and hardware.secure_boot:
        place.at("hardware").at("secure_boot").fail("BIOS has no Secure Boot; set hardware.firmware to uefi")
    if hardware.firmware is Firmware.BIOS and features.memory_integrity:
        place.at("features").at("memory_integrity").fail("memory integrity needs hardware.firmware = uefi")
    needed = ROOM_FOR_WINDOWS_GIB + 2 * -(-profile.page_file_mib // GIBIBYTE)
    if features.crash_dump is CrashDump.COMPLETE and hardware.disk_gib < needed:
        place.at("hardware").at("disk_gib").fail(
            f"{hardware.disk_gib} GiB do not hold Windows, a page file and a dump of {hardware.memory_mib} MiB;"
            f" give {needed} or more, or set features.crash_dump to kernel"
        )


def _check_answers(profile: Profile, place: Place) -> None:
    answers = profile.answers
    for key, name in (("administrator", answers.administrator), ("standard_user", answers.standard_user)):
        if name.casefold() in _RESERVED_ACCOUNTS or name.casefold() == answers.computer_name.casefold():
            place.at("answers").at(key).fail(f"{name!r} is a name that Windows keeps for itself; choose another")
    if answers.administrator.casefold() == answers.standard_user.casefold():
        place.at("answers").at("standard_user").fail("the same as answers.administrator; name two accounts")
    if profile.name in profile.aliases:
        place.at("aliases").fail(f"{profile.name!r} is the profile's own name; leave it out")


def is_name(name: str) -> bool:
    """Whether a text can name a profile or an image; such a name is also safe as the name of a folder."""
    return re.fullmatch(NAME_PATTERN, name) is not None
