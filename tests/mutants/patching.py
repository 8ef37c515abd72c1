"""Applies unified diffs to text, so that a checkout needs neither git nor patch to run the mutants.

A hunk may have moved, but its lines must be there, all of them and in one place only: a patch that fits loosely would
quietly become another mutant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HUNK: Final = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class PatchError(Exception):
    """A patch is malformed or does not fit the files; the message says where and what to do."""


@dataclass(frozen=True)
class Hunk:
    """One place of a file.

    Attributes:
        line: where the old lines are said to begin, from 1.
        old: the lines that must be there, each with its end.
        new: the lines that take their place.
    """

    line: int
    old: tuple[str, ...]
    new: tuple[str, ...]


def parse_patch(text: str) -> dict[PurePosixPath, list[Hunk]]:
    """The hunks of a unified diff by file, as named after ``---`` without the leading ``a/``.

    Raises:
        PatchError: not a unified diff, or one that creates or removes files.
    """
    files: dict[PurePosixPath, list[Hunk]] = {}
    lines = _Lines(text)
    while (header := lines.take_until("--- ")) is not None:
        path = _path(header.removeprefix("--- "), "a/")
        if path != _path(lines.take("+++ ").removeprefix("+++ "), "b/"):
            raise PatchError(f"line {lines.number}: the two names of {path} differ: a mutant moves and makes no file")
        hunks = files.setdefault(path, [])
        while lines.next_starts_with("@@ "):
            hunks.append(_hunk(lines))
        if not hunks:
            raise PatchError(f"line {lines.number}: no hunk follows the header of {path}")
    if not files:
        raise PatchError("no file header (---, +++) was found; make the patch with git diff or diff -u")
    return files


def apply_patch(text: str, files: Mapping[PurePosixPath, str]) -> dict[PurePosixPath, str]:
    """The changed files.

    Args:
        text: a unified diff.
        files: the content of every file that the diff may name.

    Raises:
        PatchError: a file is missing, or the lines of a hunk are not there, or are there more than once.
    """
    changed: dict[PurePosixPath, str] = {}
    for path, hunks in parse_patch(text).items():
        if path not in files:
            raise PatchError(f"there is no file {path}; make the patch again")
        changed[path] = _apply(path, files[path], hunks)
    return changed


def _apply(path: PurePosixPath, text: str, hunks: list[Hunk]) -> str:
    lines = text.splitlines(keepends=True)
    moved = 0
    for hunk in hunks:
        start = _find(path, lines, hunk, hunk.line - 1 + moved)
        lines[start : start + len(hunk.old)] = hunk.new
        moved = start - (hunk.line - 1) + len(hunk.new) - len(hunk.old)
    return "".join(lines)


def _find(path: PurePosixPath, lines: list[str], hunk: Hunk, expected: int) -> int:
    old, length = list(hunk.old), len(hunk.old)
    if lines[expected : expected + length] == old:
        return expected
    found = [start for start in range(len(lines) - length + 1) if lines[start : start + length] == old]
    if len(found) == 1:
        return found[0]
    where = "nowhere" if not found else f"in {len(found)} places, at lines {', '.join(str(one + 1) for one in found)}"
    raise PatchError(
        f"the patch no longer applies: what it changes at line {hunk.line} of {path} is found {where}; "
        f"make the same defect in the file as it is now, and the patch again\n{''.join(hunk.old)}"
    )


def _hunk(lines: _Lines) -> Hunk:
    header = lines.take("@@ ")
    match = _HUNK.match(header)
    if match is None:
        raise PatchError(f"line {lines.number}: malformed hunk header {header.rstrip()!r}")
    line, left, right = int(match[1]), int(match[2] or "1"), int(match[4] or "1")
    old: list[str] = []
    new: list[str] = []
    while len(old) < left or len(new) < right:
        kind, content = lines.take_body()
        if kind in " -":
            old.append(content)
        if kind in " +":
            new.append(content)
    if (len(old), len(new)) != (left, right) or not old:
        raise PatchError(f"line {lines.number}: the hunk does not have the lines that its header counts")
    return Hunk(line, tuple(old), tuple(new))


def _path(name: str, prefix: str) -> PurePosixPath:
    path = PurePosixPath(name.split("\t", maxsplit=1)[0].strip().removeprefix(prefix))
    if path.is_absolute() or ".." in path.parts:
        raise PatchError(f"{path} lies outside the tree")
    return path


class _Lines:
    """The lines of a diff, taken one after the other."""

    def __init__(self, text: str) -> None:
        self.number = 0
        self._lines = text.splitlines(keepends=True)

    def take_until(self, start: str) -> str | None:
        """The next line that begins so; what comes before it is commentary. None at the end."""
        for line in self._rest():
            if line.startswith(start):
                return line
        return None

    def take(self, start: str) -> str:
        """The next line, which must begin so."""
        if not self.next_starts_with(start):
            raise PatchError(f"line {self.number + 1}: expected a line that begins with {start!r}")
        return next(self._rest())

    def take_body(self) -> tuple[str, str]:
        """The next line of a hunk: its kind and its content."""
        for line in self._rest():
            if line[0] in " +-":
                return line[0], line[1:]
            if line.strip():
                break
            # Editors strip the blank of an empty context line.
            return " ", line
        raise PatchError(f"line {self.number}: the hunk ends too early")

    def next_starts_with(self, start: str) -> bool:
        """Whether there is a next line and it begins so."""
        return self.number < len(self._lines) and self._lines[self.number].startswith(start)

    def _rest(self) -> Iterator[str]:
        while self.number < len(self._lines):
            self.number += 1
            yield self._lines[self.number - 1]
