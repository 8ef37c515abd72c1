"""procnotify's Visual Studio project, INF and version resource say what drivers.toml and the package say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import pytest

from harness.abi import load_abi
from harness.build import find_driver
from harness.build.layout import driver_source_root

FOLDER = driver_source_root() / "procnotify"
NAMESPACE = {"m": "http://schemas.microsoft.com/developer/msbuild/2003"}
VERSION = tomllib.loads((driver_source_root().parent / "pyproject.toml").read_text())["project"]["version"]
ISOLATED_SINCE = 16299
"""The first Windows build that runs a driver from the driver store, DIRID 13 ("Using DIRID 13")."""


@pytest.fixture(scope="module")
def project() -> ElementTree.Element:
    return ElementTree.parse(FOLDER / "procnotify.vcxproj").getroot()


@pytest.fixture(scope="module")
def inf() -> dict[str, list[tuple[str, str]]]:
    return read_inf(FOLDER / "procnotify.inf")


def read_inf(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Sections of an INF: pairs of key and value, lines without a key under an empty one."""
    sections: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for raw in path.read_text(encoding="ascii").splitlines():
        line = re.sub(r';(?=(?:[^"]*"[^"]*")*[^"]*$).*', "", raw).strip()
        if match := re.fullmatch(r"\[(.+)\]", line):
            name = match[1]
            assert name.lower() not in map(str.lower, sections), f"section {name} twice"
            sections[name] = []
        elif line:
            key, equals, value = line.partition("=")
            sections[name].append((key.strip(), value.strip()) if equals else ("", line))
    return sections


def included(project, kind: str) -> list[str]:
    return [element.attrib["Include"] for element in project.iterfind(f"m:ItemGroup/m:{kind}", NAMESPACE)]


def setting(project, name: str) -> str:
    (element,) = project.iterfind(f".//m:{name}", NAMESPACE)
    return element.text


def resolved(name: str) -> str:
    """A path of the project as drivers.toml has it."""
    parts: list[str] = ["procnotify"]
    for part in name.split("\\"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return str(PurePosixPath(*parts))


def test_the_project_builds_the_sources_of_the_description(project):
    driver = find_driver("procnotify")

    assert sorted(map(resolved, included(project, "ClCompile"))) == sorted(driver.sources)
    assert [resolved(name) for name in included(project, "ResourceCompile")] == [driver.resource]
    assert driver.project == "procnotify/procnotify.vcxproj"
    folders = setting(project, "AdditionalIncludeDirectories").split(";")[:-1]
    assert list(map(resolved, folders)) == list(driver.include)


def test_the_project_demands_a_signature_and_treats_warnings_as_errors(project):
    options = [element.text for element in project.iterfind(".//m:Link/m:AdditionalOptions", NAMESPACE)]

    assert all("/INTEGRITYCHECK" in option.split() for option in options)
    assert setting(project, "TreatWarningAsError") == "true"
    assert setting(project, "WarningLevel") == "Level4"
    assert setting(project, "PlatformToolset") == "WindowsKernelModeDriver10.0"
    assert {element.text for element in project.iterfind(".//m:ProjectConfiguration/m:Platform", NAMESPACE)} == {
        "x64",
        "ARM64",
    }


@pytest.mark.parametrize(
    ("warning", "cause"),
    [
        # "causes ... a Level-4 warning when a C file is compiled" (Compiler Warnings (levels 2 and 4) C4200)
        ("C4200", r"\w\[\];"),
        # "structure was padded due to alignment specifier" (Compiler Warning (level 4) C4324)
        ("C4324", r"DECLSPEC_ALIGN\("),
    ],
)
def test_the_project_allows_what_the_driver_does_on_purpose_and_its_warning_level_objects_to(project, warning, cause):
    driver = find_driver("procnotify")
    headers = [path for folder in driver.include for path in (driver.root / folder).glob("*.h")]
    text = "".join(path.read_text() for path in [*headers, *(driver.root / name for name in driver.sources)])

    off = setting(project, "DisableSpecificWarnings").split(";")
    assert (warning.removeprefix("C") in off) == bool(re.search(cause, text))


def test_the_inf_has_what_infverif_asks_of_every_inf(inf):
    version = dict(inf["Version"])

    assert version["Signature"] == '"$Windows NT$"'
    assert version["PnpLockdown"] == "1"
    assert version["CatalogFile"] == "procnotify.cat"
    assert re.fullmatch(r"\{[0-9a-f-]{36}\}", version["ClassGuid"])
    assert version["DriverVer"].endswith(f",{VERSION}.0")
    assert dict(inf["DestinationDirs"]) == {"DefaultDestDir": "13"}
    assert "Manufacturer" not in inf


def test_the_inf_installs_and_uninstalls_for_the_architecture_that_is_built_and_for_no_other(inf):
    installs = [name for name in inf if name.startswith(("DefaultInstall", "DefaultUninstall"))]

    assert len(installs) == 4
    builds = {
        re.fullmatch(r"Default(?:Uni|I)nstall\.NT\$ARCH\$\.10\.0\.\.\.(\d+)(?:\.Services)?", name)[1]
        for name in installs
    }
    assert {int(build) for build in builds} == {17763}
    assert min(map(int, builds)) >= ISOLATED_SINCE
    uninstall = next(values for name, values in inf.items() if re.fullmatch(r"DefaultUninstall.*\d", name))
    assert ("LegacyUninstall", "1") in uninstall


def test_every_section_that_the_inf_names_is_there_and_every_section_is_named(inf):
    named = {"Version", "DestinationDirs", "SourceDisksNames", "SourceDisksFiles", "Strings"}
    named |= {name for name in inf if name.startswith(("DefaultInstall", "DefaultUninstall"))}
    for name, values in inf.items():
        for key, value in values:
            if key in {"CopyFiles", "DelFiles", "AddReg"}:
                named.add(value)
            elif key == "AddService":
                named.add(value.split(",")[2])
        assert values, f"[{name}] is empty"

    assert set(inf) == named


def test_every_string_of_the_inf_is_defined_and_used(inf):
    text = (FOLDER / "procnotify.inf").read_text()
    used = set(re.findall(r"%([A-Za-z]\w+)%", text))

    assert {key for key, _ in inf["Strings"]} == used


def test_the_inf_installs_the_service_that_the_public_header_names(inf):
    abi = load_abi()
    service = dict(inf["ProcNotify.Service"])
    ((_, added),) = inf["DefaultInstall.NT$ARCH$.10.0...17763.Services"]

    assert added.split(",")[0] == abi.text("SERVICE_NAME")
    assert (service["ServiceType"], service["StartType"], service["ErrorControl"]) == ("1", "3", "1")
    assert service["ServiceBinary"] == r"%13%\procnotify.sys"
    ((_, value),) = inf["ProcNotify.Parameters"]
    root, key, name, kind, number = value.split(",")
    assert (root, key, name, kind) == ("HKR", "Parameters", abi.text("PARAMETER_QUEUE_BYTES"), "0x00010001")
    assert int(number, 16) == abi.integer("QUEUE_BYTES_DEFAULT")


def test_every_file_that_the_inf_copies_is_on_its_disk(inf):
    assert {key for key, _ in inf["SourceDisksFiles"]} == {value for _, value in inf["ProcNotify.Files"]}


def test_the_resource_has_the_version_of_the_package():
    text = (FOLDER / "procnotify.rc").read_text()

    assert re.findall(r"^(?:FILE|PRODUCT)VERSION (\S+)$", text, re.MULTILINE) == [f"{VERSION}.0".replace(".", ",")] * 2
    assert re.findall(r'VALUE "(?:File|Product)Version", "(\S+)"', text) == [f"{VERSION}.0"] * 2
