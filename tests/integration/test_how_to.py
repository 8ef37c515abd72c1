"""The tests that the how-to pages show are run as a reader would run them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from harness.build import build_driver

pytest_plugins = ["pytester"]

HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to"
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = ("your-own-driver.md", "fail-a-call.md")


@pytest.mark.parametrize("page", PAGES)
def test_the_test_on_a_page_passes(pytester, page):
    (example,) = EXAMPLE.findall((HOW_TO / page).read_text(encoding="utf-8"))
    image = pytester.path / "build" / "mydriver.sys"
    image.parent.mkdir()
    shutil.copy(build_driver("procnotify").image, image)
    pytester.makepyfile(example)

    result = pytester.runpytest_subprocess("--vm", "emulated", "--driver", image)

    result.assert_outcomes(passed=1)
