"""The CPU emulator behind a small interface: Unicorn, its hooks as plain C callbacks, and nothing of Windows.

Unicorn's Python binding wraps every hook in bookkeeping that costs more than the trap itself, so the two hot hooks
(TLB fill and the IN instruction that import stubs execute) are registered as ctypes callbacks directly. A callback must
not raise: it records what happened and stops the engine.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, cast

from unicorn import (
    UC_ARCH_X86,
    UC_CTL_IO_WRITE,
    UC_CTL_TLB_FLUSH,
    UC_HOOK_BLOCK,
    UC_HOOK_CODE,
    UC_HOOK_INSN,
    UC_HOOK_INTR,
    UC_HOOK_TLB_FILL,
    UC_MODE_64,
    UC_PROT_ALL,
    UC_TLB_VIRTUAL,
    Uc,
)
from unicorn import x86_const as x86
from unicorn.unicorn_py3.unicorn import uc_engine, uc_tlb_entry, uclib

from vm.emulated.mm.memory import ARENA_SIZE, RIGHTS, Memory
from vm.emulated.processor.native.hooks import Counters, function_address

PHYSICAL_BASE = 0x1_0000_0000

GENERAL_REGISTERS = (
    x86.UC_X86_REG_RAX,
    x86.UC_X86_REG_RCX,
    x86.UC_X86_REG_RDX,
    x86.UC_X86_REG_RBX,
    x86.UC_X86_REG_RSP,
    x86.UC_X86_REG_RBP,
    x86.UC_X86_REG_RSI,
    x86.UC_X86_REG_RDI,
    x86.UC_X86_REG_R8,
    x86.UC_X86_REG_R9,
    x86.UC_X86_REG_R10,
    x86.UC_X86_REG_R11,
    x86.UC_X86_REG_R12,
    x86.UC_X86_REG_R13,
    x86.UC_X86_REG_R14,
    x86.UC_X86_REG_R15,
)
"""In the order of the x64 encoding, which is also that of CONTEXT (winnt.h) and of unwind codes."""
RSP = 4
RIP = x86.UC_X86_REG_RIP

FILL_WRITE = 17
FILL_FETCH = 18
"""Access kinds that Unicorn hands to a TLB-fill hook (uc_mem_type: 16 read, 17 write, 18 fetch)."""

_TRAP = ctypes.CFUNCTYPE(ctypes.c_uint32, uc_engine, ctypes.c_uint32, ctypes.c_int, ctypes.c_void_p)
_FILL = ctypes.CFUNCTYPE(
    ctypes.c_bool, uc_engine, ctypes.c_uint64, ctypes.c_int, ctypes.POINTER(uc_tlb_entry), ctypes.c_void_p
)
_INTERRUPT = ctypes.CFUNCTYPE(None, uc_engine, ctypes.c_uint32, ctypes.c_void_p)


class EngineError(Exception):
    """Unicorn refused a call of ours: a defect of this machine, not of a driver."""


class Engine:
    """One emulated x64 processor over a Memory.

    Args:
        memory: guest memory; its page table answers TLB misses.
        on_trap: called with the port number at each IN instruction; returns what it reads.
        on_fill: called with address and access kind at a TLB miss; returns a page table entry, or 0 to refuse.
        on_interrupt: called with the vector of a software interrupt or exception; the engine is stopped after it.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        on_trap: Callable[[int], int],
        on_fill: Callable[[int, int], int],
        on_interrupt: Callable[[int], None],
    ) -> None:
        # Most methods of the binding are added at run time, where no type checker sees them.
        self._uc = cast("Any", Uc(UC_ARCH_X86, UC_MODE_64))
        self._handle = self._uc._uch  # noqa: SLF001 - the C API needs the handle that the binding keeps
        self._uc.ctl_set_tlb_mode(UC_TLB_VIRTUAL)
        self._uc.mem_map_ptr(PHYSICAL_BASE, ARENA_SIZE, UC_PROT_ALL, memory.arena_address)
        self.counters = Counters()
        self.counters.block_limit = (1 << 64) - 1
        self.counters.stop = ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p).value
        self._context = self._uc.context_save()
        self._start = uclib.uc_emu_start
        self._callbacks: list[object] = []

        def trap(_engine: object, port: int, _size: int, _context: object) -> int:
            return on_trap(port)

        def fill(_engine: object, address: int, access: int, entry: ctypes._Pointer[uc_tlb_entry], _c: object) -> bool:
            page = on_fill(address, access)
            if not page:
                return False
            target = entry.contents
            target.paddr = PHYSICAL_BASE + (page & ~0xFFF)
            target.perms = page & RIGHTS
            return True

        def interrupt(_engine: object, vector: int, _context: object) -> None:
            on_interrupt(vector)
            uclib.uc_emu_stop(self._handle)

        self._hook(UC_HOOK_TLB_FILL, _FILL(fill))
        self._hook(UC_HOOK_INSN, _TRAP(trap), x86.UC_X86_INS_IN)
        self._hook(UC_HOOK_INTR, _INTERRUPT(interrupt))
        self._native_hook(UC_HOOK_BLOCK, "on_block", 1, 0)

    def _hook(self, kind: int, callback: ctypes._FuncPointer, *extra: int) -> None:
        self._callbacks.append(callback)
        self._add_hook(kind, ctypes.cast(callback, ctypes.c_void_p), None, 1, 0, *extra)

    def _native_hook(self, kind: int, name: str, begin: int, end: int) -> ctypes.c_size_t:
        return self._add_hook(kind, ctypes.c_void_p(function_address(name)), ctypes.byref(self.counters), begin, end)

    def _add_hook(
        self, kind: int, function: ctypes.c_void_p, context: object, begin: int, end: int, *extra: int
    ) -> ctypes.c_size_t:
        hook = ctypes.c_size_t()
        status = uclib.uc_hook_add(
            self._handle,
            ctypes.byref(hook),
            kind,
            function,
            context,
            ctypes.c_uint64(begin),
            ctypes.c_uint64(end),
            *(ctypes.c_int(value) for value in extra),
        )
        if status:
            raise EngineError(f"uc_hook_add({kind}) failed with error {status}")
        return hook

    def count_instructions(self, begin: int, end: int) -> None:
        """From now on count each executed instruction of the range exactly, at a cost in speed."""
        self._native_hook(UC_HOOK_CODE, "on_instruction", begin, end - 1)
        self._uc.ctl_flush_tb()

    def start(self, address: int) -> int:
        """Run from an address until HLT or until something stops the engine; returns Unicorn's error."""
        status: int = self._start(self._handle, address, 0, 0, 0)
        return status

    def stop(self) -> None:
        """Stop at the next block; from a callback."""
        uclib.uc_emu_stop(self._handle)

    def hook_code(self, address: int, callback: Callable[[], None]) -> None:
        """Call back before the instruction at exactly this address."""
        self._uc.hook_add(UC_HOOK_CODE, lambda *_: callback(), None, address, address)

    def flush_tlb(self) -> None:
        """Forget every cached translation."""
        self._uc.ctl(UC_CTL_TLB_FLUSH, UC_CTL_IO_WRITE)

    def flush_code(self) -> None:
        """Forget every translated block, after code was replaced."""
        self._uc.ctl_flush_tb()

    def read(self, register: int) -> int:
        """One register."""
        value: int = self._uc.reg_read(register)
        return value

    def write(self, register: int, value: int) -> None:
        """Set one register."""
        self._uc.reg_write(register, value)

    def set_gs_base(self, address: int) -> None:
        """Base of the gs segment."""
        self._uc.reg_write(x86.UC_X86_REG_GS_BASE, address)

    def registers(self) -> list[int]:
        """The sixteen general registers, in GENERAL_REGISTERS' order."""
        return [self._uc.reg_read(register) for register in GENERAL_REGISTERS]

    def set_registers(self, values: Sequence[int]) -> None:
        """Set the sixteen general registers."""
        for register, value in zip(GENERAL_REGISTERS, values, strict=True):
            self._uc.reg_write(register, value)

    def save(self) -> bytes:
        """The processor's whole register state."""
        self._uc.context_update(self._context)
        return bytes(self._context)

    def load(self, state: bytes) -> None:
        """Restore a state made by save."""
        kind = cast("Any", type(self._context))
        context = kind.__new__(kind)
        context.__setstate__((state, len(state), UC_ARCH_X86, UC_MODE_64))
        self._uc.context_restore(context)

    def close(self) -> None:
        """Release the emulator."""
        self._callbacks.clear()
        del self._uc
