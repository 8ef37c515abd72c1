from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.capture_json import write_capture
from harness.commands import _machine
from harness.errors import SigningFailed
from harness.exit_codes import ExitCode
from harness.runner import run_scenario
from harness.scenario_json import dump_scenario
from tests.unit.harness.fake_machine import FakeMachine
from tests.unit.harness.histories_data import histories_file
from tests.unit.harness.test_model import EVERYTHING, IMAGE
from vm.errors import MachineBroken, MachineConfigurationError, UnsupportedByMachine

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def files(tmp_path: Path):
    (tmp_path / "scenario.json").write_text(dump_scenario(EVERYTHING))
    for fault in ("none", "parent"):
        with (tmp_path / f"{fault}.jsonl").open("w") as stream:
            write_capture(run_scenario(EVERYTHING, FakeMachine(fault), image=IMAGE), stream)
    return tmp_path


@pytest.fixture
def machine_of(monkeypatch):
    """Commands get this machine, and an image that nobody builds."""

    def give(machine: FakeMachine | Exception):
        def open_machine(arguments):
            from contextlib import contextmanager

            @contextmanager
            def opened():
                if isinstance(machine, Exception):
                    raise machine
                yield machine

            return opened()

        monkeypatch.setattr(_machine, "open_machine", open_machine)
        monkeypatch.setattr(_machine, "driver_image", lambda arguments: IMAGE)

    return give


def test_a_good_capture_passes(files, capsys):
    assert cli.main(["check", str(files / "scenario.json"), str(files / "none.jsonl")]) == ExitCode.PASSED
    assert capsys.readouterr().out.startswith("everything: passed (")


def test_a_bad_capture_fails_and_says_why(files, capsys):
    assert cli.main(["check", str(files / "parent.jsonl")]) == ExitCode.DRIVER_FAILED
    out = capsys.readouterr().out
    assert "parent (step 3, a, notification 1): expected parent 1000; seen 1004" in out
    assert "why: docs/reference/process-notify.md section 2" in out


def test_json_holds_the_verdict_under_stable_keys(files, capsys):
    assert cli.main(["check", "--json", str(files / "parent.jsonl")]) == ExitCode.DRIVER_FAILED

    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is False
    assert document["verdicts"][0]["discrepancies"][0]["kind"] == "parent"
    assert document["verdicts"][0]["statistics"]["launches"] == 13


def test_histories_are_judged_one_by_one(capsys):
    assert cli.main(["check", str(histories_file())]) == ExitCode.PASSED
    assert "passed" in capsys.readouterr().out


def test_a_scenario_runs_and_its_capture_can_be_judged_later(files, capsys, machine_of):
    machine_of(FakeMachine("command"))
    stored = files / "stored.jsonl"

    assert cli.main(["run", str(files / "scenario.json"), "--capture", str(stored)]) == ExitCode.DRIVER_FAILED
    ran = capsys.readouterr().out
    assert cli.main(["check", str(files / "scenario.json"), str(stored)]) == ExitCode.DRIVER_FAILED
    assert capsys.readouterr().out == ran


def test_a_history_is_replayed(capsys, machine_of):
    machine_of(FakeMachine())
    first = json.loads(histories_file().read_text(encoding="utf-8").splitlines()[0])["id"]

    assert cli.main(["replay", str(histories_file()), "--id", first]) == ExitCode.PASSED
    assert capsys.readouterr().out.startswith(f"history {first}: passed")


def test_every_history_is_replayed_on_one_machine_that_is_reset_between_them(capsys, machine_of):
    class Resettable(FakeMachine):
        resets = 0

        def reset(self, *, fresh=False):
            self.__init__()
            Resettable.resets += 1

    machine_of(Resettable())
    count = sum(bool(line.strip()) for line in histories_file().read_text(encoding="utf-8").splitlines())

    cli.main(["replay", str(histories_file())])
    assert Resettable.resets == count - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere.jsonl"], "nowhere.jsonl: cannot read it"),
        (["check", "a", "b", "c"], "give at most two files"),
        (["run", "nowhere.json"], "nowhere.json: cannot read it"),
        (["replay", "{histories}", "--id", "nobody"], "no history nobody"),
        (["check", "{scenario}", "{histories}"], "a recorded history has no scenario"),
        (["check", "{scenario}"], "one JSON object a line, which a scenario has not"),
        (["check", "{capture}", "{scenario}"], "of two files the first is the scenario, the second the capture"),
        (["replay", "{capture}"], "a capture, not recorded histories; 'ntproof check' judges it"),
        (["replay", "{empty}"], "the file is empty"),
        (["run", "{scenario}", "--verifier", "x"], "error: --verifier x: Driver Verifier has no option 'x'"),
        (["run", "{scenario}", "--verifier", "none", "--vm", "nope"], "there is no machine 'nope'"),
        (
            ["build", "--out", "{binary}"],
            "binary: the finished files cannot be put there: File exists; name another folder",
        ),
        (["check", "{empty}"], "the file is empty"),
        (["check", "{binary}"], "not UTF-8"),
        (["run", "{scenario}", "--driver", "nothing.sys"], "nothing.sys: no such file"),
        (["run", "{scenario}", "--driver", "{folder}"], "a directory; name a .sys file"),
        (["bench", "--driver", "{binary}", "--json", "{folder}"], "Is a directory; name another file"),
        (["run"], "the following arguments are required"),
        (["fly"], "invalid choice"),
        ([], "required"),
    ],
)
def test_a_mistake_of_the_user_is_one_message_and_exit_code_2(files, capsys, arguments, message):
    (files / "empty").write_text("\n\n")
    (files / "binary").write_bytes(b"\xff\xfe\x00")
    names = {"histories": histories_file(), "scenario": files / "scenario.json"}
    names |= {"empty": files / "empty", "binary": files / "binary", "folder": files, "capture": files / "none.jsonl"}

    assert cli.main([argument.format(**names) for argument in arguments]) == ExitCode.USER_ERROR

    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MachineBroken("no disk"), ExitCode.MACHINE_ERROR),
        (UnsupportedByMachine("no clones"), ExitCode.MACHINE_ERROR),
        (MachineConfigurationError("no such machine 'x'"), ExitCode.USER_ERROR),
        (SigningFailed("the token is not there"), ExitCode.MACHINE_ERROR),
    ],
)
def test_an_error_of_the_machine_ends_with_the_code_of_its_owner(files, capsys, machine_of, error, code):
    machine_of(error)

    assert cli.main(["run", str(files / "scenario.json")]) == code
    assert capsys.readouterr().err == f"ntproof: error: {error}\n"


def test_a_defect_of_the_harness_accuses_no_driver(files, capsys, machine_of):
    machine_of(RecursionError("too deep"))

    assert cli.main(["run", str(files / "scenario.json")]) == ExitCode.MACHINE_ERROR
    error = capsys.readouterr().err
    assert "RecursionError: too deep" in error
    assert error.endswith("ntproof: error: a defect of ntproof itself; please report it with what is above\n")


def test_a_capture_that_cannot_be_written_whole_is_named(files, capsys, machine_of):
    machine_of(FakeMachine())

    assert cli.main(["run", str(files / "scenario.json"), "--capture", "/dev/full"]) == ExitCode.USER_ERROR
    assert capsys.readouterr().err == (
        "ntproof: error: --capture /dev/full: No space left on device; name a file that can be written\n"
    )


def ntproof(*arguments, **files):
    command = [sys.executable, "-m", "harness.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False, **files)


def test_output_that_cannot_be_written_is_one_message(files):
    with Path("/dev/full").open("w") as full:
        run = ntproof("check", str(files / "none.jsonl"), stdout=full)

    assert run.stderr == "ntproof: error: [Errno 28] No space left on device\n"
    assert run.returncode == ExitCode.MACHINE_ERROR


def test_a_name_that_no_terminal_should_get_is_shown_escaped(files, capsys):
    stored = files / "none.jsonl"
    stored.write_text(
        stored.read_text().replace('"scenario": "everything"', '"scenario": "\\ud800 \\u001b[31m\\u202e é"')
    )

    assert cli.main(["check", str(stored)]) == ExitCode.PASSED
    assert capsys.readouterr().out.startswith("\\ud800 \\x1b[31m\\u202e é: passed (")


def test_output_that_takes_ascii_alone_gets_every_name(files, monkeypatch):
    stored = files / "none.jsonl"
    stored.write_text(stored.read_text().replace('"scenario": "everything"', '"scenario": "\\u00e9"'))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")

    run = ntproof("check", str(stored), stdout=subprocess.PIPE)

    assert run.stdout.startswith("\\xe9: passed (")
    assert run.returncode == ExitCode.PASSED


def test_an_interruption_while_the_commands_are_loaded_is_one_message(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_parser", interrupted)

    assert cli.main([]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "ntproof: interrupted\n"


def test_closed_output_is_one_message(files):
    run = ntproof("check", str(files / "none.jsonl"), preexec_fn=lambda: os.close(1))

    assert run.stderr.startswith("ntproof: error: standard output is closed")
    assert run.returncode == ExitCode.MACHINE_ERROR


def test_a_reader_that_goes_away_never_turns_a_failure_into_a_pass(files):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        run = ntproof("check", str(files / "parent.jsonl"), stdout=writing)
    finally:
        os.close(writing)

    assert run.stderr == ""
    assert run.returncode == cli.OUTPUT_CLOSED


def test_the_version_is_that_of_the_distribution(capsys):
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"ntproof \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_help_names_the_exit_codes(capsys):
    assert cli.main(["--help"]) == 0
    assert "0 passed, 1 driver failed, 2 user error, 3 machine error" in " ".join(capsys.readouterr().out.split())


def test_a_terminal_gets_the_same_words_in_colour(files, capsys, monkeypatch):
    arguments = ["check", str(files / "parent.jsonl")]
    cli.main(arguments)
    plain = capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")

    cli.main(arguments)

    coloured = capsys.readouterr().out
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
