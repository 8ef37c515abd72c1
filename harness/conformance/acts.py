"""What the tests of the suite do over and over: make processes, end them, expect a refusal, write a scenario."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from harness.scenario import ExitProcess, Launch, ProvideImage, Scenario, Step
from vm.errors import Win32Error
from vm.machine import ImageKind, LaunchRequest, LaunchResult, Machine
from vm.ntstatus import to_win32

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.capture import Capture, Launched

SERVICE: Final = "procnotify"
DEVICE: Final = "\\\\.\\ProcNotify"
APP: Final = "C:\\ntproof\\app.exe"
"""An executable that nothing denies unless a test says so."""
TOOL: Final = "C:\\ntproof\\tools\\tool.exe"
"""An executable that tests deny."""


def nt_name(path: str) -> str:
    """The name with which CreateProcess opens a DOS path (PS_CREATE_NOTIFY_INFO.ImageFileName)."""
    return "\\??\\" + path


def attempt(machine: Machine, image: str = APP, command_line: str | None = "app", **options: Any) -> LaunchResult:
    """Have the executable exist and try to create a process of it. Options as for `LaunchRequest`."""
    machine.provide_image(image, options.pop("kind", ImageKind.NORMAL))
    return machine.launch(LaunchRequest(image, command_line, **options))


def start(machine: Machine, image: str = APP, command_line: str | None = "app", **options: Any) -> int:
    """As `attempt`, for a creation that must succeed: the pid."""
    result = attempt(machine, image, command_line, **options)
    assert result.succeeded, f"{image} was not created: Win32 error {result.win32_error}"
    assert result.pid is not None
    return result.pid


def run_to_exit(machine: Machine, image: str = APP, command_line: str | None = "app", status: int = 0) -> int:
    """Create a process and have it end by itself: its pid."""
    pid = start(machine, image, command_line)
    machine.exit_process(pid, status)
    return pid


@contextmanager
def refused(status: int) -> Iterator[None]:
    """Expect a call to fail with an NTSTATUS: its translation to Win32, and the status itself where it is known."""
    __tracebackhide__ = True
    with pytest.raises(Win32Error) as caught:
        yield
    error = caught.value
    expected = to_win32(status)
    assert error.code == expected, f"expected Win32 error {expected} for NTSTATUS 0x{status:08X}; seen {error}"
    assert error.status in {None, status}, f"expected NTSTATUS 0x{status:08X}; seen {error}"


@contextmanager
def fails(code: int) -> Iterator[None]:
    """Expect a call to fail with a Win32 error."""
    __tracebackhide__ = True
    with pytest.raises(Win32Error) as caught:
        yield
    assert caught.value.code == code, f"expected Win32 error {code}; seen {caught.value}"


def scenario(name: str, *steps: Step, **options: Any) -> Scenario:
    """A scenario in which every image that is launched exists; options as for `Scenario`."""
    provided = {step.path for step in steps if isinstance(step, ProvideImage)}
    images = dict.fromkeys(step.image for step in steps if isinstance(step, Launch))
    missing = tuple(ProvideImage(image) for image in images if image not in provided)
    return Scenario(name, (*missing, *steps), **options)


def come_and_go(label: str, image: str = APP, command_line: str | None = "app", **options: Any) -> tuple[Step, ...]:
    """The steps of a process that is created and ends by itself."""
    status = options.pop("status", 0)
    return Launch(label, image, command_line, **options), ExitProcess(label, status)


def launched(capture: Capture, label: str) -> Launched:
    """Ground truth of one launch of a scenario."""
    from harness.capture import Launched

    return next(item for item in capture.items if isinstance(item, Launched) and item.label == label)


def without_pid(result: LaunchResult) -> LaunchResult:
    """A result with what differs from launch to launch taken out."""
    return replace(result, pid=None, tid=None)
