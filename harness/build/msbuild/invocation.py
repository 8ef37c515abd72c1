"""How MSBuild is started on a build machine: which one, in which environment, with which response file.

Everything that varies is in the response file, one argument a line, so that no command line has to be quoted. An
Enterprise WDK sets its environment up in cmd.exe; the batch file for that takes two paths and no text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Final

from harness.build.msbuild.settings import BuildMachine
from harness.build.msbuild.sources import ROOT, RemoteTree
from harness.errors import ConfigurationError
from vm import win32
from vm.errors import Win32Error
from vm.windows.remoting.guest import Guest

VSWHERE: Final = r"C:\Program Files (x86)\Microsoft Visual Studio\Installer\vswhere.exe"
"""Where every Visual Studio since 2017 has it (documentation of vswhere)."""
CMD: Final = r"C:\Windows\System32\cmd.exe"
BATCH: Final = """\
@echo off\r
rem %1: SetupBuildEnv.cmd of an Enterprise WDK, %2: a response file of MSBuild\r
call %1 amd64 || exit /b 1\r
msbuild @%2\r
exit /b %ERRORLEVEL%\r
"""
BATCH_PATH: Final = ROOT / "ewdk-build.cmd"
LOG_NAME: Final = "build.binlog"
_PLATFORMS: Final = {"x64": "x64", "arm64": "ARM64"}


@dataclass(frozen=True)
class Request:
    """What is asked of MSBuild.

    Attributes:
        tree: the sources.
        architecture: ``x64`` or ``arm64``.
        kit: version of the kit, None for the project's own.
        analyse: whether code analysis runs.
    """

    tree: RemoteTree
    architecture: str = "x64"
    kit: str | None = None
    analyse: bool = False

    @property
    def outputs(self) -> PureWindowsPath:
        """The folder that receives what is made."""
        return self.tree.outputs / _PLATFORMS[self.architecture]

    def package(self, name: str) -> PureWindowsPath:
        """The folder below it with a driver's package: image, INF and catalog."""
        return self.outputs / name

    def response_file(self) -> str:
        """MSBuild's arguments, one a line ("MSBuild response files")."""
        arguments = [
            f'"{self.tree.project}"',
            "/nologo",
            # What an earlier build left must not be taken for the result of this one.
            "/target:Rebuild",
            "/property:Configuration=Release",
            f"/property:Platform={_PLATFORMS[self.architecture]}",
            f'/property:OutDir="{self.outputs}\\\\"',
            "/verbosity:minimal",
            "/consoleLoggerParameters:NoSummary;ForceNoAlign;DisableConsoleColor",
            f'/binaryLogger:"{self.outputs / LOG_NAME}"',
        ]
        if self.kit is not None:
            arguments.append(f"/property:WindowsTargetPlatformVersion={self.kit}")
        if self.analyse:
            arguments += [f"/property:{name}=true" for name in ("RunCodeAnalysis", "EnablePREfast")]
        return "\r\n".join([*arguments, ""])


def command(machine: BuildMachine, guest: Guest, response: PureWindowsPath) -> tuple[str, list[str]]:
    """The program to run and its arguments.

    Raises:
        ConfigurationError: no MSBuild is found on the build machine.
    """
    if machine.ewdk is not None:
        setup = PureWindowsPath(machine.ewdk) / "BuildEnv" / "SetupBuildEnv.cmd"
        return CMD, ["/d", "/c", str(BATCH_PATH), str(setup), str(response)]
    return machine.msbuild or _find(machine, guest), [f"@{response}"]


def _find(machine: BuildMachine, guest: Guest) -> str:
    arguments = ["-latest", "-products", "*", "-requires", "Microsoft.Component.MSBuild", "-utf8"]
    remedy = (
        f"install Visual Studio with the WDK on {machine.host}, or name ewdk or msbuild in [tool.ntproof.build-machine]"
    )
    try:
        lines = list(guest.run_program(VSWHERE, [*arguments, "-find", r"MSBuild\**\Bin\amd64\MSBuild.exe"]))
    except Win32Error as error:
        if error.code not in {win32.ERROR_FILE_NOT_FOUND, win32.ERROR_PATH_NOT_FOUND}:
            raise
        raise ConfigurationError(f"{machine.host} has no Visual Studio: {VSWHERE} is not there; {remedy}") from None
    found = next((line.text.strip() for line in lines if line.stream == "out" and line.text.strip()), None)
    if found is None:
        raise ConfigurationError(f"{machine.host}: vswhere knows no Visual Studio with MSBuild; {remedy}")
    return found
