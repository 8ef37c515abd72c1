from __future__ import annotations

import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.capture import Capture, CaptureHeader
from harness.capture_json import read_capture, write_capture
from harness.errors import InputError
from harness.histories import read_histories
from harness.runner import run_scenario
from tests.unit.harness.fake_machine import FakeMachine
from tests.unit.harness.strategies import notifications
from tests.unit.harness.test_model import EVERYTHING, IMAGE

HEAD = '{"format": "ntproof-capture", "version": 1}\n'


def written(capture: Capture) -> str:
    stream = io.StringIO()
    write_capture(capture, stream)
    return stream.getvalue()


@pytest.mark.parametrize("fault", ["none", "crashes", "garbage", "does-not-start"])
def test_a_capture_survives_its_file(fault):
    capture = run_scenario(EVERYTHING, FakeMachine(fault), image=IMAGE)

    read = read_capture(written(capture).splitlines(), "c")

    assert read.header == capture.header
    assert tuple(read.items) == capture.items


@given(notifications())
def test_any_notifications_survive_their_file(found):
    lines = written(Capture(CaptureHeader(), found)).splitlines()

    assert list(read_capture(lines, "c").items) == found


@given(st.text())
def test_arbitrary_lines_are_refused_with_an_input_error(text):
    with pytest.raises(InputError):
        list(read_capture([text], "c").items)


CAPTURED = written(run_scenario(EVERYTHING, FakeMachine(), image=IMAGE)).splitlines()


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_damaged_line_is_refused_with_an_input_error_or_read(data):
    number = data.draw(st.integers(0, len(CAPTURED) - 1))
    document = json.loads(CAPTURED[number])
    key = data.draw(st.sampled_from(sorted(document)))
    document[key] = data.draw(st.none() | st.booleans() | st.integers() | st.text() | st.just([1]) | st.just({}))
    lines = [*CAPTURED[:number], json.dumps(document), *CAPTURED[number + 1 :]]
    message = f"c:{number + 1}: $"
    try:
        list(read_capture(lines, "c").items)
    except InputError as error:
        message = str(error)
    assert message.startswith(f"c:{number + 1}: $")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c: the file is empty"),
        ('{"format": "x", "version": 1}', r"c:1: \$\.format: expected 'ntproof-capture'"),
        ('{"format": "ntproof-capture", "version": 9}', r"c:1: \$\.version: this release reads version 1, found 9"),
        (HEAD + "[]", r"c:2: \$: expected an object with an 'event'"),
        (HEAD + '{"event": "boom"}', r"c:2: \$\.event: unknown event 'boom'"),
        (HEAD + '{"event": "gap", "sequence": 1}', r"c:2: \$: 'count' is missing"),
        (HEAD + '{"event": "drained", "step": "x"}', r"c:2: \$\.step: expected an integer, found a text"),
        (HEAD + "\n{", r"c:3: line 1, column 2: not JSON"),
    ],
)
def test_a_mistake_is_named_with_its_line(text, message):
    with pytest.raises(InputError, match=message):
        list(read_capture(text.splitlines(keepends=True), "c").items)


def test_a_history_with_a_wrong_event_is_named_with_its_place():
    line = json.dumps(
        {"id": "h", "build": 1, "witness": "driver", "source": "", "host": "", "events": [{"event": "birth"}]}
    )

    with pytest.raises(InputError, match=r"h:1: \$\.events\[0\]: expected an object whose 'event'"):
        list(read_histories([line], "h"))


@pytest.mark.parametrize("time", ["yesterday", 5, "2020-13-01 00:00:00"])
def test_a_history_with_a_wrong_time_is_named_with_its_place(time):
    event = {"seq": 1, "event": "exit", "time": time, "pid": 8, "image": "x"}
    line = json.dumps({"id": "h", "build": 1, "witness": "d", "source": "", "host": "", "events": [event]})

    with pytest.raises(InputError, match=r"events\[0\]\.time"):
        list(read_histories([line], "h"))
