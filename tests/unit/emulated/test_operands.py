from __future__ import annotations

from types import SimpleNamespace

import pytest

from vm.emulated.layout import PCR
from vm.emulated.mm.memory import EXECUTE, READ, Memory
from vm.emulated.processor.operands import exact_fault_address, follows_call, touches

CODE = 0xFFFF_F800_1000_0000
RAX, RCX, RDX, RSP, RSI, RDI, R9 = 0, 1, 2, 4, 6, 7, 9
PAGE = 0xFFFF_A800_0000_5000


@pytest.fixture
def kernel():
    memory = Memory()
    memory.map(CODE, 0x2000, READ | EXECUTE)
    yield SimpleNamespace(mem=memory)
    memory.close()


def registers(**values):
    names = [
        "rax",
        "rcx",
        "rdx",
        "rbx",
        "rsp",
        "rbp",
        "rsi",
        "rdi",
        "r8",
        "r9",
        "r10",
        "r11",
        "r12",
        "r13",
        "r14",
        "r15",
    ]
    return [values.get(name, 0x1111_0000_0000) for name in names]


@pytest.mark.parametrize(
    ("code", "state", "exact"),
    [
        ("8b01", {"rcx": PAGE + 0x123}, PAGE + 0x123),  # mov eax, [rcx]
        ("8b4108", {"rcx": PAGE + 0x10}, PAGE + 0x18),  # mov eax, [rcx+8]
        ("8b41f8", {"rcx": PAGE + 0x10}, PAGE + 8),  # mov eax, [rcx-8]
        ("8b44ca04", {"rdx": PAGE, "rcx": 0x20}, PAGE + 0x104),  # mov eax, [rdx+rcx*8+4]
        ("418901", {"r9": PAGE + 4}, PAGE + 4),  # mov [r9], eax
        ("488b01", {"rcx": PAGE - 4}, PAGE),  # mov rax, [rcx], crossing into the page
        ("50", {"rsp": PAGE + 0x20}, PAGE + 0x18),  # push rax
        ("58", {"rsp": PAGE + 0x20}, PAGE + 0x20),  # pop rax
        ("c3", {"rsp": PAGE + 0x28}, PAGE + 0x28),  # ret
        ("e800000000", {"rsp": PAGE + 0x20}, PAGE + 0x18),  # call
        ("f3a4", {"rsi": 0x1000, "rdi": PAGE}, PAGE),  # rep movsb
        ("f3aa", {"rdi": PAGE + 0x40}, PAGE + 0x40),  # rep stosb
        ("0f1101", {"rcx": PAGE - 8}, PAGE),  # movups [rcx], xmm0
        ("8b05f0ffffff", {}, None),  # mov eax, [rip-16]: in the code itself
        ("90", {}, None),  # nop touches nothing
    ],
)
def test_the_operand_gives_the_exact_address(kernel, code, state, exact):
    kernel.mem.load(CODE, bytes.fromhex(code))
    expected = PAGE if exact is None else exact
    assert exact_fault_address(kernel, CODE, PAGE, registers(**state)) == expected


def test_the_gs_segment_starts_at_the_processor_control_region(kernel):
    kernel.mem.load(CODE, bytes.fromhex("65488b042588010000"))  # mov rax, gs:[0x188]
    assert exact_fault_address(kernel, CODE, PCR, registers()) == PCR + 0x188


def test_a_fetch_fault_is_at_the_instruction_pointer(kernel):
    assert exact_fault_address(kernel, PAGE + 0x10, PAGE, registers()) == PAGE + 0x10


def test_an_instruction_that_runs_into_the_next_page_faults_at_that_page(kernel):
    kernel.mem.load(CODE + 0x1FFE, b"\x48\x8b")
    assert exact_fault_address(kernel, CODE + 0x1FFE, CODE + 0x2000, registers()) == CODE + 0x2000


def test_a_touched_byte_is_told_from_others(kernel):
    kernel.mem.load(CODE, bytes.fromhex("8b01"))
    state = registers(rcx=PAGE)
    assert touches(kernel, CODE, PAGE + 3, state)
    assert not touches(kernel, CODE, PAGE + 4, state)


@pytest.mark.parametrize("call", ["e811223344", "ff1511223344", "ffd0", "41ffd7", "ff10", "ff5010", "ff9011223344"])
def test_a_return_address_is_recognised_by_the_call_before_it(kernel, call):
    code = bytes.fromhex(call)
    kernel.mem.load(CODE, b"\x90" * 16 + code)
    assert follows_call(kernel, CODE + 16 + len(code))
    assert not follows_call(kernel, CODE + 16)
