"""Makes the CPU emulator forget an exception that was taken out of its hands.

Unicorn remembers a division error or protection fault until its own interrupt delivery has run, which never happens
here: the next such exception would become a double fault, and the one after that would silently halt the processor.
Its interface has no call to clear that note. It lies in the saved register state, at a place that is found by looking.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from unicorn import UC_ARCH_X86, UC_HOOK_INTR, UC_MODE_64, Uc, UcError

from vm.errors import MachineBroken

if TYPE_CHECKING:
    from vm.emulated.processor.engine import Engine

_NONE: Final = b"\xff\xff\xff\xff"
_DIVIDE_ERROR: Final = b"\0\0\0\0"
_CODE: Final = b"\x31\xc9\xf7\xf1"  # xor ecx, ecx; div ecx


@functools.cache
def _offset() -> int:
    """Where the saved state keeps the number of the exception in flight (-1 for none)."""
    probe = Uc(UC_ARCH_X86, UC_MODE_64)
    probe.mem_map(0x1000, 0x1000)
    probe.mem_write(0x1000, _CODE)
    probe.hook_add(UC_HOOK_INTR, lambda engine, _vector, _data: engine.emu_stop())
    before = bytes(probe.context_save())
    try:
        probe.emu_start(0x1000, 0x1000 + len(_CODE))
    except UcError as error:
        raise MachineBroken(f"the CPU emulator failed on a division by zero: {error}") from error
    after = bytes(probe.context_save())
    found = [
        at
        for at in range(0, len(before) - 3, 4)
        if before[at : at + 4] == _NONE and after[at : at + 4] == _DIVIDE_ERROR
    ]
    if len(found) != 1:
        raise MachineBroken("this version of unicorn keeps its exception state elsewhere; install unicorn 2.1")
    return found[0]


def forget(engine: Engine) -> None:
    """Clear the note of an exception in flight; registers stay as they are."""
    at = _offset()
    state = engine.save()
    engine.load(state[:at] + _NONE + state[at + 4 :])
