"""What commands that run something on a machine have in common: their options, the machine and the driver's image."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.driver_file import check_driver_file
from vm.machine import Machine

if TYPE_CHECKING:
    from harness.settings import Project
    from vm.registry import MachineOptions
    from vm.verifier import VerifierSettings

DRIVER: Final = "procnotify"
OCCASION: Final = "ntproof"
"""Names the folder of artefacts, where pytest has the test's name."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare ``--vm``, ``--profile``, ``--driver``, ``--json`` and what Windows machines take."""
    parser.add_argument(
        "--vm",
        default="emulated",
        metavar="NAME",
        help="machine to run on: emulated, or an image or its profile as 'ntproof image list' shows "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--profile",
        choices=("documented", "observed"),
        default="observed",
        help="what an emulated machine follows where documentation and Windows differ (default: %(default)s)",
    )
    parser.add_argument("--driver", type=Path, metavar="FILE", help="signed .sys to test (default: built from driver/)")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    configure_windows(parser)


def configure_windows(parser: argparse.ArgumentParser) -> None:
    """Declare what Windows machines take."""
    add_connect(parser)
    parser.add_argument(
        "--verifier",
        metavar="NAMES",
        help="Driver Verifier's options for the driver, separated by commas, such as "
        "standard,low-resources=0.05,pool-tag=Tag1,seed=7; none leaves it off (default: verifier of [tool.ntproof], "
        "else none)",
    )
    parser.add_argument(
        "--artefacts",
        type=Path,
        metavar="DIR",
        help="folder for what a Windows machine keeps of a crash or hang (default: artefacts of [tool.ntproof] in "
        "pyproject.toml, else a folder of its own below build/artefacts)",
    )


def _verifier(given: str | None, project: Project) -> VerifierSettings | None:
    from vm.errors import MachineConfigurationError
    from vm.verifier import NONE, parse_verifier

    text = given if given is not None else project.settings.verifier
    if text in {None, NONE}:
        return None
    where = f"--verifier {given}" if given is not None else f"{project.path}: tool.ntproof: verifier"
    try:
        return parse_verifier(text)
    except MachineConfigurationError as error:
        raise MachineConfigurationError(f"{where}: {error}") from error


def add_connect(parser: argparse.ArgumentParser) -> None:
    """Declare ``--connect``."""
    parser.add_argument(
        "--connect",
        metavar="URI",
        help="libvirt URI of the hypervisor of Windows machines (default: connect of [tool.ntproof] in pyproject.toml, "
        "else LIBVIRT_DEFAULT_URI, else qemu:///session)",
    )


def connect_uri(arguments: argparse.Namespace) -> str | None:
    """The URI that the options or the project name; None for libvirt's own default.

    Raises:
        InputError, MachineConfigurationError: the project's pyproject.toml is wrong.
    """
    from harness.settings import read_project

    given: str | None = arguments.connect
    return given if given is not None else read_project(Path()).settings.connect


def machine_options(arguments: argparse.Namespace, worker: str = "main") -> MachineOptions:
    """How the machine is to be made.

    Args:
        arguments: with what `configure` declared.
        worker: name of the worker that the machine is for.

    Raises:
        InputError, MachineConfigurationError: the project's pyproject.toml is wrong.
    """
    from harness.artefacts import default_folder
    from harness.machine_options import guest_programs
    from harness.pytest_options import run_name
    from harness.settings import read_project
    from vm.registry import MachineOptions

    project = read_project(Path())
    return MachineOptions(
        profile=arguments.profile,
        connect=arguments.connect if arguments.connect is not None else project.settings.connect,
        worker=worker,
        slots=project.settings.slots,
        artefacts=arguments.artefacts or project.artefacts or default_folder(run_name()),
        occasion=lambda: OCCASION,
        verifier=_verifier(arguments.verifier, project),
        tools=guest_programs,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
    )


@contextmanager
def open_machine(arguments: argparse.Namespace) -> Iterator[Machine]:
    """The machine that the options name; it is closed at the end."""
    from vm.registry import create_machine

    machine = create_machine(arguments.vm, machine_options(arguments))
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
