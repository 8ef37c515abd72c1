"""How commands print: as JSON for scripts, in colour and tables on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from harness.exit_codes import ExitCode
from harness.verdict import Verdict

MAXIMUM_PASSED_LINES = 5


def print_verdicts(verdicts: Sequence[Verdict], *, as_json: bool) -> ExitCode:
    """Print verdicts and return what the command ends with."""
    passed = all(verdict.passed for verdict in verdicts)
    if as_json:
        print(json.dumps({"passed": passed, "verdicts": [verdict.to_json() for verdict in verdicts]}, indent=2))
    else:
        for line in _lines(verdicts):
            _print(line)
    return ExitCode.PASSED if passed else ExitCode.DRIVER_FAILED


def _lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Each failure in full; of many verdicts the passed ones only as a count."""
    if len(verdicts) <= MAXIMUM_PASSED_LINES:
        return [line for verdict in verdicts for line in verdict.lines()]
    failed = [verdict for verdict in verdicts if not verdict.passed]
    lines = [line for verdict in failed for line in verdict.lines()]
    return [*lines, f"{len(verdicts) - len(failed)} of {len(verdicts)} passed"]


def _print(line: str) -> None:
    if not sys.stdout.isatty():
        print(line)
        return
    from rich.console import Console
    from rich.text import Text

    style = "bold red" if ": failed with" in line else "green" if ": passed (" in line else ""
    if line.startswith(("    why:", "  tolerated")):
        style = "dim"
    Console(highlight=False, soft_wrap=True).print(Text(line, style=style))


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows: as a table on a terminal, else a line each with the headings left out."""
    if not sys.stdout.isatty():
        for row in rows:
            print("  ".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def megabytes(count: int) -> str:
    """Bytes in words for people, in decimal units."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
