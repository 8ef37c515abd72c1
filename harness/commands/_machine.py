"""What commands that run something on a machine have in common: their options, the machine and the driver's image."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from harness.driver_file import check_driver_file
from vm.machine import Machine

DRIVER: Final = "procnotify"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare ``--vm``, ``--profile``, ``--driver`` and ``--json``."""
    parser.add_argument("--vm", default="emulated", metavar="NAME", help="machine to run on (default: %(default)s)")
    parser.add_argument(
        "--profile",
        choices=("documented", "observed"),
        default="observed",
        help="what an emulated machine follows where documentation and Windows differ (default: %(default)s)",
    )
    parser.add_argument("--driver", type=Path, metavar="FILE", help="signed .sys to test (default: built from driver/)")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")


@contextmanager
def open_machine(arguments: argparse.Namespace) -> Iterator[Machine]:
    """The machine that the options name; it is closed at the end."""
    from vm.registry import MachineOptions, create_machine

    machine = create_machine(arguments.vm, MachineOptions(profile=arguments.profile))
    try:
        yield machine
    finally:
        machine.close()


def driver_image(arguments: argparse.Namespace) -> Path:
    """The driver's image: the file that was given, else built from the sources.

    Raises:
        ConfigurationError: the file does not exist or cannot be read.
        BuildError: the sources do not compile.
    """
    given: Path | None = arguments.driver
    if given is not None:
        return check_driver_file(given)
    from harness.build.driver_build import build_driver
    from harness.build.toolchains import project_toolchain

    return build_driver(DRIVER, toolchain=project_toolchain()).image
