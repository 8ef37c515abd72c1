"""Holds an answer file against a table of the components, passes and settings that Windows setup knows.

Setup itself reports such mistakes on a screen that nobody watches, minutes into an installation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final
from xml.etree import ElementTree as ET

from vm.windows.images.unattend import NAMESPACE, attribute, tag

_COMPONENT_ATTRIBUTES: Final = {
    "processorArchitecture": "amd64",
    "publicKeyToken": "31bf3856ad364e35",
    "language": "neutral",
    "versionScope": "nonSxS",
}
_PASSES: Final = ("windowsPE", "offlineServicing", "generalize", "specialize", "auditSystem", "auditUser", "oobeSystem")
_ROW: Final = re.compile(r"(?P<indent> *)(?P<name>[\w-]+)(?P<marks>[*!]*)(?: (?P<rest>.*))?")


@dataclass(frozen=True)
class Setting:
    """What the table says of a setting.

    Attributes:
        name: its name.
        kind: words of its type; empty for a group.
        repeated: whether it is an item of a list.
        required: whether it must be there.
        below: settings of a group by name.
    """

    name: str
    kind: tuple[str, ...]
    repeated: bool
    required: bool
    below: Mapping[str, Setting]


@cache
def known_components() -> Mapping[tuple[str, str], Mapping[str, Setting]]:
    """Settings by component and pass, as the table has them."""
    text = (resources.files("vm.windows.images") / "data" / "unattend.txt").read_text(encoding="utf-8")
    found: dict[tuple[str, str], dict[str, Setting]] = {}
    open_levels: list[dict[str, Setting]] = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        row = _ROW.fullmatch(line)
        assert row is not None, line
        depth, words = len(row["indent"]) // 2, tuple((row["rest"] or "").split())
        if depth == 0:
            open_levels = [{}]
            found |= {(row["name"], name): open_levels[0] for name in words}
            continue
        below: dict[str, Setting] = {}
        open_levels = [*open_levels[:depth], below]
        marks = row["marks"]
        open_levels[depth - 1][row["name"]] = Setting(row["name"], words, "*" in marks, "!" in marks, below)
    return found


def check(document: bytes) -> list[str]:
    """What is wrong with an answer file; empty when nothing is.

    Args:
        document: the XML.
    """
    try:
        root = ET.fromstring(document)  # noqa: S314 - the document is made here; Python's parser loads nothing external
    except ET.ParseError as error:
        return [f"not XML: {error}"]
    if root.tag != tag("unattend"):
        return [f"the root is {root.tag}, expected {tag('unattend')}"]
    return list(_document(root))


def _document(root: ET.Element) -> Iterator[str]:
    seen: set[str] = set()
    for settings in root:
        name = settings.get("pass", "")
        if settings.tag != tag("settings") or name not in _PASSES:
            yield f"{settings.tag} with pass {name!r} is no configuration pass"
            continue
        if name in seen:
            yield f"pass {name} is there twice"
        seen.add(name)
        yield from _pass(settings, name)


def _pass(settings: ET.Element, pass_name: str) -> Iterator[str]:
    seen: set[str] = set()
    for component in settings:
        name = component.get("name", "")
        place = f"{pass_name}: {name}"
        for key, value in _COMPONENT_ATTRIBUTES.items():
            if component.get(key) != value:
                yield f"{place}: attribute {key} is {component.get(key)!r}, expected {value!r}"
        if name in seen:
            yield f"{place}: is there twice"
        seen.add(name)
        allowed = known_components().get((name, pass_name))
        if allowed is None:
            passes = [other for known, other in known_components() if known == name]
            yield f"{place}: " + (f"belongs to {', '.join(passes)}" if passes else "no such component in the table")
        else:
            yield from _settings(component, allowed, place)


def _settings(parent: ET.Element, allowed: Mapping[str, Setting], place: str) -> Iterator[str]:
    counts: dict[str, int] = {}
    for child in parent:
        name = child.tag.removeprefix(f"{{{NAMESPACE}}}")
        known = allowed.get(name)
        where = f"{place} | {name}"
        if known is None:
            yield f"{where}: no such setting; known here: {', '.join(allowed)}"
            continue
        counts[name] = counts.get(name, 0) + 1
        if known.repeated != (child.get(attribute("action")) == "add"):
            yield f"{where}: wcm:action is {child.get(attribute('action'))!r}; an item of a list has 'add', others none"
        yield from _value(child, known, where)
    yield from (f"{place} | {name}: is missing" for name, one in allowed.items() if one.required and name not in counts)
    for name, count in counts.items():
        if count > 1 and not allowed[name].repeated:
            yield f"{place} | {name}: is there {count} times"
    orders = [child.findtext(tag("Order")) for child in parent if child.find(tag("Order")) is not None]
    if orders != [str(number) for number in range(1, len(orders) + 1)]:
        yield f"{place}: Order is {', '.join(map(str, orders))}; expected 1, 2, 3 and so on"


def _value(element: ET.Element, known: Setting, where: str) -> Iterator[str]:
    if known.below:
        if (element.text or "").strip():
            yield f"{where}: holds text, expected settings"
        yield from _settings(element, known.below, where)
        return
    text = element.text or ""
    match known.kind:
        case ("text", longest) if not 0 < len(text) <= int(longest):
            yield f"{where}: {len(text)} characters; expected 1 to {longest}"
        case ("integer", low, high) if not (text.isdecimal() and int(low) <= int(text) <= int(high)):
            yield f"{where}: {text!r}; expected an integer from {low} to {high}"
        case ("boolean",) if text not in ("true", "false"):
            yield f"{where}: {text!r}; expected true or false"
        case ("one", "of", *words) if text not in words:
            yield f"{where}: {text!r}; expected one of {', '.join(words)}"
        case _:
            pass
