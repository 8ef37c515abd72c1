"""Which creations the rules deny (procnotify.h: PROCNOTIFY_RULES)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.abi import Match, Rule
from harness.conformance.acts import APP, TOOL, attempt, launched, nt_name, refused, scenario, start
from harness.notification import Create
from harness.scenario import ExitProcess, Launch, ReadRules, ReadStatistics, SetRules
from vm.ntstatus import STATUS_ACCESS_DENIED, STATUS_INVALID_PARAMETER

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.capture import Capture
    from harness.driver import ProcNotify
    from harness.scenario import Step
    from vm.machine import Machine

DIRECTORY = "\\??\\C:\\ntproof\\tools"

# Each case: kind of match, pattern, image, whether the creation is denied.
MATCHES = {
    "exact": (Match.EXACT, nt_name(TOOL), TOOL, True),
    "exact-other-case": (Match.EXACT, nt_name(TOOL).upper(), TOOL, True),
    "exact-image-in-other-case": (Match.EXACT, nt_name(TOOL), "c:\\NTPROOF\\Tools\\TOOL.exe", True),
    "exact-is-not-a-prefix": (Match.EXACT, nt_name(TOOL)[:-1], TOOL, False),
    "exact-is-not-longer": (Match.EXACT, nt_name(TOOL) + "x", TOOL, False),
    "exact-is-not-a-suffix": (Match.EXACT, "tool.exe", TOOL, False),
    "exact-is-not-a-directory": (Match.EXACT, DIRECTORY, TOOL, False),
    "exact-needs-the-nt-name": (Match.EXACT, TOOL, TOOL, False),
    "exact-differs-in-the-last-unit": (Match.EXACT, nt_name("C:\\ntproof\\tools\\tool.exf"), TOOL, False),
    "exact-differs-in-the-first-unit": (Match.EXACT, "/??\\C:\\ntproof\\tools\\tool.exe", TOOL, False),
    "subtree-of-its-directory": (Match.SUBTREE, DIRECTORY, TOOL, True),
    "subtree-with-backslash": (Match.SUBTREE, DIRECTORY + "\\", TOOL, True),
    "subtree-with-two-backslashes": (Match.SUBTREE, DIRECTORY + "\\\\", TOOL, False),
    "subtree-other-case": (Match.SUBTREE, DIRECTORY.swapcase(), TOOL, True),
    "subtree-of-the-volume": (Match.SUBTREE, "\\??\\C:", TOOL, True),
    "subtree-of-the-volume-root": (Match.SUBTREE, "\\??\\C:\\", TOOL, True),
    "subtree-two-levels-up": (Match.SUBTREE, "\\??\\C:\\ntproof", TOOL, True),
    "subtree-ends-within-a-component": (Match.SUBTREE, "\\??\\C:\\ntproof\\tool", TOOL, False),
    "subtree-sibling-with-longer-name": (Match.SUBTREE, DIRECTORY, "C:\\ntproof\\tools2\\tool.exe", False),
    "subtree-is-not-the-image-itself": (Match.SUBTREE, nt_name(TOOL), TOOL, False),
    "subtree-is-not-in-the-middle": (Match.SUBTREE, "ntproof\\tools", TOOL, False),
    "subtree-of-another-volume": (Match.SUBTREE, "\\??\\D:", TOOL, False),
    "suffix-file": (Match.SUFFIX, "tool.exe", TOOL, True),
    "suffix-other-case": (Match.SUFFIX, "TOOL.EXE", TOOL, True),
    "suffix-two-components": (Match.SUFFIX, "tools\\tool.exe", TOOL, True),
    "suffix-that-begins-with-a-backslash": (Match.SUFFIX, "\\tool.exe", TOOL, False),
    "suffix-within-a-component": (Match.SUFFIX, "ool.exe", TOOL, False),
    "suffix-of-a-longer-name": (Match.SUFFIX, "tool.exe", "C:\\ntproof\\mytool.exe", False),
    "suffix-extension-only": (Match.SUFFIX, ".exe", TOOL, False),
    "suffix-whole-name": (Match.SUFFIX, nt_name(TOOL), TOOL, True),
    "suffix-longer-than-the-name": (Match.SUFFIX, "x" + nt_name(TOOL), TOOL, False),
    "suffix-without-extension": (Match.SUFFIX, "tool", TOOL, False),
    "suffix-is-not-a-directory": (Match.SUFFIX, "tools", TOOL, False),
    "suffix-crosses-a-component": (Match.SUFFIX, "ols\\tool.exe", TOOL, False),
    "suffix-with-trailing-backslash": (Match.SUFFIX, "tool.exe\\", TOOL, False),
    "latin-case": (Match.SUFFIX, "GRÖSSE-É.EXE", "C:\\ntproof\\grösse-é.exe", True),
    "sharp-s-has-no-single-upper-case": (Match.SUFFIX, "STRASSE.EXE", "C:\\ntproof\\straße.exe", False),
    "greek-case": (Match.SUFFIX, "ΩΜΈΓΑ.exe", "C:\\ntproof\\ωμέγα.exe", True),
    "cyrillic-case": (Match.SUFFIX, "БЛОКНОТ.EXE", "C:\\ntproof\\блокнот.exe", True),
    "accents-count": (Match.SUFFIX, "cafe.exe", "C:\\ntproof\\café.exe", False),
    "surrogate-pair": (Match.SUFFIX, "\U0001f40d.exe", "C:\\ntproof\\\U0001f40d.exe", True),
    "lone-surrogate": (Match.SUFFIX, "a\ud800b.exe", "C:\\ntproof\\a\ud800b.exe", True),
    "lone-surrogates-differ": (Match.SUFFIX, "a\ud801b.exe", "C:\\ntproof\\a\ud800b.exe", False),
    "wildcards-are-ordinary": (Match.SUFFIX, "*.exe", TOOL, False),
}


@pytest.mark.parametrize(("match", "pattern", "image", "denied"), MATCHES.values(), ids=MATCHES.keys())
def test_a_rule_denies_what_it_matches_and_nothing_else(
    run_scenario: Callable[..., Capture], match: Match, pattern: str, image: str, denied: bool
) -> None:
    steps = (SetRules((Rule(match, pattern),)), Launch("process", image, "app"))
    capture = run_scenario(scenario("rule", *steps, *(() if denied else (ExitProcess("process"),)), ReadStatistics()))
    assert launched(capture, "process").result.succeeded is not denied


def test_the_first_rule_that_matches_decides(run_scenario: Callable[..., Capture]) -> None:
    rules = (
        Rule(Match.SUFFIX, "other.exe", 0xC0000001),
        Rule(Match.SUBTREE, DIRECTORY, 0xC0000906),
        Rule(Match.EXACT, nt_name(TOOL), 0xC0000034),
        Rule(Match.SUFFIX, "tool.exe", 0xC0000022),
    )
    capture = run_scenario(scenario("first", SetRules(rules), Launch("process", TOOL, "tool")))
    assert [item.status for item in capture.items if isinstance(item, Create)] == [0xC0000906]


@pytest.mark.parametrize("first", list(Match), ids=lambda match: match.name.lower())
def test_order_and_not_kind_decides_between_rules(run_scenario: Callable[..., Capture], first: Match) -> None:
    patterns = {Match.EXACT: nt_name(TOOL), Match.SUBTREE: DIRECTORY, Match.SUFFIX: "tool.exe"}
    kinds = [first, *(kind for kind in reversed(Match) if kind is not first)]
    rules = tuple(Rule(kind, patterns[kind], 0xC0001000 + kind) for kind in kinds)
    capture = run_scenario(scenario("order", SetRules(rules), Launch("process", TOOL, "tool")))
    assert [item.status for item in capture.items if isinstance(item, Create)] == [0xC0001000 + first]


def test_equal_rules_are_decided_by_the_first(run_scenario: Callable[..., Capture]) -> None:
    rules = (Rule(Match.SUFFIX, "tool.exe", 0xC0000001), Rule(Match.SUFFIX, "TOOL.EXE", 0xC0000002))
    run_scenario(scenario("equal", SetRules(rules), Launch("process", TOOL, "tool"), ReadRules()))


def test_each_rule_denies_with_its_own_status(run_scenario: Callable[..., Capture]) -> None:
    statuses = [0xC0000001, 0x80000005, 0xC0000906, 0]
    rules = tuple(Rule(Match.SUFFIX, f"tool{index}.exe", status) for index, status in enumerate(statuses))
    launches = [Launch(f"{index}", f"C:\\ntproof\\tool{index}.exe", "tool") for index in range(len(statuses))]
    capture = run_scenario(scenario("statuses", SetRules(rules), *launches, ReadStatistics()))
    seen = [item.status for item in capture.items if isinstance(item, Create)]
    assert seen == [0xC0000001, 0x80000005, 0xC0000906, STATUS_ACCESS_DENIED]


def test_rules_are_matched_against_the_volume_relative_name_of_a_two_step_creation(
    machine: Machine, driver: ProcNotify
) -> None:
    driver.set_rules([Rule(Match.EXACT, nt_name(TOOL), 0xC0000001), Rule(Match.SUBTREE, "\\ntproof", 0xC0000906)])
    assert attempt(machine, TOOL, two_step=True).status in {0xC0000906, None}
    seen = driver.read_available()[0]
    assert isinstance(seen, Create)
    assert seen.status == 0xC0000906


def test_no_rules_are_in_force_after_loading(driver: ProcNotify) -> None:
    assert driver.get_rules() == ()
    statistics = driver.statistics()
    assert (statistics.rule_count, statistics.rules_generation) == (0, 0)
    assert statistics.rules_size == driver.abi.rules_header_size


def test_rules_are_read_back_as_they_were_set(driver: ProcNotify) -> None:
    rules = (
        Rule(Match.EXACT, nt_name(TOOL), 0xC0000906),
        Rule(Match.SUBTREE, "\\??\\C:\\Mixed Case\\", 0x80000005),
        Rule(Match.SUFFIX, "a\ud800é.exe", 0xFFFFFFFF),
    )
    driver.set_rules(rules)
    assert driver.get_rules() == rules


def test_a_new_set_replaces_the_old_one_whole(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(
        scenario(
            "replace",
            SetRules((Rule(Match.SUFFIX, "tool.exe", 0xC0000001), Rule(Match.SUFFIX, "app.exe", 0xC0000001))),
            Launch("denied tool", TOOL, "tool"),
            SetRules((Rule(Match.SUFFIX, "app.exe", 0xC0000002),)),
            ReadRules(),
            Launch("denied app", APP, "app"),
            Launch("tool", TOOL, "tool"),
            ExitProcess("tool"),
            ReadStatistics(),
        )
    )


def test_an_empty_set_removes_all_rules(driver: ProcNotify, machine: Machine) -> None:
    driver.set_rules([Rule(Match.SUFFIX, "tool.exe")])
    driver.set_rules([])
    assert driver.get_rules() == ()
    assert attempt(machine, TOOL).succeeded


def test_statistics_describe_the_set_in_force(driver: ProcNotify) -> None:
    rules = [Rule(Match.SUFFIX, "x" * units) for units in range(1, 9)]
    for count in range(9):
        driver.set_rules(rules[:count])
        statistics = driver.statistics()
        assert statistics.rule_count == count
        assert statistics.rules_size == len(driver.abi.encode_rules(rules[:count]))
        assert statistics.rules_generation == count + 1


def test_rules_outlive_the_handle_that_set_them(machine: Machine, open_driver: Callable[..., ProcNotify]) -> None:
    with open_driver(machine) as setter:
        setter.set_rules([Rule(Match.SUFFIX, "tool.exe")])
    assert not attempt(machine, TOOL).succeeded
    assert open_driver(machine).statistics().rule_count == 1


def many_rules(count: int) -> list[Rule]:
    """Rules of every kind, none of which matches `TOOL` but the last."""
    kinds = (Match.EXACT, Match.SUBTREE, Match.SUFFIX)
    others = [Rule(kinds[index % 3], f"\\??\\C:\\other\\{index}.exe", 0xC0000001) for index in range(count - 1)]
    return [*others, Rule(Match.EXACT, nt_name(TOOL), 0xC0000906)]


@pytest.mark.parametrize("count", [1, 2, 3, 255, 256, 257, 1023, 1024])
def test_the_last_of_many_rules_is_found(machine: Machine, driver: ProcNotify, count: int) -> None:
    rules = many_rules(count)
    driver.set_rules(rules)
    assert driver.get_rules() == tuple(rules)
    attempt(machine, TOOL)
    seen = driver.read_available()[0]
    assert isinstance(seen, Create)
    assert seen.status == 0xC0000906


def test_every_one_of_1024_rules_is_in_force(machine: Machine, driver: ProcNotify) -> None:
    driver.set_rules(Rule(Match.EXACT, nt_name(f"C:\\t\\{index}.exe"), 0xC0000100 + index) for index in range(1024))
    for index in (0, 1, 2, 511, 512, 1021, 1022, 1023):
        attempt(machine, f"C:\\t\\{index}.exe")
        seen = driver.read_available()[0]
        assert isinstance(seen, Create)
        assert seen.status == 0xC0000100 + index
    assert start(machine, "C:\\t\\1024.exe")


def test_more_than_1024_rules_are_refused(machine: Machine, driver: ProcNotify) -> None:
    driver.set_rules([Rule(Match.SUFFIX, "tool.exe")])
    with refused(STATUS_INVALID_PARAMETER):
        driver.set_rules(many_rules(1025))
    assert driver.statistics().rule_count == 1
    assert not attempt(machine, TOOL).succeeded


@pytest.mark.parametrize("match", list(Match), ids=lambda match: match.name.lower())
def test_the_longest_pattern_is_accepted_and_read_back(driver: ProcNotify, match: Match) -> None:
    longest = Rule(match, "\\??\\C:\\" + "p" * (32_767 - 7), 0xC0000022)
    driver.set_rules([longest])
    assert driver.get_rules() == (longest,)


def test_a_pattern_longer_than_a_string_can_be_is_refused(driver: ProcNotify) -> None:
    with refused(STATUS_INVALID_PARAMETER):
        driver.set_rules([Rule(Match.SUFFIX, "p" * 32_768)])


def test_a_long_image_name_is_matched_to_its_last_unit(run_scenario: Callable[..., Capture]) -> None:
    image = "\\\\?\\C:\\" + "\\".join(["d" * 100] * 300) + "\\tool.exe"
    name = nt_name(image.removeprefix("\\\\?\\"))
    run_scenario(
        scenario(
            "long",
            SetRules((Rule(Match.EXACT, name[:-1] + "f", 0xC0000001), Rule(Match.EXACT, name.upper(), 0xC0000002))),
            Launch("exact", image, "tool"),
            SetRules((Rule(Match.SUFFIX, name[8:], 0xC0000003), Rule(Match.SUFFIX, name[7:], 0xC0000004))),
            Launch("suffix", image, "tool"),
        )
    )


def test_rules_that_change_between_launches_hold_for_the_next(run_scenario: Callable[..., Capture]) -> None:
    steps: list[Step] = []
    for index in range(12):
        steps.append(SetRules((Rule(Match.SUFFIX, "tool.exe", 0xC0000100 + index),) if index % 3 else ()))
        steps.append(Launch(f"process {index}", TOOL, f"{index}"))
    run_scenario(scenario("changing", *steps, ReadStatistics()))
