"""Examine a driver image and predict what Windows will answer to it, without running it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from harness.build.findings import Severity
from harness.build.image_checks import DEFAULT_WINDOWS_BUILD
from harness.exit_codes import ExitCode
from harness.inspection.inspect import Inspection, inspect
from harness.inspection.predictions import Certainty
from harness.inspection.report import fact_rows, lines, to_json
from harness.printable import printable

_COLOURS: Final = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}
_CERTAINTY_COLOURS: Final = {Certainty.WILL: "bold red", Certainty.MAY: "yellow", Certainty.OPEN: "dim"}
_OLDEST_BUILD: Final = 7600
_NEWEST_BUILD: Final = 99999


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help="the driver image, a .sys file")
    parser.add_argument(
        "--build",
        type=_build,
        default=DEFAULT_WINDOWS_BUILD,
        metavar="NUMBER",
        help="the Windows build that must load it, such as 26100 (default: %(default)s)",
    )
    parser.add_argument("--unsigned", action="store_true", help="take no offence at a missing signature")
    parser.add_argument("--json", action="store_true", help="print the inspection as JSON")


def _build(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not _OLDEST_BUILD <= int(text) <= _NEWEST_BUILD:
        raise argparse.ArgumentTypeError(f"{text!r} is no Windows build; give a number such as 17763 or 26100")
    return int(text)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Examine the image. An error that is found in it is the driver's; a file that is no image is the user's."""
    found = inspect(arguments.image, windows_build=arguments.build, require_signature=not arguments.unsigned)
    if arguments.json:
        print(json.dumps(to_json(found), indent=2))
    elif sys.stdout.isatty():
        _print_tables(found)
    else:
        print("\n".join(lines(found)))
    return ExitCode.PASSED if found.passed else ExitCode.DRIVER_FAILED


def _print_tables(found: Inspection) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def table(title: str, *headings: str) -> Table:
        made = Table(title=title, title_justify="left", expand=False, show_header=any(headings))
        for heading in headings:
            made.add_column(heading, overflow="fold")
        return made

    console = Console(highlight=False)
    facts = table("image", "", "")
    for name, value in fact_rows(found):
        facts.add_row(Text(printable(name)), Text(printable(value)))
    console.print(facts)
    findings = table("findings" if found.findings else "findings: none", "", "check", "what", "advice")
    for one in found.findings:
        sign = Text(one.severity.value, _COLOURS[one.severity])
        findings.add_row(sign, Text(one.check), Text(printable(one.message)), Text(printable(one.advice)))
    console.print(findings)
    title = f"what Windows will answer (imports held against build {found.windows_build})"
    predictions = table(title, "", "where", "when", "answer", "why", "advice")
    for prediction in found.predictions:
        sign = Text(prediction.certainty.value, _CERTAINTY_COLOURS[prediction.certainty])
        cells = (prediction.where, prediction.condition, prediction.answer, prediction.because, prediction.advice)
        predictions.add_row(sign, *(Text(printable(cell)) for cell in cells))
    console.print(predictions)
