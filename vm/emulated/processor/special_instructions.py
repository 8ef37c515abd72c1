"""Instructions that the CPU emulator executes wrongly, done by the host instead.

cr8 is the IRQL; the time stamp counter follows the machine's clock; random numbers come from a fixed sequence, so that
a run repeats. Windows starts with SMAP support switched as it likes: stac and clac change nothing here.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from unicorn import x86_const

from vm.emulated.ke.irql import set_irql
from vm.emulated.processor.engine import RIP

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel
    from vm.emulated.loader.pe import SpecialInstruction

_CARRY = 1
_GENERAL = {
    name: index
    for index, name in enumerate(
        ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
    )
}
_CYCLES_PER_UNIT = 300
"""A 3 GHz time stamp counter: 300 cycles in 100 ns."""


def _register(name: str) -> int:
    value: int = getattr(x86_const, f"UC_X86_REG_{name.strip().upper()}")
    return value


def emulate(kernel: Kernel, address: int, instruction: SpecialInstruction) -> None:
    """Do what the instruction at `address` does and step over it."""
    engine = kernel.cpu.engine
    match instruction.mnemonic:
        case "mov":
            target, source = (part.strip() for part in instruction.operands.split(","))
            if source == "cr8":
                engine.write(_register(target), kernel.irql)
            else:
                registers, flags = engine.registers(), engine.read(x86_const.UC_X86_REG_EFLAGS)
                set_irql(kernel, registers[_GENERAL[source]] & 0xF)
                # A DPC that waited has run inside the instruction.
                engine.set_registers(registers)
                engine.write(x86_const.UC_X86_REG_EFLAGS, flags)
        case "rdtsc" | "rdtscp":
            cycles = kernel.clock.interrupt_time() * _CYCLES_PER_UNIT
            engine.write(x86_const.UC_X86_REG_RAX, cycles & 0xFFFFFFFF)
            engine.write(x86_const.UC_X86_REG_RDX, cycles >> 32 & 0xFFFFFFFF)
            if instruction.mnemonic == "rdtscp":
                engine.write(x86_const.UC_X86_REG_RCX, 0)
        case "rdrand" | "rdseed":
            number = hashlib.blake2b(f"{kernel.clock.interrupt_time()}:{address}".encode(), digest_size=8).digest()
            engine.write(_register(instruction.operands), int.from_bytes(number, "little"))
            flags = engine.read(x86_const.UC_X86_REG_EFLAGS)
            engine.write(x86_const.UC_X86_REG_EFLAGS, flags | _CARRY)
    engine.write(RIP, address + instruction.size)
