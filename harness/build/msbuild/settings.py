"""The Windows computer that builds: ``[tool.ntproof.build-machine]`` of a project's pyproject.toml.

For example::

    [tool.ntproof.build-machine]
    host = "build.example.org"
    fingerprint = "4f...64 digits"      # SHA-256 of the certificate of its WinRM listener
    user = "builder"
    ewdk = 'E:\\'                         # or msbuild = 'C:\\...\\MSBuild.exe'; by default vswhere is asked
    kit = "10.0.26100.0"                # by default the project's own

The password is in no file: it comes from the environment variable NTPROOF_BUILD_PASSWORD.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any, Final

from harness.errors import ConfigurationError
from vm.windows.remoting.endpoint import Credentials, Endpoint
from vm.windows.strict import read, text, whole

PASSWORD_VARIABLE: Final = "NTPROOF_BUILD_PASSWORD"  # noqa: S105 - the name of a variable
TABLE: Final = "tool.ntproof.build-machine"
_WINDOWS_PATH: Final = r"[A-Za-z]:\\[^\x00-\x1f\"*?<>|%&^]*"
"""Without the characters that cmd.exe would not take as they are."""


@dataclass(frozen=True)
class BuildMachine:
    """A Windows computer with Visual Studio and the WDK, or with an Enterprise WDK.

    Attributes:
        host: name or address.
        fingerprint: SHA-256 of the certificate of its WinRM listener, in hexadecimal.
        user: who builds; an administrator, as remoting wants.
        port: of the listener.
        msbuild: path of MSBuild.exe; None asks vswhere.
        ewdk: drive or folder of a mounted Enterprise WDK, which has an MSBuild of its own.
        kit: version of the kit; None leaves it to the project.
        infverif: path of infverif.exe, which verifies the INF after the build; with `kit` it is known.
    """

    host: str = text(r"[A-Za-z0-9._:-]{1,253}", "the name or address of a computer")
    fingerprint: str = text(r"[0-9A-Fa-f:]{64,95}", "a SHA-256 fingerprint in hexadecimal")
    user: str = text(r"[^\x00-\x1f]{1,256}", "the name of a user")
    port: int = whole(1, 65535, "TCP port", default=5986)
    msbuild: str | None = text(_WINDOWS_PATH, "the path of MSBuild.exe on the build machine", default=None)
    ewdk: str | None = text(_WINDOWS_PATH, "the folder of an Enterprise WDK on the build machine", default=None)
    kit: str | None = text(r"10\.0\.\d{4,6}\.\d+", "a kit's version such as 10.0.26100.0", default=None)
    infverif: str | None = text(_WINDOWS_PATH, "the path of infverif.exe on the build machine", default=None)

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return Endpoint(self.host, self.port, self.fingerprint)

    @property
    def inf_verifier(self) -> str | None:
        """Where InfVerif is (Tools/VERSION/x64 of a kit), None where the build's own run of it must do."""
        if self.infverif is not None or self.kit is None:
            return self.infverif
        installed, mounted = (
            PureWindowsPath(r"C:\Program Files (x86)"),
            PureWindowsPath(self.ewdk or "", "Program Files"),
        )
        programs = installed if self.ewdk is None else mounted
        return str(programs / "Windows Kits" / "10" / "Tools" / self.kit / "x64" / "infverif.exe")

    def credentials(self, environment: Mapping[str, str] = os.environ) -> Credentials:
        """As whom it is addressed.

        Raises:
            ConfigurationError: the password is not in the environment.
        """
        password = environment.get(PASSWORD_VARIABLE)
        if not password:
            raise ConfigurationError(
                f"the password of {self.user} on {self.host} is not known; put it into the environment variable "
                f"{PASSWORD_VARIABLE}"
            )
        return Credentials(self.user, password)


def build_machine(table: Mapping[str, Any] | None, where: str = TABLE) -> BuildMachine:
    """The build machine of a project.

    Raises:
        ConfigurationError: there is none.
        MachineConfigurationError: a key is unknown, or a value does not fit.
    """
    if table is None:
        raise ConfigurationError(
            "--toolchain msbuild: no build machine is known; describe one in [tool.ntproof.build-machine] of "
            "pyproject.toml (docs/how-to/wdk.md)"
        )
    machine = read(BuildMachine, table, where)
    if machine.msbuild is not None and machine.ewdk is not None:
        raise ConfigurationError(f"{where}: msbuild and ewdk exclude each other; name one of them")
    return machine
