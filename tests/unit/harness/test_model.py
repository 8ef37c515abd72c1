from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.abi import Match, Rule
from harness.capture import Capture, Completed, Launched
from harness.errors import InputError
from harness.model import check
from harness.model.due import DueNotifications
from harness.model.predict import predict_launch
from harness.model.rules import RuleSet
from harness.notification import Create, Exit
from harness.runner import Runner, run_scenario
from harness.scenario import (
    Clone,
    Drain,
    ExitProcess,
    Launch,
    Preexisting,
    ProvideImage,
    ReadRules,
    ReadStatistics,
    Resume,
    Scenario,
    SetRules,
    StartDriver,
    StopDriver,
    Terminate,
)
from harness.verdict import Kind, Verdict
from tests.unit.harness.fake_machine import FakeMachine
from vm.errors import UnsupportedByMachine
from vm.machine import ImageKind

IMAGE = Path(__file__)
A = "C:\\Tools\\a.exe"
BAD = "C:\\Tools\\bad.exe"
ELEVATED = "C:\\Tools\\elevated.exe"
DENY_BAD = SetRules((Rule(Match.SUFFIX, "bad.EXE"), Rule(Match.SUBTREE, "\\??\\C:\\Tools", 0xC00B0007)))
INVALID_RULES = SetRules((Rule(Match.EXACT, "x", 1),))

EVERYTHING = Scenario(
    "everything",
    (
        ProvideImage(A),
        ProvideImage(BAD),
        ProvideImage(ELEVATED, ImageKind.REQUIRES_ELEVATION),
        Launch("a", A, '"C:\\Tools\\a.exe" \ud800 '),
        Launch("child", A, "", creator="a"),
        Launch("adopted", A, None, parent="child"),
        Launch("late", A, "s", suspended=True),
        Launch("two", A, "t", two_step=True),
        Launch("pico", A, "p", subsystem=True),
        Launch("missing", "C:\\nowhere.exe"),
        Launch("elevated", ELEVATED),
        Clone("clone", "a"),
        Resume("late"),
        ExitProcess("late", 0x40010004),
        ReadStatistics(),
        ExitProcess("a", 3),
        SetRules((Rule(Match.SUFFIX, "bad.EXE"),)),
        INVALID_RULES,
        ReadRules(),
        Launch("denied", BAD),
        Terminate("denied"),
        Terminate("clone"),
        ExitProcess("pico"),
        ExitProcess("old"),
        SetRules(),
        Launch("again", BAD),
        Drain(),
    ),
    (Preexisting("old", "C:\\Windows\\old.exe"), Preexisting("older", "C:\\Windows\\old.exe")),
)


def judge(scenario: Scenario, *faults: str, queue_records: int = 10_000, kind: str = "emulated") -> Verdict:
    machine = FakeMachine(*faults, queue_records=queue_records, kind=kind)
    return check(scenario, run_scenario(scenario, machine, image=IMAGE))


@pytest.mark.parametrize("kind", ["emulated", "windows"])
@pytest.mark.parametrize("drain", [True, False])
def test_an_honest_driver_passes(kind, drain):
    verdict = judge(replace(EVERYTHING, drain_each_step=drain), kind=kind)

    assert verdict.passed, verdict.render()
    assert verdict.statistics["creates"] == 9
    assert verdict.tolerated == {"section 4, clones with a thread": 1}


def test_silent_clones_are_tolerated_and_counted():
    verdict = judge(EVERYTHING, "silent-clones")

    assert verdict.passed, verdict.render()
    assert verdict.tolerated == {"section 4, clones with a thread": 2}


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("loses-creates", Kind.MISSING_CREATE),
        ("loses-exits", Kind.MISSING_EXIT),
        ("doubles-creates", Kind.DUPLICATE_CREATE),
        ("doubles-exits", Kind.DUPLICATE_EXIT),
        ("reverses", Kind.ORDER),
        ("skips-a-number", Kind.SEQUENCE),
        ("pid", Kind.UNEXPECTED_CREATE),
        ("pid", Kind.MISSING_CREATE),
        ("parent", Kind.PARENT),
        ("creator", Kind.CREATOR),
        ("image", Kind.IMAGE_NAME),
        ("command", Kind.COMMAND_LINE),
        ("flags", Kind.FLAGS),
        ("status", Kind.DENIAL),
        ("denies-nothing", Kind.DENIAL),
        ("denies-everything", Kind.DENIAL),
        ("wrong-error", Kind.LAUNCH_RESULT),
        ("exit-status", Kind.EXIT_STATUS),
        ("accepts-invalid-rules", Kind.RULES),
        ("refuses-rules", Kind.RULES),
        ("forgets-a-rule", Kind.RULES),
        ("counts-wrong", Kind.STATISTICS),
        ("incapable", Kind.DRIVER_CONTROL),
        ("does-not-start", Kind.DRIVER_CONTROL),
        ("does-not-stop", Kind.DRIVER_CONTROL),
        ("garbage", Kind.MALFORMED_OUTPUT),
        ("crashes", Kind.DRIVER_FAULT),
    ],
)
def test_a_wrong_driver_fails_with_the_kind_of_its_fault(fault, kind):
    verdict = judge(EVERYTHING, fault)

    assert kind in verdict.kinds(), verdict.render()
    assert verdict.render().startswith(f"everything: failed with {verdict.total} discrepanc")


def test_an_exit_without_a_cause_is_unexpected():
    capture = run_scenario(Scenario("quiet", ()), FakeMachine(), image=IMAGE)
    started, *rest = capture.items

    verdict = check(None, Capture(capture.header, [started, Exit(1, 1, 2000, 0), *rest]))

    assert Kind.UNEXPECTED_EXIT in verdict.kinds(), verdict.render()


def test_a_process_of_another_program_is_judged_by_the_rules_alone():
    steps = (ProvideImage(A), SetRules((Rule(Match.SUFFIX, "evil.exe"),)), Drain())
    scenario = Scenario("open", steps)
    capture = run_scenario(scenario, FakeMachine(kind="windows"), image=IMAGE)
    *before, statistics, stopped, completed = capture.items

    def judged(name: str, status: int) -> Verdict:
        foreign = Create(1, 1, 2000, 996, 996, 992, status, name, "x", True)
        return check(scenario, Capture(capture.header, [*before, foreign, statistics, stopped, completed]))

    assert judged("\\??\\C:\\evil.exe", 0xC0000022).passed
    assert judged("\\??\\C:\\good.exe", 0).passed
    assert judged("\\??\\C:\\evil.exe", 0).kinds() == {Kind.DENIAL}
    assert judged("\\??\\C:\\good.exe", 0xC0000022).kinds() == {Kind.DENIAL}


def test_a_refused_creation_whose_pid_the_machine_does_not_know_is_found_by_its_content():
    scenario = Scenario("unknown", (ProvideImage(BAD), SetRules((Rule(Match.SUFFIX, "bad.exe"),)), Launch("a", BAD)))
    capture = run_scenario(scenario, FakeMachine(kind="windows"), image=IMAGE)

    def without_pid(item):
        return replace(item, result=replace(item.result, pid=None)) if isinstance(item, Launched) else item

    items = [without_pid(item) for item in capture.items]
    lost = [item for item in items if not isinstance(item, Exit)]

    assert check(scenario, Capture(capture.header, items)).passed
    assert Kind.MISSING_EXIT in check(scenario, Capture(capture.header, lost)).kinds()


def test_refused_creations_whose_pids_nobody_knows_are_told_from_others_that_use_these_pids_next():
    turns = [
        step
        for number in range(5)
        for step in (Launch(f"b{number}", BAD), Launch(f"a{number}", A), ExitProcess(f"a{number}"))
    ]
    steps = (ProvideImage(A), ProvideImage(BAD), SetRules((Rule(Match.SUFFIX, "bad.exe"),)), *turns, Drain())
    scenario = Scenario("in turn", steps, drain_each_step=False)
    capture = run_scenario(scenario, FakeMachine(kind="windows"), image=IMAGE)

    def as_windows_tells(item):
        refused = isinstance(item, Launched) and not item.result.succeeded
        return replace(item, result=replace(item.result, pid=None, tid=None)) if refused else item

    items = [as_windows_tells(item) for item in capture.items]
    assert len({item.pid for item in items if isinstance(item, Create)}) == 1, "each process has the same pid"

    verdict = check(scenario, Capture(capture.header, items))
    assert verdict.passed, verdict.render()
    denied = next(item for item in items if isinstance(item, Create) and item.status)
    without = [item for item in items if item is not denied]
    assert not check(scenario, Capture(capture.header, without)).passed


def test_an_exit_whose_create_was_lost_is_that_of_a_refused_creation_whose_pid_nobody_knows():
    steps = (ProvideImage(BAD), SetRules((Rule(Match.SUFFIX, "bad.exe"),)), Launch("b", BAD), Drain())
    scenario = Scenario("lost create", steps, drain_each_step=False)
    capture = run_scenario(scenario, FakeMachine(kind="windows"), image=IMAGE)
    due = DueNotifications()
    (create,) = [item for item in capture.items if isinstance(item, Create)]
    (exit_,) = [item for item in capture.items if isinstance(item, Exit)]
    (launched,) = [item for item in capture.items if isinstance(item, Launched)]
    unknown = replace(launched, result=replace(launched.result, pid=None, tid=None))
    prediction = predict_launch(unknown, RuleSet(steps[1].rules), ImageKind.NORMAL, 0)
    for expected in (prediction.create, prediction.exit):
        due.push(expected)

    assert due.take_exit(replace(exit_, status=1)) is None
    assert due.take_exit(exit_).expected is prediction.exit
    assert list(due.settle(late_too=True)) == [prediction.create]
    assert create.pid == exit_.pid


def test_a_full_queue_is_explained_by_its_gap():
    launches = tuple(Launch(f"p{index}", A) for index in range(20))
    scenario = Scenario("overflow", (ProvideImage(A), *launches, Drain(), ReadStatistics()), drain_each_step=False)

    verdict = judge(scenario, queue_records=7)

    assert verdict.passed, verdict.render()
    assert verdict.statistics["lost"] == 13


def test_a_gap_that_counts_too_much_is_a_discrepancy():
    launches = tuple(Launch(f"p{index}", A) for index in range(20))
    scenario = Scenario("overflow", (ProvideImage(A), *launches, Drain()), drain_each_step=False)

    verdict = judge(scenario, "overcounts-gaps", queue_records=7)

    assert Kind.GAP in verdict.kinds(), verdict.render()


def test_a_bugcheck_names_the_line_of_the_driver_and_the_step():
    verdict = judge(EVERYTHING, "crashes")

    assert verdict.total == 1
    (found,) = verdict.discrepancies
    assert (found.kind, found.driver_line, found.step) == (Kind.DRIVER_FAULT, "notify.c:12", 3)
    assert "bugcheck 0x50" in found.seen


def test_a_capture_cut_short_is_incomplete():
    capture = run_scenario(EVERYTHING, FakeMachine(), image=IMAGE)
    cut = Capture(capture.header, [item for item in capture.items if not isinstance(item, Completed)])

    assert check(EVERYTHING, cut).kinds() == {Kind.INCOMPLETE}


def test_a_capture_of_another_scenario_is_refused():
    capture = run_scenario(EVERYTHING, FakeMachine(), image=IMAGE)

    with pytest.raises(InputError, match="made with scenario 'everything'"):
        check(replace(EVERYTHING, name="other"), capture)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parent_pid": 8}, "step 5, 'adopted': the scenario asks for parent .*, the machine says 8"),
        ({"command_line": "other"}, "step 4, 'child': the scenario asks for command line '', the machine says 'other'"),
        ({"creator_pid": 8}, "step 4, 'child': the scenario asks for creator .*, the machine says 8"),
    ],
)
def test_ground_truth_that_contradicts_the_scenario_is_refused(change, message):
    capture = run_scenario(EVERYTHING, FakeMachine(), image=IMAGE)
    label = message.split("'")[1]
    items = [
        replace(item, result=replace(item.result, **change))
        if isinstance(item, Launched) and item.label == label
        else item
        for item in capture.items
    ]

    with pytest.raises(InputError, match=message):
        check(EVERYTHING, Capture(capture.header, items))


def test_a_capture_that_lacks_a_step_is_refused():
    capture = run_scenario(EVERYTHING, FakeMachine(), image=IMAGE)
    items = [item for item in capture.items if not (isinstance(item, Launched) and item.label == "two")]

    with pytest.raises(InputError, match="nothing was captured of step 7"):
        check(EVERYTHING, Capture(capture.header, items))


def test_a_capture_is_judged_by_its_own_ground_truth_without_the_scenario():
    honest = run_scenario(EVERYTHING, FakeMachine(), image=IMAGE)
    wrong = run_scenario(EVERYTHING, FakeMachine("command"), image=IMAGE)

    assert check(None, honest).passed
    assert Kind.COMMAND_LINE in check(None, wrong).kinds()


def test_the_driver_can_be_stopped_and_started_within_a_scenario():
    scenario = Scenario(
        "restart",
        (
            ProvideImage(A),
            Launch("before", A),
            StartDriver(queue_bytes=0x80000),
            Launch("during", A),
            ExitProcess("before"),
            StopDriver(),
            Launch("between", A),
            ExitProcess("during"),
            StartDriver(),
            ExitProcess("between", 7),
            ReadStatistics(),
        ),
    )
    verdict = judge(scenario)

    assert verdict.passed, verdict.render()
    assert (verdict.statistics["creates"], verdict.statistics["exits"]) == (1, 2)


def test_a_running_driver_is_used_as_it_is_and_left_running():
    machine = FakeMachine()
    scenario = Scenario("attached", (ProvideImage(A), DENY_BAD, Launch("a", A), ReadStatistics()))
    machine.install_driver("procnotify", IMAGE)
    machine.start_driver("procnotify")
    machine.provide_image(A)

    first = check(scenario, run_scenario(scenario, machine))
    second = check(scenario, run_scenario(scenario, machine))

    assert first.passed, first.render()
    assert second.passed, second.render()
    assert machine.driver is not None


def test_a_machine_below_the_required_build_is_unsupported():
    from harness.scenario import Requirements

    scenario = Scenario("new", (), requirements=Requirements(minimum_build=99_999))

    with pytest.raises(UnsupportedByMachine, match="needs build 99999"):
        list(Runner(scenario, FakeMachine(), image=IMAGE).items())
