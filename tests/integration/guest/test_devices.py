"""ntguest.exe opens real drivers' devices and runs every kind of request on them.

Wine loads procnotify.sys but never calls its routine and lacks the cancel-safe queues that its reads need. Requests
that wait are shown with a driver of these tests instead; nothing here says anything about notifications.
"""

from __future__ import annotations

import base64
import shutil
import time
from pathlib import Path

import pytest

from harness.abi import Match, Rule, load_abi
from harness.build.description import DriverSources
from harness.build.driver_build import build_driver
from tests.integration.guest.wine import DEADLINE, GUEST_FOLDER

ERROR_FILE_NOT_FOUND = 2
ERROR_MORE_DATA = 234
ERROR_NO_MORE_ITEMS = 259
ERROR_OPERATION_ABORTED = 995
ERROR_NOT_FOUND = 1168
STATUS_BUFFER_OVERFLOW = 0x80000005
STATUS_NO_MORE_ENTRIES = 0x8000001A
STATUS_CANCELLED = 0xC0000120

ECHO, WAIT, PUT, FAIL, HOLD, RELEASE = range(0x222000, 0x222018, 4)
PROBE = DriverSources("probe", Path(__file__).resolve().parent, ("probe.c",), integrity_check=False, label="guest")


def run_driver(wine, driver):
    """Install and start a driver for the rest of the module."""
    image = build_driver(driver).image
    shutil.copy2(image, wine.folder / image.name)
    path = f"{GUEST_FOLDER}\\{image.name}"
    wine.run("sc", "create", image.stem, "type=", "kernel", "start=", "demand", "binPath=", path)
    # Wine answers before the driver's entry point has returned.
    started = wine.run("sc", "start", image.stem).stdout
    end = time.monotonic() + DEADLINE
    while b"RUNNING" not in (state := wine.run("sc", "query", image.stem).stdout):
        assert b"PENDING" in state, (started, state)
        assert time.monotonic() < end, (started, state)
    yield
    # Wine cannot stop every driver; the prefix is thrown away in any case.
    for command in ("stop", "delete"):
        wine.run("sc", command, image.stem, check=False)


@pytest.fixture(scope="module")
def abi():
    return load_abi()


@pytest.fixture(scope="module")
def procnotify(wine):
    yield from run_driver(wine, "procnotify")


@pytest.fixture(scope="module")
def probe_driver(wine):
    yield from run_driver(wine, PROBE)


@pytest.fixture
def reference(procnotify, agent, abi):
    opened = agent.do("open", device="d", path=abi.text("WIN32_NAME"), read=True, write=True)
    assert opened["win32_error"] == 0, opened
    yield agent
    # The driver stops only when nothing refers to its device.
    agent.do("close", device="d")


@pytest.fixture
def probe(wine, probe_driver, agent):
    opened = agent.do("open", device="d", path="\\\\.\\GuestProbe", read=True, write=True)
    assert opened["win32_error"] == 0, wine.run("sc", "query", "probe").stdout
    return agent


def text_of(data):
    return base64.b64encode(data).decode()


def data_of(answer):
    return base64.b64decode(answer["output"], validate=True)


def control(agent, code, data=b"", size=0, **members):
    return agent.do("control", device="d", code=code, input=text_of(data), output_size=size, **members)


def start(agent, name):
    answer = agent.do("start", request=name, device="d", code=WAIT, output_size=64)
    assert answer["done"] is False


def test_a_device_that_is_not_there_gives_the_error_of_the_system(agent):
    assert agent.do("open", device="d", path="\\\\.\\NoSuchDevice", read=True)["win32_error"] == ERROR_FILE_NOT_FOUND


def test_a_path_that_reaches_no_system_service_does_not_get_the_status_of_an_earlier_call(agent):
    agent.do("open", device="d", path="\\\\.\\NoSuchDevice", read=True)

    answer = agent.do("open", device="d", path="x" * 32767, read=True)

    assert answer["win32_error"] != 0
    assert answer["status"] is None


def test_the_reference_driver_tells_its_version(reference, abi):
    answer = control(reference, abi.integer("IOCTL_PROCNOTIFY_GET_VERSION"), size=abi.version_size)

    assert (answer["win32_error"], answer["status"], answer["timed_out"]) == (0, 0, False)
    assert answer["information"] == abi.version_size
    assert abi.decode_version(data_of(answer)).abi_version >= 1


def test_rules_reach_the_reference_driver_byte_by_byte(reference, abi):
    rules = (Rule(Match.EXACT, "\\??\\C:\\caf\u00e9 \ud800.exe"), Rule(Match.SUFFIX, ".scr", 0xC0000001))
    data = abi.encode_rules(rules)

    given = control(reference, abi.integer("IOCTL_PROCNOTIFY_SET_RULES"), data)
    back = control(reference, abi.integer("IOCTL_PROCNOTIFY_GET_RULES"), size=4096)

    assert given["win32_error"] == 0
    assert abi.decode_rules(data_of(back)) == abi.decode_rules(data)


def test_a_request_that_the_reference_driver_refuses_tells_error_and_status(reference, abi):
    answer = control(reference, abi.integer("IOCTL_PROCNOTIFY_GET_STATISTICS"), size=1)

    assert answer["win32_error"] != 0
    assert answer["status"] & 0xC0000000 == 0xC0000000
    assert answer["output"] == ""


@pytest.mark.parametrize("size", [0, 1, 2, 3, 255, 4096, 1 << 20])
def test_bytes_go_to_the_driver_and_back_unchanged(probe, size):
    data = bytes(index * 7 & 0xFF for index in range(size))

    answer = control(probe, ECHO, data, size)

    assert (answer["win32_error"], answer["information"]) == (0, size)
    assert data_of(answer) == data


def test_a_warning_comes_with_the_output_that_had_room(probe):
    answer = control(probe, ECHO, b"0123456789", 4)

    assert (answer["win32_error"], answer["status"]) == (ERROR_MORE_DATA, STATUS_BUFFER_OVERFLOW)
    assert data_of(answer) == b"0123"


@pytest.mark.parametrize(
    ("status", "error"), [(0xC0000022, 5), (0xC000000D, 87), (0xC00000BB, 50), (STATUS_NO_MORE_ENTRIES, 259)]
)
def test_the_drivers_status_is_told_beside_its_translation(probe, status, error):
    answer = control(probe, FAIL, status.to_bytes(4, "little"))

    assert (answer["status"], answer["win32_error"]) == (status, error)


def test_a_request_that_waits_too_long_is_cancelled_at_its_deadline(probe):
    answer = control(probe, WAIT, size=16, deadline_ms=100)

    assert answer["timed_out"] is True
    assert (answer["win32_error"], answer["status"]) == (ERROR_OPERATION_ABORTED, STATUS_CANCELLED)
    assert control(probe, PUT, b"late")["win32_error"] == ERROR_NO_MORE_ITEMS


def test_a_request_waits_while_other_work_is_done(probe):
    start(probe, "r")
    probe.launch("a")
    assert probe.do("finish", request="r", deadline_ms=10)["done"] is False

    assert control(probe, PUT, b"given")["win32_error"] == 0
    ended = probe.do("finish", request="r")

    assert (ended["done"], ended["win32_error"], data_of(ended)) == (True, 0, b"given")
    assert ended["time"] > 0
    assert probe.ask("finish", request="r")["error"] == "bad-request"


def test_requests_are_told_apart_by_name(probe):
    for name in ("one", "two", "three"):
        start(probe, name)
    assert "already" in probe.ask("start", request="one", device="d", code=0)["message"]

    assert probe.do("cancel", request="two")["win32_error"] == 0
    control(probe, PUT, b"first")
    control(probe, PUT, b"second")

    assert probe.do("finish", request="two")["status"] == STATUS_CANCELLED
    assert data_of(probe.do("finish", request="one")) == b"first"
    assert data_of(probe.do("finish", request="three")) == b"second"


def test_nothing_is_left_to_cancel_once_a_request_has_ended(probe):
    start(probe, "r")
    control(probe, PUT, b"given")
    assert probe.do("finish", request="r")["done"]

    start(probe, "r")
    assert probe.do("cancel", request="r")["win32_error"] == 0
    probe.do("finish", request="r")
    assert probe.ask("cancel", request="r")["error"] == "bad-request"


def test_a_duplicate_keeps_the_device_open_and_what_waits_on_it(probe):
    start(probe, "r")
    assert probe.do("duplicate", device="d", **{"as": "second"})["win32_error"] == 0

    assert probe.do("close", device="d")["win32_error"] == 0
    assert probe.do("finish", request="r", deadline_ms=10)["done"] is False
    assert probe.do("control", device="second", code=PUT, input=text_of(b"given"))["win32_error"] == 0

    assert data_of(probe.do("finish", request="r")) == b"given"
    assert probe.ask("control", device="d", code=PUT)["error"] == "bad-request"


@pytest.mark.parametrize("depth", [1, 3, 16])
def test_a_stream_hands_out_what_comes_in_order_while_the_plan_goes_on(probe, depth):
    probe.do("stream", stream="s", device="d", code=WAIT, output_size=64, depth=depth)
    sent = [f"notification {index}".encode() for index in range(100)]
    for data in sent:
        while control(probe, PUT, data)["win32_error"] == ERROR_NO_MORE_ITEMS:
            # All its requests have just come back; the next is on its way.
            probe.do("time")
    probe.launch("a")
    assert probe.do("exit", process="a", status=2)["exit_code"] == 2

    probe.do("stop", stream="s")

    events = [probe.event() for _ in range(len(sent) + 1)]
    assert [data_of(event) for event in events[:-1]] == sent
    assert [event["index"] for event in events] == list(range(len(sent) + 1))
    assert (events[-1]["event"], events[-1]["status"]) == ("end", STATUS_CANCELLED)
    assert probe.ask("stop", stream="s")["error"] == "bad-request"


def test_a_stream_is_as_fast_as_the_driver_and_loses_nothing(probe):
    probe.do("stream", stream="s", device="d", code=ECHO, input=text_of(b"x" * 64), output_size=64, depth=4)
    events = [probe.event() for _ in range(500)]
    probe.do("stop", stream="s")
    while events[-1]["event"] == "data":
        events.append(probe.event())

    assert [event["index"] for event in events] == list(range(len(events)))
    assert all(data_of(event) == b"x" * 64 for event in events[:-1])


def test_a_stream_that_the_driver_refuses_ends_by_itself(probe):
    probe.do("stream", stream="s", device="d", code=FAIL, output_size=1, depth=2)

    end = probe.event()

    assert (end["event"], end["index"], end["status"]) == ("end", 0, 0xC000000D)
    assert probe.do("close", device="d")["win32_error"] == 0
    probe.do("stop", stream="s")


def test_the_end_of_a_stream_that_nothing_failed_in_tells_no_error_and_no_data_again(probe):
    probe.do("stream", stream="s", device="d", code=ECHO, input=text_of(b"once"), output_size=64)
    event = probe.event()
    probe.do("stop", stream="s")
    while event["event"] == "data":
        event = probe.event()

    assert (event["win32_error"], event["status"]) == (0, 0)
    assert "output" not in event


def test_a_device_stays_open_as_long_as_a_stream_asks_it_for_more(probe):
    probe.do("stream", stream="s", device="d", code=WAIT, output_size=64)

    refused = probe.ask("close", device="d")

    assert (refused["error"], "stop" in refused["message"]) == ("bad-request", True)
    probe.do("stop", stream="s")
    assert probe.do("close", device="d")["win32_error"] == 0


def test_a_stream_whose_driver_keeps_a_cancelled_request_is_stuck_and_the_plan_goes_on(probe):
    probe.do("stream", stream="s", device="d", code=HOLD, output_size=64)

    stuck = probe.ask("stop", stream="s")

    assert (stuck["ok"], stuck["error"]) == (False, "stuck")
    assert probe.do("hello")["protocol"] == 1
    control(probe, RELEASE)
