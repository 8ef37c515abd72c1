from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.guest import Guest
from tests.fixtures.guinea_pigs import build
from vm.emulated.cm.registry import REG_BINARY, REG_DWORD, REG_EXPAND_SZ, REG_MULTI_SZ, REG_QWORD, REG_SZ, SERVICES
from vm.emulated.faults import Bugcheck
from vm.emulated.loader.image import DriverImage

SUCCESS, OVERFLOW, TOO_SMALL, NO_MORE = 0, 0x80000005, 0xC0000023, 0x8000001A
NOT_FOUND, MISMATCH, KEY_DELETED, CANNOT_DELETE = 0xC0000034, 0xC0000024, 0xC000017C, 0xC0000121
KERNEL_HANDLE, CASELESS = 0x200, 0x40
SUBKEY, TOPKEY, REQUIRED, NOVALUE, NOEXPAND, DIRECT, DELETE, _, TYPECHECK = (1 << bit for bit in range(9))
KEY = f"{SERVICES}\\Test"
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
    machine.kernel.debug.take()
    machine.kernel.registry.delete_tree(KEY)
    machine.kernel.registry.create(KEY)
    return machine


def attributes(guest, path, root=0, flags=KERNEL_HANDLE | CASELESS, size=0x30):
    name = guest.string(path)
    return guest.bytes(struct.pack("<IxxxxQQIxxxxQQ", size, root, name, flags, 0, 0))


def opened(guest, path=KEY, root=0):
    out = guest.space(8)
    status = guest.u32("ZwOpenKey", out, 0x20019, attributes(guest, path, root))
    assert status == SUCCESS
    return guest.mem.u64(out)


def created(guest, path, root=0, options=0):
    out, disposition = guest.space(8), guest.space(4)
    routine = guest.driver.export("CreateKey")
    status = guest.kernel.call(routine, out, attributes(guest, path, root), options, disposition) & 0xFFFFFFFF
    return status, guest.mem.u64(out) if status == SUCCESS else 0, guest.mem.u32(disposition)


def query(guest, handle, name, information_class, length):
    buffer, needed = guest.space(length), guest.space(4)
    status = guest.u32("ZwQueryValueKey", handle, guest.string(name), information_class, buffer, length, needed)
    return status, guest.mem.read(buffer, length), guest.mem.u32(needed)


# Keys


def test_a_key_is_found_without_case_and_by_relative_path(guest):
    guest.kernel.registry.create(f"{KEY}\\Parameters")
    handle = opened(guest, KEY.upper())
    assert guest.u32("ZwClose", opened(guest, "parameters", handle)) == SUCCESS
    assert guest.u32("ZwClose", handle) == SUCCESS


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        (f"{KEY}\\Missing", 0x30, NOT_FOUND),
        (f"{KEY}\\Missing\\Deeper", 0x30, NOT_FOUND),
        ("Registry\\Machine", 0x30, 0xC000003B),
        ("\\Device\\Null", 0x30, 0xC000003A),
        (KEY, 0x28, 0xC000000D),
    ],
)
def test_a_key_that_cannot_be_opened_says_why(guest, path, size, status):
    assert guest.u32("ZwOpenKey", guest.space(8), 0x20019, attributes(guest, path, size=size)) == status


def test_creating_tells_a_new_key_from_an_old_one(guest):
    status, handle, disposition = created(guest, f"{KEY}\\New")
    assert (status, disposition) == (SUCCESS, 1)
    guest.call("ZwClose", handle)
    status, handle, disposition = created(guest, f"{KEY}\\NEW")
    assert (status, disposition) == (SUCCESS, 2)
    guest.call("ZwClose", handle)
    assert created(guest, f"{KEY}\\No\\Way")[0] == NOT_FOUND
    assert created(guest, f"{KEY}\\" + "x" * 256)[0] == 0xC000000D


def test_a_stable_key_cannot_lie_below_a_volatile_one(guest):
    _, handle, _ = created(guest, f"{KEY}\\Volatile", options=1)
    assert created(guest, "Stable", handle)[0] == 0xC0000181
    status, below, _ = created(guest, "Fleeting", handle, options=1)
    assert status == SUCCESS
    guest.call("ZwClose", below)
    guest.call("ZwClose", handle)


def test_a_deleted_key_answers_nothing_any_more(guest):
    guest.kernel.registry.create(f"{KEY}\\Child")
    parent, child = opened(guest), opened(guest, f"{KEY}\\Child")
    assert guest.u32("ZwDeleteKey", parent) == CANNOT_DELETE
    assert guest.u32("ZwDeleteKey", child) == SUCCESS
    assert query(guest, child, "V", 2, 64)[0] == KEY_DELETED
    assert guest.u32("ZwFlushKey", child) == KEY_DELETED
    assert guest.u32("ZwFlushKey", parent) == SUCCESS
    guest.call("ZwClose", child)
    guest.call("ZwClose", parent)


def test_a_closed_key_object_is_forgotten(guest):
    before = len(guest.kernel.registry.state.bodies)
    guest.call("ZwClose", opened(guest))
    assert len(guest.kernel.registry.state.bodies) == before


def test_subkeys_come_in_the_order_of_their_names(guest):
    for name in ("beta", "Alpha", "GAMMA"):
        guest.kernel.registry.create(f"{KEY}\\{name}")
    handle = opened(guest)
    names, needed = [], guest.space(4)
    for index in range(4):
        buffer = guest.space(64)
        status = guest.u32("ZwEnumerateKey", handle, index, 0, buffer, 64, needed)
        if status == NO_MORE:
            break
        names.append(guest.mem.read(buffer + 16, guest.mem.u32(buffer + 12)).decode("utf-16-le"))
    assert names == ["Alpha", "beta", "GAMMA"]
    guest.call("ZwClose", handle)


def test_a_key_describes_itself(guest):
    registry = guest.kernel.registry
    registry.create(f"{KEY}\\Child")
    registry.set_value(KEY, "Longest", "four")
    handle, buffer, needed = opened(guest), guest.space(256), guest.space(4)
    assert guest.u32("ZwQueryKey", handle, 2, buffer, 256, needed) == SUCCESS
    fields = struct.unpack("<qIiIIIIIII", guest.mem.read(buffer, 44))
    assert fields[2:] == (-1, 0, 1, 10, 0, 1, 14, 10)
    assert guest.u32("ZwQueryKey", handle, 3, buffer, 256, needed) == SUCCESS
    path = guest.mem.read(buffer + 4, guest.mem.u32(buffer)).decode("utf-16-le")
    assert path.upper() == KEY.upper()
    assert guest.u32("ZwQueryKey", handle, 3, buffer, 10, needed) == OVERFLOW
    assert guest.u32("ZwQueryKey", handle, 3, buffer, 3, needed) == TOO_SMALL
    guest.call("ZwClose", handle)


# Values


@relaxed
@given(
    name=st.text("aBcä", max_size=6),
    data=st.binary(max_size=40),
    information_class=st.integers(0, 4),
    length=st.integers(0, 100),
)
def test_a_query_stores_what_fits_and_says_so(guest, name, data, information_class, length):
    guest.reset()
    handle = opened(guest)
    raw = guest.bytes(data)
    assert guest.u32("ZwSetValueKey", handle, guest.string(name), 0, REG_BINARY, raw, len(data)) == SUCCESS
    _, whole, needed = query(guest, handle, name.upper(), information_class, 200)
    status, part, again = query(guest, handle, name, information_class, length)
    fixed = (12, 20, 12, 20, 8)[information_class]
    assert again == needed
    assert status == (TOO_SMALL if length < fixed else OVERFLOW if length < needed else SUCCESS)
    if length < fixed:
        assert part == b"\xcc" * length
    else:
        assert part[:needed] == whole[: min(length, needed)]
    wide = name.encode("utf-16-le")
    if information_class == 0:
        assert whole[:needed] == struct.pack("<III", 0, REG_BINARY, len(wide)) + wide
    elif information_class in (1, 3):
        _, kind, offset, size, name_size = struct.unpack_from("<IIIII", whole)
        assert (kind, size, whole[20 : 20 + name_size]) == (REG_BINARY, len(data), wide)
        assert whole[offset:needed] == data
        assert offset % (8 if information_class == 3 else 4) == 0
    elif information_class == 2:
        assert whole[:needed] == struct.pack("<III", 0, REG_BINARY, len(data)) + data
    assert guest.u32("ZwDeleteValueKey", handle, guest.string(name)) == SUCCESS
    assert guest.u32("ZwDeleteValueKey", handle, guest.string(name)) == NOT_FOUND
    guest.call("ZwClose", handle)


def test_values_are_enumerated_in_the_order_they_were_set(guest):
    registry = guest.kernel.registry
    for name in ("z", "A", "m"):
        registry.set_value(KEY, name, 1)
    registry.set_value(KEY, "Z", 2)
    handle, buffer, needed = opened(guest), guest.space(64), guest.space(4)
    names = []
    for index in range(4):
        if guest.u32("ZwEnumerateValueKey", handle, index, 0, buffer, 64, needed) == NO_MORE:
            break
        names.append(guest.mem.read(buffer + 12, guest.mem.u32(buffer + 8)).decode("utf-16-le"))
    assert names == ["z", "A", "m"]
    assert registry.value(KEY, "z").data == struct.pack("<I", 2)
    guest.call("ZwClose", handle)


def test_python_values_have_their_registry_types(guest):
    registry = guest.kernel.registry
    registry.set_value(KEY, "n", -1)
    registry.set_value(KEY, "s", "a\ud800")
    registry.set_value(KEY, "b", b"\x00\x01")
    found = [(registry.value(KEY, name).type, registry.value(KEY, name).data) for name in "nsb"]
    assert found == [(REG_DWORD, b"\xff" * 4), (REG_SZ, b"a\0\0\xd8\0\0"), (REG_BINARY, b"\0\1")]
    assert registry.value(KEY, "x") is None
    assert registry.value(f"{KEY}\\x", "x") is None


# RtlQueryRegistryValues


def row(guest, name, flags=0, routine="Query", context=0, default=(0, 0, 0)):
    address = guest.driver.export(routine) if routine else 0
    text = guest.wide(name) if name is not None else 0
    return struct.pack("<QIxxxxQQIxxxxQIxxxx", address, flags, text, context, *default)


def ask(guest, *rows, relative=1, path="Test", context=0):
    table = guest.bytes(b"".join(rows) + bytes(0x38))
    return guest.u32("RtlQueryRegistryValues", relative, guest.wide(path), table, context, 0)


def test_a_routine_is_called_with_each_value(guest):
    registry = guest.kernel.registry
    registry.set_value(KEY, "s", "text")
    registry.set_value(KEY, "n", 5)
    assert ask(guest, row(guest, None)) == SUCCESS
    assert guest.kernel.debug.take() == [
        "s=text type 1 length 10 context 0000000000000000 0000000000000000",
        "n type 4 length 4 data 1",
    ]


def test_text_is_expanded_and_multiple_strings_are_split_unless_forbidden(guest):
    registry = guest.kernel.registry
    key = registry.find(KEY)
    registry.store(key, "e", REG_EXPAND_SZ, "%SystemRoot%\\x\0".encode("utf-16-le"))
    registry.store(key, "m", REG_MULTI_SZ, "one\0two\0\0".encode("utf-16-le"))
    assert ask(guest, row(guest, "e"), row(guest, "m"), row(guest, "e", NOEXPAND), row(guest, "m", NOEXPAND)) == SUCCESS
    lines = [line.split(" context")[0] for line in guest.kernel.debug.take()]
    assert lines == [
        "e=C:\\Windows\\x type 1 length 26",
        "m=one type 1 length 8",
        "m=two type 1 length 8",
        "e type 2 length 30 data 1",
        "m type 7 length 18 data 1",
    ]


def test_a_missing_value_is_skipped_required_or_defaulted(guest):
    assert ask(guest, row(guest, "x")) == SUCCESS
    assert ask(guest, row(guest, "x", REQUIRED)) == NOT_FOUND
    default = (REG_SZ, guest.wide("fallback"), 0)
    assert ask(guest, row(guest, "x", default=default)) == SUCCESS
    assert [line.split(" context")[0] for line in guest.kernel.debug.take()] == ["x=fallback type 1 length 18"]


def test_a_failing_routine_ends_the_call(guest):
    guest.kernel.registry.set_value(KEY, "s", "text")
    assert ask(guest, row(guest, "s", context=1), row(guest, "s")) == 0xC0000001
    assert len(guest.kernel.debug.take()) == 1


def test_direct_values_are_stored_by_their_size(guest):
    registry = guest.kernel.registry
    registry.set_value(KEY, "n", 0x11223344)
    registry.store(registry.find(KEY), "q", REG_QWORD, bytes(range(8)))
    small, data_only, described = guest.space(4), guest.space(16), guest.space(16)
    guest.mem.write(data_only, struct.pack("<i", -8))
    guest.mem.write(described, struct.pack("<i", 16))
    rows = (
        row(guest, "n", DIRECT, "", small),
        row(guest, "q", DIRECT, "", data_only),
        row(guest, "q", DIRECT, "", described),
    )
    assert ask(guest, *rows) == SUCCESS
    assert guest.mem.u32(small) == 0x11223344
    assert guest.mem.read(data_only, 8) == bytes(range(8))
    assert guest.mem.read(described, 16) == struct.pack("<II", 8, REG_QWORD) + bytes(range(8))
    guest.mem.write(described, struct.pack("<i", 15))
    assert ask(guest, rows[2]) == TOO_SMALL


def test_a_direct_string_is_allocated_or_copied_if_it_fits(guest):
    guest.kernel.registry.set_value(KEY, "s", "text")
    empty = guest.bytes(bytes(16))
    assert ask(guest, row(guest, "s", DIRECT | TYPECHECK, "", empty, (REG_SZ << 24, 0, 0))) == SUCCESS
    assert guest.mem.unicode_string(empty) == "text"
    guest.call("RtlFreeUnicodeString", empty)
    assert ask(guest, row(guest, "s", DIRECT, "", guest.string("", maximum=8))) == TOO_SMALL
    fits = guest.string("", maximum=10)
    assert ask(guest, row(guest, "s", DIRECT, "", fits)) == SUCCESS
    assert guest.mem.unicode_string(fits) == "text"


def test_an_unexpected_type_is_refused_when_types_are_checked(guest):
    guest.kernel.registry.set_value(KEY, "s", "text")
    target = guest.space(4)
    assert ask(guest, row(guest, "s", DIRECT | TYPECHECK, "", target, (REG_DWORD << 24, 0, 0))) == MISMATCH
    assert guest.mem.read(target, 4) == b"\xcc" * 4


def test_an_unchecked_direct_query_of_an_untrusted_hive_stops_the_machine():
    guest = Guest()
    guest.kernel.registry.set_value("\\Registry\\User\\.Default\\Test", "s", "text")
    entry = struct.pack("<QIxxxxQQIxxxxQIxxxx", 0, DIRECT, guest.wide("s"), guest.space(16), 0, 0, 0)
    table = guest.bytes(entry + bytes(0x38))
    with pytest.raises(Bugcheck) as crash:
        guest.call("RtlQueryRegistryValues", 5, guest.wide("Test"), table, 0, 0)
    assert (crash.value.code, crash.value.parameters[0]) == (0x139, 9)
    guest.close()


def test_subkeys_are_entered_and_left(guest):
    registry = guest.kernel.registry
    registry.set_value(KEY, "v", "top")
    registry.set_value(f"{KEY}\\Sub", "v", "below")
    rows = (row(guest, "Sub", SUBKEY, ""), row(guest, "v"), row(guest, "v", TOPKEY))
    assert ask(guest, *rows) == SUCCESS
    assert [line.split(" ")[0] for line in guest.kernel.debug.take()] == ["v=below", "v=top"]


def test_a_value_can_be_deleted_once_it_was_read(guest):
    guest.kernel.registry.set_value(KEY, "s", "text")
    assert ask(guest, row(guest, "s", DELETE)) == SUCCESS
    assert guest.kernel.registry.value(KEY, "s") is None


def test_a_missing_key_matters_unless_it_is_optional(guest):
    assert ask(guest, row(guest, "s"), path="Missing") == NOT_FOUND
    assert ask(guest, row(guest, "s"), path="Missing", relative=0x80000001) == SUCCESS
    assert ask(guest, row(guest, "s"), relative=6) == 0xC000000D


def test_values_are_written_and_deleted_by_relative_path(guest):
    data = guest.bytes(b"\1\2\3\4")
    write = ("RtlWriteRegistryValue", 1, guest.wide("Test"), guest.wide("n"), REG_DWORD, data, 4)
    assert guest.u32(*write) == SUCCESS
    assert guest.kernel.registry.value(KEY, "N").data == b"\1\2\3\4"
    assert guest.u32("RtlCheckRegistryKey", 1, guest.wide("Test")) == SUCCESS
    assert guest.u32("RtlDeleteRegistryValue", 1, guest.wide("Test"), guest.wide("n")) == SUCCESS
    assert guest.u32("RtlDeleteRegistryValue", 1, guest.wide("Test"), guest.wide("n")) == NOT_FOUND
    assert guest.u32("RtlCreateRegistryKey", 1, guest.wide("Test\\More")) == SUCCESS
    assert guest.kernel.registry.exists(f"{KEY}\\More")


def test_a_checkpoint_keeps_keys_values_and_handles():
    guest = Guest()
    registry = guest.kernel.registry
    registry.set_value(KEY, "v", 1)
    handle = opened(guest)
    kept = guest.kernel.checkpoint()
    registry.set_value(KEY, "v", 2)
    registry.delete_tree(KEY)
    guest.call("ZwClose", handle)
    guest.kernel.restore(kept)
    assert guest.kernel.registry.value(KEY, "v").data == struct.pack("<I", 1)
    assert query(guest, handle, "v", 2, 16)[0] == SUCCESS
    guest.close()
