"""The VFS overlay of a kit: its headers under names that match without regard to case.

Windows' headers name each other in whatever case their authors typed, and the file system of the kit's own system does
not care. clang reads the overlay with ``-ivfsoverlay``; nothing is copied or renamed. The format is JSON, which the
YAML that clang documents (``clang/docs/..., -ivfsoverlay``; llvm/Support/VirtualFileSystem.h) includes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path


def overlay_of(folders: Iterable[Path]) -> str:
    """The overlay for the files in and below some folders."""
    roots = [
        {
            "name": directory,
            "type": "directory",
            "contents": [
                {"name": name, "type": "file", "external-contents": str(Path(directory, name))}
                for name in sorted(names)
            ],
        }
        for directory, names in sorted(_directories(folders).items())
    ]
    return json.dumps({"version": 0, "case-sensitive": "false", "roots": roots}, indent=1) + "\n"


def _directories(folders: Iterable[Path]) -> dict[str, set[str]]:
    """Names of headers by folder; one that is named with another one's parent is listed once."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for directory, _, names in os.walk(folder):
            headers = {name for name in names if name.lower().endswith((".h", ".inl", ".inc"))}
            if headers:
                found.setdefault(directory, set()).update(headers)
    return found
