"""Whatever a plan holds, ntguest.exe answers each line with one object and goes on."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.guest.wine import CHILD

MALFORMED = [
    b"",
    b" ",
    b"nonsense",
    b"[]",
    b"null",
    b'"hello"',
    b"{",
    b"}",
    b"{}{}",
    b'{"op":"hello"}x',
    b'{"op":"hello",}',
    b'{op:"hello"}',
    b'{"op" "hello"}',
    b'{"op":"hello" "id":1}',
    b'{"op":"hello","op":"time"}',
    b'{"op":"hello","id":01}',
    b'{"op":"hello","id":1.0}',
    b'{"op":"hello","id":1e3}',
    b'{"op":"hello","id":-1}',
    b'{"op":"hello","id":--1}',
    b'{"op":"hello","id":18446744073709551616}',
    b'{"op":"hello","id":true}',
    b'{"op":"hello","id":"1"}',
    b'{"op":"hello","id":tru}',
    b'{"op":"hello","id":[1]}',
    b'{"op":{"op":"hello"}}',
    b'{"op":"hello","extra":1}',
    b'{"op":"hello","\\ud800":1}',
    b'{"op":"hel\\lo"}',
    b'{"op":"hel\\u12"}',
    b'{"op":"hel\\u12x4"}',
    b'{"op":"hello\\',
    b'{"op":"hello\\"}',
    b'{"op":"he\tllo"}',
    b'{"op":"\xff"}',
    b'{"op":"\xc0\x80"}',
    b'{"op":"\xed\xa0\x80"}',
    b'{"op":"\xf4\x90\x80\x80"}',
    b'{"op":"\xe2\x82',
    b'{"op":""}',
    b'{"op":7}',
    b'{"op":"no such thing"}',
    b'{"id":1}',
    b"\x00",
    b'{"op":"time\x00"}',
    b"\xef\xbb\xbf{}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"{" + b",".join(b'"k%d":1' % i for i in range(40)) + b"}",
    b'{"op":"launch"}',
    b'{"op":"launch","process":"a"}',
    b'{"op":"launch","process":"","image":"x"}',
    b'{"op":"launch","process":"' + b"x" * 129 + b'","image":"x"}',
    b'{"op":"launch","process":"a","image":"x","parent":"nobody"}',
    b'{"op":"launch","process":"a","image":"x","parent":4294967295}',
    b'{"op":"launch","process":"a","image":"x","parent":true}',
    b'{"op":"launch","process":"a","image":"x","creator":4}',
    b'{"op":"launch","process":"a","image":"x","suspended":1}',
    b'{"op":"launch","process":"a","image":"x","deadline_ms":600001}',
    b'{"op":"exit","process":"nobody"}',
    b'{"op":"terminate","process":7}',
    b'{"op":"terminate_all","process":"a"}',
    b'{"op":"terminate_all","status":-1}',
    b'{"op":"wait"}',
    b'{"op":"resume","process":null}',
    b'{"op":"open","device":"d"}',
    b'{"op":"control","device":"nothing","code":1}',
    b'{"op":"start","request":"r","device":"nothing","code":1}',
    b'{"op":"finish","request":"nothing"}',
    b'{"op":"stream","stream":"s","device":"nothing","code":1,"depth":0}',
    b'{"op":"stop","stream":"nothing"}',
]


def is_refusal(answer):
    return answer["ok"] is False and answer["error"] == "bad-request" and bool(answer["message"])


@pytest.mark.parametrize("line", MALFORMED, ids=lambda line: ascii(line)[2:42])
def test_a_malformed_line_is_answered_with_what_is_wrong(agent, line):
    assert is_refusal(agent.send(line))
    assert agent.do("hello")["protocol"] == 1


def test_a_line_longer_than_the_limit_is_skipped_to_its_end(agent):
    limit = 4 << 20

    longest = agent.send(b'{"op":"time"}' + b" " * (limit - 13))
    beyond = agent.send(b'{"op":"time"}' + b" " * (limit - 12))
    far_beyond = agent.send(b"x" * (3 * limit))

    assert longest["ok"]
    assert is_refusal(beyond)
    assert is_refusal(far_beyond)
    assert [longest["line"], beyond["line"], far_beyond["line"]] == [1, 2, 3]
    assert agent.do("hello")["line"] == 4


def test_a_last_line_without_a_line_feed_is_obeyed(wine):
    done = wine.run("C:\\ntproof\\ntguest.exe", data=b'{"op":"time"}')

    assert json.loads(done.stdout)["ok"]


def test_no_plan_at_all_ends_well(wine):
    assert wine.run("C:\\ntproof\\ntguest.exe").stdout == b""


@pytest.mark.parametrize(
    ("data", "right"),
    [("AAEC", True), ("AA==", True), ("AAE=", True), ("", True), ("AAE", False), ("A===", False), ("AB==", False),
     ("AAF=", False), ("AA=A", False), ("A A=", False), ("====", False), ("\u00e9AAA", False)],
)  # fmt: skip
def test_bytes_are_strict_base64(agent, data, right):
    agent.do("open", device="nul", path="\\\\.\\NUL", write=True)

    assert agent.ask("write", device="nul", input=data)["ok"] is right


JSON = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(), st.text(), st.binary().map(str)
)
OPERATIONS = st.sampled_from(["hello", "time", "resume", "describe", "exit", "terminate", "terminate_all", "wait",
                              "release", "open", "duplicate", "close", "control", "read", "write", "start", "finish",
                              "cancel", "stream", "stop", "create_service", "delete_service", "start_service",
                              "stop_service", "query_service", "clear_parameters", "set_parameter", "provide",
                              "remove"])  # fmt: skip
KEYS = st.sampled_from(["process", "status", "device", "path", "code", "input", "output_size", "request", "stream",
                        "depth", "deadline_ms", "read", "write", "as", "id", "service",
                        "image", "value", "number", "text", "data", "source", "\ud800"])  # fmt: skip
VALUES = st.one_of(JSON, st.sampled_from(["a", "d", "\\\\.\\NUL", "AAEC", 0, 1, 16]))


def mutate(data, draw_position, byte):
    position = draw_position % (len(data) + 1)
    return data[:position] + bytes([byte]) + data[position + 1 :]


@st.composite
def lines(draw):
    if draw(st.integers(0, 3)) == 0:
        return draw(st.binary(max_size=200)).replace(b"\n", b" ")
    members = draw(st.dictionaries(KEYS, VALUES, max_size=6))
    if draw(st.booleans()):
        members["op"] = draw(OPERATIONS)
    # A wait that the fuzzer asks for would only take its time.
    if "deadline_ms" in members or members.get("op") in {"wait", "exit", "describe"}:
        members["deadline_ms"] = draw(st.sampled_from([0, 1, "1", None, -1]))
    data = json.dumps(members).encode()
    for _ in range(draw(st.integers(0, 2))):
        data = mutate(data, draw(st.integers(0, 10_000)), draw(st.integers(0, 255)))
    return data.replace(b"\n", b" ")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(lines(), min_size=1, max_size=50))
def test_no_plan_stops_the_program(agent, plan):
    for line in plan:
        answer = agent.send(line)
        assert answer["ok"] or answer["error"], answer

    assert agent.do("hello")["protocol"] == 1


def test_truncated_and_flipped_lines_never_stop_the_program(agent):
    line = json.dumps({"op": "launch", "process": "\ud800\u00e9", "image": CHILD[:-4], "command_line": None}).encode()
    plan = [line[:length] for length in range(len(line))]
    plan += [line[:at] + bytes([line[at] ^ 1 << bit]) + line[at + 1 :] for at in range(len(line)) for bit in range(8)]

    for broken in plan:
        if b"\n" not in broken:
            answer = agent.send(broken)
            assert answer["ok"] or answer["error"]
