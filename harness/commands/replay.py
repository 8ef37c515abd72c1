"""Replay recorded histories on a machine and compare what comes back with what was recorded."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.capture_json import is_capture, open_lines, peek
from harness.commands import _machine, _output
from harness.errors import InputError
from harness.exit_codes import ExitCode
from harness.histories import History, read_histories
from harness.model import check
from harness.replay import compare_tree, replay_history
from harness.runner import run_scenario
from harness.verdict import Verdict
from vm.machine import Machine


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("history", type=Path, help="recorded histories, JSON lines")
    parser.add_argument("--id", action="append", metavar="ID", help="replay this history only (repeatable)")
    _machine.configure(parser)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Replay and compare."""
    wanted = arguments.id
    path = str(arguments.history)
    lines, first = peek(open_lines(arguments.history), arguments.history)
    if is_capture(first):
        raise InputError(f"{path}: a capture, not recorded histories; 'ntproof check' judges it")
    histories = [h for h in read_histories(lines, path) if wanted is None or h.id in wanted]
    missing = set(wanted or ()) - {history.id for history in histories}
    if missing:
        raise InputError(f"{path}: no history {', '.join(sorted(missing))}; look at its 'id' keys")
    image = _machine.driver_image(arguments)
    verdicts: list[Verdict] = []
    with _machine.open_machine(arguments) as machine:
        for history in histories:
            if verdicts:
                # No history starts where another ended.
                machine.reset()
            verdicts.append(replay_on(machine, history, image))
    return _output.print_verdicts(verdicts, as_json=arguments.json)


def replay_on(machine: Machine, history: History, image: Path | None) -> Verdict:
    """Replay one history and judge both what the driver reported and whether it is the tree that was recorded.

    Args:
        machine: where.
        history: what.
        image: the driver's image; None for a driver that is installed already.
    """
    replay = replay_history(history)
    capture = run_scenario(replay.scenario, machine, image=image)
    verdict = check(replay.scenario, capture)
    differences = tuple(compare_tree(replay, capture.items))
    return Verdict(
        verdict.discrepancies + differences,
        verdict.total + len(differences),
        verdict.tolerated,
        verdict.statistics,
        replay.scenario.name,
    )
