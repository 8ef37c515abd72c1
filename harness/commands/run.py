"""Run a scenario on a machine and judge what the driver reports."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from harness.capture import Capture, CaptureItem
from harness.capture_json import capture_head_to_line, item_to_line
from harness.commands import _machine, _output
from harness.errors import ConfigurationError
from harness.exit_codes import ExitCode
from harness.model import check
from harness.runner import Runner
from harness.scenario_json import load_scenario


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("scenario", type=Path, help="scenario, a JSON file")
    parser.add_argument("--capture", type=Path, metavar="FILE", help="store the capture, for 'ntproof check'")
    _machine.configure(parser)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Run and judge."""
    scenario = load_scenario(arguments.scenario)
    image = _machine.driver_image(arguments)
    with _machine.open_machine(arguments) as machine:
        runner = Runner(scenario, machine, image=image)
        header = runner.header()
        items: Iterable[CaptureItem] = runner.items()
        if arguments.capture is not None:
            items = _stored(Capture(header, items), arguments.capture)
        verdict = check(scenario, Capture(header, items))
    return _output.print_verdicts([verdict], as_json=arguments.json)


def _stored(capture: Capture, path: Path) -> Iterator[CaptureItem]:
    """The items, each written to a file as it passes, so that a crash of the harness leaves what came before."""
    with ExitStack() as stack:
        with _named(path):
            stream = path.open("w", encoding="utf-8")
            stack.enter_context(_closed_quietly(stream))
            stream.write(capture_head_to_line(capture.header))
        for item in capture.items:
            with _named(path):
                stream.write(item_to_line(item))
            yield item
        with _named(path):
            stream.close()


@contextmanager
def _closed_quietly(stream: TextIO) -> Iterator[None]:
    """Closed in the end; what was wrong with it has been said by then."""
    try:
        yield
    finally:
        with suppress(OSError):
            stream.close()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say which file cannot be written."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"--capture {path}: {error.strerror}; name a file that can be written") from error
