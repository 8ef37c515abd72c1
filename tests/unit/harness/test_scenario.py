from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError
from harness.scenario import ExitProcess, Feature, Launch, Scenario, StartDriver
from harness.scenario_json import dump_scenario, load_scenario, parse_scenario, scenario_hash
from tests.unit.harness.strategies import scenarios

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
GOOD = {
    "format": "ntproof-scenario",
    "version": 1,
    "name": "n",
    "processes": [{"label": "old", "image": "C:\\o.exe"}],
    "steps": [
        {"do": "start-driver"},
        {"do": "set-rules", "rules": [{"match": "suffix", "pattern": "x.exe", "status": "0xC0000022"}]},
        {"do": "launch", "label": "a", "image": "C:\\x.exe", "parent": "old"},
        {"do": "exit", "label": "a"},
    ],
}


@given(scenarios())
def test_a_scenario_survives_json(scenario):
    read = parse_scenario(dump_scenario(scenario))

    assert read == scenario
    assert scenario_hash(read) == scenario_hash(scenario)


@given(scenarios(), st.data())
def test_a_damaged_scenario_is_refused_with_an_input_error_or_read(scenario, data):
    document = json.loads(dump_scenario(scenario))
    place = document
    while isinstance(place, (dict, list)) and place:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if data.draw(st.booleans()) or not isinstance(place[key], (dict, list)) or not place[key]:
            place[key] = data.draw(JSON)
            break
        place = place[key]
    message = "scenario"
    try:
        parse_scenario(json.dumps(document))
    except InputError as error:
        message = str(error)
    assert message.startswith("scenario")


@given(st.text())
def test_arbitrary_text_is_refused_with_an_input_error(text):
    with pytest.raises(InputError):
        parse_scenario(text)


def replaced(path: str, value: object) -> str:
    document = json.loads(json.dumps(GOOD))
    *parents, last = path.split("/")
    place = document
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if value is KeyError:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", 2, r"s: \$\.version: this release reads version 1, found 2"),
        ("version", True, r"\$\.version: this release reads"),
        ("format", "x", r"\$\.format: expected 'ntproof-scenario'"),
        ("name", KeyError, r"\$: 'name' is missing; add it"),
        ("name", "", r"\$\.name: expected a text that is not empty"),
        ("steps", {}, r"\$\.steps: expected a list, found an object"),
        ("steps/2", 5, r"\$\.steps\[2\]: expected an object with a 'do'"),
        ("steps/2/do", "fly", r"\$\.steps\[2\]\.do: unknown step 'fly'; known: set-rules"),
        ("steps/2/image", 5, r"\$\.steps\[2\]\.image: expected a text, found an integer"),
        ("steps/2/image", "x" * 32_768, r"has 32768 UTF-16 units"),
        ("steps/2/colour", "x", r"\$\.steps\[2\]: unknown key 'colour'; known here: command_line"),
        ("steps/2/suspended", 1, r"expected true or false, found an integer"),
        ("steps/2/parent", "ghost", r"\$\.steps\[2\]\.parent: no earlier step introduces 'ghost'"),
        ("steps/2/label", "old", r"\$\.steps\[2\]\.label: label 'old' is taken"),
        ("steps/3/status", -1, r"-1 is out of range"),
        ("steps/3/status", "C0000022", r"'C0000022' is no status; write it as 0xC0000022"),
        ("steps/3/label", "b", r"\$\.steps\[3\]\.label: no earlier step introduces 'b'"),
        ("steps/1/rules/0/match", "glob", r"rules\[0\]\.match: expected one of exact, subtree, suffix, found 'glob'"),
        ("steps/0", {"do": "drain"}, r"\$\.steps\[0\]: the driver|\$\.steps\[0\]"),
        ("steps/0/queue_bytes", 1 << 40, r"out of range"),
        ("processes/0", [], r"\$\.processes\[0\]: expected an object, found a list"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_remedy(path, value, message):
    text = replaced(path, value)
    if path == "steps/0" and isinstance(value, dict):
        # Without its start-driver step the scenario starts the driver itself, so draining is allowed.
        assert not parse_scenario(text, "s").starts_driver_itself
        return
    with pytest.raises(InputError, match=message):
        parse_scenario(text, "s")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((Launch("a", "x"), ExitProcess("a"), ExitProcess("a")), "'a' has ended by then"),
        ((Launch("a", "x", suspended=True), ExitProcess("a")), "is suspended and cannot exit by itself"),
        ((StartDriver(), StartDriver()), "the driver runs already"),
        ((Launch("", "x"),), "a label must not be empty"),
    ],
)
def test_steps_out_of_turn_are_refused(steps, message):
    with pytest.raises(InputError, match=message):
        Scenario("s", steps)


def test_features_are_those_that_the_steps_ask_for():
    steps = (Launch("a", "x", two_step=True), Launch("b", "x", creator="a", subsystem=True))

    assert Scenario("s", steps).features == {Feature.TWO_STEP, Feature.CREATOR, Feature.SUBSYSTEM}


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": NaN}', "9" * 5000])
def test_hostile_json_is_an_input_error(text):
    with pytest.raises(InputError, match=r"^s:"):
        parse_scenario(text, "s")


def test_a_file_that_is_no_utf8_is_named(tmp_path):
    file = tmp_path / "s.json"
    file.write_bytes(b'{"a": "\xff"}')

    with pytest.raises(InputError, match=r"s\.json: not UTF-8 at byte 7"):
        load_scenario(file)
