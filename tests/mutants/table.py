"""Prints the mutants and what kills them, as a Markdown table: ``python -m tests.mutants.table``.

With ``--suite`` the whole conformance suite runs on each mutant, or on those named, and every test that fails is told:
that is how the test to name for a new mutant is found, and how strong the suite is where it is narrow.
"""

# ruff: noqa: T201 - a command prints its answer

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from tests.mutants.building import build_mutant
from tests.mutants.catalogue import Mutant, load_mutants
from tests.mutants.judging import Outcome, run_suite
from tests.mutants.patching import PatchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def main(arguments: Sequence[str]) -> int:
    """Print the table, or with ``--suite`` what the whole suite finds; 1 when a mutant survives or cannot be built."""
    mutants = {mutant.name: mutant for mutant in load_mutants()}
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.table", description=__doc__.splitlines()[0])
    parser.add_argument("--suite", action="store_true", help="run the whole suite on each mutant")
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants, all by default")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in mutants]
    if unknown:
        parser.error(f"there is no mutant {unknown[0]!r} in mutants.toml")
    chosen = [mutants[name] for name in options.names] or list(mutants.values())
    if options.suite:
        return max(_measure(mutant) for mutant in chosen)
    print("\n".join(table(chosen)))
    return 0


def table(mutants: Iterable[Mutant]) -> list[str]:
    """The lines of a Markdown table: mutant, defect and the tests that fail on it."""
    lines = ["| mutant | defect | killed by |", "|---|---|---|"]
    for mutant in mutants:
        tests = "<br>".join(f"`{test}`".replace("|", "\\|") for test in mutant.killed_by)
        lines.append(f"| {mutant.name} | {mutant.defect} | {tests} |")
    return lines


def _measure(mutant: Mutant) -> int:
    try:
        built = build_mutant(mutant)
    except (PatchError, HarnessError) as error:
        print(f"{mutant.name}: cannot be built: {error}", flush=True)
        return 1
    with tempfile.TemporaryDirectory(prefix="ntproof-mutant-") as scratch:
        judgement = run_suite(built.image, (), Path(scratch))
    failed = [test for test, outcome in judgement.outcomes.items() if outcome is Outcome.FAILED]
    print(f"{mutant.name}: {len(failed)} of {len(judgement.outcomes)} tests fail", flush=True)
    for test in failed:
        print(f"    {test}{' (named)' if test in mutant.killed_by else ''}", flush=True)
    if not judgement.outcomes:
        print(judgement.output)
    return 0 if failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
