"""What the tests of the suite do over and over: make processes, end them, expect a refusal, write a scenario."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from harness.abi import load_abi
from harness.scenario import ExitProcess, Launch, ProvideImage, Scenario, Step
from vm.errors import Win32Error
from vm.machine import ImageKind, LaunchRequest, LaunchResult, Machine
from vm.ntstatus import name as status_name
from vm.ntstatus import to_win32
from vm.win32 import error_name

if TYPE_CHECKING:
    from types import TracebackType

    from harness.capture import Capture, Launched

SERVICE: Final = load_abi().text("SERVICE_NAME")
DEVICE: Final = load_abi().text("WIN32_NAME")
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


class Refusal:
    """Expects the call inside its ``with`` block to fail, and holds the error against what it must be."""

    def __init__(self, code: int, status: int | None = None) -> None:
        self._code = code
        self._status = status

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        __tracebackhide__ = True
        if error is None:
            pytest.fail(f"expected {self}; the call succeeded")
        if not isinstance(error, Win32Error):
            return False
        if error.code != self._code or error.status not in {None, self._status or error.status}:
            pytest.fail(f"expected {self}; seen {error}")
        return True

    def __str__(self) -> str:
        behind = "" if self._status is None else f" for NTSTATUS {status_name(self._status)}"
        return f"{error_name(self._code)} ({self._code}){behind}"


def refused(status: int) -> Refusal:
    """Expect a call to fail with an NTSTATUS: its translation to Win32, and the status itself where it is known."""
    return Refusal(to_win32(status), status)


def fails(code: int) -> Refusal:
    """Expect a call to fail with a Win32 error."""
    return Refusal(code)


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
