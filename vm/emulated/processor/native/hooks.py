"""Loads hooks.c and attaches its functions to a Unicorn engine.

The hooks write to a `Counters` structure that the host reads and resets with plain attribute access.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from vm.emulated.toolchain import compiled

_SOURCE = Path(__file__).with_name("hooks.c")


class Counters(ctypes.Structure):
    """Mirror of `counters` in hooks.c."""

    _fields_ = (
        ("blocks", ctypes.c_uint64),
        ("block_limit", ctypes.c_uint64),
        ("stopped_at", ctypes.c_uint64),
        ("instructions", ctypes.c_uint64),
        ("stop", ctypes.c_void_p),
        ("stubs_begin", ctypes.c_uint64),
        ("stubs_end", ctypes.c_uint64),
    )

    blocks: int
    block_limit: int
    stopped_at: int
    instructions: int
    stop: int | None
    stubs_begin: int
    stubs_end: int


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled hooks. Raises MachineBroken when they cannot be compiled."""
    path = compiled(
        "hooks.so",
        [_SOURCE],
        [
            ["clang", "-c", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror", str(_SOURCE), "-o", "{tmp}/hooks.o"],
            ["ld.lld", "-shared", "{tmp}/hooks.o", "-o", "{out}"],
        ],
    )
    return ctypes.CDLL(str(path))


def function_address(name: str) -> int:
    """Address of a hook function."""
    address = ctypes.cast(getattr(library(), name), ctypes.c_void_p).value
    assert address is not None
    return address
