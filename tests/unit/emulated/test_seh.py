from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.guinea_pigs import build
from tests.fixtures.small_kernel import GOOD, STACK_TOP, SmallKernel
from vm.emulated.faults import Bugcheck, KernelEvent
from vm.emulated.kernel import Kernel
from vm.emulated.loader.image import BadImage, DriverImage

ACCESS_VIOLATION = 0xC0000005
MISALIGNMENT = 0x80000002
NULL = 0x1000
NOT_CANONICAL = 0x8000_0000_0000_0000
KERNEL = 0xFFFF_A800_0000_0000
PROBE_END = 0x7FFF_FFFF_0000


@pytest.fixture(params=["-O2", "-O0"])
def call(request):
    kernel = SmallKernel()
    loaded = kernel.load(build("seh", options=(request.param,)))

    def run(name, *arguments):
        result = kernel.call(loaded.export(name), *arguments) & 0xFFFF_FFFF
        assert kernel.stack_pointer() == STACK_TOP
        return result

    run.kernel = kernel
    run.loaded = loaded
    yield run
    kernel.close()


@pytest.mark.parametrize("bad", [NULL, NOT_CANONICAL])
@pytest.mark.parametrize(
    ("function", "good_result", "caught"),
    [
        ("Catch", 42, ACCESS_VIOLATION),
        ("CatchFromCallee", 43, 0xFFFF_FFFE),
        ("FinallyThenCatch", 123, 1234),
        ("CatchInHandler", 42, 5),
        ("NestedInFilter", 42, 8),
        ("BigFrame", 42, 64),
    ],
)
def test_handlers_run_for_a_bad_pointer_and_only_then(call, function, good_result, caught, bad):
    assert call(function, GOOD) == good_result
    assert call(function, bad) == caught
    assert call(function, GOOD) == good_result


def test_a_filter_can_repair_the_context_and_continue(call):
    assert call("ContinueExecution", NULL) == 77 * 1000 + 200


def test_a_filter_that_does_not_want_the_exception_leaves_it_to_the_next(call):
    assert call("Raise", 0xC0000001) == 1
    assert call("Raise", 0xC0000022) == 0xC0000022


def test_an_exception_that_nothing_wants_stops_the_machine(call):
    with pytest.raises(Bugcheck) as caught:
        call("Unhandled", NULL)
    bugcheck = caught.value
    assert bugcheck.code == 0x1E
    assert bugcheck.parameters == (ACCESS_VIOLATION, bugcheck.site.rip, 0, NULL)
    assert call.loaded.contains(bugcheck.site.rip)


def test_a_bad_kernel_address_is_never_offered_to_handlers(call):
    with pytest.raises(Bugcheck) as caught:
        call("Catch", KERNEL)
    assert caught.value.code == 0x50
    assert caught.value.parameters[0] == KERNEL


def test_a_user_address_at_dispatch_level_is_never_offered_to_handlers(call):
    call.kernel.irql = 2
    with pytest.raises(Bugcheck) as caught:
        call("Catch", NULL)
    assert caught.value.code == 0xD1
    assert caught.value.parameters[:3] == (NULL, 2, 0)


def test_handlers_may_run_any_number_of_times(call):
    assert call("Loop", 300) == 300


@pytest.mark.parametrize(
    ("address", "length", "alignment", "write", "status"),
    [
        (GOOD, 4, 4, 0, 0),
        (NULL, 4, 4, 0, 0),
        (GOOD + 1, 4, 4, 0, MISALIGNMENT),
        (GOOD + 1, 4, 4, 1, MISALIGNMENT),
        (GOOD + 1, 4, 1, 1, 0),
        (GOOD + 1, 0, 4, 0, 0),
        (KERNEL, 0, 1, 1, 0),
        (PROBE_END - 1, 1, 1, 0, 0),
        (PROBE_END, 1, 1, 0, ACCESS_VIOLATION),
        (PROBE_END - 1, 2, 1, 0, ACCESS_VIOLATION),
        (KERNEL, 8, 8, 0, ACCESS_VIOLATION),
        (KERNEL, 8, 8, 1, ACCESS_VIOLATION),
        (0xFFFF_FFFF_FFFF_FFF0, 0x100, 1, 0, ACCESS_VIOLATION),
        (GOOD, 0x1000, 1, 1, 0),
        (GOOD, 0x1001, 1, 1, ACCESS_VIOLATION),
        (NULL, 1, 1, 1, ACCESS_VIOLATION),
    ],
)
def test_probes_check_alignment_and_range_and_write_probes_touch_each_page(
    call, address, length, alignment, write, status
):
    assert call("Probe", address, length, alignment, write) == status


def test_a_write_probe_leaves_the_bytes_as_they_are(call):
    assert call("Probe", GOOD, 4, 4, 1) == 0
    assert call.kernel.mem.u32(GOOD) == 42


def test_a_fast_fail_stops_the_machine_at_its_instruction(call):
    with pytest.raises(Bugcheck) as caught:
        call("FastFail", 3)
    assert caught.value.code == 0x139
    assert caught.value.parameters[0] == 3
    assert "CORRUPT_LIST_ENTRY" in caught.value.reason
    assert call.kernel.mem.read(caught.value.site.rip, 2) == b"\xcd\x29"


def test_a_division_by_zero_is_an_exception_every_time(call):
    for _ in range(4):
        assert call("Divide", 0) == 0xC0000094
    assert call("Divide", 2) == 3


def test_an_unguarded_division_by_zero_stops_the_machine_every_time(call):
    for _ in range(4):
        with pytest.raises(Bugcheck) as caught:
            call("DivideUnguarded", 0)
        assert caught.value.parameters[0] == 0xC0000094
        call.kernel.reset_stack()


def test_a_breakpoint_is_an_exception_at_its_own_address(call):
    assert call("Breakpoint") == 0x80000003


def test_leaving_a_try_block_by_return_runs_its_termination_handler(call):
    assert call("ReturnFromTry", 1) == 1
    assert call("TraceNow") == 7


def test_a_language_handler_of_the_driver_itself_is_called_with_a_dispatcher_context(call):
    assert call("OwnHandler", GOOD) == 42
    assert call("OwnHandler", NULL) == 9
    assert call("TraceNow") == 1


def test_exhausting_the_stack_is_a_double_fault_where_no_exception_record_fits(call):
    with pytest.raises(Bugcheck) as caught:
        call("Recurse", NULL, 1 << 20)
    assert caught.value.code in {0x50, 0x7F}


def test_what_cannot_be_continued_is_not_continued(call):
    assert call("ContinueRaise") == 0xC0000025


@settings(max_examples=60, deadline=None)
@given(
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=12),
    function=st.sampled_from(["Catch", "FinallyThenCatch", "NestedInFilter", "OwnHandler", "ContinueExecution"]),
)
def test_damaged_exception_data_ends_in_an_answer_or_a_bugcheck(edits, function):
    path = build("seh")
    image = DriverImage.parse(path)
    (tables,) = (s for s in image.sections if s.name == ".rdata")
    data = bytearray(path.read_bytes())
    start = data.index(image.mapped[tables.rva : tables.rva + 64])
    for fraction, byte in edits:
        data[start + int((tables.size - 1) * fraction)] = byte
    kernel = SmallKernel()
    try:
        loaded = kernel.load(bytes(data))
        entry = image.exports[function] + loaded.base
        with contextlib.suppress(KernelEvent):
            kernel.call(entry, NULL)
    except (BadImage, KeyError):
        return
    finally:
        kernel.close()


def test_handlers_run_under_the_whole_kernel_too():
    kernel = Kernel()
    try:
        loaded = kernel.load_image(DriverImage.parse(build("seh")))
        answers = {
            name: kernel.call(loaded.export(name), NULL)
            for name in ("CatchFromCallee", "FinallyThenCatch", "NestedInFilter", "OwnHandler", "Divide")
        }
        assert {name: value & 0xFFFF_FFFF for name, value in answers.items()} == {
            "CatchFromCallee": 0xFFFF_FFFE,
            "FinallyThenCatch": 1234,
            "NestedInFilter": 8,
            "OwnHandler": 9,
            "Divide": 0,
        }
        assert kernel.call(loaded.export("Raise"), 0xC0000022) & 0xFFFF_FFFF == 0xC0000022
    finally:
        kernel.close()
