"""What a create notification says of a process (ntddk.h documentation: PS_CREATE_NOTIFY_INFO)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from harness.conformance.acts import APP, TOOL, attempt, come_and_go, launched, nt_name, scenario, start
from harness.notification import Create
from harness.scenario import (
    Clone,
    ExitProcess,
    Launch,
    ProvideImage,
    ReadStatistics,
    Resume,
    StartDriver,
    StopDriver,
    Terminate,
)
from vm.machine import ImageKind, LaunchRequest
from vm.win32 import ERROR_BAD_EXE_FORMAT, ERROR_ELEVATION_REQUIRED, ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.capture import Capture
    from harness.driver import ProcNotify
    from vm.machine import Machine

LONG_DIRECTORY = "\\\\?\\C:\\" + "\\".join(["d" * 200] * 100)
"""A directory of 20,099 characters, reachable only past MAX_PATH ("Maximum Path Length Limitation")."""

IMAGES = {
    "dos": "C:\\Windows\\System32\\notepad.exe",
    "mixed-case": "c:\\WiNdOwS\\System32\\NotePad.EXE",
    "root": "C:\\x.exe",
    "spaces": "C:\\Program Files\\Some  Vendor\\a tool.exe",
    "no-extension": "C:\\ntproof\\tool",
    "dots": "C:\\ntproof\\v1.2.3\\tool.old.exe",
    "long-path-prefix": "\\\\?\\C:\\ntproof\\tool.exe",
    "nt": "\\??\\C:\\ntproof\\tool.exe",
    "other-volume": "D:\\tool.exe",
    "latin": "C:\\ntproof\\Größe\\café.exe",
    "cyrillic": "C:\\Программы\\Блокнот.exe",
    "japanese": "C:\\ntproof\\メモ帳.exe",
    "surrogate-pair": "C:\\ntproof\\\U0001f40d.exe",
    "lone-surrogate": "C:\\ntproof\\a\ud800b.exe",
    "past-max-path": LONG_DIRECTORY + "\\tool.exe",
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_the_image_name_is_the_one_passed_to_the_open(run_scenario: Callable[..., Capture], image: str) -> None:
    run_scenario(scenario("image name", *come_and_go("process", image)))


def test_every_field_of_a_creation_is_the_one_the_creator_knows(machine: Machine, driver: ProcNotify) -> None:
    parent = start(machine, "C:\\ntproof\\parent.exe", "parent")
    creator = start(machine, "C:\\ntproof\\creator.exe", "creator")
    driver.read_available()
    before = machine.system_time()
    result = attempt(machine, TOOL, "tool /x", parent=parent, creator=creator)
    after = machine.system_time()
    (seen,) = driver.read_available()
    assert isinstance(seen, Create)
    assert seen.time is not None
    assert before <= seen.time <= after
    assert (seen.pid, seen.parent_pid, seen.creator_pid) == (result.pid, parent, creator)
    assert seen.creator_tid == result.creator_tid
    assert (seen.image_name, seen.command_line) == (nt_name(TOOL), "tool /x")
    assert (seen.status, seen.file_open_name_available, seen.is_subsystem_process) == (0, True, False)


def test_the_creator_is_the_parent_unless_told_otherwise(machine: Machine, driver: ProcNotify) -> None:
    result = attempt(machine)
    (seen,) = driver.read_available()
    assert isinstance(seen, Create)
    assert (seen.parent_pid, seen.creator_pid) == (machine.agent_pid, machine.agent_pid)
    assert seen.creator_tid == result.creator_tid
    assert seen.creator_tid not in {seen.creator_pid, seen.pid}


def test_a_reparented_process_names_parent_and_creator_apart(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(
        scenario(
            "re-parenting",
            Launch("shell", "C:\\Windows\\explorer.exe", "explorer"),
            Launch("service", "C:\\ntproof\\service.exe", "service"),
            Launch("child", APP, "app", parent="shell", creator="service"),
            ExitProcess("child"),
        )
    )


def test_a_process_created_by_another_inherits_from_it(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(
        scenario(
            "creator",
            Launch("shell", "C:\\Windows\\explorer.exe", "explorer"),
            *come_and_go("child", creator="shell"),
        )
    )


def test_a_tree_of_twenty_generations_is_told_parent_by_parent(run_scenario: Callable[..., Capture]) -> None:
    names = [f"generation {index}" for index in range(20)]
    steps = [Launch(names[0], APP, names[0])]
    steps += [Launch(name, APP, name, creator=before) for before, name in pairwise(names)]
    run_scenario(scenario("tree", *steps, *(ExitProcess(name) for name in reversed(names))))


def test_a_parent_may_be_gone_before_its_child_creates(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(
        scenario(
            "orphan",
            Launch("parent", APP, "parent"),
            Launch("child", TOOL, "child", creator="parent"),
            ExitProcess("parent"),
            *come_and_go("grandchild", creator="child"),
            ExitProcess("child"),
        )
    )


def test_a_suspended_process_is_told_at_its_creation(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(
        scenario("suspended", Launch("process", APP, "app", suspended=True), Resume("process"), ExitProcess("process"))
    )


def test_a_suspended_process_that_is_killed_is_told_twice(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(scenario("killed", Launch("process", APP, "app", suspended=True), Terminate("process", 7)))


@pytest.mark.parametrize(
    ("kind", "error"),
    [(ImageKind.REQUIRES_ELEVATION, ERROR_ELEVATION_REQUIRED), (ImageKind.INVALID, ERROR_BAD_EXE_FORMAT)],
    ids=["elevation-required", "invalid-image"],
)
def test_a_creation_that_fails_after_its_notification_is_told_and_ends(
    run_scenario: Callable[..., Capture], kind: ImageKind, error: int
) -> None:
    capture = run_scenario(scenario("fails late", ProvideImage(APP, kind), Launch("process", APP, "app")))
    assert launched(capture, "process").result.win32_error == error
    assert [item.status for item in capture.items if isinstance(item, Create)] == [0]


def test_a_creation_that_fails_late_does_not_disturb_the_next(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(
        scenario(
            "fails late, then works",
            ProvideImage(TOOL, ImageKind.REQUIRES_ELEVATION),
            Launch("fails", TOOL, "tool"),
            *come_and_go("works"),
            ReadStatistics(),
        )
    )


@pytest.mark.parametrize("image", ["C:\\ntproof\\absent.exe", "C:\\absent\\absent.exe"], ids=["file", "directory"])
def test_a_creation_that_finds_no_image_is_not_told(machine: Machine, driver: ProcNotify, image: str) -> None:
    result = machine.launch(LaunchRequest(image, "absent"))
    assert result.win32_error in {ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND}
    assert driver.read_available() == []
    assert driver.statistics().created == 0


def test_a_two_step_creation_has_no_command_line_and_a_volume_relative_name(
    machine: Machine, driver: ProcNotify
) -> None:
    pid = start(machine, TOOL, "is not seen", two_step=True)
    (seen,) = driver.read_available()
    assert isinstance(seen, Create)
    assert (seen.pid, seen.command_line, seen.file_open_name_available) == (pid, None, False)
    assert seen.image_name == TOOL.removeprefix("C:")


def test_a_two_step_creation_follows_the_model(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(scenario("two-step", *come_and_go("process", TOOL, "not seen", two_step=True)))


def test_a_clone_is_told_without_a_command_line_or_not_at_all(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(
        scenario(
            "clone",
            Launch("original", APP, "app"),
            Clone("clone", "original"),
            ExitProcess("clone"),
            ExitProcess("original"),
        )
    )


def test_subsystem_processes_are_told_as_the_capabilities_promise(run_scenario: Callable[..., Capture]) -> None:
    run_scenario(
        scenario(
            "subsystem",
            *come_and_go("before"),
            *come_and_go("pico", "C:\\ntproof\\lxss\\bash", "bash", subsystem=True),
            *come_and_go("after"),
        )
    )


def test_a_burst_of_creations_is_told_one_by_one(run_scenario: Callable[..., Capture]) -> None:
    labels = [f"process {index}" for index in range(60)]
    run_scenario(
        scenario(
            "burst",
            *(Launch(label, APP, label) for label in labels),
            *(ExitProcess(label) for label in labels[::-2]),
            ReadStatistics(),
            drain_each_step=False,
        )
    )


def test_processes_that_run_before_the_driver_are_not_told(run_scenario: Callable[..., Capture]) -> None:
    capture = run_scenario(
        scenario(
            "older",
            Launch("older", APP, "older"),
            StartDriver(),
            *come_and_go("younger", TOOL),
            StopDriver(),
            *come_and_go("unseen", TOOL),
        )
    )
    assert [item.image_name for item in capture.items if isinstance(item, Create)] == [nt_name(TOOL)]
