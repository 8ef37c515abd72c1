"""The threat model names a test for each line: every one of them exists, and no switch takes a protection away."""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path

import pytest

from harness import cli, pytest_options

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "security.md"
NAMED = re.compile(r"(?P<path>(?:tests|harness)/[\w/.-]+\.py)::(?P<name>\w+)")
ROW = re.compile(r"^\| \*\*.+\|$", re.MULTILINE)


def rows() -> list[str]:
    return ROW.findall(PAGE.read_text(encoding="utf-8"))


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_there_is_a_line_for_each_kind_of_attacker():
    text = PAGE.read_text(encoding="utf-8")
    kinds = ("Hostile driver", "Hostile guest", "Hostile capture", "Other users", "Network attacker", "Leaked cred")

    assert [kind for kind in kinds if f"| **{kind}" not in text] == []


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[4:60])
def test_each_line_says_what_is_done_and_names_tests_that_exist(row):
    threat, done, shown = (cell.strip() for cell in row.strip("|").split("|"))
    named = list(NAMED.finditer(shown))

    assert threat
    assert done
    assert named, "name the test that shows it"
    missing = [found.group() for found in named if found["name"] not in names_in(ROOT / found["path"])]
    assert missing == []
    assert NAMED.sub("", shown).strip(", ") == ""


def option_names(parser: argparse.ArgumentParser) -> set[str]:
    names = set()
    for action in parser._actions:
        names.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                names |= option_names(command)
    return names


def test_no_option_turns_verification_off():
    """Certificates and host keys are pinned, and no option of any command or of pytest skips that."""

    class Options:
        def __init__(self):
            self.names = set()

        def getgroup(self, *_):
            return self

        def addoption(self, *names, **_):
            self.names.update(names)

    given = Options()
    pytest_options.add_options(given)
    named = given.names | option_names(cli._parser())
    suspicious = re.compile(r"insecure|verif(?!ier)|pin|trust|skip|unsafe|no-check|ignore|password|credential")
    assert {"--connect", "--artefacts", "--vm"} <= named
    assert sorted(name for name in named if suspicious.search(name)) == []
