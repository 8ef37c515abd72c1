"""Device I/O on the emulated kernel, asked of a real driver (fixtures/drivers/io_probe.c)."""

from __future__ import annotations

import struct

import pytest

from tests.fixtures import guinea_pigs
from vm.emulated import ntstatus as st
from vm.emulated.faults import Bugcheck
from vm.emulated.kernel import Kernel
from vm.emulated.loader.image import DriverImage
from vm.machine import Account

GENERIC_READ, GENERIC_WRITE = 0x80000000, 0x40000000
READ_WRITE = GENERIC_READ | GENERIC_WRITE


def code(number, method=0, access=0):
    return 0x8000 << 16 | access << 14 | number << 2 | method


UPPER, SUM, FILL, COPY = code(0x800), code(0x801, 1), code(0x802, 2), code(0x803, 3)
QUEUE, RELEASE, MISBEHAVE, WORK, ASK_LOWER = (code(n) for n in range(0x804, 0x809))
NEEDS_READ, NEEDS_WRITE = code(0x809, access=1), code(0x80A, access=2)
COUNTS, CANCELLABLE, ANSWER, WAIT, SET_EVENT = (code(n) for n in range(0x80B, 0x810))
SECURE = code(0x811)
OWN_IRP, READ_LOWER, DESCRIBE = (code(n) for n in range(0x812, 0x815))


class Probe:
    """The loaded driver."""

    def __init__(self):
        self.kernel = kernel = Kernel()
        self.image = kernel.load_image(DriverImage.parse(guinea_pigs.build("io_probe")))
        self.driver = kernel.io.create_driver("io_probe", self.image.base, self.image.size, self.image.entry, "\\Reg")
        path = kernel.heap.allocate(16)
        assert kernel.call(self.image.entry, self.driver, path) == 0
        kernel.io.driver_started(self.driver)

    def open(self, path="\\??\\IoProbe", access=READ_WRITE, account=Account.ADMINISTRATOR):
        return self.kernel.io.open(path, access, account)

    def control(self, handle, number, data=b"", size=0):
        return self.kernel.io.device_control(handle, number, data, size)

    def counts(self, handle):
        return struct.unpack("<4I", self.control(handle, COUNTS, b"", 16).output)

    def unload(self):
        unload = self.kernel.mem.u64(self.driver + 0x68)
        self.kernel.call(unload, self.driver)
        return self.kernel.io.leftovers(self.driver)


@pytest.fixture
def probe():
    built = Probe()
    yield built
    built.kernel.close()


def refused(call, *arguments, **options):
    with pytest.raises(st.NtStatusError) as caught:
        call(*arguments, **options)
    return caught.value.status


def test_a_buffered_request_carries_input_and_output_in_one_buffer(probe):
    handle = probe.open()
    request = probe.control(handle, UPPER, b"abcX", 4)
    assert (request.done, request.status, request.information, request.output) == (True, 0, 4, b"ABCX")


def test_an_in_direct_request_reads_the_locked_buffer(probe):
    handle = probe.open()
    assert probe.control(handle, SUM, b"abc", 5000).status == 0
    assert probe.counts(handle)[3] == 0


def test_an_out_direct_request_fills_the_programs_buffer(probe):
    handle = probe.open()
    assert probe.control(handle, FILL, b"z", 9001).output == b"z" * 9001


def test_a_neither_request_gets_the_programs_own_addresses(probe):
    handle = probe.open()
    assert probe.control(handle, COPY, b"hello", 5).output == b"hello"


@pytest.mark.parametrize("device", ["IoProbe", "IoProbeDirect", "IoProbeNeither"])
def test_reads_and_writes_follow_the_devices_buffering(probe, device):
    handle = probe.open(f"\\Device\\{device}")
    assert probe.kernel.io.read(handle, 300).output == bytes(i & 0xFF for i in range(300))
    written = probe.kernel.io.write(handle, b"\x01\x02\x03")
    assert (written.status, written.information, written.output) == (0, 3, b"")
    assert probe.counts(handle)[3] == 6


def test_a_pending_request_ends_when_another_one_completes_it(probe):
    handle = probe.open()
    waiting = probe.control(handle, QUEUE, b"", 8)
    assert not waiting.done
    assert probe.control(handle, RELEASE, b"!").status == 0
    assert (waiting.done, waiting.status, waiting.output) == (True, 0, b"!")
    assert probe.control(handle, RELEASE, b"!").status == st.STATUS_NO_MORE_ENTRIES


def test_cancelling_a_queued_request_completes_it_as_cancelled_and_empties_the_queue(probe):
    handle = probe.open()
    waiting = [probe.control(handle, QUEUE, b"", 8) for _ in range(3)]
    assert probe.kernel.io.cancel(waiting[1])
    assert (waiting[1].done, waiting[1].status) == (True, st.STATUS_CANCELLED)
    assert not probe.kernel.io.cancel(waiting[1])
    probe.control(handle, RELEASE, b"1")
    assert waiting[0].done
    assert not waiting[2].done
    assert probe.kernel.irql == 0


def test_closing_the_last_handle_cancels_what_waits_and_closes_once(probe):
    watcher = probe.open()
    first = probe.open()
    second = probe.kernel.io.duplicate(first)
    waiting = probe.control(first, QUEUE, b"", 8)
    probe.kernel.io.close(first)
    assert probe.counts(watcher)[:3] == (2, 0, 0)
    assert not waiting.done
    probe.kernel.io.close(second)
    assert waiting.status == st.STATUS_CANCELLED
    assert probe.counts(watcher)[:3] == (2, 1, 1)


def test_a_request_under_way_keeps_its_file_open_until_it_is_completed(probe):
    watcher, handle = probe.open(), probe.open()
    waiting = probe.control(handle, CANCELLABLE)
    probe.kernel.io.close(handle)
    assert probe.counts(watcher)[:3] == (2, 1, 0)
    assert probe.kernel.io.cancel(waiting)
    assert waiting.status == st.STATUS_CANCELLED
    assert probe.counts(watcher)[:3] == (2, 1, 1)


def test_a_work_item_completes_a_request_at_passive_level(probe):
    handle = probe.open()
    request = probe.control(handle, WORK, b"", 4)
    assert not request.done
    probe.kernel.threads.run_ready()
    assert request.output == struct.pack("<I", 0x1000)
    assert probe.kernel.io.state.work_items == {}


def test_a_driver_sends_a_request_of_its_own_and_waits_for_it(probe):
    handle = probe.open()
    assert probe.control(handle, ASK_LOWER, b"down", 4).output == b"DOWN"


def test_a_driver_allocates_an_irp_and_takes_it_back_when_it_is_completed(probe):
    handle = probe.open()
    blocks = len(probe.kernel.pool.state.blocks)
    assert probe.control(handle, OWN_IRP, b"mine", 4).output == b"MINE"
    assert len(probe.kernel.pool.state.blocks) == blocks
    assert probe.kernel.io.state.irps == {}


def test_a_driver_reads_from_another_device(probe):
    request = probe.control(probe.open(), READ_LOWER, b"", 9)
    assert (request.status, request.output) == (0, bytes(range(9)))
    assert probe.kernel.io.state.irps == {}


def test_mdls_describe_lock_and_map_buffers(probe):
    request = probe.control(probe.open(), DESCRIBE, bytes(16), 16)
    assert request.output == bytes(4)
    assert probe.kernel.io.state.mdls.live == {}
    assert probe.kernel.io.state.mdls.mappings == {}


def test_a_filter_passes_requests_down_and_sees_their_completion(probe):
    watcher = probe.open()
    handle = probe.open("\\Device\\IoProbeLower")
    assert probe.counts(watcher)[3] == 0x10000
    assert probe.control(handle, UPPER, b"abc", 3).output == b"ABC"
    waiting = probe.control(handle, QUEUE, b"", 1)
    assert not waiting.done
    probe.kernel.io.close(handle)
    assert waiting.status == st.STATUS_CANCELLED


def test_a_dispatch_routine_that_waits_goes_on_when_its_event_is_set(probe):
    handle = probe.open()
    waiting = probe.control(handle, WAIT)
    assert not waiting.done
    assert probe.control(handle, SET_EVENT).status == 0
    probe.kernel.threads.run_ready()
    assert (waiting.done, waiting.status) == (True, 0)


@pytest.mark.parametrize(
    ("status", "output"),
    [
        (st.STATUS_SUCCESS, True),
        (st.STATUS_BUFFER_OVERFLOW, True),
        (st.STATUS_UNSUCCESSFUL, False),
        (st.STATUS_ACCESS_DENIED, False),
    ],
)
def test_output_is_copied_for_success_and_warnings_only(probe, status, output):
    handle = probe.open()
    data = struct.pack("<I", status)
    request = probe.control(handle, ANSWER, data, 4)
    assert request.status == status
    assert request.output == (data if output else b"")


@pytest.mark.parametrize(
    ("access", "number", "status"),
    [
        (GENERIC_READ, NEEDS_READ, 0),
        (GENERIC_WRITE, NEEDS_READ, st.STATUS_ACCESS_DENIED),
        (GENERIC_WRITE, NEEDS_WRITE, 0),
        (GENERIC_READ, NEEDS_WRITE, st.STATUS_ACCESS_DENIED),
        (0x80, UPPER, 0),
    ],
)
def test_the_access_bits_of_a_control_code_are_held_against_the_handle(probe, access, number, status):
    assert probe.control(probe.open(access=access), number).status == status


def test_an_open_that_the_driver_refuses_gives_its_status_and_no_close(probe):
    watcher = probe.open()
    assert refused(probe.open, "\\??\\IoProbe\\deny") == st.STATUS_SHARING_VIOLATION
    assert probe.counts(watcher)[:3] == (2, 0, 0)


def test_names_that_lead_nowhere_are_told_apart(probe):
    assert refused(probe.open, "\\??\\Nothing") == st.STATUS_OBJECT_NAME_NOT_FOUND
    assert refused(probe.open, "\\Nowhere\\Nothing") == st.STATUS_OBJECT_PATH_NOT_FOUND
    assert refused(probe.open, "IoProbe") == st.STATUS_OBJECT_PATH_SYNTAX_BAD


def test_an_exclusive_device_opens_once(probe):
    handle = probe.open("\\Device\\IoProbeOne")
    assert refused(probe.open, "\\Device\\IoProbeOne") == st.STATUS_ACCESS_DENIED
    probe.kernel.io.close(handle)
    probe.open("\\Device\\IoProbeOne")


def test_a_device_without_a_descriptor_of_its_own_is_open_to_users_until_the_driver_restricts_it(probe):
    probe.kernel.io.close(probe.open(account=Account.STANDARD_USER))
    assert probe.control(probe.open(), SECURE).status == 0
    assert refused(probe.open, account=Account.STANDARD_USER) == st.STATUS_ACCESS_DENIED
    assert refused(probe.open, "\\??\\IoProbe\\x", account=Account.STANDARD_USER) == st.STATUS_ACCESS_DENIED
    assert probe.open()


MISDEEDS = {
    1: (0xD5, None, "freed"),
    2: (0xC9, 0x226, "without completing"),
    3: (0xC9, 0x23D, "without calling IoMarkIrpPending"),
    4: (0xC9, 0x23E, "marked an IRP pending and returned"),
    5: (0xC9, 0x224, "completed the IRP with 0xC0000022"),
    6: (0xC9, 0x5, "returned at IRQL 2"),
    7: (0xC9, 0x6, "status 0x00000103"),
    8: (0xD5, None, "freed"),
    9: (0xCD, None, "more than its system buffer"),
    10: (0x1, None, "region"),
    11: (0xC9, 0x7, "cancel routine was still set"),
    12: (0xD6, None, "beyond"),
    13: (0xC9, 0x201, "while attached to another"),
    15: (0x44, None, "completed a second time"),
    16: (0xE4, 1, "queued already"),
    17: (0x4E, 7, "not locked"),
    18: (0x93, 0xFFFFFFFF80001234, "not open"),
    19: (0xC9, 0x2, "which the I/O manager frees"),
    20: (0x35, None, "no stack location left"),
    14: (0x18, None, "dereferenced more often"),
}


@pytest.mark.parametrize("misdeed", MISDEEDS)
def test_a_broken_rule_of_the_io_manager_stops_the_machine(probe, misdeed):
    handle = probe.open()
    with pytest.raises(Bugcheck) as caught:
        probe.control(handle, MISBEHAVE, bytes([misdeed]).ljust(16, b"\0"), 16)
    expected, first, words = MISDEEDS[misdeed]
    assert caught.value.code == expected
    assert first in (None, caught.value.parameters[0])
    assert words in caught.value.reason


def test_a_driver_that_cleans_up_leaves_nothing(probe):
    handle = probe.open()
    probe.kernel.io.close(handle)
    assert not probe.kernel.io.is_busy(probe.driver)
    assert probe.unload() == []
    assert probe.kernel.io.state.devices == {}
    assert refused(probe.open) == st.STATUS_OBJECT_NAME_NOT_FOUND


def test_what_a_driver_leaves_behind_is_named(probe):
    handle = probe.open()
    probe.control(handle, CANCELLABLE)
    words = "\n".join(probe.kernel.io.leftovers(probe.driver))
    for part in ("device \\Device\\IoProbe created at", "symbolic link \\GLOBAL??\\IoProbe", "IRP_MJ_DEVICE_CONTROL"):
        assert part in words
    assert probe.kernel.io.is_busy(probe.driver)


def test_a_device_deleted_while_open_goes_with_its_last_handle(probe):
    handle = probe.open()
    device = probe.kernel.ob.lookup("\\Device\\IoProbe").body
    probe.kernel.io.delete_device(device)
    assert refused(probe.open) == st.STATUS_OBJECT_NAME_NOT_FOUND
    assert probe.control(handle, UPPER, b"a", 1).output == b"A"
    probe.kernel.io.close(handle)
    assert probe.kernel.ob.find(device) is None


def test_a_checkpoint_keeps_handles_queues_and_pending_requests(probe):
    handle = probe.open()
    number = probe.control(handle, QUEUE, b"", 8).id
    saved = probe.kernel.checkpoint()
    probe.control(handle, RELEASE, b"x")
    probe.kernel.io.close(handle)
    probe.kernel.restore(saved)
    assert not probe.kernel.io.request(number).done
    probe.control(handle, RELEASE, b"y")
    assert probe.kernel.io.request(number).output == b"y"
