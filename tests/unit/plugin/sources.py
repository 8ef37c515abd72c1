"""Sources of tests that these tests have pytest run, and how to read what it wrote."""

from __future__ import annotations

from xml.etree import ElementTree

LAUNCH = """
from vm.machine import LaunchRequest

def launch(machine, image):
    machine.provide_image(image)
    return machine.launch(LaunchRequest(image, "x"))
"""
SCENARIO = """
from harness.scenario import ExitProcess, Launch, ProvideImage, Scenario

STEPS = (ProvideImage("C:\\\\a.exe"), Launch("a", "C:\\\\a.exe", "a"), ExitProcess("a"))

def test_it(run_scenario):
    run_scenario(Scenario("come and go", STEPS))
"""


def failing(body: str, fixtures: str = "machine") -> str:
    return f"{LAUNCH}\ndef test_it({fixtures}):\n    {body}\n"


def junit_properties(pytester) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in ElementTree.parse(pytester.path / "report.xml").iter("property"):
        found.setdefault(one.get("name"), []).append(one.get("value"))
    return found
