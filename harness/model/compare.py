"""Compares one thing that was expected with what came, and words each difference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from harness.capture import Launched
from harness.model.due import Expected
from harness.model.predict import ExpectedCreate, ExpectedExit, Prediction
from harness.model.windows import STATUS_SUCCESS, is_win32_error_of, win32_of_status
from harness.notification import Create, Exit
from harness.verdict import SPEC, Discrepancy, Kind, show_error, show_status, show_text

_PARENT: Final = f"{SPEC} section 2: ParentProcessId is the inherited-from process"
_CREATOR: Final = f"{SPEC} section 2: CreatingThreadId is the thread that really creates"
_IMAGE: Final = f"{SPEC} section 2: ImageFileName is the name passed to the open, or FILE_OBJECT.FileName"
_COMMAND: Final = f"{SPEC} section 2: CommandLine is counted, unchanged, NULL when there is none"
_FLAGS: Final = f"{SPEC} section 2: FileOpenNameAvailable is clear for two-step creations and clones"
_RULES: Final = "procnotify.h: the first rule in order that matches the image name denies the creation"
_ORDER: Final = f"{SPEC} section 3: create before exit, always, per process"
_STATUS: Final = f"{SPEC} section 3: the exit of a denied or failed process carries the creation's status"
_WIN32: Final = f"{SPEC} section 3: STATUS_ACCESS_DENIED gives 5, others through RtlNtStatusToDosError"
_DUE: Final = f"{SPEC} sections 1 and 3: the routine runs in the creating call, and before the process is gone"


def create(expected: ExpectedCreate, seen: Create, *, overtaken: bool) -> Iterator[Discrepancy]:
    """Differences between the create that was due and the one that came."""

    def differs(kind: Kind, wanted: str, found: str, source: str) -> Discrepancy:
        return Discrepancy(kind, wanted, found, expected.step, expected.label, seen.sequence, source)

    if overtaken:
        yield differs(Kind.ORDER, "the create before the exit", "the exit came first", _ORDER)
    if seen.parent_pid != expected.parent_pid:
        yield differs(Kind.PARENT, f"parent {expected.parent_pid}", f"{seen.parent_pid}", _PARENT)
    if (seen.creator_pid, seen.creator_tid) != (expected.creator_pid, expected.creator_tid):
        wanted = f"creator {expected.creator_pid}, thread {expected.creator_tid}"
        yield differs(Kind.CREATOR, wanted, f"{seen.creator_pid}, thread {seen.creator_tid}", _CREATOR)
    if expected.image_name is not None and seen.image_name != expected.image_name:
        yield differs(Kind.IMAGE_NAME, show_text(expected.image_name), show_text(seen.image_name), _IMAGE)
    if seen.command_line != expected.command_line:
        yield differs(Kind.COMMAND_LINE, show_text(expected.command_line), show_text(seen.command_line), _COMMAND)
    if bool(seen.file_open_name_available) != expected.file_open_name_available:
        wanted = "set" if expected.file_open_name_available else "clear"
        found = "set" if seen.file_open_name_available else "clear"
        yield differs(Kind.FLAGS, f"FileOpenNameAvailable {wanted}", found, _FLAGS)
    if seen.is_subsystem_process != expected.is_subsystem_process:
        wanted = f"IsSubsystemProcess {expected.is_subsystem_process}"
        yield differs(Kind.FLAGS, wanted, str(seen.is_subsystem_process), _FLAGS)
    if seen.status != expected.status:
        wanted = f"creation status {show_status(expected.status)}"
        yield differs(Kind.DENIAL, wanted, show_status(seen.status), _RULES)


def exit_(expected: ExpectedExit, seen: Exit, *, overtaken: bool) -> Iterator[Discrepancy]:
    """Differences between the exit that was due and the one that came."""
    if overtaken:
        wanted, found = "the exit before the pid's next create", "the create came first"
        yield Discrepancy(Kind.ORDER, wanted, found, expected.step, expected.label, seen.sequence, _ORDER)
    if expected.status is not None and seen.status != expected.status:
        wanted, found = show_status(expected.status), show_status(seen.status)
        yield Discrepancy(Kind.EXIT_STATUS, wanted, found, expected.step, expected.label, seen.sequence, _STATUS)


def missing(expected: Expected) -> Discrepancy:
    """The discrepancy of a notification that was due and did not come."""
    if isinstance(expected, ExpectedCreate):
        wanted = f"a create of pid {expected.pid}, {show_text(expected.image_name)}, before its call returned"
        kind = Kind.MISSING_CREATE
    else:
        wanted = f"an exit of pid {expected.pid} with status {show_status(expected.status)}"
        kind = Kind.MISSING_EXIT
    return Discrepancy(kind, wanted, "none in the queue", expected.step, expected.label, None, _DUE)


def foreign_denial(allowed: set[int], seen: Create) -> Iterator[Discrepancy]:
    """Differences between the rules and the status of a creation whose cause is unknown."""
    if seen.status not in allowed:
        wanted = f"creation status {' or '.join(sorted(map(show_status, allowed)))}"
        process = f"pid {seen.pid}"
        yield Discrepancy(Kind.DENIAL, wanted, show_status(seen.status), None, process, seen.sequence, _RULES)


def caller(item: Launched, prediction: Prediction) -> Iterator[Discrepancy]:
    """Differences between what the caller of CreateProcess was told and what it must be told."""
    result = item.result

    def differs(kind: Kind, wanted: str, source: str) -> Discrepancy:
        found = f"{show_error(result.win32_error)}, status {show_status(result.status)}"
        return Discrepancy(kind, wanted, found, item.step, item.label, None, source)

    if prediction.status == STATUS_SUCCESS:
        if not result.succeeded:
            yield differs(Kind.DENIAL, "a creation that no rule denies succeeds", _RULES)
    elif result.succeeded:
        kind = Kind.DENIAL if prediction.denied else Kind.LAUNCH_RESULT
        source = _RULES if prediction.denied else f"{SPEC} section 8: a creation can fail after its notification"
        yield differs(kind, f"the creation fails with {show_status(prediction.status)}", source)
    elif not is_win32_error_of(result.win32_error, prediction.status):
        known = win32_of_status(prediction.status)
        wanted = "some Win32 error" if known is None else show_error(known)
        yield differs(Kind.LAUNCH_RESULT, f"{wanted} for {show_status(prediction.status)}", _WIN32)
    elif result.status is not None and result.status != prediction.status:
        yield differs(Kind.LAUNCH_RESULT, f"status {show_status(prediction.status)}", _WIN32)
