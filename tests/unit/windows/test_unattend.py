"""Tests of the answer file: golden files, the table of known settings, and that setup finds what a profile says."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from vm.windows import profiles
from vm.windows.images.credentials import Account, Credentials, Secret
from vm.windows.images.unattend import (
    MEDIA_LETTERS,
    NAMESPACE,
    build_unattend,
    setup_checks_to_bypass,
    tag,
    virtio_drivers,
)
from vm.windows.images.unattend_check import check, known_components
from vm.windows.profiles.profile import DiskBus, Family, NetworkModel, Profile

GOLDEN = Path(__file__).parent / "golden"
SHIPPED = [profile.name for profile in profiles.shipped().all()]


def credentials(profile):
    return Credentials(
        Account(profile.answers.administrator, Secret("administrator-password")),
        Account(profile.answers.standard_user, Secret("standard-user-password")),
        Secret("builtin-password") if profile.media.family is Family.SERVER else None,
    )


def document(profile, **options):
    return build_unattend(profile, credentials(profile), **{"image_index": 6, **options})


def find(profile, path, **options):
    qualified = "/".join(part if part in ("..", ".") or part.startswith("[") else tag(part) for part in path.split("/"))
    return ET.fromstring(document(profile, **options)).findall(f".//{qualified}")


def texts(profile, path, **options):
    return [element.text for element in find(profile, path, **options)]


def hidden(text, name):
    return base64.b64encode((text + name).encode("utf-16-le")).decode()


@pytest.mark.parametrize("name", SHIPPED)
def test_the_answer_file_is_the_golden_one(name, golden):
    golden(GOLDEN / f"{name}.xml", document(profiles.load(name), with_virtio=True).decode())


@pytest.mark.parametrize("with_virtio", [True, False])
@pytest.mark.parametrize("name", SHIPPED)
def test_every_component_pass_and_setting_is_known(name, with_virtio):
    assert check(document(profiles.load(name), with_virtio=with_virtio)) == []


def test_every_known_component_is_used():
    used = set()
    for name in SHIPPED:
        root = ET.fromstring(document(profiles.load(name), with_virtio=True))
        used |= {(component.get("name"), settings.get("pass")) for settings in root for component in settings}

    unused = {component for component, _ in known_components()} - {component for component, _ in used}
    assert unused == set()


def test_the_image_is_selected_by_its_number():
    assert texts(profiles.load("win11"), "InstallFrom/MetaData/Value", image_index=9) == ["9"]


@pytest.mark.parametrize(("name", "kinds"), [("win10", ["Primary", "Primary"]), ("win11", ["EFI", "MSR", "Primary"])])
def test_the_disk_is_laid_out_for_its_firmware(name, kinds):
    profile = profiles.load(name)

    assert texts(profile, "CreatePartition/Type") == kinds
    assert texts(profile, "InstallTo/PartitionID") == [str(len(kinds))]
    assert texts(profile, "ModifyPartition/Active") == (["true"] if name == "win10" else [])


def test_setup_checks_are_bypassed_only_where_the_machine_fails_them():
    profile = profiles.load("win11")
    small = replace(profile, hardware=replace(profile.hardware, tpm=False, memory_mib=2048, disk_gib=40))
    features = replace(profile.features, test_signing=False)
    full = replace(profile, hardware=replace(profile.hardware, secure_boot=True), features=features)

    assert setup_checks_to_bypass(profile) == ("BypassCPUCheck", "BypassSecureBootCheck")
    assert setup_checks_to_bypass(full) == ("BypassCPUCheck",)
    assert len(setup_checks_to_bypass(small)) == 5
    assert setup_checks_to_bypass(profiles.load("win10")) == ()
    assert setup_checks_to_bypass(profiles.load("server2025")) == ()
    paths = texts(small, "RunSynchronousCommand/Path")
    assert [path for path in paths if "LabConfig /v BypassTPMCheck /t REG_DWORD /d 1" in path]


def test_drivers_are_taken_from_whatever_drive_the_virtio_iso_is():
    profile = profiles.load("server2022")
    hardware = replace(profile.hardware, disk_bus=DiskBus.VIRTIO_SCSI, network=NetworkModel.VIRTIO)
    profile = replace(profile, hardware=hardware)

    assert virtio_drivers(profile) == ("vioscsi/2k22/amd64", "NetKVM/2k22/amd64", "fwcfg/2k22/amd64")
    paths = texts(profile, "PathAndCredentials/Path", with_virtio=True)
    assert len(paths) == 3 * len(MEDIA_LETTERS)
    assert r"E:\vioscsi\2k22\amd64" in paths
    assert texts(profile, "PathAndCredentials/Path") == []


@pytest.mark.parametrize("name", SHIPPED)
def test_the_network_that_leads_nowhere_is_private_from_the_start(name):
    """Without a gateway it stays unidentified, hence public, and remoting refuses its settings while it is."""
    (found,) = [path for path in texts(profiles.load(name), "RunSynchronousCommand/Path") if "NetworkList" in path]

    assert found.endswith("/v Category /t REG_DWORD /d 1 /f")
    assert len(found) <= 259


@pytest.mark.parametrize("name", SHIPPED)
def test_both_accounts_are_made_and_the_administrator_logs_on_once(name):
    profile = profiles.load(name)

    assert texts(profile, "LocalAccount/Name") == ["ntproof-admin", "ntproof-user"]
    assert texts(profile, "LocalAccount/Group") == ["Administrators", "Users"]
    assert texts(profile, "LocalAccount/Password/Value") == [
        hidden("administrator-password", "Password"),
        hidden("standard-user-password", "Password"),
    ]
    assert texts(profile, "AutoLogon/Username") == ["ntproof-admin"]
    assert texts(profile, "AutoLogon/LogonCount") == ["1"]
    assert texts(profile, "AutoLogon/Password/Value") == [hidden("administrator-password", "Password")]


def test_only_a_server_gets_a_password_for_its_builtin_administrator():
    expected = [hidden("builtin-password", "AdministratorPassword")]

    assert texts(profiles.load("server2022"), "AdministratorPassword/Value") == expected
    assert texts(profiles.load("win11"), "AdministratorPassword/Value") == []


def test_one_command_starts_the_set_up_script_and_holds_no_value_of_the_profile():
    lines = {line for name in SHIPPED for line in texts(profiles.load(name), "SynchronousCommand/CommandLine")}

    (line,) = lines
    assert r"%d:\ntproof\setup.ps1" in line


@pytest.mark.parametrize(
    ("key", "expected"), [(None, []), ("AAAAA-BBBBB-CCCCC-DDDDD-EEEEE", ["AAAAA-BBBBB-CCCCC-DDDDD-EEEEE"])]
)
def test_a_missing_product_key_is_left_out_and_not_empty(key, expected):
    profile = profiles.load("win11")

    assert texts(replace(profile, answers=replace(profile.answers, product_key=key)), "ProductKey/Key") == expected


@pytest.mark.parametrize("value", ["<&>\"'", "]]>", "é\u4e2d", "$(x)`n"])
def test_a_value_is_data_in_the_answer_file(value):
    profile = profiles.load("win11")
    changed = Profile.from_mapping(
        replace(profile, answers=replace(profile.answers, organization=value)).to_mapping(), "test"
    )

    assert texts(changed, "UserData/Organization") == [value]
    assert check(document(changed)) == []


GOOD = document(profiles.load("win11"), with_virtio=True).decode()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("<AcceptEula>true", "<AcceptEula>yes", "UserData | AcceptEula: 'yes'; expected true or false"),
        ("<AcceptEula>true</AcceptEula>", "", "UserData | AcceptEula: is missing"),
        ("UserLocale", "UserLocal", "UserLocal: no such setting; known here: SetupUILanguage"),
        ("Microsoft-Windows-Security-SPP-UX", "Microsoft-Windows-Nothing", "no such component in the table"),
        ('pass="specialize"', 'pass="windowsPE"', "pass windowsPE is there twice"),
        ('pass="specialize"', 'pass="special"', "'special' is no configuration pass"),
        ('pass="specialize"', 'pass="generalize"', "Microsoft-Windows-Shell-Setup: belongs to specialize, oobeSystem"),
        ("<Value>6</Value>", "<Value></Value>", "0 characters; expected 1 to 256"),
        ("<DiskID>0</DiskID>", "<DiskID>x</DiskID>", "'x'; expected an integer from 0 to 255"),
        ("<Type>MSR</Type>", "<Type>Swap</Type>", "expected one of Primary, EFI"),
        ('<Disk wcm:action="add">', "<Disk>", "wcm:action is None; an item of a list has 'add'"),
        ("<OSImage>", '<OSImage wcm:action="add">', "wcm:action is 'add'"),
        ("<Order>2</Order>", "<Order>3</Order>", "Order is 1, 3"),
        ('processorArchitecture="amd64"', 'processorArchitecture="x86"', "processorArchitecture is 'x86'"),
        ("<InstallTo>", "<InstallTo>5", "holds text, expected settings"),
        ("<AcceptEula>true</AcceptEula>", "<AcceptEula>true</AcceptEula>" * 2, "AcceptEula: is there 2 times"),
        ('name="Microsoft-Windows-Security-SPP-UX"', 'name="Microsoft-Windows-Shell-Setup"', "is there twice"),
        ("NTPROOF-WIN11", "N" * 16, "ComputerName: 16 characters; expected 1 to 15"),
        ("</unattend>", "", "not XML"),
        (NAMESPACE, "urn:other", "the root is"),
    ],
)
def test_a_mistake_in_an_answer_file_is_found(old, new, complaint):
    assert old in GOOD

    assert [found for found in check(GOOD.replace(old, new).encode()) if complaint in found]
