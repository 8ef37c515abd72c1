"""`ntproof check --witness` holds stored captures and histories against a log, without any machine."""

from __future__ import annotations

import json

import pytest

from harness import cli
from harness.capture import Capture, CaptureHeader
from harness.capture_json import write_capture
from harness.exit_codes import ExitCode
from harness.notification import Create, Exit
from tests.unit.harness.histories_data import histories_file
from tests.unit.harness.witness.world import IMAGES, as_log, to_xml


@pytest.fixture
def files(tmp_path):
    events = []
    for index in range(8):
        pid = 1000 + 4 * index
        name = f"\\??\\{IMAGES[index % 4]}"
        events.append(Create(2 * index + 1, 1 << 57, pid, 60, 60, 64, 0, name, f"{index} %", True))
        events.append(Exit(2 * index + 2, 1 << 57, pid, index))
    with (tmp_path / "capture.jsonl").open("w") as stream:
        write_capture(Capture(CaptureHeader("win11", "windows", 26100, "win11"), events), stream)
    text = to_xml(as_log(events))
    (tmp_path / "agrees.xml").write_text(text, encoding="utf-8")
    (tmp_path / "differs.xml").write_text(text.replace("C:\\Tools", "D:\\Tools"), encoding="utf-8")
    (tmp_path / "empty.xml").write_text("")
    return tmp_path


def check(*arguments):
    return cli.main(["check", *map(str, arguments)])


def test_a_capture_that_agrees_with_the_witness_passes(files, capsys):
    assert check("--witness", files / "agrees.xml", files / "capture.jsonl") == ExitCode.PASSED
    assert "the kernel's audit: passed (16 driver events, 16 witness events, 8 processes" in capsys.readouterr().out


def test_a_capture_that_the_witness_contradicts_fails_and_says_where(files, capsys):
    assert check("--json", "--witness", files / "differs.xml", files / "capture.jsonl") == ExitCode.DRIVER_FAILED

    judged, crossed = json.loads(capsys.readouterr().out)["verdicts"]
    assert judged["passed"]
    assert [(found["kind"], found["process"]) for found in crossed["discrepancies"]] == [
        ("image-name", "pid 1008"),
        ("image-name", "pid 1024"),
    ]


def test_histories_are_held_against_their_other_witness(capsys):
    assert check("--witness", histories_file(), histories_file()) == ExitCode.PASSED
    assert "passed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("witness", "capture", "message"),
    [
        ("missing.xml", "capture.jsonl", "missing.xml: cannot read it"),
        ("empty.xml", "capture.jsonl", "it holds no process event"),
        ("capture.jsonl", "capture.jsonl", "neither rendered events nor recorded histories"),
        ("agrees.xml", "histories", "no history has the host and the source of any witness"),
    ],
)
def test_a_mistake_is_told_in_a_line(files, capsys, witness, capture, message):
    path = histories_file() if capture == "histories" else files / capture

    assert check("--witness", files / witness, path) == ExitCode.USER_ERROR

    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
