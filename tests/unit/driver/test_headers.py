"""The public headers stand on their own: strict C and C++ programs include them, together and in either order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

INCLUDE = Path(__file__).parents[3] / "driver" / "include"
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wpadded", "-Werror")


@pytest.mark.parametrize("order", [("procnotify.h", "companion.h"), ("companion.h", "procnotify.h")])
@pytest.mark.parametrize(("driver", "language"), [("cc", "c11"), ("c++", "c++17")])
def test_a_strict_program_includes_them(tmp_path: Path, driver: str, language: str, order: tuple[str, str]) -> None:
    suffix = ".c" if driver == "cc" else ".cpp"
    program = tmp_path / f"program{suffix}"
    program.write_text("".join(f'#include "{name}"\n' for name in order) + "int main(void) { return 0; }\n", "utf-8")
    command = [sys.executable, "-m", "ziglang", driver, f"-std={language}", *STRICT, f"-I{INCLUDE}"]
    command += ["-c", str(program), "-o", str(tmp_path / "program.o")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
