"""The image itself: what can be wrong with a driver before it runs, or without ever showing while it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.build.image_checks import check_image
from harness.build.routine_types import check_routine_types
from harness.errors import ImageError

if TYPE_CHECKING:
    from harness.machines import DriverImage


def test_the_image_has_everything_that_windows_asks_of_a_driver(driver_image: DriverImage) -> None:
    findings = check_image(driver_image.path)
    assert not findings, "\n".join(str(finding) for finding in findings)


def test_the_unload_routine_returns_nothing(driver_image: DriverImage) -> None:
    """DRIVER_UNLOAD is VOID (wdm.h documentation); a cast hides a routine that is not."""
    try:
        findings = check_routine_types(driver_image.path)
    except ImageError as error:
        pytest.skip(f"types are known from DWARF alone: {error}")
    assert not findings, "\n".join(str(finding) for finding in findings)
