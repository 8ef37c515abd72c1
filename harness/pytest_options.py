"""The plugin's command line: options as pytest declares them, parsed once into explicit types.

Each misuse ends in one `pytest.UsageError` that names the option and says how to put it right.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from harness.settings import Project
    from vm.machine import Machine
    from vm.registry import MachineOptions
    from vm.verifier import VerifierSettings

DEFAULT_MACHINE: Final = "emulated"
PROFILES: Final = ("documented", "observed")
DEFAULT_PROFILE: Final = "observed"
"""What shipping builds of Windows do, where that differs from what Microsoft documents."""
DEFAULT_SLOTS: Final = 4
MOST_SLOTS: Final = 64
MAIN: Final = "main"
"""Name of the process where pytest-xdist gives none."""
RUN_KEY: Final = "ntproof_run"
"""Under which a process of pytest-xdist is told the name of the run."""


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        machines: names of the machines to run on, in order, each once.
        profile: behaviour profile of emulated machines.
        driver: a prebuilt image of procnotify; None builds the sources.
        toolchain: what builds the drivers; None for the project's own.
        connect: libvirt URI of the hypervisor of Windows machines; None for libvirt's own default.
        slots: how many machines of one image may run on it at once.
        artefacts: folder for what is kept of failures; None for one of the run's own below the build folder.
        verifier: Driver Verifier's settings for the driver; None leaves it off.
        witness: whether the machine's own audit is held against what the driver reports.
        worker: name of this process within the run, as pytest-xdist says.
        run: name of the run, the same in all its processes.
    """

    machines: tuple[str, ...] = (DEFAULT_MACHINE,)
    profile: str = DEFAULT_PROFILE
    driver: Path | None = None
    toolchain: str | None = None
    connect: str | None = None
    slots: int = DEFAULT_SLOTS
    artefacts: Path | None = None
    verifier: VerifierSettings | None = None
    witness: bool = False
    worker: str = MAIN
    run: str = ""


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
    group.addoption(
        "--connect",
        action="store",
        default=None,
        metavar="URI",
        help="libvirt URI of the hypervisor of Windows machines (default: connect of [tool.ntproof] in pyproject.toml, "
        "else LIBVIRT_DEFAULT_URI, else qemu:///session)",
    )
    group.addoption(
        "--slots",
        action="store",
        default=None,
        metavar="N",
        help=f"how many machines of one image may run on the hypervisor at once (default: slots of [tool.ntproof], "
        f"else {DEFAULT_SLOTS})",
    )
    group.addoption(
        "--verifier",
        action="store",
        default=None,
        metavar="NAMES",
        help="Driver Verifier's options for the driver, separated by commas, such as "
        "standard,low-resources=0.05,pool-tag=Tag1,seed=7; none leaves it off (default: verifier of [tool.ntproof], "
        "else none)",
    )
    group.addoption(
        "--witness",
        action="store_true",
        default=False,
        help="hold what the driver reports against the machine's own audit of processes",
    )
    group.addoption(
        "--artefacts",
        action="store",
        default=None,
        metavar="DIR",
        help="folder for what shows why tests failed, a folder for each (default: artefacts of "
        "[tool.ntproof], else a folder for each run below build/artefacts; the last five runs stay)",
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
    connect: str | None = config.getoption("--connect")
    slots: str | None = config.getoption("--slots")
    artefacts: str | None = config.getoption("--artefacts")
    project = _project(config.rootpath)
    machines = Options.machines if named is None else _machines(named, machine_factories(config))
    if profile is not None:
        _check_profile(profile, machines)
    toolchain: str | None = config.getoption("--toolchain")
    if toolchain is not None:
        _check_toolchain(toolchain)
    own = None if project is None else project.settings
    return Options(
        machines,
        profile or DEFAULT_PROFILE,
        None if driver is None else _driver(driver),
        toolchain,
        connect=connect if connect is not None or own is None else own.connect,
        slots=_slots(slots) if slots is not None else own.slots if own is not None else DEFAULT_SLOTS,
        artefacts=_folder(artefacts) if artefacts is not None else _own_folder(project),
        verifier=_verifier(config.getoption("--verifier"), None if own is None else own.verifier),
        witness=config.getoption("--witness"),
        worker=getattr(config, "workerinput", {}).get("workerid", MAIN),
        run=getattr(config, "workerinput", {}).get(RUN_KEY) or run_name(),
    )


def run_name() -> str:
    """A name for a run that begins now: a later one sorts behind an earlier one."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}"


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
            raise pytest.UsageError(f"--vm {name}: {_why_unknown(name, known)}")
    return tuple(dict.fromkeys(names))


def _why_unknown(name: str, known: Iterable[str]) -> str:
    from vm.windows.profiles.registry import names

    if name in names():
        return f"there is no image of it yet; make one with: ntproof image build {name} --iso FILE"
    return f"there is no such machine; known: {_listed(known)}"


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


def _project(folder: Path) -> Project | None:
    """What the project's pyproject.toml says; None where it says nothing, and then nothing is imported for it."""
    path = folder / "pyproject.toml"
    try:
        said = b"ntproof" in path.read_bytes()
    except OSError:
        said = False
    if not said:
        return None
    from harness.errors import InputError
    from harness.settings import read_project
    from vm.errors import MachineConfigurationError

    try:
        return read_project(folder)
    except (InputError, MachineConfigurationError) as error:
        raise pytest.UsageError(str(error)) from error


def _slots(given: str) -> int:
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= MOST_SLOTS:
        raise pytest.UsageError(f"--slots {given}: not a number of machines; give 1 to {MOST_SLOTS}")
    return int(given)


def _verifier(given: str | None, own: str | None) -> VerifierSettings | None:
    text = given if given is not None else own
    if text is None:
        return None
    from vm.errors import MachineConfigurationError
    from vm.verifier import NONE, parse_verifier

    if text == NONE:
        return None
    where = f"--verifier {given}" if given is not None else "pyproject.toml: tool.ntproof: verifier"
    try:
        return parse_verifier(text)
    except MachineConfigurationError as error:
        raise pytest.UsageError(f"{where}: {error}") from error


def _folder(given: str) -> Path:
    path = Path(given).absolute()
    if path.exists() and not path.is_dir():
        raise pytest.UsageError(f"--artefacts {given}: not a folder; give the path of a folder, which need not exist")
    return path


def _own_folder(project: Project | None) -> Path | None:
    if project is None:
        return None
    from harness.errors import InputError

    try:
        return project.artefacts
    except InputError as error:
        raise pytest.UsageError(str(error)) from error


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
