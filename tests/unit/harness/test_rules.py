from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.abi import Match, Rule
from harness.model.rules import RuleSet, is_valid, upcase
from harness.model.windows import is_win32_error_of, volume_relative, win32_of_status

EXACT, SUBTREE, SUFFIX = Match.EXACT, Match.SUBTREE, Match.SUFFIX
PATH = st.text("aAbé\\", max_size=8)


@pytest.mark.parametrize(
    ("match", "pattern", "name", "matches"),
    [
        (EXACT, "C:\\A.exe", "c:\\a.EXE", True),
        (EXACT, "C:\\a.exe", "C:\\a.exe ", False),
        (EXACT, "straße", "STRASSE", False),
        (EXACT, "größe", "GRÖSSE", False),
        (EXACT, "ö", "Ö", True),
        (EXACT, "\ud800", "\ud800", True),
        (SUBTREE, "C:\\dir", "C:\\DIR\\a.exe", True),
        (SUBTREE, "C:\\dir\\", "C:\\dir\\sub\\a.exe", True),
        (SUBTREE, "C:\\dir", "C:\\dir", False),
        (SUBTREE, "C:\\dir", "C:\\directory\\a.exe", False),
        (SUBTREE, "C:\\dir\\\\", "C:\\dir\\a.exe", False),
        (SUFFIX, "tool.exe", "C:\\x\\tool.exe", True),
        (SUFFIX, "tool.exe", "C:\\x\\mytool.exe", False),
        (SUFFIX, "x\\tool.exe", "C:\\x\\TOOL.exe", True),
        (SUFFIX, "\\tool.exe", "C:\\x\\tool.exe", False),
        (SUFFIX, "tool.exe", "tool.exe", True),
    ],
)
def test_a_rule_matches_as_the_header_says(match, pattern, name, matches):
    assert (RuleSet([Rule(match, pattern)]).status_for(name) == 0xC0000022) == matches


def test_the_first_rule_that_matches_decides():
    rules = RuleSet([Rule(SUBTREE, "C:", 0xC0000001), Rule(SUFFIX, "a.exe", 0xC0000002), Rule(EXACT, "a.exe")])

    assert rules.status_for("C:\\a.exe") == 0xC0000001
    assert rules.status_for("D:\\a.exe") == 0xC0000002
    assert rules.status_for("D:\\b.exe") is None
    assert rules.status_for(None) is None


def naive(rule: Rule, name: str) -> bool:
    pattern, upper = upcase(rule.pattern), upcase(name)
    if rule.match is EXACT:
        return upper == pattern
    if rule.match is SUBTREE:
        return upper.startswith(pattern.removesuffix("\\") + "\\")
    return upper.endswith(pattern) and (upper == pattern or upper[-len(pattern) - 1] == "\\")


@given(st.lists(st.builds(Rule, st.sampled_from(Match), PATH.filter(bool), st.integers(1 << 31, (1 << 32) - 1))), PATH)
def test_lookup_equals_trying_each_rule_in_turn(rules, name):
    expected = next((rule.status for rule in rules if naive(rule, name)), None)

    assert RuleSet(rules).status_for(name) == expected


@given(st.text())
def test_upcasing_keeps_the_length_and_is_stable(text):
    upper = upcase(text)

    assert len(upper) == len(text)
    assert upcase(upper) == upper


@pytest.mark.parametrize(
    ("rules", "valid"),
    [
        ([], True),
        ([Rule(EXACT, "x", 0)], True),
        ([Rule(EXACT, "x", 0x80000005)], True),
        ([Rule(EXACT, "x", 1)], False),
        ([Rule(EXACT, "", 0)], False),
        ([Rule(EXACT, "x" * 32_767, 0)], True),
        ([Rule(EXACT, "x" * 32_768, 0)], False),
        ([Rule(EXACT, "x")] * 1024, True),
        ([Rule(EXACT, "x")] * 1025, False),
    ],
)
def test_a_set_is_valid_as_the_header_says(rules, valid):
    assert is_valid(rules) == valid


@pytest.mark.parametrize(
    ("name", "relative"),
    [
        ("\\??\\C:\\Windows\\a.exe", "\\Windows\\a.exe"),
        ("\\??\\UNC\\server\\share\\a.exe", "\\server\\share\\a.exe"),
        ("\\??\\Volume{1-2}\\a.exe", "\\a.exe"),
        ("\\Device\\HarddiskVolume12\\a.exe", "\\a.exe"),
        ("\\Windows\\a.exe", "\\Windows\\a.exe"),
        ("\\SystemRoot\\a.exe", None),
        ("\\Device\\Other\\a.exe", None),
        ("C:\\a.exe", None),
    ],
)
def test_a_volume_relative_name_lacks_its_volume(name, relative):
    assert volume_relative(name) == relative


def test_an_unknown_status_may_become_any_error_but_success():
    assert win32_of_status(0xC0DE0001) is None
    assert is_win32_error_of(317, 0xC0DE0001)
    assert not is_win32_error_of(0, 0xC0DE0001)
    assert not is_win32_error_of(317, 0xC0000022)
