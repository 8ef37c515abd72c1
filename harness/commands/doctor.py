"""Check what each kind of machine needs of this computer, and say how to get what is missing."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from harness.commands import _machine
from harness.doctor import EMULATED, WDK, WINDOWS, Host, Need, ThisComputer, examine, examine_kits, usable
from harness.doctor_windows import examine_windows
from harness.exit_codes import ExitCode
from vm.windows.hypervisor.uri import chosen_uri

_TITLES: Final = {
    EMULATED: "emulated machine",
    WINDOWS: "Windows machines (optional)",
    WDK: "builds with a Windows kit (optional)",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    _machine.add_connect(parser)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Examine this computer. Only the emulated machine must be usable; Windows machines are optional."""
    uri = chosen_uri(_machine.connect_uri(arguments), os.environ)
    return report(ThisComputer(), uri, as_json=arguments.json)


def report(host: Host, uri: str, *, as_json: bool) -> ExitCode:
    """Examine a computer and a hypervisor, print what was found and return what the command ends with."""
    needs = [*examine(host), *examine_windows(host, uri), *examine_kits(host)]
    if as_json:
        verdict = {kind: usable(kind, needs) for kind in _TITLES}
        print(json.dumps({"usable": verdict, "needs": [asdict(need) for need in needs]}, indent=2))
    elif sys.stdout.isatty():
        _print_tables(needs)
    else:
        print("\n".join(lines(needs)))
    return ExitCode.PASSED if usable(EMULATED, needs) else ExitCode.MACHINE_ERROR


def lines(needs: Sequence[Need]) -> list[str]:
    """The findings as plain lines."""
    found = []
    for kind, title in _TITLES.items():
        found.append(f"{title}: {_word(kind, needs)}")
        for need in needs:
            if need.kind == kind:
                found.append(f"  {'ok' if need.met else 'MISSING':8}{need.name}: {need.found}")
                if need.remedy:
                    found.append(f"          {need.remedy}")
    return found


def _print_tables(needs: Sequence[Need]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for kind, title in _TITLES.items():
        table = Table(title=f"{title}: {_word(kind, needs)}", title_justify="left", expand=False)
        for heading in ("", "needed", "found", "to get it"):
            table.add_column(heading, overflow="fold")
        for need in needs:
            if need.kind == kind:
                sign = Text("ok", "green") if need.met else Text("missing", "bold red")
                table.add_row(sign, Text(need.name), Text(need.found), Text(need.remedy))
        console.print(table)


def _word(kind: str, needs: Sequence[Need]) -> str:
    if usable(kind, needs):
        return "all found"
    missing = sum(not need.met for need in needs if need.kind == kind)
    return f"{missing} missing"
