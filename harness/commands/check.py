"""Judge a stored capture, or histories recorded by another witness, without any machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.capture_json import is_capture, open_lines, peek, read_capture
from harness.commands import _output
from harness.errors import ConfigurationError, InputError
from harness.exit_codes import ExitCode
from harness.histories import is_history, read_histories
from harness.model import check
from harness.scenario import Scenario
from harness.scenario_json import load_scenario
from harness.verdict import Verdict
from harness.witness import WitnessLog, cross_check, read_witness
from harness.witness.logs import witness_of_history


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="[SCENARIO] CAPTURE",
        help="the scenario that was run, if known, and the capture or histories, JSON lines",
    )
    parser.add_argument(
        "--witness",
        type=Path,
        metavar="FILE",
        help="also hold the capture against what an independent witness saw: rendered XML of Security events 4688 and "
        "4689 or of Sysmon events 1 and 5, or recorded histories",
    )
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Judge."""
    if len(arguments.files) > 2:
        raise ConfigurationError("check takes a capture, or a scenario and a capture; give at most two files")
    *scenarios, capture = arguments.files
    scenario = _scenario(scenarios[0]) if scenarios else None
    verdicts = list(judge_file(capture, scenario))
    if arguments.witness is not None:
        verdicts += cross_check_file(capture, read_witness(arguments.witness))
    return _output.print_verdicts(verdicts, as_json=arguments.json)


def judge_file(path: Path, scenario: Scenario | None) -> Iterator[Verdict]:
    """The verdicts on what a file holds: one capture, or any number of histories.

    Raises:
        InputError: the file is malformed or neither, or histories were given with a scenario.
    """
    lines, first = peek(open_lines(path), path)
    if is_capture(first):
        yield check(scenario, read_capture(lines, str(path)))
    elif not is_history(first):
        raise InputError(f"{path}:1: neither a capture nor a history; a capture begins with its format and version")
    elif scenario is not None:
        raise InputError(f"{path}: a recorded history has no scenario; give the history alone")
    else:
        for history in read_histories(lines, str(path)):
            verdict = check(None, history.as_capture())
            yield Verdict(verdict.discrepancies, verdict.total, verdict.tolerated, verdict.statistics, history.id)


def cross_check_file(path: Path, witnesses: Iterable[WitnessLog]) -> Iterator[Verdict]:
    """The verdicts on what a file holds against each witness: a capture, or histories of the witness's machine.

    Raises:
        InputError: the file is malformed or neither, or no witness saw the machine of any history.
    """
    lines, first = peek(open_lines(path), path)
    if is_capture(first):
        items = tuple(read_capture(lines, str(path)).items)
        for witness in witnesses:
            yield cross_check(items, witness)
        return
    histories = list(read_histories(lines, str(path)))
    pairs = [
        (history, witness)
        for history in histories
        for witness in witnesses
        if (history.host, history.source) == (witness.host, witness.source)
        and witness_of_history(history).origin is not witness.origin
    ]
    if not pairs:
        raise InputError(f"{path}: no history has the host and the source of any witness; give logs of one machine")
    for history, witness in pairs:
        yield cross_check(history.events, witness, history.id)


def _scenario(path: Path) -> Scenario:
    try:
        return load_scenario(path)
    except InputError as error:
        raise InputError(f"{error} (of two files the first is the scenario, the second the capture)") from error
