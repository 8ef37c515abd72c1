"""The accelerator probe: its ROM runs from the reset vector to the port, and what it did decides."""

from __future__ import annotations

import pytest
import unicorn
from unicorn import x86_const as x86

from vm.windows.hypervisor import accelerator
from vm.windows.hypervisor.accelerator import ROM_BASE, ROM_SIZE, Observation, build_rom, choose
from vm.windows.hypervisor.domain_xml import Accelerator

LOOPS = 1000


class Run:
    """The ROM in an emulated processor: what it wrote to ports, and how often it counted."""

    def __init__(self, rom):
        self.writes = []
        self.counted = 0
        self.modes = []
        self.machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_16)
        self.machine.mem_map(0, 0x10000)
        self.machine.mem_map(ROM_BASE, ROM_SIZE, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        self.machine.mem_write(ROM_BASE, rom)
        self.machine.hook_add(unicorn.UC_HOOK_INSN, self.port, None, 1, 0, x86.UC_X86_INS_OUT)
        self.machine.hook_add(unicorn.UC_HOOK_CODE, self.instruction)

    def port(self, machine, port, size, value, _data):
        self.writes.append((port, size, value, machine.reg_read(x86.UC_X86_REG_RCX)))

    def instruction(self, machine, address, size, _data):
        code = bytes(machine.mem_read(address, size))
        if code == b"\x48\xff\xc9":
            self.counted += 1
        if code == b"\xf4":
            machine.emu_stop()

    def until_halted(self):
        # A reset leaves the segment base at 0xFFFF0000, which Unicorn cannot be told: the same bytes are at 0xF0000.
        self.machine.reg_write(x86.UC_X86_REG_CS, ROM_BASE >> 4)
        self.machine.emu_start(ROM_BASE + accelerator.RESET_OFFSET, ROM_BASE + ROM_SIZE, count=100_000)
        return self


@pytest.fixture(scope="module")
def run():
    return Run(build_rom(LOOPS)).until_halted()


def test_the_rom_is_one_real_mode_segment():
    assert len(build_rom()) == 0x10000


def test_the_rom_writes_to_the_panic_port_once_after_its_loop(run):
    assert run.writes == [(0x505, 1, 1, 0)]
    assert run.counted == LOOPS


def test_the_rom_counts_in_long_mode_with_paging_on(run):
    efer = run.machine.msr_read(0xC0000080)

    assert efer & 0x500 == 0x500, "long mode enabled and active"
    assert run.machine.reg_read(x86.UC_X86_REG_CR0) & 0x80000001 == 0x80000001
    assert run.machine.reg_read(x86.UC_X86_REG_CR4) & 0x20


def test_the_loops_are_those_that_were_asked_for():
    assert Run(build_rom(7)).until_halted().counted == 7


@pytest.mark.parametrize(
    ("observation", "expected", "words"),
    [
        (Observation(offered=True, crashed_after=0.7), Accelerator.KVM, "KVM: the probe ran in 0.7 s"),
        (Observation(offered=True, crashed_after=3.0), Accelerator.KVM, "3.0 s"),
        (Observation(offered=True, crashed_after=3.6), Accelerator.QEMU, "needed 3.6 s"),
        (Observation(offered=True), Accelerator.QEMU, "did not run the probe within 3 s"),
        (Observation(offered=False), Accelerator.QEMU, "offers no KVM"),
        (Observation(offered=True, refused="no access to kvm"), Accelerator.QEMU, "no access to kvm"),
    ],
)
def test_what_the_probe_did_decides(observation, expected, words):
    choice = choose(observation)

    assert choice.accelerator is expected
    assert words in choice.reason
    assert ("slow" in choice.reason) == (expected is Accelerator.QEMU)
