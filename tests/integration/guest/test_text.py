"""Every UTF-16 unit of a command line arrives: what the child sees is what the plan said."""

from __future__ import annotations

import pytest

from tests.integration.guest.wine import CHILD, GUEST_FOLDER

# Wine cuts what is longer; Windows takes 32,766 units and a NUL.
LONGEST = 32_766


@pytest.mark.parametrize("by_child", [False, True])
@pytest.mark.parametrize(
    "command_line",
    [
        "child",
        "child trailing blank ",
        "child  two  blanks",
        'child "quoted \\" \\\\ twice"',
        "child \t\r\n\x01\x7f",
        "child caf\u00e9 \u6f22\u5b57 \u202e",
        "child \U0001f600 \U0010ffff",
        "child high \ud83d alone",
        "child low \ude00 alone",
        "child \ude00\ud83d reversed",
        "\ud800",
        "\ufeff\uffff\ufffe",
        "x" * LONGEST,
        "\ud800" * LONGEST,
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_a_command_line_arrives_unit_by_unit(agent, command_line, by_child):
    agent.launch("creator")
    creator = {"creator": "creator"} if by_child else {}

    answer = agent.launch("a", command_line=command_line, **creator)

    assert answer["command_line"] == command_line
    assert agent.do("describe", process="a")["command_line"] == command_line


def test_no_command_line_makes_the_application_name_the_command_line(agent):
    agent.launch("a")

    assert agent.do("describe", process="a")["command_line"].strip('"') == CHILD


def test_no_application_name_has_the_system_find_it_in_the_command_line(agent):
    answer = agent.launch("a", image=None, command_line=f'"{CHILD}" found')

    assert answer["native_image"].endswith("\\child.exe")
    assert answer["image_name"] is None
    assert agent.do("describe", process="a")["command_line"] == f'"{CHILD}" found'


@pytest.mark.parametrize("name", ["caf\u00e9 \u6f22.exe", "with blank.exe", "\U0001f600.exe"])
def test_an_image_may_have_any_name(wine, agent, name):
    (wine.folder / name).write_bytes((wine.folder / "child.exe").read_bytes())

    answer = agent.launch("a", image=f"{GUEST_FOLDER}\\{name}")

    assert answer["image_name"] == f"\\??\\{GUEST_FOLDER}\\{name}"
    assert answer["native_image"].endswith(f"\\{name}")


def test_text_may_come_as_utf_8_or_as_escapes(agent):
    image = CHILD.replace("\\", "\\\\").encode()
    head = b'{"op":"launch","image":"' + image + b'","process":'

    first = agent.send(head + '"a","command_line":"caf\u00e9 \U0001f600"}'.encode())
    second = agent.send(head + b'"b","command_line":"caf\\u00E9 \\ud83d\\ude00"}')

    assert first["command_line"] == second["command_line"] == "caf\u00e9 \U0001f600"


def test_a_label_may_be_any_text_and_is_compared_exactly(agent):
    for label in ("A", "a", "\ud800", "\u00e9", "e\u0301", " a"):
        agent.launch(label)
    assert agent.do("terminate", process="\ud800", status=5)["exit_code"] == 5
    assert agent.do("wait", process="e\u0301", deadline_ms=1)["exited"] is False


def test_a_text_that_windows_would_cut_at_a_nul_is_refused(agent):
    answer = agent.ask("launch", process="a", image=CHILD, command_line="cut\0here")

    assert answer["error"] == "bad-request"
    assert "NUL" in answer["message"]


def test_a_command_line_longer_than_windows_takes_is_refused(agent):
    assert agent.ask("launch", process="a", image=CHILD, command_line="x" * 32_768)["error"] == "bad-request"
