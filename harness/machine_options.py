"""What the harness gives to every machine that it makes, whether for pytest or for a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vm.registry import GuestProgramFiles


def guest_programs() -> GuestProgramFiles:
    """The programs that run inside a Windows guest, built from the sources.

    Raises:
        ConfigurationError: the sources or the toolchain are missing.
        BuildError: they do not build.
    """
    from harness.build.guest_tools import build_guest_tools
    from vm.registry import GuestProgramFiles

    built = build_guest_tools()
    return GuestProgramFiles(built.ntguest, built.child)
