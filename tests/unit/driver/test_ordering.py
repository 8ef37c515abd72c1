"""The driver's queue on processors that reorder loads, which ARM64 builds run on: what its code says of the order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.unit.driver.conftest import DRIVER, INCLUDES


def arm64_code(function: str, folder: Path) -> list[str]:
    """The instructions of a function of queue.c as compiled for ARM64, calls in the order of the source."""
    command = [
        *(sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu", "-S", "-O0", "-std=gnu17"),
        *("-fshort-wchar", "-Wno-multichar", *(f"-I{include}" for include in INCLUDES)),
        *(str(DRIVER / "procnotify" / "queue.c"), "-o", str(folder / "queue.s")),
    ]
    subprocess.run(command, capture_output=True, check=True)
    text = (folder / "queue.s").read_text()
    body = re.search(rf"^{function}:(.*?)^\s*\.size\s+{function},", text, re.MULTILINE | re.DOTALL)
    assert body is not None, text
    return [" ".join(line.split()) for line in body[1].splitlines()]


def test_a_records_bytes_are_read_after_the_word_that_commits_it(tmp_path):
    code = arm64_code("PnQueueDrain", tmp_path)

    measured, copied = code.index("bl PnQueueMeasure"), code.index("bl PnRingRead")
    assert any(line.startswith("dmb") for line in code[measured:copied])
