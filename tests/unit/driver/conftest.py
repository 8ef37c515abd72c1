"""Compiles the driver's queue and rules for this host, so that their logic is tested without any machine."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DRIVER = HERE.parents[2] / "driver"
SOURCES = (DRIVER / "procnotify" / "queue.c", DRIVER / "procnotify" / "rules.c", HERE / "shim" / "shim.c")
INCLUDES = (HERE / "shim", DRIVER / "include", DRIVER / "compat", DRIVER / "procnotify")


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The queue and the rules as a shared library; undefined behaviour traps."""
    library = tmp_path_factory.mktemp("core") / "core.so"
    command = [
        *(sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O1", "-std=gnu17", "-fshort-wchar"),
        *("-fvisibility=hidden", "-fno-builtin", "-fsanitize=undefined", "-fsanitize-trap=undefined"),
        *("-Wall", "-Wextra", "-Werror", "-Wno-multichar"),
        *(f"-I{folder}" for folder in INCLUDES),
        *(str(source) for source in SOURCES),
        *("-o", str(library)),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    loaded = ctypes.CDLL(str(library))
    for name in ("shim_queue_new", "shim_rules_new"):
        getattr(loaded, name).restype = ctypes.c_void_p
    return loaded
