"""What MSBuild, its compilers, InfVerif and code analysis print, as findings in the words of the other toolchains."""

from __future__ import annotations

import ntpath
import re
from collections.abc import Iterable
from pathlib import PureWindowsPath
from typing import Final

from harness.build.msbuild.sources import RemoteTree
from harness.build.source_findings import Level, SourceFinding

_DIAGNOSTIC: Final = re.compile(
    r"(?:\d+>)?(?P<origin>(?:[A-Za-z]:)?[^:()]*+)"
    r"(?:\((?P<line>\d+)(?:,(?P<column>\d+))?(?:[,-]\d+)*\)\s*+)?:\s*+"
    r"(?:(?!error|warning)[\w ]+? )?(?P<level>error|warning)\s*+(?P<code>[A-Za-z]{0,8}\d{1,6})?\s*+:\s*+"
    r"(?P<text>.*)",
    re.IGNORECASE,
)
"""MSBuild and Visual Studio format of diagnostic messages: origin(line,column): subcategory category code: text.

Possessive where blanks may follow blanks: a compiler shows source lines too, and one of blanks alone took minutes.
"""
_PROJECT: Final = re.compile(r"\[[^\[\]]+\.\w*proj\]", re.IGNORECASE)
"""What MSBuild adds to each message: the project that it came up in."""
_INF_VERIFIER: Final = re.compile(
    r"^(?P<level>ERROR|WARNING)\((?P<code>\d+)\) in (?P<origin>.+?), line (?P<line>\d+): (?P<text>.*)$"
)
"""InfVerif's own format."""


def findings(lines: Iterable[str], tree: RemoteTree, label: str) -> list[SourceFinding]:
    """The errors and warnings in what was printed, each once, in the order in which they came.

    Args:
        lines: what MSBuild printed.
        tree: the sources, whose paths become those of the driver's own tree.
        label: what stands for the tree.
    """
    found: dict[SourceFinding, None] = {}
    for line in lines:
        match = _INF_VERIFIER.match(line) or _DIAGNOSTIC.fullmatch(line.strip())
        if match is None:
            continue
        parts = match.groupdict()
        origin = parts["origin"].strip()
        finding = SourceFinding(
            path=_path(origin, tree, label),
            line=int(parts["line"] or 0),
            column=int(parts.get("column") or 0),
            level=Level(parts["level"].lower()).value,
            check=_check(parts["code"] or "msbuild", origin),
            message=_without_project(parts["text"]),
        )
        found[finding] = None
    return list(found)


def _without_project(text: str) -> str:
    start = text.rfind("[")
    return text[:start].rstrip() if start >= 0 and _PROJECT.fullmatch(text, start) else text


def _check(code: str, origin: str) -> str:
    return f"infverif {code}" if origin.lower().endswith(".inf") and code.isdigit() else code


def _path(origin: str, tree: RemoteTree, label: str) -> str:
    """A file of the tree below its label, with slashes; what is no file of it stays as it is."""
    if "\\" not in origin and "." not in origin:
        return origin
    absolute = PureWindowsPath(ntpath.normpath(tree.project.parent / origin))
    if absolute.suffix.lower() == ".inf" and absolute.is_relative_to(tree.outputs):
        # The stamped copy has the lines of the INF that it was made of.
        absolute = tree.project.parent / absolute.name
    try:
        return f"{label}/{absolute.relative_to(tree.folder).as_posix()}"
    except ValueError:
        return origin
