"""What one pytest process has of its run: the driver's image, the stations, the artefacts, and what it says of them."""

from __future__ import annotations

import textwrap
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Final

import pytest

from harness.artefacts import Artefacts, default_folder, prune
from harness.errors import HarnessError
from harness.machine_options import guest_programs
from harness.machines import DriverImage, describe_run, find_driver_image
from harness.pytest_options import Options, machine_factories
from harness.station import Station
from vm.errors import MachineBroken, MachineConfigurationError, MachineError
from vm.registry import MachineOptions

if TYPE_CHECKING:
    from vm.machine import Machine, MachineFacts

_WIDTH: Final = 110


class Run:
    """One process's part of a run.

    Args:
        config: pytest's configuration.
        options: what the user asked for.
        tests_image: whether a test asks for the driver under test; others bring drivers of their own.

    Attributes:
        artefacts: what is kept of failures.
    """

    def __init__(self, config: pytest.Config, options: Options, *, tests_image: bool) -> None:
        self.options = options
        self.artefacts = run_artefacts(options)
        self._config = config
        self._tests_image = tests_image
        self._image: DriverImage | None = None
        self._stations: dict[str, Station] = {}
        self._facts: list[str] = []
        self._in_header = False

    @property
    def image(self) -> DriverImage:
        """The image under test; built once.

        Raises:
            BuildError: the sources do not build.
        """
        if self._image is None:
            self._image = find_driver_image(self.options.driver, self.options.toolchain)
        return self._image

    def station(self, name: str) -> Station:
        """The machine of a name with the driver under test."""
        if name not in self._stations:
            self._stations[name] = Station(name, lambda: self._create(name), lambda: self.image, self._introduce)
        return self._stations[name]

    def header(self) -> list[str]:
        """What the run tests; the machine that is used first is made for that and tells what it is."""
        self._in_header = True
        try:
            lines = self.description()
            return [*lines, *self._first_machine()] if lines else []
        finally:
            self._in_header = False

    def description(self) -> list[str]:
        """A text for each machine, and what those that were made are. A build that fails is told by its tests."""
        try:
            image = self.image if self._tests_image else None
            return [*describe_run(self.options.machines, self.options.profile, image), *self._facts]
        except HarnessError:
            return []

    def close(self) -> None:
        """Give up what no test came to use; what it says then has nobody to be said to."""
        for station in self._stations.values():
            with suppress(MachineError):
                station.close()

    def _first_machine(self) -> list[str]:
        station = self.station(self.options.machines[0])
        try:
            _ = station.machine
        except MachineBroken as error:
            # The first test tries once more, and says what is wrong if that fails as well.
            station.note_failure(error)
            return [f"ntproof: {station.name}: {error}; it is tried once more"]
        except (MachineConfigurationError, HarnessError, OSError):
            # Nothing will be different then; the first test says it.
            return []
        return self._facts

    def _create(self, name: str) -> Machine:
        options = self.options
        return machine_factories(self._config)[name](
            MachineOptions(
                profile=options.profile,
                connect=options.connect,
                worker=options.worker,
                slots=options.slots,
                artefacts=self.artefacts.root,
                occasion=self.artefacts.occasion,
                verifier=options.verifier,
                tools=guest_programs,
                progress=self._progress,
            )
        )

    def _introduce(self, facts: MachineFacts) -> None:
        text = facts_text(facts)
        if text not in self._facts:
            self._facts.append(text)
            if not self._in_header:
                self._progress(text)

    def _progress(self, text: str) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if not isinstance(reporter, pytest.TerminalReporter):
            return
        # While a test is set up and runs, pytest captures what its own reporter writes as well.
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture is not None else nullcontext():
            reporter.ensure_newline()
            for line in text.splitlines():
                reporter.write_line(line)


def run_artefacts(options: Options) -> Artefacts:
    """The artefacts of a run, in the same folder for all its processes."""
    return Artefacts(options.artefacts if options.artefacts is not None else default_folder(options.run))


def facts_text(facts: MachineFacts) -> str:
    """What a machine is, in lines for people."""
    return textwrap.fill(
        f"ntproof: {facts.machine}: {one_line(facts)}",
        _WIDTH,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def one_line(facts: MachineFacts) -> str:
    """What a machine is, for a property in a report file."""
    return "; ".join([f"build {facts.build}", *(f"{name}: {value}" for name, value in facts.details.items())])


def closing_lines(options: Options) -> list[str]:
    """Where the artefacts of a run are, if there are any; those of old runs are removed then."""
    artefacts = run_artefacts(options)
    kept = artefacts.kept()
    if not kept:
        return []
    if options.artefacts is None:
        prune(artefacts.root)
    return [f"ntproof: kept of {len(kept)} test{'s' if len(kept) > 1 else ''}: {artefacts.root}"]
