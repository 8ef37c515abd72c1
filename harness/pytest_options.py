"""The plugin's command line: options as pytest declares them, parsed once into explicit types.

Each misuse ends in one `pytest.UsageError` that names the option and says how to put it right.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from vm.machine import Machine
    from vm.registry import MachineOptions

DEFAULT_MACHINE: Final = "emulated"
PROFILES: Final = ("documented", "observed")
DEFAULT_PROFILE: Final = "observed"
"""What shipping builds of Windows do, where that differs from what Microsoft documents."""


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        machines: names of the machines to run on, in order, each once.
        profile: behaviour profile of emulated machines.
        driver: a prebuilt image of procnotify; None builds the sources.
        toolchain: what builds the drivers; None for the project's own.
    """

    machines: tuple[str, ...] = (DEFAULT_MACHINE,)
    profile: str = DEFAULT_PROFILE
    driver: Path | None = None
    toolchain: str | None = None


def add_options(parser: pytest.Parser) -> None:
    """Declare the plugin's options."""
    group = parser.getgroup("ntproof", "Windows process-notification drivers")
    group.addoption(
        "--vm",
        action="append",
        default=None,
        metavar="NAME",
        help=f"machine to run on; repeat or separate by commas for several (default: {DEFAULT_MACHINE})",
    )
    group.addoption(
        "--profile",
        action="store",
        default=None,
        metavar="NAME",
        help=f"behaviour of the emulated kernel: {' or '.join(PROFILES)} (default: {DEFAULT_PROFILE})",
    )
    group.addoption(
        "--driver",
        action="store",
        default=None,
        metavar="PATH",
        help="run this procnotify.sys instead of building one from the sources",
    )
    group.addoption(
        "--toolchain",
        action="store",
        default=None,
        metavar="NAME",
        help="build the drivers with llvm-mingw or wdk (default: toolchain of [tool.ntproof], else llvm-mingw)",
    )


def parse_options(config: pytest.Config) -> Options:
    """The options of a run.

    What the user did not give costs nothing: neither machines nor image readers are imported for defaults.

    Raises:
        pytest.UsageError: an option has a value that cannot be; the message names the option and the remedy.
    """
    named: list[str] | None = config.getoption("--vm")
    profile: str | None = config.getoption("--profile")
    driver: str | None = config.getoption("--driver")
    machines = Options.machines if named is None else _machines(named, machine_factories(config))
    if profile is not None:
        _check_profile(profile, machines)
    toolchain: str | None = config.getoption("--toolchain")
    if toolchain is not None:
        _check_toolchain(toolchain)
    return Options(machines, profile or DEFAULT_PROFILE, None if driver is None else _driver(driver), toolchain)


def machine_factories(config: pytest.Config) -> dict[str, Callable[[MachineOptions], Machine]]:
    """All machines that can be named, each with the function that makes it."""
    hook = config.hook.pytest_ntproof_machines
    offered: list[Mapping[str, Callable[[MachineOptions], Machine]]] = hook(config=config)
    return {name: make for some in reversed(offered) for name, make in some.items()}


def _machines(given: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    names = [name.strip() for value in given for name in value.split(",")]
    known = tuple(known)
    for name in names:
        if not name:
            raise pytest.UsageError(f"--vm {','.join(given)}: a machine name is empty; known: {_listed(known)}")
        if name not in known:
            raise pytest.UsageError(f"--vm {name}: there is no such machine; known: {_listed(known)}")
    return tuple(dict.fromkeys(names))


def _check_profile(profile: str, machines: Sequence[str]) -> None:
    if profile not in PROFILES:
        raise pytest.UsageError(f"--profile {profile}: there is no such behaviour profile; known: {_listed(PROFILES)}")
    if DEFAULT_MACHINE not in machines:
        raise pytest.UsageError(
            f"--profile {profile}: only the {DEFAULT_MACHINE} machine follows a behaviour profile, and --vm names "
            f"{_listed(machines)}; leave --profile out or add --vm {DEFAULT_MACHINE}"
        )


def _check_toolchain(given: str) -> None:
    from harness.build.toolchains import project_toolchain
    from harness.errors import ConfigurationError

    try:
        project_toolchain(given)
    except ConfigurationError as error:
        detail = str(error).removeprefix(f"--toolchain {given}: ")
        raise pytest.UsageError(f"--toolchain {given}: {detail}") from error


def _driver(given: str) -> Path:
    from harness.build.pe import load
    from harness.errors import ImageError

    path = Path(given).resolve()
    if not path.exists():
        raise pytest.UsageError(f"--driver {given}: there is no such file; give the path of a built procnotify.sys")
    if not path.is_file():
        raise pytest.UsageError(f"--driver {given}: not a file; give the path of a built procnotify.sys")
    try:
        load(path)
    except ImageError as error:
        detail = str(error).removeprefix(f"{path}: ")
        raise pytest.UsageError(f"--driver {given}: not an x64 driver image: {detail}") from error
    return path


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
