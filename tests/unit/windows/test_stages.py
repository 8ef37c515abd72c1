"""Tests of resumable stages: done once for their inputs, again when something changed, never twice at once."""

from __future__ import annotations

import json

import pytest

from vm.errors import MachineBroken
from vm.windows.images.stages import FILE_NAME, Outcome, Stage, StageRunner


class Listener:
    def __init__(self):
        self.told = []

    def stage_started(self, stage):
        self.told.append(("started", stage.name))

    def stage_ended(self, stage, seconds, *, again):
        self.told.append(("done" if again else "kept", stage.name))

    def stage_failed(self, stage, seconds):
        self.told.append(("failed", stage.name))


class Line:
    """Three stages, each of which writes a file with what it depends on."""

    def __init__(self, folder):
        self.folder = folder
        self.inputs = {"a": 1, "b": 1, "c": 1}
        self.failing = set()

    def stages(self):
        return [
            Stage(name, name, lambda name=name: {"value": self.inputs[name]}, lambda name=name: self.do(name))
            for name in self.inputs
        ]

    def do(self, name):
        if name in self.failing:
            raise MachineBroken(f"{name} failed")
        (self.folder / name).write_text(str(self.inputs[name]))
        return Outcome((name,), {"value": self.inputs[name]})

    def run(self):
        listener = Listener()
        runner = StageRunner(self.folder, listener)
        try:
            runner.run(self.stages())
        except MachineBroken as error:
            listener.told.append(("error", str(error)))
        self.runner = runner
        return [entry for entry in listener.told if entry[0] != "started"]


@pytest.fixture
def line(tmp_path):
    return Line(tmp_path)


DONE = [("done", "a"), ("done", "b"), ("done", "c")]


def test_stages_are_done_once(line):
    assert line.run() == DONE
    assert line.run() == [("kept", "a"), ("kept", "b"), ("kept", "c")]
    assert line.runner.facts("b") == {"value": 1}
    assert set(line.runner.seconds()) == {"a", "b", "c"}


def test_a_failure_keeps_what_was_done_before_it(line):
    line.failing = {"b"}
    assert line.run() == [("done", "a"), ("failed", "b"), ("error", "b failed")]
    line.failing = set()
    assert line.run() == [("kept", "a"), ("done", "b"), ("done", "c")]


def test_changed_inputs_do_it_and_all_after_it_again(line):
    line.run()
    line.inputs["b"] = 2
    assert line.run() == [("kept", "a"), ("done", "b"), ("done", "c")]
    line.inputs["a"] = 2
    assert line.run() == DONE


def test_inputs_that_are_changed_back_are_changed(line):
    line.run()
    line.inputs["a"] = 2
    line.run()
    line.inputs["a"] = 1
    assert line.run() == DONE


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_text("other")])
def test_a_file_that_changed_is_made_again(line, spoil):
    line.run()
    spoil(line.folder / "b")

    assert line.run() == [("kept", "a"), ("done", "b"), ("done", "c")]


def test_a_failure_of_a_stage_in_the_middle_does_not_forget_those_after_it(line):
    line.run()
    stored = json.loads((line.folder / FILE_NAME).read_text())

    line.run()

    assert json.loads((line.folder / FILE_NAME).read_text()) == stored


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"a": 1}', '{"a": {}}', '{"a": {"inputs": 1, "run": 1, "seconds": "x"}}']
)
def test_a_state_file_of_no_use_costs_only_time(line, content, caplog):
    line.run()
    (line.folder / FILE_NAME).write_text(content)

    assert line.run() == DONE


def test_a_stage_that_does_not_leave_its_file_failed(line):
    stage = Stage("x", "x", dict, lambda: Outcome(("none",)))

    with pytest.raises(MachineBroken, match="none: No such file or directory; the stage did not leave it"):
        StageRunner(line.folder, Listener()).run([stage])
