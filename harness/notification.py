"""What a driver reports of processes: creations, exits and gaps, as immutable data.

Text is `str` with lone surrogates kept (``surrogatepass``), so that each UTF-16 unit that a driver delivered can be had
back. Statuses are unsigned 32-bit numbers, times 100 ns units since 1601 UTC, as Windows counts them.

A witness other than the driver under test may know less: an attribute that it does not report is None, and the model
then has nothing to hold it against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Create:
    """A process was created, or would have been had nobody denied it.

    Attributes:
        sequence: number of the notification in the order of the callbacks.
        time: system time of the callback; None when the witness has none in this unit.
        pid: the process.
        parent_pid: the process it inherits from (PS_CREATE_NOTIFY_INFO.ParentProcessId).
        creator_pid: process of the creating thread (PS_CREATE_NOTIFY_INFO.CreatingThreadId); None if not reported.
        creator_tid: the creating thread; None if not reported.
        status: CreationStatus as the routine left it; None if not reported.
        image_name: the image's name, or None when the system gave none.
        command_line: the command line, None when absent. An empty one is not an absent one.
        file_open_name_available: the name is the one passed to the open; None if not reported.
        is_subsystem_process: a subsystem (Pico) process.
    """

    sequence: int
    time: int | None
    pid: int
    parent_pid: int
    creator_pid: int | None
    creator_tid: int | None
    status: int | None
    image_name: str | None
    command_line: str | None
    file_open_name_available: bool | None = None
    is_subsystem_process: bool = False


@dataclass(frozen=True, slots=True)
class Exit:
    """A process ended.

    Attributes:
        sequence: number of the notification in the order of the callbacks.
        time: system time of the callback; None when the witness has none in this unit.
        pid: the process.
        status: exit status; None if not reported.
        image_name: image of the process, by witnesses that name it at exit; None if not reported.
    """

    sequence: int
    time: int | None
    pid: int
    status: int | None
    image_name: str | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """Notifications were lost here.

    Attributes:
        sequence: sequence number of the first lost one.
        time: system time of the first lost one.
        count: how many were lost: `sequence` to `sequence` + `count` - 1.
    """

    sequence: int
    time: int | None
    count: int


Notification: TypeAlias = Create | Exit | Gap


def canonical_text(text: str) -> str:
    """The same UTF-16 units as `text`, with each surrogate pair written as the one character that it encodes.

    Python can hold a pair as two lone surrogates; text that came from UTF-16 never does. Texts are compared so.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
