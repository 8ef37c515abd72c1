"""The driver's record queue against a plain model of it: order, gaps, counters, wrap-around, half-written records."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

CREATE, EXIT, GAP = 1, 2, 3
CREATE_HEADER, EXIT_SIZE, GAP_SIZE = 56, 32, 32
BUFFER_TOO_SMALL = 0xC0000023
STATISTICS = struct.Struct("<9Q4I")
HOOK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t)


@dataclass
class Queue:
    """The driver's queue in a library."""

    core: ctypes.CDLL
    capacity: int

    def __post_init__(self) -> None:
        self.core.shim_time_ = ctypes.c_int64.in_dll(self.core, "shim_time")
        self.core.shim_time_.value = 0
        self.handle = ctypes.c_void_p(self.core.shim_queue_new(self.capacity))

    def create(self, pid: int, image: bytes, command: bytes, *, flags: int = 0, denied: bool = False) -> None:
        header = struct.pack("<IHHQqIIIIiIII", 0, 0, flags, 0, 0, pid, 4, 8, 12, 0, len(image), len(command), 0)
        self.core.shim_queue_create(self.handle, header, image, command, int(denied))

    def exit(self, pid: int, status: int) -> None:
        self.core.shim_queue_exit(self.handle, pid, status)

    def drain(self, length: int) -> tuple[int, bytes]:
        buffer = ctypes.create_string_buffer(b"\xee" * (length + 8), length + 8)
        moved = ctypes.c_uint32(0xFFFFFFFF)
        status = self.core.shim_queue_drain(self.handle, buffer, length, ctypes.byref(moved)) & 0xFFFFFFFF
        assert buffer.raw[moved.value :] == b"\xee" * (length + 8 - moved.value), "wrote past what it reported"
        return status, buffer.raw[: moved.value]

    @property
    def readable(self) -> bool:
        return bool(self.core.shim_queue_readable(self.handle))

    def statistics(self) -> dict[str, int]:
        raw = ctypes.create_string_buffer(STATISTICS.size)
        self.core.shim_queue_statistics(self.handle, raw)
        names = ("created", "exited", "denied", "queued", "delivered", "dropped", "high_water", "queued_bytes")
        values = STATISTICS.unpack(raw.raw)
        return {**dict(zip(names, values, strict=False)), "next_sequence": values[8], "next_record_size": values[9]}


@contextmanager
def queue(core: ctypes.CDLL, capacity: int) -> Iterator[Queue]:
    """A queue that is freed afterwards, without a leak."""
    live = ctypes.c_int.in_dll(core, "shim_live_blocks")
    before = live.value
    made = Queue(core, capacity)
    try:
        yield made
    finally:
        core.shim_queue_delete(made.handle)
    assert live.value == before


@contextmanager
def during_copies(core: ctypes.CDLL, action: Callable[[int, int], None]) -> Iterator[None]:
    """Run `action` with address and length before each copy that the driver makes; what it raises surfaces here."""
    errors: list[BaseException] = []

    def call(source: int | None, size: int) -> None:
        try:
            action(source or 0, size)
        except BaseException as error:  # noqa: BLE001 - it is raised again below: C cannot carry it
            errors.append(error)

    slot = ctypes.c_void_p.in_dll(core, "shim_copy_hook")
    hook = HOOK(call)
    slot.value = ctypes.cast(hook, ctypes.c_void_p).value
    try:
        yield
    finally:
        slot.value = None
    if errors:
        raise errors[0]


@dataclass
class Model:
    """What the public header promises of the queue, with lists instead of a ring."""

    capacity: int
    records: list[bytes] = field(default_factory=list)
    lost: tuple[int, int, int] | None = None
    sequence: int = 1
    used: int = 0
    high_water: int = 0
    queued: int = 0
    dropped: int = 0
    delivered: int = 0

    def put(self, kind: int, flags: int, body: bytes) -> None:
        size = (24 + len(body) + 7) // 8 * 8
        sequence, self.sequence = self.sequence, self.sequence + 1
        needed = size + (GAP_SIZE if self.lost else 0)
        if self.used + needed > self.capacity:
            first, time, count = self.lost or (sequence, sequence, 0)
            self.lost = (first, time, count + 1)
            self.dropped += 1
            return
        if self.lost:
            self.records.append(self.gap())
        # The library's clock ticks once a notification, so time equals the sequence number.
        record = struct.pack("<IHHQq", size, kind, flags, sequence, sequence) + body
        self.records.append(record.ljust(size, b"\0"))
        self.used += needed
        self.queued += 1
        self.high_water = max(self.high_water, self.used)

    def gap(self) -> bytes:
        assert self.lost
        first, time, count = self.lost
        self.lost = None
        return struct.pack("<IHHQqQ", GAP_SIZE, GAP, 0, first, time, count)

    def drain(self, length: int) -> tuple[int, bytes]:
        out = b""
        while self.records and len(out) + len(self.records[0]) <= length:
            record = self.records.pop(0)
            self.used -= len(record)
            self.delivered += record[4] != GAP
            out += record
        if not self.records and self.lost and len(out) + GAP_SIZE <= length:
            out += self.gap()
        return (BUFFER_TOO_SMALL if not out and (self.records or self.lost) else 0), out

    def next_size(self) -> int:
        return len(self.records[0]) if self.records else GAP_SIZE if self.lost else 0


texts = st.binary(max_size=60).map(lambda data: data[: len(data) // 2 * 2])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("create"), texts, texts, st.integers(0, 15), st.booleans()),
        st.tuples(st.just("exit"), st.integers(-(2**31), 2**31 - 1)),
        st.tuples(st.just("drain"), st.integers(0, 500)),
    ),
    max_size=80,
)


@settings(max_examples=400, deadline=None)
@given(capacity=st.integers(20, 100).map(lambda units: units * 8), script=steps)
def test_the_queue_delivers_what_the_model_delivers(core: ctypes.CDLL, capacity: int, script: list[tuple]) -> None:
    model = Model(capacity)
    created = exited = denials = 0
    with queue(core, capacity) as tested:
        for pid, step in enumerate(script):
            match step:
                case "create", image, command, flags, denied:
                    created, denials = created + 1, denials + denied
                    tested.create(pid, image, command, flags=flags, denied=denied)
                    body = struct.pack("<IIIIiIII", pid, 4, 8, 12, 0, len(image), len(command), 0) + image + command
                    model.put(CREATE, flags, body)
                case "exit", status:
                    exited += 1
                    tested.exit(pid, status)
                    model.put(EXIT, 0, struct.pack("<Ii", pid, status))
                case "drain", length:
                    assert tested.drain(length) == model.drain(length)
            assert tested.readable == bool(model.records or model.lost)
            assert tested.statistics() == {
                "created": created,
                "exited": exited,
                "denied": denials,
                "queued": model.queued,
                "delivered": model.delivered,
                "dropped": model.dropped,
                "high_water": model.high_water,
                "queued_bytes": model.used,
                "next_sequence": model.sequence,
                "next_record_size": model.next_size(),
            }
        assert tested.drain(10_000) == model.drain(10_000)
        assert not tested.readable


def test_a_loss_at_the_tail_is_told_once_everything_before_it_is_read(core: ctypes.CDLL) -> None:
    with queue(core, 64) as tested:
        for pid in range(5):
            tested.exit(pid, 0)
        status, data = tested.drain(1000)
        assert status == 0
        assert len(data) == 3 * 32
        assert struct.unpack_from("<IHHQqQ", data, 64) == (GAP_SIZE, GAP, 0, 3, 3, 3)
        assert tested.drain(1000) == (0, b"")


def test_a_loss_alone_needs_room_for_its_gap(core: ctypes.CDLL) -> None:
    with queue(core, 32) as tested:
        tested.exit(4, 0)
        tested.exit(8, 0)
        assert len(tested.drain(32)[1]) == 32
        assert tested.drain(31) == (BUFFER_TOO_SMALL, b"")
        assert tested.statistics()["next_record_size"] == GAP_SIZE
        assert tested.drain(32)[1][4] == GAP


def test_the_longest_texts_arrive_unchanged(core: ctypes.CDLL) -> None:
    image, command = bytes(range(256)) * 255 + b"ab", b"\xff\xd8" * 32767
    with queue(core, 0x40000) as tested:
        for _ in range(4):
            tested.create(4, image, command)
            status, data = tested.drain(0x40000)
            assert status == 0
            assert data[CREATE_HEADER : CREATE_HEADER + len(image) + len(command)] == image + command


def test_text_is_copied_without_the_lock(core: ctypes.CDLL) -> None:
    held = ctypes.c_int.in_dll(core, "shim_spin_locks_held")
    seen: list[int] = []

    def look(_source: int, size: int) -> None:
        if size in {300, 302}:
            seen.append(held.value)

    with queue(core, 4096) as tested, during_copies(core, look):
        tested.create(4, b"i" * 300, b"c" * 302)
    assert seen == [0, 0]


def test_a_record_is_invisible_until_it_is_whole(core: ctypes.CDLL) -> None:
    seen: list[tuple[int, bytes]] = []
    with queue(core, 4096) as tested:

        def read(_source: int, size: int) -> None:
            if size == 300:
                tested.exit(99, 0)
                assert not tested.readable
                seen.append(tested.drain(4096))

        with during_copies(core, read):
            tested.create(4, b"i" * 300, b"c" * 302)
        assert seen == [(0, b"")]
        _, data = tested.drain(4096)
    kinds = [data[4], data[struct.unpack_from("<I", data)[0] + 4]]
    assert kinds == [CREATE, EXIT]


def test_a_loss_behind_a_half_written_record_is_not_told_before_it(core: ctypes.CDLL) -> None:
    with queue(core, 704) as tested:

        def lose(_source: int, size: int) -> None:
            if size == 300:
                tested.exit(99, 0)
                tested.exit(99, 0)
                assert tested.drain(4096) == (0, b"")

        with during_copies(core, lose):
            tested.create(4, b"i" * 300, b"c" * 304)
        _, data = tested.drain(4096)
    assert [data[4], data[664 + 4], data[664 + 32 + 4]] == [CREATE, EXIT, GAP]


def test_records_read_while_another_is_written_are_not_read_twice(core: ctypes.CDLL) -> None:
    early: list[bytes] = []
    with queue(core, 1024) as tested:
        tested.exit(1, 0)

        def read(_source: int, size: int) -> None:
            if size == 300:
                early.append(tested.drain(4096)[1])

        with during_copies(core, read):
            tested.create(4, b"i" * 300, b"c" * 302)
        assert [early[0][4], len(early[0])] == [EXIT, EXIT_SIZE]
        assert tested.drain(4096)[1][4] == CREATE


@pytest.mark.parametrize("capacity", [33, 39])
def test_a_capacity_that_is_no_multiple_of_eight_is_rounded_down(core: ctypes.CDLL, capacity: int) -> None:
    with queue(core, capacity) as tested:
        tested.exit(4, 0)
        tested.exit(8, 0)
        assert tested.statistics()["queued_bytes"] == 32
