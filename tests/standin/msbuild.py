"""An MSBuild, a vswhere and an Enterprise WDK for the stand-in: they do as they are told, by their real interfaces.

MSBuild reads its response file and the project from the machine's files, as the real one does, and refuses what is not
there. What it prints, how it ends and which files it leaves is told by the test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

VSWHERE = r"C:\Program Files (x86)\Microsoft Visual Studio\Installer\vswhere.exe"
MSBUILD = r"C:\Program Files\Microsoft Visual Studio\2022\Enterprise\MSBuild\Current\Bin\amd64\MSBuild.exe"
CMD = r"C:\Windows\System32\cmd.exe"
INFVERIF = r"C:\Program Files (x86)\Windows Kits\10\Tools\10.0.26100.0\x64\infverif.exe"
SETUP = r"E:\BuildEnv\SetupBuildEnv.cmd"


@dataclass
class Told:
    """What the next builds do.

    Attributes:
        prints: lines.
        status: exit code.
        leaves: content of files by their path below the output folder.
        runs: the response file of each build, its arguments one a line.
        verifies: what InfVerif prints, {inf} standing for the path it was given.
        verified: how InfVerif ends.
    """

    prints: list[str] = field(default_factory=list)
    status: int = 0
    leaves: dict[str, bytes] = field(default_factory=dict)
    runs: list[list[str]] = field(default_factory=list)
    verifies: list[str] = field(default_factory=list)
    verified: int = 0


def install(windows, told, *, visual_studio=True):
    """Put the programs on a machine. Without Visual Studio there is an Enterprise WDK on E: alone."""

    def run(response):
        arguments = windows.files.read(response).decode("utf-8").split("\r\n")[:-1]
        told.runs.append(arguments)
        project = arguments[0].strip('"')
        if windows.files.get(project) is None:
            yield f"MSBUILD : error MSB1009: Project file does not exist. [{project}]"
            return 1
        outputs = next(
            match[1] for argument in arguments if (match := re.match(r'/property:OutDir="(.+)\\\\"', argument))
        )
        yield from told.prints
        for name, content in told.leaves.items():
            windows.files.write(f"{outputs}\\{name}", content)
        return told.status

    def msbuild(arguments, _lines):
        (argument,) = arguments
        assert argument.startswith("@")
        return (yield from run(argument[1:]))

    def vswhere(arguments, _lines):
        assert arguments[-2:] == ["-find", r"MSBuild\**\Bin\amd64\MSBuild.exe"]
        yield MSBUILD
        return 0

    def cmd(arguments, _lines):
        switches, (batch, setup, response) = arguments[:2], arguments[2:]
        assert switches == ["/d", "/c"]
        script = windows.files.read(batch).decode("ascii")
        assert "call %1 amd64 || exit /b 1\r\nmsbuild @%2\r\n" in script
        if setup.lower() != SETUP.lower():
            yield f"'{setup}' is not recognized as an internal or external command,"
            return 1
        return (yield from run(response))

    def infverif(arguments, _lines):
        switch, inf = arguments
        assert switch == "/w"
        windows.files.read(inf)
        yield from (line.replace("{inf}", inf) for line in told.verifies)
        return told.verified

    windows.programs[CMD.lower()] = cmd
    windows.programs[INFVERIF.lower()] = infverif
    if visual_studio:
        windows.programs[MSBUILD.lower()] = msbuild
        windows.programs[VSWHERE.lower()] = vswhere
    return told
