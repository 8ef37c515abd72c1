"""The pytest plugin: options, fixtures and hooks, each a thin layer over the module that does the work.

Fixtures, all of them on every machine that ``--vm`` names:

    machine        driver installed and running, nothing else going on
    bare_machine   driver installed, not started
    clean_machine  no driver installed
    driver         the running driver's device, open as an administrator
    open_driver    opens further handles of the device
    run_scenario   runs a Scenario on bare_machine and judges it

A test that came to its end without a failure is followed by a check that the driver unloads and leaves nothing behind.
This module is loaded in every pytest run of the environment, so it imports nothing else of the harness until a test
asks for one of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from harness.pytest_options import RUN_KEY, Options, add_options, parse_options

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from harness.capture import Capture
    from harness.driver import ProcNotify
    from harness.lease import Lease
    from harness.machines import DriverImage, Stage
    from harness.pytest_run import Run
    from harness.scenario import Scenario
    from harness.station import Station
    from vm.machine import Machine
    from vm.registry import MachineOptions

_OPTIONS: Final = pytest.StashKey[Options]()
_DESCRIPTION: Final = pytest.StashKey[list[str]]()
_RUN: Final = pytest.StashKey["Run"]()
_STATION: Final = "station"
_OF_THE_IMAGE: Final = frozenset({"driver_image", "bare_machine", "machine", "run_scenario"})
"""Fixtures that need the driver under test."""
_TESTS_IMAGE: Final = pytest.StashKey[bool]()
_WORKER_KEY: Final = "ntproof"

_MARKERS: Final = (
    "driver_parameters(**values): values under the driver's Parameters key when the test's machine is prepared",
    "fresh: the test needs a machine that no other test has touched, also where that takes longer",
    "crash_expected: the test makes the machine bugcheck on purpose, so that no unload check follows it",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare ``--vm`` and the options beside it."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that others may implement."""
    from harness import pytest_hooks

    pluginmanager.add_hookspecs(pytest_hooks)


def pytest_ntproof_machines() -> Mapping[str, Callable[[MachineOptions], Machine]]:
    """Offer the machines of this project."""
    from functools import partial

    from vm.registry import create_machine, machine_names

    return {name: partial(create_machine, name) for name in machine_names()}


def pytest_configure(config: pytest.Config) -> None:
    """Parse the options once and register the markers."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    config.stash[_OPTIONS] = parse_options(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that uses a machine on every machine that was named."""
    if "vm_name" in metafunc.fixturenames:
        metafunc.parametrize("vm_name", metafunc.config.stash[_OPTIONS].machines, indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Note whether the run tests the driver under test or only others, which is not to be built then."""
    wanted = any(_OF_THE_IMAGE.intersection(getattr(item, "fixturenames", ())) for item in session.items)
    session.config.stash[_TESTS_IMAGE] = wanted


def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    """Say what the run tests and on what, if it tests a driver at all."""
    if config.option.collectonly or not any(_uses_station(item) for item in items):
        return []
    return [line for text in _run(config).header() for line in text.splitlines()]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Skip what the machine cannot do."""
    if not _uses_station(item):
        return (yield)
    from harness.pytest_reports import skipping

    with skipping():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Skip what the machine cannot do, and hold a driver that passed its test to unload without a trace."""
    if not _uses_station(item):
        return (yield)
    from harness.pytest_reports import LEASE, skipping

    with skipping():
        yield
        item.stash[LEASE].finish(crash_expected=item.get_closest_marker("crash_expected") is not None)
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put each fault on the side of its owner."""
    report = yield
    if _uses_station(item):
        from harness.pytest_reports import add_facts, place_on_owner

        place_on_owner(item, call, report)
        if call.when == "call":
            add_facts(item)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable(config: pytest.Config) -> Generator[None, Any, Any]:
    """A worker's report goes to pytest-xdist's controller as UTF-8, which has no place for a lone surrogate."""
    data = yield
    if _RUN not in config.stash:
        return data
    from harness.pytest_reports import encodable

    return encodable(data)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """An xdist worker hands the description of its run to the controller, which has no items of its own."""
    output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if output is not None and any(_uses_station(item) for item in session.items):
        output[_WORKER_KEY] = _run(session.config).description()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker which run it belongs to."""
    node.workerinput[RUN_KEY] = node.config.stash[_OPTIONS].run


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what an xdist worker says of its run."""
    if texts := (getattr(node, "workeroutput", None) or {}).get(_WORKER_KEY):
        known = node.config.stash.get(_DESCRIPTION, [])
        node.config.stash[_DESCRIPTION] = list(dict.fromkeys([*known, *texts]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was kept; under xdist also describe the run, since the controller collects nothing to report after."""
    described = config.stash.get(_DESCRIPTION, [])
    if not described and _RUN not in config.stash:
        return
    from harness.pytest_reports import witness_lines
    from harness.pytest_run import closing_lines

    reports = [report for some in terminalreporter.stats.values() for report in some]
    for text in [*described, *witness_lines(reports), *closing_lines(config.stash[_OPTIONS])]:
        for line in text.splitlines():
            terminalreporter.write_line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Give up machines that no test came to use."""
    if (run := config.stash.get(_RUN, None)) is not None:
        run.close()


@pytest.fixture(scope="session")
def vm_name(request: pytest.FixtureRequest) -> str:
    """Name of the machine that the test runs on, one of those given to ``--vm``."""
    return str(request.param)


@pytest.fixture(scope="session")
def driver_image(pytestconfig: pytest.Config) -> DriverImage:
    """The image under test: the one given to ``--driver``, else built from the sources."""
    return _run(pytestconfig).image


@pytest.fixture(scope="session")
def station(vm_name: str, pytestconfig: pytest.Config) -> Iterator[Station]:
    """The machine that the test runs on, with all that is needed to prepare it."""
    made = _run(pytestconfig).station(vm_name)
    yield made
    made.close()


@pytest.fixture
def lease(request: pytest.FixtureRequest, station: Station) -> Iterator[Lease]:
    """What this test does with its station."""
    from harness.lease import Lease
    from harness.pytest_reports import LEASE

    artefacts = _run(request.config).artefacts
    artefacts.begin(request.node.nodeid)
    witness = request.config.stash[_OPTIONS].witness
    taken = request.node.stash[LEASE] = Lease(station, artefacts, witness=witness)
    yield taken
    taken.give_back()


@pytest.fixture
def clean_machine(request: pytest.FixtureRequest, lease: Lease) -> Machine:
    """A machine with no driver installed."""
    from harness.machines import Stage

    return _prepare(request, lease, Stage.CLEAN)


@pytest.fixture
def bare_machine(request: pytest.FixtureRequest, lease: Lease) -> Machine:
    """A machine with the driver installed and not started."""
    from harness.machines import Stage

    return _prepare(request, lease, Stage.INSTALLED)


@pytest.fixture
def machine(request: pytest.FixtureRequest, lease: Lease) -> Machine:
    """A machine with the driver freshly started."""
    from harness.machines import Stage

    return _prepare(request, lease, Stage.RUNNING)


@pytest.fixture
def open_driver(lease: Lease) -> Callable[..., ProcNotify]:
    """Opens the device: ``open_driver(machine, account=..., access=...)``; the handle is closed when the test ends."""
    return lease.open


@pytest.fixture
def driver(machine: Machine, open_driver: Callable[..., ProcNotify]) -> ProcNotify:
    """The running driver's device, open as an administrator."""
    from harness.machines import DriverUnusable
    from vm.errors import Win32Error

    try:
        return open_driver(machine)
    except Win32Error as error:
        raise DriverUnusable(f"the driver runs, but its device cannot be opened: {error}") from error


@pytest.fixture
def run_scenario(request: pytest.FixtureRequest, lease: Lease) -> Callable[..., Capture]:
    """Runs a scenario, ``run_scenario(scenario)``, and returns its capture; the test fails when the verdict does."""
    from harness.machines import Stage

    # First the machine: a driver that does not build makes it useless, which is told once and not by each test.
    _prepare(request, lease, Stage.INSTALLED)
    image = _run(request.config).image

    def run(scenario: Scenario) -> Capture:
        __tracebackhide__ = True
        capture, verdict = lease.run_scenario(scenario, image.path)
        if not verdict.passed:
            pytest.fail(verdict.render())
        return capture

    return run


def _uses_station(item: pytest.Item) -> bool:
    return _STATION in getattr(item, "fixturenames", ())


def _prepare(request: pytest.FixtureRequest, lease: Lease, stage: Stage) -> Machine:
    marker = request.node.get_closest_marker("driver_parameters")
    fresh = request.node.get_closest_marker("fresh") is not None
    return lease.prepare(stage, marker.kwargs if marker is not None else {}, fresh=fresh)


def _run(config: pytest.Config) -> Run:
    """This process's part of the run, made when a test first needs it."""
    if (run := config.stash.get(_RUN, None)) is None:
        from harness.pytest_run import Run

        run = config.stash[_RUN] = Run(config, config.stash[_OPTIONS], tests_image=config.stash.get(_TESTS_IMAGE, True))
    return run
