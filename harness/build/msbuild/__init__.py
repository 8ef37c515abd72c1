"""Builds a driver with Visual Studio and the WDK on a Windows computer that is reached through remoting.

settings    which computer, and as whom
sources     what is sent there
invocation  how MSBuild is started there
output      what it said, as findings
build       all of it, from sources to fetched and signed files
"""

from __future__ import annotations

from harness.build.msbuild.build import build_remotely
from harness.build.msbuild.settings import BuildMachine

__all__ = ["BuildMachine", "build_remotely"]
