"""Checks that the emulated machine claims are made, others are refused, and low resources fail what Microsoft says."""

from __future__ import annotations

import contextlib

import pytest

from harness.build import build_driver
from tests.fixtures.misuse import CMD, Misuse, crash, options
from vm.emulated.machine import EmulatedMachine
from vm.emulated.verifier_options import ALWAYS_MADE
from vm.errors import MachineConfigurationError, MachineCrashed, Win32Error
from vm.machine import LaunchRequest
from vm.registry import MachineOptions, create_machine
from vm.verifier import LOW_RESOURCES, OPTIONS, VerifierSettings, parse_verifier

STATUS_NO_MEMORY = 0xC0000017
STATUS_INSUFFICIENT_RESOURCES = 0xC000009A
ERROR_NOT_ENOUGH_MEMORY, ERROR_NO_SYSTEM_RESOURCES = 8, 1450
POOL_TYPE_NX, POOL_FLAG_NON_PAGED, POOL_FLAG_RAISE = 512, 0x40, 0x20
TEST = int.from_bytes(b"Test", "little")


def free_twice_and_use(misuse):
    block = misuse.run("Allocate", 32)
    misuse.run("Free", block)
    return misuse.crash("Read8", block)


def touch_paged_pool_at_dispatch_level(misuse):
    return misuse.crash("TouchTwice", misuse.run("Allocate", 64, 1), 2)


def leak(misuse):
    misuse.run("Allocate", 100)
    return crash(misuse.stop)


def free_an_irp_that_is_none(misuse):
    return crash(lambda: call(misuse.machine, "IoFreeIrp", misuse.address("Cells")))


def free_memory_with_a_timer_in_it(misuse):
    return misuse.crash("TimerInPool", 1)


WITNESSES = {
    "special-pool": (free_twice_and_use, 0xD5, None),
    "force-irql": (touch_paged_pool_at_dispatch_level, 0xD1, None),
    "pool-tracking": (leak, 0xC4, 0x62),
    "io": (free_an_irp_that_is_none, 0xC9, 0x1),
    "misc": (free_memory_with_a_timer_in_it, 0xC7, None),
}


def call(machine, export, *arguments):
    """Call an export as a driver would."""
    with machine.user_call("call", export) as kernel:
        return kernel.call(kernel.resolve_export(export), *arguments)


def starved(machine):
    return machine.kernel.faults.state.starved


@pytest.fixture
def make():
    with contextlib.ExitStack() as stack:

        def make(text=None):
            machine = EmulatedMachine(options=options(verifier=text and parse_verifier(text)))
            stack.callback(machine.close)
            return machine

        yield make


def test_every_check_that_is_claimed_has_a_witness():
    assert WITNESSES.keys() == ALWAYS_MADE.keys()


@pytest.mark.parametrize("asked", [False, True], ids=["not asked for", "asked for"])
@pytest.mark.parametrize("name", WITNESSES)
def test_a_claimed_check_is_made_whether_asked_for_or_not(name, asked):
    provoke, code, kind = WITNESSES[name]
    misuse = Misuse(options(verifier=parse_verifier(name) if asked else None))

    report = provoke(misuse)

    misuse.machine.close()
    assert report.code == code
    assert kind is None or report.parameters[0] == kind


@pytest.mark.parametrize("name", [o.name for o in OPTIONS if o.name not in ALWAYS_MADE and o.name != LOW_RESOURCES])
def test_what_cannot_be_checked_is_refused_by_name(name):
    with pytest.raises(MachineConfigurationError, match=rf"option {name} .*Windows machine") as told:
        create_machine("emulated", MachineOptions(verifier=VerifierSettings(frozenset({name}))))

    assert "\n" not in str(told.value)


def test_the_settings_are_a_fact_of_the_machine_with_the_seed(make):
    assert "verifier" not in make().facts.details
    facts = make("io,low-resources=0.05,pool-tag=Tag1,seed=7").facts.details["verifier"]

    assert facts == "io (always checked here); 0.05 of allocations with tag Tag1 fail, seed 7"


POOL_CALLS = {
    "ExAllocatePool": (POOL_TYPE_NX, 8),
    "ExAllocatePoolWithTag": (POOL_TYPE_NX, 8, TEST),
    "ExAllocatePoolWithTagPriority": (POOL_TYPE_NX, 8, TEST, 16),
    "ExAllocatePoolWithQuotaTag": (POOL_TYPE_NX | 8, 8, TEST),
    "ExAllocatePool2": (POOL_FLAG_NON_PAGED, 8, TEST),
    "ExAllocatePool3": (POOL_FLAG_NON_PAGED, 8, TEST, 0, 0),
}
OTHER_CALLS = {"IoAllocateIrp": (1, 0), "IoAllocateIrpEx": (0, 1, 0), "IoAllocateMdl": (0x10000, 8, 0, 0, 0)}


@pytest.mark.parametrize("export", [*POOL_CALLS, *OTHER_CALLS])
def test_an_allocation_fails_when_memory_is_said_to_be_short(make, export):
    short, plenty = make("low-resources=1"), make("special-pool")
    arguments = (POOL_CALLS | OTHER_CALLS)[export]

    assert call(plenty, export, *arguments) != 0
    assert call(short, export, *arguments) == 0
    assert (starved(short), starved(plenty)) == (1, 0)
    assert short.debug_output()[0].startswith("low resources: ")


@pytest.mark.parametrize(
    ("export", "arguments"),
    [
        ("ExAllocatePool2", (POOL_FLAG_NON_PAGED | POOL_FLAG_RAISE, 8, TEST)),
        ("ExAllocatePoolWithTag", (POOL_TYPE_NX | 16, 8, TEST)),
        ("ExAllocatePoolWithQuotaTag", (POOL_TYPE_NX, 8, TEST)),
    ],
)
def test_an_allocation_that_raises_without_memory_raises(make, export, arguments):
    with pytest.raises(MachineCrashed) as crashed:
        call(make("low-resources=1"), export, *arguments)

    assert crashed.value.report.parameters[0] == STATUS_INSUFFICIENT_RESOURCES


@pytest.fixture
def half():
    """The misuse driver on a machine where every second allocation fails; it started in spite of that."""
    misuse = Misuse(options(verifier=parse_verifier("low-resources=0.5,seed=1")))
    yield misuse
    misuse.machine.close()


def test_work_items_mappings_and_completion_routines_fail_now_and_then(half):
    machine = half.machine
    device = next(iter(machine.kernel.io.state.devices))
    irp = next(filter(None, (call(machine, "IoAllocateIrp", 1, 0) for _ in range(40))))

    items = [call(machine, "IoAllocateWorkItem", device) for _ in range(40)]
    mapped = [call(machine, "MmMapLockedPagesSpecifyCache", new_mdl(half), 0, 1, 0, 0, 16) for _ in range(40)]
    always = [call(machine, "MmMapLockedPages", new_mdl(half), 0) for _ in range(40)]
    statuses = [call(machine, "IoSetCompletionRoutineEx", device, irp, 0, 0, 1, 1) for _ in range(40)]

    assert 5 < items.count(0) < 35
    assert 5 < mapped.count(0) < 35
    assert 0 not in always
    assert set(statuses) == {0, STATUS_INSUFFICIENT_RESOURCES}


def test_locking_pages_raises_now_and_then(half):
    def lock_forty():
        for _ in range(40):
            call(half.machine, "MmProbeAndLockPages", new_mdl(half, built=False), 0, 1)

    with pytest.raises(MachineCrashed) as crashed:
        lock_forty()

    assert crashed.value.report.parameters[0] == STATUS_INSUFFICIENT_RESOURCES


def new_mdl(misuse, *, built=True):
    """An MDL of the driver's data, as often asked for as needed."""
    arguments = (misuse.address("Cells"), 8, 0, 0, 0)
    made = next(filter(None, (call(misuse.machine, "IoAllocateMdl", *arguments) for _ in range(40))))
    if built:
        call(misuse.machine, "MmBuildMdlForNonPagedPool", made)
    return made


@pytest.mark.parametrize("export", ["RtlUpcaseUnicodeString", "RtlUnicodeStringToAnsiString"])
def test_a_string_that_is_to_be_allocated_fails(make, export):
    for text, status in (("low-resources=1", STATUS_NO_MEMORY), ("special-pool", 0)):
        machine = make(text)
        heap, mem = machine.kernel.heap, machine.kernel.mem
        source, target = heap.allocate(64), heap.allocate(16)
        mem.set_unicode_string(source, 4, 4, source + 16)
        mem.write(source + 16, b"a\0b\0")

        assert call(machine, export, target, source, 1) & 0xFFFFFFFF == status


def outcomes(machine, count=400):
    return [call(machine, "ExAllocatePoolWithTag", POOL_TYPE_NX, 8, TEST) == 0 for _ in range(count)]


def test_about_as_many_fail_as_the_probability_says(make):
    assert 60 <= sum(outcomes(make("low-resources=0.2"))) <= 100


def test_the_seed_decides_which_fail(make):
    first, again, other = (outcomes(make(f"low-resources=0.2,seed={seed}")) for seed in (5, 5, 6))

    assert first == again
    assert first != other


def test_only_allocations_with_the_tag_fail(make):
    machine = make("low-resources=1,pool-tag=Othr")

    assert call(machine, "ExAllocatePoolWithTag", POOL_TYPE_NX, 8, TEST) != 0
    assert call(machine, "IoAllocateIrp", 1, 0) != 0
    assert call(machine, "ExAllocatePoolWithTag", POOL_TYPE_NX, 8, int.from_bytes(b"Othr", "little")) == 0


def test_a_checkpoint_brings_the_same_failures_again(make):
    machine = make("low-resources=0.3,seed=9")
    outcomes(machine, 50)
    checkpoint = machine.checkpoint()
    first = outcomes(machine)

    machine.restore(checkpoint)
    second = outcomes(machine)
    machine.reset()

    assert second == first
    assert outcomes(machine, 50) == outcomes(make("low-resources=0.3,seed=9"), 50)


def test_the_reference_driver_survives_scarce_memory(make):
    """It starts or says why not; then it neither crashes, nor leaks, nor stays."""
    refused = []
    for seed in range(12):
        machine = make(f"low-resources=0.5,seed={seed}")
        machine.install_driver("procnotify", build_driver("procnotify").image)
        try:
            machine.start_driver("procnotify")
        except Win32Error as error:
            refused.append(error.code)
            continue
        for _ in range(30):
            launched = machine.launch(LaunchRequest(CMD, "cmd"))
            assert launched.succeeded
            machine.exit_process(launched.pid)
        machine.stop_driver("procnotify")

    assert 0 < len(refused) < 12
    assert set(refused) <= {ERROR_NOT_ENOUGH_MEMORY, ERROR_NO_SYSTEM_RESOURCES}
