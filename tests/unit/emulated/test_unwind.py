from __future__ import annotations

import struct

import capstone
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn.x86_const import UC_X86_REG_RIP

from tests.fixtures.guinea_pigs import build
from tests.fixtures.small_kernel import SmallKernel
from vm.emulated.exceptions.unwind import RSP, BadUnwindData, parse_unwind_info, unwind, walk

NONVOLATILE = (3, 5, 6, 7, 12, 13, 14, 15)


@pytest.fixture
def kernel():
    kernel = SmallKernel()
    yield kernel
    kernel.close()


@pytest.mark.parametrize("optimisation", ["-O2", "-O0", "-Os"])
@pytest.mark.parametrize("function", ["Exercise", "Pushes", "Large", "Dynamic", "Floating", "Tail", "Recurse"])
def test_every_instruction_unwinds_to_the_caller_with_its_registers(kernel, function, optimisation):
    loaded = kernel.load(build("unwind", options=(optimisation,)))
    engine = kernel.cpu.engine
    checked = []
    entered = []

    def check():
        registers = engine.registers()
        rip = engine.read(UC_X86_REG_RIP)
        if not entered:
            entered.append(registers)
        frames = list(walk(kernel, rip, registers, 64, across_host=False))
        outermost = frames[-1]
        assert kernel.cpu.is_host_frame(outermost.caller), hex(rip - loaded.base)
        assert outermost.caller_registers[RSP] == entered[0][RSP] + 8
        for register in NONVOLATILE:
            assert outermost.caller_registers[register] == entered[0][register], (hex(rip - loaded.base), register)
        checked.append(rip)

    failures = []

    def guarded():
        try:
            check()
        except AssertionError as failure:
            failures.append(str(failure).splitlines()[0])

    for address in instructions(loaded):
        engine.hook_code(address, guarded)
    kernel.call(loaded.export(function), 5)
    assert not failures
    assert len(set(checked)) > 10


def instructions(loaded):
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    disassembler.skipdata = True
    text = next(s for s in loaded.image.sections if s.name == ".text")
    code = loaded.image.mapped[text.rva : text.rva + text.size]
    return [address for address, *_ in disassembler.disasm_lite(code, loaded.base + text.rva)]


def info(flags=0, prolog=0, frame=0, slots=(), tail=b""):
    padded = (*slots, 0) if len(slots) % 2 else slots
    return (
        struct.pack("<BBBB", 1 | flags << 3, prolog, len(slots), frame)
        + struct.pack(f"<{len(padded)}H", *padded)
        + tail
    )


def test_large_allocations_and_far_saves_are_read_with_their_operands():
    slots = (0x0A | 1 << 8, 0x20, 0x10 | 1 << 8 | 1 << 12, 0x0000, 0x0001, 0x14 | 5 << 8 | 3 << 12, 0x10, 0x0000)
    parsed = parse_unwind_info(b"\0" * 16 + info(slots=slots), 16)
    assert [(c.offset, c.operation, c.info, c.operand) for c in parsed.codes] == [
        (0x0A, 1, 0, 0x20),
        (0x10, 1, 1, 0x10000),
        (0x14, 5, 3, 0x10),
    ]


def test_a_handler_and_its_data_follow_the_codes():
    parsed = parse_unwind_info(info(flags=3, slots=(0x0202,), tail=struct.pack("<II", 0x1234, 7)), 0)
    assert (parsed.handler, parsed.handler_data) == (0x1234, 12)


def test_chained_information_names_its_function():
    parsed = parse_unwind_info(info(flags=4, tail=struct.pack("<III", 1, 2, 3)), 0)
    assert parsed.chained == (1, 2, 3)
    assert parsed.handler == 0


@pytest.mark.parametrize(
    "data", [b"", b"\x01", info(slots=(0x0B00,)), info(slots=(0x0100,)), info(flags=4), b"\x03\0\0\0", info(flags=1)]
)
def test_damaged_unwind_information_is_refused(data):
    with pytest.raises(BadUnwindData):
        parse_unwind_info(data, 0)


@settings(max_examples=300)
@given(data=st.binary(max_size=64), rva=st.integers(0, 70))
def test_arbitrary_unwind_information_is_read_or_refused(data, rva):
    try:
        parsed = parse_unwind_info(data, rva)
    except BadUnwindData:
        return
    assert all(code.operation <= 10 for code in parsed.codes)


def test_code_outside_every_image_counts_as_a_leaf(kernel):
    stack = 0xFFFF_F900_0000_1000
    kernel.mem.set_u64(stack, 0x1122)
    registers = [0] * 16
    registers[RSP] = stack
    frame = unwind(kernel, 0x4444, registers)
    assert (frame.caller, frame.caller_registers[RSP], frame.image) == (0x1122, stack + 8, None)


def test_a_walk_over_an_unreadable_stack_yields_the_innermost_frame_alone(kernel):
    frames = list(walk(kernel, 0x4444, [0] * 16, 32, across_host=True))
    assert [frame.control for frame in frames] == [0x4444]
