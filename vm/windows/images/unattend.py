"""The answer file of an unattended installation, built as elements from a profile.

Settings, their passes and their values: Microsoft Learn, "Unattended Windows Setup Reference". What is built here is
held against a table of them by `vm.windows.images.unattend_check`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET

from vm.windows.images.credentials import Account, Credentials, Secret
from vm.windows.profiles.profile import DiskBus, Family, Firmware, NetworkModel, Profile

FILE_NAME: Final = "autounattend.xml"
"""Setup looks for this name at the root of every removable medium (Microsoft Learn, "Windows Setup Automation
Overview", implicit answer file search order)."""
SETUP_FOLDER: Final = "ntproof"
SETUP_SCRIPT: Final = "setup.ps1"
MEDIA_LETTERS: Final = "DEFGHI"
"""Drive letters that a CD may get; which one depends on the order of the drives."""

NAMESPACE: Final = "urn:schemas-microsoft-com:unattend"
WCM: Final = "http://schemas.microsoft.com/WMIConfig/2002/State"
_PUBLIC_KEY_TOKEN: Final = "31bf3856ad364e35"  # noqa: S105 - identifies Microsoft's components, in every answer file
_LAB_CONFIG: Final = r"HKLM\SYSTEM\Setup\LabConfig"
_UNIDENTIFIED_NETWORKS: Final = (
    r"HKLM\SOFTWARE\Policies\Microsoft\Windows NT\CurrentVersion\NetworkList\Signatures"
    r"\010103000F0000F0010000000F0000F0C967A3643C3AD745950DA7859209176EF5B87C875FA20DF21951640E807D7C24"
)
"""Where the group policy "Network List Manager Policies", "Unidentified Networks" is kept."""
FIRST_WINDOWS_11: Final = 22000
WINDOWS_11_MEMORY_MIB: Final = 4096
WINDOWS_11_DISK_GIB: Final = 64

UEFI_SYSTEM_MIB: Final = 260
UEFI_RESERVED_MIB: Final = 16
BIOS_SYSTEM_MIB: Final = 500


def tag(name: str) -> str:
    """The qualified name of a setting."""
    return f"{{{NAMESPACE}}}{name}"


def attribute(name: str) -> str:
    """The qualified name of a ``wcm`` attribute."""
    return f"{{{WCM}}}{name}"


def _setting(name: str, content: str | int | bool | Iterable[ET.Element], **attributes: str) -> ET.Element:
    found = ET.Element(tag(name), {attribute(key): value for key, value in attributes.items()})
    if isinstance(content, bool):
        found.text = "true" if content else "false"
    elif isinstance(content, (str, int)):
        found.text = str(content)
    else:
        found.extend(content)
    return found


@dataclass(frozen=True)
class Component:
    """The settings of one component in one pass."""

    name: str
    settings: tuple[ET.Element, ...]

    def element(self) -> ET.Element:
        """The element."""
        found = ET.Element(
            tag("component"),
            {
                "name": self.name,
                "processorArchitecture": "amd64",
                "publicKeyToken": _PUBLIC_KEY_TOKEN,
                "language": "neutral",
                "versionScope": "nonSxS",
            },
        )
        found.extend(self.settings)
        return found


@dataclass(frozen=True)
class Partition:
    """A partition to create; a size of None takes the rest of the disk.

    Attributes:
        kind: ``Primary``, ``EFI`` or ``MSR``.
        size_mib: size in MiB, or None.
        format: file system, None for a partition without one.
        label: volume label.
        letter: drive letter.
        active: whether BIOS boots from it.
    """

    kind: str
    size_mib: int | None
    format: str | None = None
    label: str | None = None
    letter: str | None = None
    active: bool = False

    def create(self, number: int) -> ET.Element:
        """Its CreatePartition element."""
        size = _setting("Extend", True) if self.size_mib is None else _setting("Size", self.size_mib)
        return _setting("CreatePartition", [_setting("Order", number), _setting("Type", self.kind), size], action="add")

    def modify(self, number: int) -> ET.Element:
        """Its ModifyPartition element."""
        more = [
            _setting(name, value)
            for name, value in (
                ("Format", self.format),
                ("Label", self.label),
                ("Letter", self.letter),
                ("Active", self.active or None),
            )
            if value is not None
        ]
        return _setting(
            "ModifyPartition", [_setting("Order", number), _setting("PartitionID", number), *more], action="add"
        )


def partitions(firmware: Firmware) -> tuple[Partition, ...]:
    """The disk's layout; Windows goes to the last partition.

    Microsoft Learn, "UEFI/GPT-based hard drive partitions" and "BIOS/MBR-based hard drive partitions"; there is no
    recovery partition, because an image is made anew instead.
    """
    windows = Partition("Primary", None, "NTFS", "Windows", "C")
    if firmware is Firmware.BIOS:
        return (Partition("Primary", BIOS_SYSTEM_MIB, "NTFS", "System", active=True), windows)
    return (Partition("EFI", UEFI_SYSTEM_MIB, "FAT32", "System"), Partition("MSR", UEFI_RESERVED_MIB), windows)


@dataclass(frozen=True)
class Command:
    """A command that setup runs."""

    line: str
    description: str

    def synchronous(self, number: int) -> ET.Element:
        """As a step of RunSynchronous."""
        content = [_setting("Order", number), _setting("Path", self.line), _setting("Description", self.description)]
        return _setting("RunSynchronousCommand", content, action="add")

    def first_logon(self, number: int) -> ET.Element:
        """As a step of FirstLogonCommands."""
        content = [
            _setting("Order", number),
            _setting("CommandLine", self.line),
            _setting("Description", self.description),
        ]
        return _setting("SynchronousCommand", content, action="add")


def needed_virtio_drivers(profile: Profile) -> tuple[str, ...]:
    """Folders of the virtio-win ISO without whose drivers Windows sees no disk or no network."""
    found = []
    if profile.hardware.disk_bus is DiskBus.VIRTIO_SCSI:
        found.append("vioscsi")
    if profile.hardware.network is NetworkModel.VIRTIO:
        found.append("NetKVM")
    return tuple(f"{name}/{profile.features.virtio_folder}/amd64" for name in found)


def virtio_drivers(profile: Profile) -> tuple[str, ...]:
    """Folders of the virtio-win ISO whose drivers the profile's machine takes, in that ISO's own layout.

    fwcfg lets the host write a dump in Windows' format, whatever the disk and the network are. Setup passes over a
    folder that is not there.
    """
    return (*needed_virtio_drivers(profile), f"fwcfg/{profile.features.virtio_folder}/amd64")


def build_unattend(profile: Profile, credentials: Credentials, *, image_index: int, with_virtio: bool = False) -> bytes:
    """The answer file, UTF-8 with declaration.

    Args:
        profile: what to install.
        credentials: accounts to make.
        image_index: number of the image in the media's install.wim.
        with_virtio: whether the virtio-win ISO is attached, for its drivers.
    """
    ET.register_namespace("", NAMESPACE)
    ET.register_namespace("wcm", WCM)
    root = ET.Element(tag("unattend"))
    passes = {
        "windowsPE": _windows_pe(profile, image_index, with_virtio),
        "specialize": _specialize(profile),
        "oobeSystem": _oobe_system(profile, credentials),
    }
    for name, components in passes.items():
        settings = ET.SubElement(root, tag("settings"), {"pass": name})
        settings.extend(component.element() for component in components)
    ET.indent(root, "  ")
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _locale(profile: Profile) -> tuple[ET.Element, ...]:
    locale = profile.locale
    return (
        _setting("InputLocale", locale.keyboard),
        _setting("SystemLocale", locale.formats),
        _setting("UILanguage", locale.language),
        _setting("UserLocale", locale.formats),
    )


def _windows_pe(profile: Profile, image_index: int, with_virtio: bool) -> Iterator[Component]:
    language = _setting("SetupUILanguage", [_setting("UILanguage", profile.locale.language)])
    yield Component("Microsoft-Windows-International-Core-WinPE", (language, *_locale(profile)))
    if with_virtio:
        paths = [
            "{}:\\{}".format(letter, driver.replace("/", "\\"))
            for letter in MEDIA_LETTERS
            for driver in virtio_drivers(profile)
        ]
        listed = [
            _setting("PathAndCredentials", [_setting("Path", path)], action="add", keyValue=str(number))
            for number, path in enumerate(paths, 1)
        ]
        yield Component("Microsoft-Windows-PnpCustomizationsWinPE", (_setting("DriverPaths", listed),))
    yield Component("Microsoft-Windows-Setup", tuple(_setup(profile, image_index)))


def _setup(profile: Profile, image_index: int) -> Iterator[ET.Element]:
    bypasses = [
        Command(f"reg.exe add {_LAB_CONFIG} /v {name} /t REG_DWORD /d 1 /f", f"{name} for a virtual machine")
        for name in setup_checks_to_bypass(profile)
    ]
    if bypasses:
        yield _setting("RunSynchronous", [command.synchronous(i) for i, command in enumerate(bypasses, 1)])
    yield _setting("DynamicUpdate", [_setting("Enable", False), _setting("WillShowUI", "Never")])
    layout = partitions(profile.hardware.firmware)
    disk = [
        _setting("DiskID", 0),
        _setting("WillWipeDisk", True),
        _setting("CreatePartitions", [one.create(number) for number, one in enumerate(layout, 1)]),
        _setting("ModifyPartitions", [one.modify(number) for number, one in enumerate(layout, 1)]),
    ]
    yield _setting("DiskConfiguration", [_setting("Disk", disk, action="add"), _setting("WillShowUI", "OnError")])
    image = _setting("MetaData", [_setting("Key", "/IMAGE/INDEX"), _setting("Value", image_index)], action="add")
    target = [_setting("DiskID", 0), _setting("PartitionID", len(layout))]
    os_image = [_setting("InstallFrom", [image]), _setting("InstallTo", target), _setting("WillShowUI", "OnError")]
    yield _setting("ImageInstall", [_setting("OSImage", os_image)])
    # An empty Key makes setup stop and ask for one, so that it is left out instead.
    key = [] if profile.answers.product_key is None else [_setting("Key", profile.answers.product_key)]
    user = [
        _setting("AcceptEula", True),
        _setting("FullName", profile.answers.organization),
        _setting("Organization", profile.answers.organization),
        _setting("ProductKey", [*key, _setting("WillShowUI", "OnError")]),
    ]
    yield _setting("UserData", user)


def is_windows_11(profile: Profile) -> bool:
    """Whether setup checks the computer as Windows 11 does; servers of the same builds do not."""
    return profile.media.family is Family.CLIENT and profile.media.build >= FIRST_WINDOWS_11


def setup_checks_to_bypass(profile: Profile) -> tuple[str, ...]:
    """LabConfig values for the checks of Windows 11's setup that the machine would fail.

    The processor's check goes by its name, which is the hypervisor's, so that it is always left out.
    """
    if not is_windows_11(profile):
        return ()
    hardware = profile.hardware
    failing = {
        "BypassCPUCheck": True,
        "BypassTPMCheck": not hardware.tpm,
        "BypassSecureBootCheck": not hardware.secure_boot,
        "BypassRAMCheck": hardware.memory_mib < WINDOWS_11_MEMORY_MIB,
        "BypassStorageCheck": hardware.disk_gib < WINDOWS_11_DISK_GIB,
    }
    return tuple(name for name, fails in failing.items() if fails)


def _specialize(profile: Profile) -> Iterator[Component]:
    answers = profile.answers
    yield Component(
        "Microsoft-Windows-Shell-Setup",
        (
            _setting("ComputerName", answers.computer_name),
            _setting("RegisteredOrganization", answers.organization),
            _setting("RegisteredOwner", answers.organization),
            _setting("TimeZone", profile.locale.time_zone),
        ),
    )
    yield Component("Microsoft-Windows-Security-SPP-UX", (_setting("SkipAutoActivation", True),))
    listed = [command.synchronous(number) for number, command in enumerate(_specialize_commands(profile), 1)]
    yield Component("Microsoft-Windows-Deployment", (_setting("RunSynchronous", listed),))


def _specialize_commands(profile: Profile) -> tuple[Command, ...]:
    # A network without a gateway, as the guest's is, stays unidentified, which is public unless a policy says otherwise
    # (Microsoft Learn, "Policy CSP - NetworkListManager"), and Windows refuses settings of remoting while one is.
    private = Command(
        rf'reg.exe add "{_UNIDENTIFIED_NETWORKS}" /v Category /t REG_DWORD /d 1 /f', "Trust the machine's own network"
    )
    if profile.media.family is Family.SERVER:
        return (private,)
    # With a TPM, Windows would begin to encrypt the disk, whose image is copied and reverted. Microsoft Learn,
    # "BitLocker drive encryption in Windows 11 for OEMs", disable automatic device encryption.
    encryption = Command(
        r"reg.exe add HKLM\SYSTEM\CurrentControlSet\Control\BitLocker /v PreventDeviceEncryption /t REG_DWORD /d 1 /f",
        "Leave the disk unencrypted",
    )
    if not is_windows_11(profile):
        return (private, encryption)
    network = Command(
        r"reg.exe add HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\OOBE /v BypassNRO /t REG_DWORD /d 1 /f",
        "Let setup end without a network",
    )
    return (private, encryption, network)


def _oobe_system(profile: Profile, credentials: Credentials) -> Iterator[Component]:
    yield Component("Microsoft-Windows-International-Core", _locale(profile))
    server = profile.media.family is Family.SERVER
    hidden = ["HideEULAPage", "HideOEMRegistrationScreen", "HideOnlineAccountScreens", "HideWirelessSetupInOOBE"]
    if server:
        hidden.append("HideLocalAccountScreen")
    oobe = [*(_setting(name, True) for name in hidden), _setting("ProtectYourPC", 3)]
    accounts = [
        _local_account(credentials.administrator, "Administrators"),
        _local_account(credentials.standard_user, "Users"),
    ]
    user_accounts = [_setting("LocalAccounts", accounts)]
    if credentials.builtin_administrator is not None:
        user_accounts.insert(0, _password("AdministratorPassword", credentials.builtin_administrator))
    auto_logon = [
        _setting("Enabled", True),
        _setting("LogonCount", 1),
        _setting("Username", credentials.administrator.name),
        _password("Password", credentials.administrator.password),
    ]
    script = rf"%d:\{SETUP_FOLDER}\{SETUP_SCRIPT}"
    line = (
        f"cmd.exe /c for %d in ({' '.join(MEDIA_LETTERS)}) do @if exist {script}"
        f" powershell.exe -NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -File {script}"
    )
    yield Component(
        "Microsoft-Windows-Shell-Setup",
        (
            _setting("OOBE", oobe),
            _setting("UserAccounts", user_accounts),
            _setting("AutoLogon", auto_logon),
            # One command only: Windows starts them all at once (Microsoft Learn, SynchronousCommand | Order).
            _setting("FirstLogonCommands", [Command(line, "Set the guest up").first_logon(1)]),
        ),
    )


def _local_account(account: Account, group: str) -> ET.Element:
    content = [
        _setting("Name", account.name),
        _setting("DisplayName", account.name),
        _setting("Group", group),
        _password("Password", account.password),
    ]
    return _setting("LocalAccount", content, action="add")


def _password(name: str, secret: Secret) -> ET.Element:
    """A password as Windows System Image Manager writes it, which hides it from a glance and from nothing else."""
    hidden = base64.b64encode((secret.reveal() + name).encode("utf-16-le")).decode("ascii")
    return _setting(name, [_setting("Value", hidden), _setting("PlainText", False)])
