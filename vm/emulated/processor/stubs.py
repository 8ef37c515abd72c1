"""Machine code through which guest and host call each other.

Every import that the host implements gets a *trap stub*: it stores the four argument registers, the stack pointer and
its own number into the trap page, executes IN, loads the result from the trap page and returns. The *invoke stub* is
the way in: it loads target and arguments from the trap page, calls, stores the result, says so, and halts.
"""

from __future__ import annotations

import struct

from vm.emulated.layout import STUBS, STUBS_SIZE, TRAP_PAGE
from vm.emulated.mm.memory import EXECUTE, READ, Memory

TRAP_PORT = 0xE0

# The trap page.
ARGUMENTS = 0
RSP = 32
INDEX = 40
RESULT = 48
CALL_ARGUMENTS = 64
CALL_TARGET = 96
CALL_STACK_ARGUMENTS = 104
CALL_RESULT = 120
CALL_RETURNED = 128

_STUB_SIZE = 64

_STORE_RCX, _STORE_RDX, _STORE_R8, _STORE_R9 = b"\x48\x89\x0d", b"\x48\x89\x15", b"\x4c\x89\x05", b"\x4c\x89\x0d"
_STORE_RSP, _STORE_RAX = b"\x48\x89\x25", b"\x48\x89\x05"
_LOAD_RCX, _LOAD_RDX, _LOAD_R8, _LOAD_R9 = b"\x48\x8b\x0d", b"\x48\x8b\x15", b"\x4c\x8b\x05", b"\x4c\x8b\x0d"
_LOAD_RAX, _CALL, _STORE_U32 = b"\x48\x8b\x05", b"\xff\x15", b"\xc7\x05"


class _Assembler:
    """Appends instructions with rip-relative references into the trap page."""

    def __init__(self, address: int) -> None:
        self.address = address
        self.code = b""

    def memory(self, opcode: bytes, cell: int, immediate: bytes = b"") -> _Assembler:
        end = self.address + len(self.code) + len(opcode) + 4 + len(immediate)
        self.code += opcode + struct.pack("<i", TRAP_PAGE + cell - end) + immediate
        return self

    def raw(self, code: bytes) -> _Assembler:
        self.code += code
        return self

    def here(self) -> int:
        return self.address + len(self.code)


class Stubs:
    """The stub pages of one machine.

    Attributes:
        invoke: where the engine starts to call `CALL_TARGET`.
        exit: where it halts.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        memory.map(STUBS, STUBS_SIZE, READ | EXECUTE)
        self._next = STUBS
        self.resume_at: list[int] = []
        """Per trap index, the address right behind its IN instruction."""
        self.invoke, self.exit = self._make_invoke()
        self.cfg_check = self.code(b"\xc3")
        """_guard_check_icall: accept every target."""
        self.cfg_dispatch = self.code(b"\xff\xe0")
        """_guard_dispatch_icall: jump to rax."""

    def code(self, code: bytes) -> int:
        """Place a piece of code; returns its address."""
        address = self._next
        if len(code) > _STUB_SIZE * 2 or address + len(code) > STUBS + STUBS_SIZE:
            raise ValueError("stub area is full")
        self._memory.load(address, code)
        self._next = (address + len(code) + _STUB_SIZE - 1) & -_STUB_SIZE
        return address

    def trap(self) -> tuple[int, int]:
        """A new trap stub: its number and address."""
        index = len(self.resume_at)
        stub = _Assembler(self._next)
        stub.memory(_STORE_RCX, ARGUMENTS).memory(_STORE_RDX, ARGUMENTS + 8)
        stub.memory(_STORE_R8, ARGUMENTS + 16).memory(_STORE_R9, ARGUMENTS + 24).memory(_STORE_RSP, RSP)
        stub.memory(_STORE_U32, INDEX, struct.pack("<I", index)).raw(bytes((0xE4, TRAP_PORT)))
        self.resume_at.append(stub.here())
        stub.memory(_LOAD_RAX, RESULT).raw(b"\xc3")
        return index, self.code(stub.code)

    def _make_invoke(self) -> tuple[int, int]:
        stub = _Assembler(self._next)
        stub.raw(b"\x55\x48\x89\xe5\x48\x83\xe4\xf0\x48\x83\xec\x40")  # push rbp; mov rbp,rsp; and rsp,-16; sub rsp,64
        for slot in (0, 8):
            stub.memory(_LOAD_RAX, CALL_STACK_ARGUMENTS + slot).raw(b"\x48\x89\x44\x24" + bytes((0x20 + slot,)))
        stub.memory(_LOAD_RCX, CALL_ARGUMENTS).memory(_LOAD_RDX, CALL_ARGUMENTS + 8)
        stub.memory(_LOAD_R8, CALL_ARGUMENTS + 16).memory(_LOAD_R9, CALL_ARGUMENTS + 24)
        stub.memory(_CALL, CALL_TARGET).memory(_STORE_RAX, CALL_RESULT)
        stub.raw(b"\x48\x89\xec\x5d")  # mov rsp,rbp; pop rbp
        stub.memory(_STORE_U32, CALL_RETURNED, struct.pack("<I", 1))
        end = stub.here()
        # HLT ends the engine. An end address given to the engine would cost it a retranslation at every call.
        stub.raw(b"\xf4")
        return self.code(stub.code), end

    def is_invoke(self, address: int) -> bool:
        """True for an address inside the invoke stub: the frame between guest code and the host that called it."""
        return self.invoke <= address <= self.exit
