"""Measures the emulated machine with a given driver; `ntproof bench` prints the results.

Rates are taken in batches from a restored checkpoint, so that the driver's queue never fills, and the median batch
counts: the figure a shared machine reaches, neither its luckiest nor its unluckiest moment.

Run as a module, it prints the instruction counts of one create and one exit callback as JSON:

    python -m vm.emulated.benchmark DRIVER.sys
"""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from vm.emulated.ke.threads import Thread
from vm.emulated.loader.image import LoadedImage
from vm.emulated.machine import EmulatedMachine
from vm.emulated.processor import stubs
from vm.emulated.ps.manager import Process

SERVICE = "benchmark"
IMAGE = "C:\\Windows\\System32\\notepad.exe"
COMMAND_LINE = "notepad.exe C:\\Users\\Public\\notes.txt"

_BATCH = 1500
"""Processes per batch: with the names above, a queue of 1 MiB holds them all."""
_BATCHES = 15
_RETURN_ZERO = b"\x31\xc0\xc3"  # xor eax,eax; ret
_CALL = struct.Struct("<QQQQQ")


@dataclass(frozen=True)
class InstructionCounts:
    """Instructions of the driver's own code in one callback."""

    create: int
    exit: int


@dataclass(frozen=True)
class Rates:
    """Notifications a second: through the kernel, and by the same code in a bare emulator."""

    notifications_per_s: float
    bare_unicorn_notifications_per_s: float


def started_machine(driver: Path) -> EmulatedMachine:
    """A machine on which the driver runs."""
    machine = EmulatedMachine()
    machine.install_driver(SERVICE, driver)
    machine.start_driver(SERVICE)
    return machine


def _process(machine: EmulatedMachine) -> tuple[Process, Thread, Thread]:
    """A process whose creation and end are notified again and again, its creator's thread and its own."""
    kernel = machine.kernel
    agent = kernel.ps.process(machine.agent_pid)
    process = kernel.ps.new_process(
        kernel.files.open_name(IMAGE), kernel.files.file_name(IMAGE), COMMAND_LINE, parent_pid=agent.pid
    )
    thread = kernel.ps.insert_first_thread(process)
    return process, kernel.threads.state.threads[agent.first_thread], thread


def instruction_counts(driver: Path) -> InstructionCounts:
    """Count the driver's instructions in one create and one exit callback, after one of each has run."""
    machine = started_machine(driver)
    kernel = machine.kernel
    process, creator, thread = _process(machine)
    image = kernel.images[0]
    engine = kernel.cpu.engine
    engine.count_instructions(image.base, image.base + image.size)

    def counted(callback: Callable[[], object]) -> int:
        callback()
        before = engine.counters.instructions
        callback()
        return engine.counters.instructions - before

    create = counted(lambda: kernel.notify.process_created(process, creator))
    exit_ = counted(lambda: kernel.notify.process_exited(process, thread))
    machine.close()
    return InstructionCounts(create, exit_)


def rates(driver: Path) -> Rates:
    """Notification rates, the two kinds of batches taken in turn so that both see the same machine."""
    machine = started_machine(driver)
    _process(machine)
    ready = machine.checkpoint()
    through_kernel, bare = [], []
    for _ in range(_BATCHES):
        machine.restore(ready)
        through_kernel.append(_kernel_batch(machine))
        machine.restore(ready)
        bare.append(_bare_batch(machine))
    machine.close()
    return Rates(2 * _BATCH / median(through_kernel), 2 * _BATCH / median(bare))


def _kernel_batch(machine: EmulatedMachine) -> float:
    notify = machine.kernel.notify
    process, creator, thread = _process(machine)
    begin = time.perf_counter()
    for _ in range(_BATCH):
        notify.process_created(process, creator)
        notify.process_exited(process, thread)
    return time.perf_counter() - begin


def _bare_batch(machine: EmulatedMachine) -> float:
    """The same callbacks with every import replaced by guest code that returns 0: the emulator's own speed."""
    kernel = machine.kernel
    process, creator, _ = _process(machine)
    image = kernel.images[0]
    _replace_imports(machine, image, kernel.stubs.code(_RETURN_ZERO))
    kernel.notify.fill_info(process, creator)
    routine = next(slot.routine for slot in kernel.notify.state.slots if slot is not None)
    arena, engine, page, invoke = kernel.mem.arena, kernel.cpu.engine, kernel.cpu.page, kernel.stubs.invoke
    create = (process.object, process.pid, kernel.notify.state.info, 0, routine)
    end = (process.object, process.pid, 0, 0, routine)
    at = page + stubs.CALL_ARGUMENTS
    begin = time.perf_counter()
    for _ in range(_BATCH):
        _CALL.pack_into(arena, at, *create)
        engine.start(invoke)
        _CALL.pack_into(arena, at, *end)
        engine.start(invoke)
    return time.perf_counter() - begin


def _replace_imports(machine: EmulatedMachine, image: LoadedImage, target: int) -> None:
    for entry in image.image.imports:
        machine.kernel.mem.load(image.base + entry.iat_rva, struct.pack("<Q", target))


def restore_ms(driver: Path, repetitions: int = 200) -> float:
    """Milliseconds to restore a checkpoint of a running driver after a process came and went."""
    machine = started_machine(driver)
    kernel = machine.kernel
    ready = machine.checkpoint()
    times = []
    for _ in range(repetitions):
        process, creator, _ = _process(machine)
        kernel.notify.process_created(process, creator)
        begin = time.perf_counter()
        machine.restore(ready)
        times.append(time.perf_counter() - begin)
    machine.close()
    return median(times) * 1000


def start_ms(driver: Path, repetitions: int = 30) -> float:
    """Milliseconds from nothing to a running driver, in a process that has done it before."""
    started_machine(driver).close()
    times = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        machine = started_machine(driver)
        times.append(time.perf_counter() - begin)
        machine.close()
    return median(times) * 1000


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(instruction_counts(Path(sys.argv[1])))) + "\n")
