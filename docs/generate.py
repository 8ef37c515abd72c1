"""Writes the reference pages that are taken from the code: `python docs/generate.py`, or with --check only compares.

What a page says is what the code declares: argument parsers, option tables, data classes and their docstrings.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from enum import Enum
from pathlib import Path
from typing import Any, Final, get_args

from harness import capture, capture_json, cli, notification, plugin, pytest_options, scenario, scenario_json, settings
from harness.abi import Match, Rule, Statistics, Version
from harness.build import image_checks
from harness.build.findings import Severity
from harness.build.signing import settings as signing_settings
from harness.exit_codes import ExitCode
from harness.inspection import answers, predictions
from harness.inspection.inspect import Inspection
from vm.emulated.verifier_options import ALWAYS_MADE
from vm.machine import ImageKind, LaunchResult
from vm.verifier import DEFAULT_PROBABILITY, LOW_RESOURCES, OPTIONS, STANDARD
from vm.windows import strict
from vm.windows.profiles import profile

FOLDER: Final = Path(__file__).resolve().parent / "reference"
NOTICE: Final = "<!-- Written by docs/generate.py; change the code instead. -->"
_TYPES: Final = {
    "str": "text",
    "int": "integer",
    "bool": "true or false",
    "None": "null",
    "tuple[str, ...]": "list of texts",
    "tuple[Rule, ...]": "list of rules",
    "tuple[Step, ...]": "list of steps",
    "tuple[Preexisting, ...]": "list of processes",
    "Mapping[str, str]": "object of texts",
    "ImageKind": "image kind",
    "Match": "match",
    "Requirements": "requirements",
    "Statistics": "statistics",
    "Version": "version",
    "LaunchResult": "launch result",
}


def pages() -> dict[str, str]:
    """Every generated page by file name."""
    makers: dict[str, Callable[[], Iterable[str]]] = {
        "cli.md": _cli,
        "exit-codes.md": _exit_codes,
        "pytest.md": _pytest,
        "scenario-format.md": _scenario_format,
        "capture-format.md": _capture_format,
        "profile-format.md": _profile_format,
        "signing-settings.md": _signing_settings,
        "inspection.md": _inspection,
        "driver-verifier.md": _driver_verifier,
    }
    return {name: "\n".join([NOTICE, "", *make()]).rstrip() + "\n" for name, make in makers.items()}


def outdated(folder: Path = FOLDER) -> list[str]:
    """Names of the pages whose file is not what the code says."""
    return [
        name
        for name, text in pages().items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]


def main(arguments: list[str]) -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is out of date")
    if parser.parse_args(arguments).check:
        stale = outdated()
        for name in stale:
            print(f"docs/reference/{name} is out of date: run python docs/generate.py")
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


def _cli() -> Iterator[str]:
    parser = cli._parser()  # noqa: SLF001 - the page describes exactly this parser
    yield from ("# The ntproof command", "", parser.description or "")
    yield from ("", "Each command ends with one of the [exit codes](exit-codes.md).")
    yield from _commands("ntproof", parser)


def _commands(prefix: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    for commands in (a for a in parser._actions if isinstance(a, argparse._SubParsersAction)):  # noqa: SLF001
        for name, command in sorted(commands.choices.items()):
            yield from ("", f"## {prefix} {name}", "", command.description or "")
            arguments = [action for action in command._actions if action.dest != "help" and action.nargs != "A..."]  # noqa: SLF001
            if arguments:
                yield from ("", "| argument | meaning |", "|---|---|")
                yield from (_row(f"`{_spelling(action)}`", _help(action)) for action in arguments)
            yield from _commands(f"{prefix} {name}", command)


def _spelling(action: argparse.Action) -> str:
    shown = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        return shown if action.metavar else action.dest.upper()
    option = ", ".join(action.option_strings)
    if action.nargs == 0:
        return option
    return f"{option} {'{' + ','.join(map(str, action.choices)) + '}' if action.choices else shown}"


def _help(action: argparse.Action) -> str:
    return (action.help or "") % {"default": action.default}


def _exit_codes() -> Iterator[str]:
    yield from ("# Exit codes", "", "Every `ntproof` command ends with one of these.", "")
    yield from ("| code | name | meaning |", "|---|---|---|")
    notes = _member_notes(ExitCode)
    for code in ExitCode:
        yield _row(str(code.value), code.name.lower().replace("_", " "), notes[code.name])
    yield _row(str(cli.INTERRUPTED), "interrupted", "Ended by SIGINT.")
    yield _row(str(cli.OUTPUT_CLOSED), "output closed", "The reader of its output went away before all was said.")
    yield from (
        "",
        "pytest keeps its own exit codes: 0 all passed, 1 some failed or ended in an error, 2 interrupted, under",
        "pytest-xdist also by `-x`, 3 pytest itself failed, 4 wrong usage, 5 nothing selected.",
    )


def _driver_verifier() -> Iterator[str]:
    yield from ("# Driver Verifier's options", "")
    yield from textwrap.wrap(
        "Settings are names separated by commas: `special-pool,io,low-resources=0.05,pool-tag=Tag1,seed=7`. On every "
        "kind of machine they have the same names; what each machine does with them is in the table.",
        120,
    )
    heads = ("name", "Microsoft's name, bit", "without a restart on Windows", "emulated machine")
    yield from ("", _row(*heads), _row(*["---"] * len(heads)))
    for option in OPTIONS:
        volatile = {(True, True): "10 and 11", (True, False): "10"}.get((option.volatile_10, option.volatile_11), "no")
        here = "simulated" if option.name == LOW_RESOURCES else ALWAYS_MADE.get(option.name, "refused")
        made = f"always made: {here}" if option.name in ALWAYS_MADE else here
        yield _row(f"`{option.name}`", f"{option.title}, 0x{option.flag:x}", volatile, made)
    standard = ", ".join(f"`{option.name}`" for option in OPTIONS if option.standard)
    yield ""
    yield from textwrap.wrap(f"`{STANDARD}` stands for the options of `verifier /standard`: {standard}.", 120)
    yield from ("", "Server 2022 counts as Windows 10, Server 2025 as Windows 11. Other options need a restart.")
    yield from ("", "## Low resources", "")
    yield from textwrap.wrap(
        f"`{LOW_RESOURCES}` fails each allocation with a probability, {DEFAULT_PROBABILITY:g} unless one is given; "
        "with `pool-tag` only pool allocations with that tag. On Windows which of them fail is left to chance. On the "
        "emulated machine it follows from `seed` (0 unless given), which the machine states among its facts, and from "
        "how many were made before; the debug output names each call that failed. These can fail there: pool "
        "allocations, `IoAllocateIrp` and `IoBuild...Request`, `IoAllocateMdl`, `IoAllocateWorkItem`, the buffers of "
        "Rtl strings, `IoSetCompletionRoutineEx`, `MmProbeAndLockPages` (which raises) and "
        "`MmMapLockedPagesSpecifyCache`. Windows also ends alertable waits of unprivileged processes with "
        "STATUS_ALERTED; the emulated machine does not.",
        120,
    )


class _Options:
    """Stands where pytest's parser does, and keeps what is declared."""

    def __init__(self) -> None:
        self.declared: list[tuple[str, Mapping[str, Any]]] = []

    def getgroup(self, *_names: str) -> _Options:
        return self

    def addoption(self, *names: str, **declared: Any) -> None:
        self.declared.append((", ".join(names), declared))


def _pytest() -> Iterator[str]:
    options = _Options()
    pytest_options.add_options(options)  # type: ignore[arg-type]
    yield from ("# pytest options, markers and fixtures", "", "## Options", "", "| option | meaning |", "|---|---|")
    for name, declared in options.declared:
        metavar = declared.get("metavar")
        yield _row(f"`{name} {metavar}`" if metavar else f"`{name}`", declared["help"])
    yield from ("", "## Markers", "", "| marker | meaning |", "|---|---|")
    for marker in plugin._MARKERS:  # noqa: SLF001 - the page describes exactly these
        name, _, meaning = marker.partition(":")
        yield _row(f"`{name}`", meaning.strip())
    yield from ("", "## Fixtures", "", "| fixture | scope | what it gives |", "|---|---|---|")
    for name, scope, meaning in _fixtures():
        yield _row(f"`{name}`", scope, meaning)
    yield from _keys("tool.ntproof", settings.Settings)


def _fixtures() -> Iterator[tuple[str, str, str]]:
    for node in ast.parse(inspect.getsource(plugin)).body:
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                text = ast.unparse(decorator)
                if text.startswith("pytest.fixture"):
                    scope = "session" if "'session'" in text else "test"
                    yield node.name, scope, _first_sentences(ast.get_docstring(node) or "")


def _scenario_format() -> Iterator[str]:
    yield from ("# Scenario format", "", _paragraphs(scenario.__doc__), "", _paragraphs(scenario_json.__doc__))
    yield from _table(scenario.Scenario, "## The document", before=_format_rows(scenario))
    yield from ("", "## Steps")
    for step in get_args(scenario.Step):
        name = scenario_json._NAMES[step]  # noqa: SLF001 - the page describes exactly these
        yield from _table(step, f"### {name}", before=[_row("`do`", "text", "", f'`"{name}"`')])
    yield from ("", "## Parts")
    yield from _table(scenario.Preexisting, "### Process")
    yield from _table(scenario.Requirements, "### Requirements")
    yield from _rule_parts()


def _capture_format() -> Iterator[str]:
    yield from ("# Capture format", "", _paragraphs(capture.__doc__), "", _paragraphs(capture_json.__doc__))
    yield from _table(capture.CaptureHeader, "## The first line", before=_format_rows(capture))
    yield from ("", "## Notifications of the driver", "", _paragraphs(notification.__doc__))
    named = capture_json._EVENTS  # noqa: SLF001 - the page describes exactly these
    reported = (notification.Create, notification.Exit, notification.Gap)
    for name, kind in named.items():
        if kind in reported:
            yield from _table(kind, f"### {name}", before=[_row("`event`", "text", "", f'`"{name}"`')])
    yield from ("", "## What the machine knows")
    for name, kind in named.items():
        if kind not in reported:
            yield from _table(kind, f"### {name}", before=[_row("`event`", "text", "", f'`"{name}"`')])
    yield from ("", "## Parts")
    yield from _table(LaunchResult, "### Launch result")
    yield from _table(Version, "### Version")
    yield from _table(Statistics, "### Statistics")
    yield from _rule_parts()


def _profile_format() -> Iterator[str]:
    yield from ("# Profile format", "")
    yield "A profile is a TOML file; the file's name is the profile's name."
    yield "[How to make images](../how-to/windows-images.md) says where profiles are put."
    yield "Defaults are for keys that are left out; a key without one must be there."
    rules = {field.name: strict.rule_of(field) for field in fields(profile.Profile)}
    tables = {name: rule.kind for name, rule in rules.items() if isinstance(rule, strict.PartRule)}
    yield from _keys("", profile.Profile, leave_out={"name", *tables})
    for name, kind in tables.items():
        yield from _keys(name, kind)


def _signing_settings() -> Iterator[str]:
    yield from ("# Signing settings", "")
    yield "What `[tool.ntproof.signing]` of a pyproject.toml may hold; see [how to sign](../how-to/signing.md)."
    yield "Defaults are for keys that are left out; a key without one must be there. Paths are relative to the file."
    yield from _keys("", signing_settings.Common, leave_out=("source",))
    yield from _choices(signing_settings.Source, "## source", [source.value for source in signing_settings.Source])
    common = {field.name for field in fields(signing_settings.Common)}
    for source, kind in signing_settings.KINDS.items():
        if {field.name for field in fields(kind)} - common:
            yield from _keys(f'source = "{source.value}"', kind, leave_out=common, bracketed=False)


def _inspection() -> Iterator[str]:
    yield from ("# Inspection of images", "")
    yield "What `ntproof inspect` tells of a driver image; [the command](cli.md), [exit codes](exit-codes.md)."
    summary, notes = _documented(Inspection)
    yield from ("", "## What it knows", "", summary, "", "| what | meaning |", "|---|---|")
    yield from (_row(name.replace("_", " "), note) for name, note in notes.items())
    yield from _choices(Severity, "## Severity of a finding", [severity.value for severity in Severity])
    yield from ("", "An error ends the command with 1; warnings and notes do not.")
    yield from ("", "## Checks", "")
    yield ", ".join(f"`{name}`" for name in (*image_checks.CHECKS, "imports", "signature"))
    certainties = [certainty.value for certainty in predictions.Certainty]
    yield from _choices(predictions.Certainty, "## Certainty of a prediction", certainties)
    yield from (
        "",
        "## Answers of StartService",
        "",
        "| code | name | NTSTATUS | meaning | advice |",
        "|---|---|---|---|---|",
    )
    for answer in answers.ALL:
        yield _row(str(answer.code), answer.name, f"0x{answer.status:08X}", answer.meaning, answer.advice)


def _keys(name: str, kind: type[Any], leave_out: Iterable[str] = (), *, bracketed: bool = True) -> Iterator[str]:
    """The keys of a table, each with what it accepts."""
    summary, notes = _documented(kind)
    heading = f"## [{name}]" if bracketed else f"## {name}"
    yield from ("", heading if name else "## At the top", "", summary, "")
    yield from ("| key | accepted | default | meaning |", "|---|---|---|---|")
    for field in fields(kind):
        if field.name not in leave_out:
            yield _row(
                f"`{field.name}`",
                _accepted(strict.rule_of(field)),
                _default(field).replace("null", "none"),
                notes[field.name],
            )


def _accepted(rule: strict.Rule) -> str:
    match rule:
        case strict.TextRule(hint=hint):
            return hint
        case strict.WholeRule(low=low, high=high, unit=unit):
            return f"{low} to {high}, {unit}"
        case strict.ChoiceRule(kind=kind):
            return ", ".join(f"`{member.value}`" for member in kind)
        case strict.ArgumentsRule():
            return "list of texts"
        case strict.TextsRule(each=each):
            return f"list, each {each.hint}"
        case _:
            return "true or false"


def _rule_parts() -> Iterator[str]:
    yield from _table(Rule, "### Rule")
    yield from _choices(Match, "### Match", [match.name.lower() for match in Match])
    yield from _choices(ImageKind, "### Image kind", [str(kind.value) for kind in ImageKind])


def _format_rows(module: Any) -> list[str]:
    return [
        _row("`format`", "text", "", f'`"{module.FORMAT_NAME}"`'),
        _row("`version`", "integer", "", f"`{module.FORMAT_VERSION}`"),
    ]


def _table(kind: type[Any], heading: str, before: Iterable[str] = ()) -> Iterator[str]:
    summary, notes = _documented(kind)
    yield from ("", heading, "", summary)
    rows = [*before, *(_row(f"`{f.name}`", _type(f), _default(f), notes.get(f.name, "")) for f in fields(kind))]
    if rows:
        yield from ("", "| key | type | default | meaning |", "|---|---|---|---|", *rows)


def _choices(kind: type[Enum], heading: str, names: Iterable[str]) -> Iterator[str]:
    notes = _member_notes(kind)
    yield from ("", heading, "", _documented(kind)[0], "")
    for member, name in zip(kind, names, strict=True):
        note = notes.get(member.name)
        yield f"- `{name}`" + (f": {note}" if note else "")


def _type(field: Field[Any]) -> str:
    return " or ".join(_TYPES[part] for part in str(field.type).split(" | "))


def _default(field: Field[Any]) -> str:
    value = field.default
    if value is MISSING:
        return "" if field.default_factory is MISSING else "empty"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return f"`{value.value}`"
    return "empty" if value in ("", ()) or not isinstance(value, (int, str)) else f"`{value}`"


def _documented(kind: type[Any]) -> tuple[str, dict[str, str]]:
    """The summary of a class, and what its docstring says of each attribute."""
    text, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    notes: dict[str, str] = {}
    names: list[str] = []
    for line in textwrap.dedent(attributes.partition("\n\n")[0]).splitlines():
        head, colon, rest = line.partition(":")
        if colon and not line.startswith(" "):
            names = [name.strip() for name in head.split(",")]
            notes |= dict.fromkeys(names, rest.strip())
        elif line.strip():
            notes |= {name: f"{notes[name]} {line.strip()}" for name in names}
    return _paragraphs(text), notes


def _member_notes(kind: type[Enum]) -> dict[str, str]:
    """The docstrings under the members of an enumeration."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    notes = {}
    for member, note in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(member, ast.Assign) and isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant):
            target = member.targets[0]
            assert isinstance(target, ast.Name)
            notes[target.id] = _joined(str(note.value.value))
    return notes


def _paragraphs(text: str | None) -> str:
    """A docstring as Markdown: wrapped lines joined, indented blocks as code."""
    blocks = inspect.cleandoc(text or "").strip().split("\n\n")
    return "\n\n".join(block if block.startswith("    ") else _joined(block) for block in blocks)


def _first_sentences(text: str) -> str:
    return _joined(text.split("\n\n", maxsplit=1)[0])


def _joined(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("``", "`").replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
