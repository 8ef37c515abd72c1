"""The whole conformance suite runs on WindowsMachine, unchanged, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.standin.requirements import require_remoting

require_remoting()

ROOT = Path(__file__).resolve().parents[3]
CANNOT = (
    "no file is known of which Windows tells drivers",
    "CreateProcessW makes a process and its first thread in one step",
    "RtlCloneUserProcess clones its caller",
    "only a Pico provider",
    "a program that asks for elevation is only refused to a standard user",
    "CreateProcessW takes texts that end at their first NUL",
)
"""What Windows cannot be asked, by its reason; tests that need one of these skip, and no others."""
SKIPPED = re.compile(r"^SKIPPED \[\d+\] [^ ]+ the machine cannot do this: (.*)$", re.MULTILINE)


def test_the_conformance_suite_passes_on_a_windows_machine():
    suite = [sys.executable, "-m", "pytest", "-q", "--pyargs", "harness.conformance", "-rs", "-n", "0"]
    machine = ["-p", "tests.fixtures.local_machine", "--vm", "local", "-p", "no:cacheprovider"]

    run = subprocess.run([*suite, *machine], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)

    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    (passed,) = re.findall(r"(\d+) passed", run.stdout)
    assert int(passed) > 500
    reasons = SKIPPED.findall(run.stdout)
    assert reasons
    assert [reason for reason in reasons if not any(known in reason for known in CANNOT)] == []
    assert "SKIPPED" not in SKIPPED.sub("", run.stdout)
