"""Marks of files on a hypervisor's host: a file with the mark beside each set of files that belong together.

A name is ``SET.KIND``, such as ``win11-1.run.qcow2`` of the set ``win11-1.run``, whose mark is ``win11-1.run.mark``. It
is written before the first file of its set and removed after the last one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from vm.windows.hypervisor.host_folder import HostFolder
from vm.windows.hypervisor.mark import Mark
from vm.windows.hypervisor.xml_fields import XmlError

KIND: Final = "mark"
_ROLLED_OVER: Final = re.compile(r"\.\d+$")
"""Ends the name of what a serial log was before it grew too long (virtlogd.conf, max_backups); no kind is a number."""
_LONGEST: Final = 1 << 16


def name_in(file_set: str, kind: str) -> str:
    """Name of a file of a set."""
    return f"{file_set}.{kind}"


def set_of(name: str) -> str:
    """The set that a file belongs to."""
    return _ROLLED_OVER.sub("", name).rpartition(".")[0]


def write_mark(folder: HostFolder, file_set: str, mark: Mark) -> None:
    """Mark a set of files, before the first of them is made.

    Raises:
        MachineBroken: the hypervisor failed.
    """
    folder.write(name_in(file_set, KIND), mark.to_xml().encode())


def read_mark(folder: HostFolder, file_set: str) -> str | None:
    """The mark of a set as it is kept, None where there is none.

    Raises:
        MachineBroken: the hypervisor failed.
    """
    content = folder.read(name_in(file_set, KIND), _LONGEST)
    return None if content is None else content.decode(errors="replace")


def mark_of(folder: HostFolder, file_set: str) -> Mark | None:
    """The mark of a set, None where there is none that can be read.

    Raises:
        MachineBroken: the hypervisor failed.
    """
    text = read_mark(folder, file_set)
    try:
        return None if text is None else Mark.from_xml(text)
    except XmlError:
        return None


def remove_set(folder: HostFolder, file_set: str, names: Iterable[str]) -> None:
    """Remove a set of files, its mark last.

    Args:
        folder: where they are.
        file_set: the set.
        names: names of the folder's files.

    Raises:
        MachineBroken: the hypervisor failed.
    """
    for name in removal_order(name for name in names if set_of(name) == file_set):
        folder.remove(name)


def removal_order(names: Iterable[str]) -> list[str]:
    """Names of files so that each mark comes after what it marks."""
    return sorted(names, key=lambda name: (name.endswith(f".{KIND}"), name))
