"""Runs with --witness: the machine's own record is held against what the driver reported, test by test."""

from __future__ import annotations

import pytest

from harness import cli
from harness.exit_codes import ExitCode
from tests.unit.plugin.sources import LAUNCH, SCENARIO, junit_properties

pytest_plugins = ["pytester"]

READS = (
    LAUNCH
    + """
def test_it(machine, driver):
    for name in ("a", "b", "c"):
        launched = launch(machine, f"C:\\\\{name}.exe")
        machine.exit_process(launched.pid)
    driver.read_available()
"""
)
WITNESS = "--witness"


def test_a_driver_that_reports_what_the_machine_recorded_passes(run):
    run(READS, WITNESS, vm="witnessed").assert_outcomes(passed=1)
    run(SCENARIO, WITNESS, vm="witnessed").assert_outcomes(passed=1)


def test_what_the_machine_recorded_otherwise_fails_the_test_that_read_it(run):
    result = run(READS, WITNESS, vm="misled")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E   WitnessDisagrees: what the test read, against the kernel's audit: failed with 3 discrepancies *",
            "E     image-name *other.exe*a.exe*",
        ]
    )


@pytest.mark.parametrize(("source", "capture"), [(READS, "read"), (SCENARIO, "scenario-1")])
def test_both_sides_are_kept_for_another_look(run, pytester, source, capture):
    run(source, WITNESS, vm="misled").assert_outcomes(failed=1)
    (folder,) = (pytester.path / "kept").iterdir()

    arguments = ["check", "--witness", str(folder / "witness-1-Security.xml"), str(folder / f"{capture}.jsonl")]

    assert cli.main(arguments) == ExitCode.DRIVER_FAILED


def test_a_scenario_fails_likewise_with_the_witness_verdict(run):
    result = run(SCENARIO, WITNESS, vm="misled")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*come and go, against the kernel's audit: failed with 1 discrepanc*"])


def test_without_the_option_nobody_asks(run):
    run(READS, vm="misled").assert_outcomes(passed=1)


def test_what_was_recorded_before_a_test_is_not_held_against_it(run):
    source = READS + READS.partition("def test_it")[1] + READS.partition("def test_it")[2]
    source = source.replace("def test_it", "def test_first", 1)
    run(source, WITNESS, vm="witnessed").assert_outcomes(passed=2)


def test_a_log_that_lost_records_is_said_so_and_accuses_nobody_of_missing_events(run, pytester):
    result = run(READS, WITNESS, "--junitxml=report.xml", vm="forgetful")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["ntproof: witness: the log Security lost records, * (1 times)"])
    assert "the log Security lost records" in junit_properties(pytester)["witness"][0]


def test_with_xdist_it_is_said_too(run):
    result = run(READS, WITNESS, "-n", "1", "-p", "xdist.plugin", vm="forgetful")
    result.stdout.fnmatch_lines(["ntproof: witness: the log Security lost records, * (1 times)"])


def test_a_driver_that_was_stopped_meanwhile_is_not_accused_of_what_it_could_not_see(run):
    source = """
from harness.scenario import ExitProcess, Launch, ProvideImage, Scenario, StartDriver, StopDriver

PATH = "C:\\\\a.exe"

def one(label):
    return (Launch(label, PATH, label), ExitProcess(label))

def test_it(run_scenario):
    parts = (ProvideImage(PATH), StartDriver(), *one("a"), StopDriver(), *one("unseen"), StartDriver(), *one("b"))
    run_scenario(Scenario("in two parts", parts))
"""
    result = run(source, WITNESS, vm="witnessed")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["ntproof: witness: the driver did not run all the time, * (1 times)"])


def test_a_record_that_cannot_be_read_is_the_machines_fault(run):
    result = run(READS, WITNESS, vm="babbling")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E   MachineBroken: what the machine gives as its record cannot be read: *"])


@pytest.mark.parametrize("fixture", ["machine", "run_scenario"])
def test_a_machine_that_keeps_no_record_is_told_to_the_user(run, fixture):
    result = run(f"def test_it({fixture}): pass", WITNESS)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E   ConfigurationError: --witness: fake keeps no record of processes; leave it out"])


def test_a_test_that_crashed_the_machine_is_not_held_against_a_record_that_is_gone(run):
    source = READS.replace("    driver.read_available()", "    driver.read_available()\n    launch(machine, 'crash')")
    result = run(source, WITNESS, vm="misled")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E   MachineCrashed: bugcheck 0xD5 *"])
