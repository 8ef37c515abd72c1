from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.guest import Guest
from tests.fixtures.guinea_pigs import build
from vm.emulated.faults import Bugcheck
from vm.emulated.loader.image import DriverImage

NOT_FOUND = 0xFFFFFFFF
relaxed = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def machine():
    guest = Guest()
    guest.driver = guest.kernel.load_image(DriverImage.parse(build("tables")))
    yield guest
    guest.close()


@pytest.fixture
def guest(machine):
    machine.reset()
    return machine


# Generic tables

operations = st.lists(st.tuples(st.sampled_from("iidl"), st.integers(0, 30)), max_size=80)


class Table:
    """A table of ULONG pairs: a key and a payload."""

    def __init__(self, guest, suffix):
        self.guest = guest
        self.suffix = suffix
        self.at = guest.space(0x80)
        routines = [guest.driver.export(name) for name in ("Compare", "Allocate", "Free")]
        guest.call(f"RtlInitializeGenericTable{suffix}", self.at, *routines, 0x1234)

    def element(self, key, payload=0):
        return self.guest.bytes(struct.pack("<II", key, payload))

    def insert(self, key, payload):
        new = self.guest.bytes(b"\xee")
        data = self.guest.call(
            f"RtlInsertElementGenericTable{self.suffix}", self.at, self.element(key, payload), 8, new
        )
        return data, self.guest.mem.u8(new)

    def lookup(self, key):
        data = self.guest.call(f"RtlLookupElementGenericTable{self.suffix}", self.at, self.element(key))
        return None if data == 0 else self.guest.mem.u32(data + 4)

    def delete(self, key):
        return self.guest.flag(f"RtlDeleteElementGenericTable{self.suffix}", self.at, self.element(key))

    def count(self):
        return self.guest.u32(f"RtlNumberGenericTableElements{self.suffix}", self.at)

    def walk(self, *, splaying):
        name = "RtlEnumerateGenericTable" + ("" if splaying else "WithoutSplaying") + self.suffix
        restart = self.guest.bytes(bytes(8))
        first, found = True, []
        while data := self.guest.call(name, self.at, first if splaying else restart):
            first = False
            found.append(self.guest.mem.u32(data))
        return found

    def indexed(self):
        name = f"RtlGetElementGenericTable{self.suffix}"
        return [self.guest.mem.u32(self.guest.call(name, self.at, index)) for index in range(self.count())]

    def check_balance(self):
        """The AVL property, and the depth that the table states."""

        def height(links):
            if links == 0:
                return 0
            left, right = self.guest.mem.u64(links + 8), self.guest.mem.u64(links + 16)
            for child in (left, right):
                assert child == 0 or self.guest.mem.u64(child) == links
            heights = height(left), height(right)
            balance = struct.unpack("b", self.guest.mem.read(links + 24, 1))[0]
            assert balance == heights[1] - heights[0]
            assert abs(balance) <= 1
            return 1 + max(heights)

        assert height(self.guest.mem.u64(self.at + 16)) == self.guest.mem.u32(self.at + 0x30)


@relaxed
@given(steps=operations)
@pytest.mark.parametrize("suffix", ["Avl", ""])
def test_a_generic_table_behaves_as_a_dictionary(guest, suffix, steps):
    guest.reset()
    table, model = Table(guest, suffix), {}
    for number, (operation, key) in enumerate(steps):
        if operation == "i":
            data, new = table.insert(key, number)
            assert new == (key not in model)
            model.setdefault(key, number)
            assert guest.mem.u32(data + 4) == model[key]
        elif operation == "d":
            assert table.delete(key) == (model.pop(key, None) is not None)
        else:
            assert table.lookup(key) == model.get(key)
        if suffix:
            table.check_balance()
    assert table.count() == len(model)
    assert guest.flag(f"RtlIsGenericTableEmpty{suffix}", table.at) == (not model)
    assert table.walk(splaying=False) == sorted(model)
    assert table.walk(splaying=True) == sorted(model)
    assert table.indexed() == (sorted(model) if suffix else list(model))
    for key in list(model):
        assert table.delete(key)
    assert table.count() == 0


@pytest.mark.parametrize("suffix", ["Avl", ""])
def test_an_element_that_cannot_be_allocated_is_not_inserted(guest, suffix):
    table = Table(guest, suffix)
    switch = guest.driver.export("FailAllocations")
    guest.mem.set_u32(switch, 1)
    try:
        assert table.insert(1, 1) == (0, 0)
    finally:
        guest.mem.set_u32(switch, 0)
    assert table.count() == 0


# Lists


@relaxed
@given(steps=st.lists(st.sampled_from(["head", "tail", "remove"]), max_size=30))
def test_an_interlocked_list_behaves_as_a_deque(guest, steps):
    guest.reset()
    head = guest.space(16)
    guest.mem.write(head, struct.pack("<QQ", head, head))
    model = []
    for step in steps:
        if step == "remove":
            expected = model.pop(0) if model else 0
            assert guest.call("ExInterlockedRemoveHeadList", head, 0) == expected
            continue
        entry = guest.space(16)
        if step == "head":
            assert guest.call("ExInterlockedInsertHeadList", head, entry, 0) == (model[0] if model else 0)
            model.insert(0, entry)
        else:
            assert guest.call("ExInterlockedInsertTailList", head, entry, 0) == (model[-1] if model else 0)
            model.append(entry)


def test_a_corrupt_list_stops_the_machine():
    guest = Guest()
    head, entry = guest.space(16), guest.space(16)
    guest.mem.write(head, struct.pack("<QQ", entry, head))
    guest.mem.write(entry, bytes(16))
    with pytest.raises(Bugcheck) as crash:
        guest.call("ExInterlockedInsertHeadList", head, guest.space(16), 0)
    assert (crash.value.code, crash.value.parameters[0]) == (0x139, 3)
    guest.close()


@relaxed
@given(steps=st.lists(st.sampled_from(["push", "push", "pop", "flush"]), max_size=30))
def test_an_slist_behaves_as_a_stack(guest, steps):
    guest.reset()
    head = guest.space(16)
    guest.call("InitializeSListHead", head)
    model, pushes = [], 0
    for step in steps:
        top = model[-1] if model else 0
        if step == "push":
            entry = guest.space(16)
            assert guest.call("ExpInterlockedPushEntrySList", head, entry) == top
            model.append(entry)
            pushes += 1
        elif step == "pop":
            assert guest.call("ExpInterlockedPopEntrySList", head) == top
            model[-1:] = []
        else:
            assert guest.call("ExpInterlockedFlushSList", head) == top
            model = []
        assert guest.call("ExQueryDepthSList", head) & 0xFFFF == len(model)
    assert guest.mem.u64(head) >> 16 == pushes


# Bitmaps

BITS = 150


def bitmap(guest, model):
    value = sum(1 << index for index, bit in enumerate(model) if bit)
    buffer = guest.bytes(value.to_bytes(20, "little"))
    at = guest.space(16)
    guest.call("RtlInitializeBitMap", at, buffer, len(model))
    return at, buffer


def contents(guest, buffer):
    value = int.from_bytes(guest.mem.read(buffer, 20), "little")
    return [bool(value >> index & 1) for index in range(BITS)]


def first_run(model, count, hint, wanted):
    starts = [*range(hint, len(model)), *range(hint)]
    return next(
        (at for at in starts if at + count <= len(model) and all(bit is wanted for bit in model[at : at + count])),
        NOT_FOUND,
    )


models = st.lists(st.booleans(), min_size=BITS, max_size=BITS) | st.lists(
    st.tuples(st.booleans(), st.integers(1, 60)), min_size=1
).map(lambda runs: ([bit for bit, length in runs for _ in range(length)] * BITS)[:BITS])


@relaxed
@given(model=models, start=st.integers(0, BITS - 1), data=st.data())
def test_bits_are_set_cleared_and_counted(guest, model, start, data):
    guest.reset()
    at, buffer = bitmap(guest, model)
    count = data.draw(st.integers(0, BITS - start))
    part = model[start : start + count]
    assert guest.flag("RtlAreBitsSet", at, start, count) == (count > 0 and all(part))
    assert guest.flag("RtlAreBitsClear", at, start, count) == (count > 0 and not any(part))
    assert guest.u32("RtlNumberOfSetBits", at) == sum(model)
    assert guest.u32("RtlNumberOfClearBits", at) == BITS - sum(model)
    assert guest.flag("RtlTestBit", at, start) == model[start]
    guest.call("RtlSetBits", at, start, count)
    model[start : start + count] = [True] * count
    assert contents(guest, buffer) == model
    guest.call("RtlClearBits", at, start, count)
    model[start : start + count] = [False] * count
    assert contents(guest, buffer) == model


@relaxed
@given(model=models, count=st.integers(1, 70), hint=st.integers(0, BITS - 1))
def test_a_run_of_bits_is_found_from_the_hint_around(guest, model, count, hint):
    guest.reset()
    at, buffer = bitmap(guest, model)
    assert guest.u32("RtlFindClearBits", at, count, hint) == first_run(model, count, hint, wanted=False)
    assert guest.u32("RtlFindSetBits", at, count, hint) == first_run(model, count, hint, wanted=True)
    found = guest.u32("RtlFindClearBitsAndSet", at, count, hint)
    if found != NOT_FOUND:
        model[found : found + count] = [True] * count
    assert contents(guest, buffer) == model


@relaxed
@given(model=models, room=st.integers(1, 8), longest=st.booleans())
def test_clear_runs_are_listed(guest, model, room, longest):
    guest.reset()
    at, _ = bitmap(guest, model)
    runs, index = [], 0
    while index < BITS:
        length = next((n for n in range(BITS - index) if model[index + n]), BITS - index)
        if length:
            runs.append((index, length))
        index += max(length, 1)
    if longest:
        runs.sort(key=lambda run: -run[1])
    out = guest.space(8 * room)
    count = guest.u32("RtlFindClearRuns", at, out, room, longest)
    found = list(struct.iter_unpack("<II", guest.mem.read(out, 8 * count)))
    assert found == runs[:room]
