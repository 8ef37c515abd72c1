"""The JSON form of a scenario: versioned, validated, and the same scenario again when read back.

    {"format": "ntproof-scenario", "version": 1, "name": "...", "steps": [{"do": "launch", ...}, ...]}

Keys with their default value may be left out. Statuses are integers or texts such as "0xC0000022". Lone surrogates are
JSON escapes, which every JSON reader and writer keeps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, Final

from harness.abi import Match, Rule
from harness.errors import InputError
from harness.json_reader import Node, parse_json
from harness.scenario import (
    FORMAT_NAME,
    FORMAT_VERSION,
    Clone,
    Drain,
    ExitProcess,
    Launch,
    Preexisting,
    ProvideImage,
    ReadRules,
    ReadStatistics,
    Requirements,
    Resume,
    Scenario,
    SetRules,
    StartDriver,
    Step,
    StopDriver,
    Terminate,
)
from vm.machine import ImageKind

_NAMES: Final[Mapping[type[Step], str]] = {
    SetRules: "set-rules",
    ProvideImage: "provide-image",
    Launch: "launch",
    Clone: "clone",
    Resume: "resume",
    ExitProcess: "exit",
    Terminate: "terminate",
    StartDriver: "start-driver",
    StopDriver: "stop-driver",
    Drain: "drain",
    ReadStatistics: "read-statistics",
    ReadRules: "read-rules",
}


def step_name(step: Step) -> str:
    """A step's name as JSON and messages have it."""
    return _NAMES[type(step)]


def scenario_to_json(scenario: Scenario) -> dict[str, Any]:
    """The scenario as JSON data."""
    data: dict[str, Any] = {"format": FORMAT_NAME, "version": FORMAT_VERSION, "name": scenario.name}
    if scenario.requirements != Requirements():
        data["requirements"] = _plain(scenario.requirements)
    if not scenario.drain_each_step:
        data["drain_each_step"] = False
    if scenario.processes:
        data["processes"] = [_plain(process) for process in scenario.processes]
    data["steps"] = [{"do": step_name(step), **_plain(step)} for step in scenario.steps]
    return data


def dump_scenario(scenario: Scenario) -> str:
    """The scenario as a JSON document, fit to be read and compared by people."""
    return json.dumps(scenario_to_json(scenario), indent=2) + "\n"


def scenario_hash(scenario: Scenario) -> str:
    """SHA-256 of the scenario's content, independent of how its file is laid out."""
    canonical = json.dumps(scenario_to_json(scenario), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file.

    Raises:
        InputError: the file cannot be read or is malformed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    return parse_scenario(text, str(path))


def parse_scenario(text: str, source: str = "scenario") -> Scenario:
    """Read a scenario from a JSON document; `source` names it in messages.

    Raises:
        InputError: it is malformed.
    """
    node = Node(parse_json(text, source), source)
    required = frozenset({"format", "version", "name", "steps"})
    node.object(required, frozenset({"processes", "drain_each_step", "requirements"}))
    if node.value["format"] != FORMAT_NAME:
        node.at("format").fail(f"expected {FORMAT_NAME!r}, found {node.value['format']!r:.80}")
    if node.value["version"] != FORMAT_VERSION or isinstance(node.value["version"], bool):
        found = f"{node.value['version']!r:.80}"
        node.at("version").fail(f"this release reads version {FORMAT_VERSION}, found {found}")
    name = node.at("name").text()
    processes = tuple(map(_preexisting, node.at("processes").items())) if node.has("processes") else ()
    steps = tuple(map(_step, node.at("steps").items()))
    requirements = _requirements(node.at("requirements")) if node.has("requirements") else Requirements()
    try:
        return Scenario(name, steps, processes, node.at("drain_each_step").boolean(True), requirements)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def rule_to_json(rule: Rule) -> dict[str, Any]:
    """A rule as JSON data."""
    return {"match": rule.match.name.lower(), "pattern": rule.pattern, "status": rule.status}


def rule_from_json(node: Node) -> Rule:
    """A rule from JSON data. Raises InputError."""
    node.object(frozenset({"match", "pattern"}), frozenset({"status"}))
    status = node.at("status").status() if node.has("status") else 0
    return Rule(node.at("match").choice(Match), node.at("pattern").text(empty=True), status)


def _plain(item: Any) -> dict[str, Any]:
    """The fields of a dataclass whose values are not the defaults."""
    data = {}
    for field in fields(item):
        value = getattr(item, field.name)
        if value == field.default:
            continue
        if field.name == "rules":
            value = [rule_to_json(rule) for rule in value]
        elif isinstance(value, Enum):
            value = value.value
        elif isinstance(value, tuple):
            value = list(value)
        data[field.name] = value
    return data


def _requirements(node: Node) -> Requirements:
    node.object(frozenset(), frozenset({"minimum_build", "kinds"}))
    kinds = tuple(kind.text() for kind in node.at("kinds").items()) if node.has("kinds") else ()
    return Requirements(node.at("minimum_build").optional_integer(0, 1_000_000) or 0, kinds)


def _preexisting(node: Node) -> Preexisting:
    node.object(frozenset({"label", "image"}), frozenset({"command_line"}))
    command_line = node.at("command_line").optional_text(empty=True)
    return Preexisting(node.at("label").text(), node.at("image").text(), command_line)


def _step(node: Node) -> Step:
    if not isinstance(node.value, dict) or not isinstance(node.value.get("do"), str):
        node.fail("expected an object with a 'do'")
    reader = _READERS.get(node.value["do"])
    if reader is None:
        node.at("do").fail(f"unknown step {node.value['do']!r:.80}; known: {', '.join(_READERS)}")
    return reader(node)


def _set_rules(node: Node) -> SetRules:
    node.object(frozenset({"do"}), frozenset({"rules"}))
    return SetRules(tuple(map(rule_from_json, node.at("rules").items())) if node.has("rules") else ())


def _provide_image(node: Node) -> ProvideImage:
    node.object(frozenset({"do", "path"}), frozenset({"kind"}))
    kind = node.at("kind").choice(ImageKind) if node.has("kind") else ImageKind.NORMAL
    return ProvideImage(node.at("path").text(), kind)


def _launch(node: Node) -> Launch:
    flags = frozenset({"suspended", "two_step", "subsystem"})
    node.object(frozenset({"do", "label", "image"}), flags | {"command_line", "parent", "creator"})
    return Launch(
        node.at("label").text(),
        node.at("image").text(),
        node.at("command_line").optional_text(empty=True),
        node.at("parent").optional_text(),
        node.at("creator").optional_text(),
        node.at("suspended").boolean(),
        node.at("two_step").boolean(),
        node.at("subsystem").boolean(),
    )


def _clone(node: Node) -> Clone:
    node.object(frozenset({"do", "label", "of"}))
    return Clone(node.at("label").text(), node.at("of").text())


def _resume(node: Node) -> Resume:
    node.object(frozenset({"do", "label"}))
    return Resume(node.at("label").text())


def _exit(node: Node) -> ExitProcess:
    node.object(frozenset({"do", "label"}), frozenset({"status"}))
    return ExitProcess(node.at("label").text(), node.at("status").status() if node.has("status") else 0)


def _terminate(node: Node) -> Terminate:
    node.object(frozenset({"do", "label"}), frozenset({"status"}))
    return Terminate(node.at("label").text(), node.at("status").status() if node.has("status") else 1)


def _start_driver(node: Node) -> StartDriver:
    node.object(frozenset({"do"}), frozenset({"queue_bytes"}))
    return StartDriver(node.at("queue_bytes").optional_integer(0, 0xFFFFFFFF))


def _bare(step: StopDriver | Drain | ReadStatistics | ReadRules) -> Callable[[Node], Step]:
    def read(node: Node) -> Step:
        node.object(frozenset({"do"}))
        return step

    return read


_READERS: Final[Mapping[str, Callable[[Node], Step]]] = {
    "set-rules": _set_rules,
    "provide-image": _provide_image,
    "launch": _launch,
    "clone": _clone,
    "resume": _resume,
    "exit": _exit,
    "terminate": _terminate,
    "start-driver": _start_driver,
    "stop-driver": _bare(StopDriver()),
    "drain": _bare(Drain()),
    "read-statistics": _bare(ReadStatistics()),
    "read-rules": _bare(ReadRules()),
}
