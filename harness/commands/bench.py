"""Measure the emulated machine, the model and the suite on this computer."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from harness.benchmark import FIGURES, Figure, measure
from harness.commands._machine import DRIVER
from harness.driver_file import check_driver_file
from harness.errors import ConfigurationError
from harness.exit_codes import ExitCode


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a file, under stable keys")
    parser.add_argument("--driver", type=Path, metavar="FILE", help="signed .sys to measure with (default: built)")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Measure and print."""
    driver = _driver(arguments.driver)
    if arguments.json is not None:
        # Said now, and not after half a minute of measuring.
        _write(arguments.json, "")
    figures = measure(driver, progress=lambda words: print(f"measuring: {words}", file=sys.stderr, flush=True))
    if arguments.json is not None:
        _write(arguments.json, json.dumps(figures, indent=2) + "\n")
    _print(figures)
    return ExitCode.PASSED


def _driver(given: Path | None) -> Path:
    if given is None:
        from harness.build.driver_build import build_driver
        from harness.build.toolchains import project_toolchain

        return build_driver(DRIVER, toolchain=project_toolchain()).image
    return check_driver_file(given).absolute()


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--json {path}: {error.strerror}; name another file") from None


def machine_description() -> str:
    """What the figures were taken on."""
    return f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}, Python {platform.python_version()}"


def _cells(figure: Figure, figures: dict[str, float]) -> tuple[str, str, str]:
    value = figures[figure.key]
    text = f"{value:,.0f}" if value >= 1000 or float(value).is_integer() else f"{value:,.2f}"
    return figure.label, f"{text} {figure.unit}".strip(), figure.target


def _print(figures: dict[str, float]) -> None:
    rows = [_cells(figure, figures) for figure in FIGURES]
    if not sys.stdout.isatty():
        for label, value, target in rows:
            print(f"{label}: {value}" + (f" (target: {target})" if target else ""))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"ntproof bench: {machine_description()}", title_justify="left")
    table.add_column("figure")
    table.add_column("measured", justify="right")
    table.add_column("target", style="dim")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
