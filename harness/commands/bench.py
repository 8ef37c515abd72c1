"""Measure the emulated machine, the model and the suite on this computer, or a Windows machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from harness.benchmark import FIGURES, Figure, measure
from harness.commands import _machine, _output
from harness.driver_file import check_driver_file
from harness.errors import ConfigurationError
from harness.exit_codes import ExitCode

if TYPE_CHECKING:
    from harness.windows_benchmark import Spread
    from vm.machine import MachineFacts

EMULATED = "emulated"
DEFAULT_ROUNDS = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--vm",
        default=EMULATED,
        metavar="NAME",
        help="what to measure: emulated, or the image of a Windows machine (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a file, under stable keys")
    parser.add_argument("--driver", type=Path, metavar="FILE", help="signed .sys to measure with (default: built)")
    parser.add_argument(
        "--rounds",
        type=_rounds,
        metavar="N",
        help=f"how often each figure of a Windows machine is taken; the median is shown (default: {DEFAULT_ROUNDS})",
    )
    _machine.configure_windows(parser)
    parser.set_defaults(profile="observed")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Measure and print."""
    driver = _driver(arguments.driver)
    if arguments.json is not None:
        # Said now, and not after half a minute of measuring.
        _write(arguments.json, "")
    if arguments.vm != EMULATED:
        return _windows(arguments, driver)
    if arguments.rounds is not None:
        raise ConfigurationError("--rounds: only figures of Windows machines are taken in rounds; add --vm or leave it")
    figures = measure(driver, progress=_progress)
    if arguments.json is not None:
        _write(arguments.json, json.dumps(figures, indent=2) + "\n")
    rows = [(figure.label, _value(figure, figures[figure.key]), figure.target) for figure in FIGURES]
    _print(machine_description(), ("figure", "measured", "target"), rows)
    return ExitCode.PASSED


def _windows(arguments: argparse.Namespace, driver: Path) -> ExitCode:
    from harness import windows_benchmark
    from harness.machines import find_driver_image
    from vm.registry import create_machine

    facts, figures = windows_benchmark.measure(
        arguments.vm,
        _machine.machine_options(arguments),
        find_driver_image(driver),
        rounds=arguments.rounds or DEFAULT_ROUNDS,
        progress=_progress,
        make=create_machine,
    )
    if arguments.json is not None:
        document = {key: asdict(one) for key, one in figures.items()}
        _write(arguments.json, json.dumps(document, indent=2) + "\n")
    rows = [spread_row(figure, figures) for figure in windows_benchmark.FIGURES if figure.key in figures]
    _print(_described(facts), ("figure", "median", "range", "target"), rows)
    return ExitCode.PASSED


def _described(facts: MachineFacts) -> str:
    from harness.pytest_run import one_line

    return f"{facts.machine}: {one_line(facts)}; {machine_description()}"


def _rounds(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds; give 1 to 1000")
    return int(text)


def _driver(given: Path | None) -> Path:
    if given is None:
        from harness.build.driver_build import build_driver
        from harness.build.toolchains import project_toolchain

        return build_driver(_machine.DRIVER, toolchain=project_toolchain()).image
    return check_driver_file(given).absolute()


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--json {path}: {error.strerror}; name another file") from None


def _progress(words: str) -> None:
    print(f"measuring: {words}", file=sys.stderr, flush=True)


def machine_description() -> str:
    """What the figures were taken on."""
    return f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}, Python {platform.python_version()}"


def _value(figure: Figure, value: float) -> str:
    text = f"{value:,.0f}" if value >= 1000 or float(value).is_integer() else f"{value:,.2f}"
    return f"{text} {figure.unit}".strip()


def spread_row(figure: Figure, figures: Mapping[str, Spread]) -> tuple[str, str, str, str]:
    """A figure that was taken several times as the cells of a row."""
    found = figures[figure.key]
    several = f"{_value(figure, found.lowest)} to {_value(figure, found.highest)}" if found.count > 1 else ""
    return figure.label, _value(figure, found.median), several, figure.target


def _print(measured: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if sys.stdout.isatty():
        _output.print_table(f"ntproof bench: {measured}", headings, rows)
        return
    for label, value, *others, target in rows:
        spread = "".join(f", {one}" for one in others if one)
        print(f"{label}: {value}{spread}" + (f" (target: {target})" if target else ""))
