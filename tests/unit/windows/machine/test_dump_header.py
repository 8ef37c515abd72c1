"""The header of a crash dump is read as QEMU's public description of it says, and nothing else passes for one."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm.windows.machine.dump_header import SIZE, NoDumpHeader, parse_dump_header

U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)


def header(code, parameters, build=26100, processors=2, kind=1, time=133_000_000_000_000_000):
    """Written field by field in the order of WinDumpHeader64, not by offsets."""
    fields = [
        b"PAGE", b"DU64",
        struct.pack("<II", 15, build),
        struct.pack("<QQQQ", 0x1AB000, 2, 3, 4),
        struct.pack("<II", 0x8664, processors),
        struct.pack("<II4Q", code, 0x45474150, *parameters),
        b"V" * 32,
        struct.pack("<Q", 5),
        b"M" * 704,
        b"C" * 3000,
        b"E" * 152,
        struct.pack("<II", kind, 6),
        struct.pack("<QQ", 7, time),
        b"comment".ljust(128, b"\0"),
        struct.pack("<Q", 8),
    ]  # fmt: skip
    return b"".join(fields).ljust(SIZE, b"PAGE"[:1])


@given(U32, st.tuples(U64, U64, U64, U64), U32, U32, U32, U64)
def test_every_field_is_where_it_belongs(code, parameters, build, processors, kind, time):
    found = parse_dump_header(header(code, parameters, build, processors, kind, time) + b"the memory")

    assert (found.bugcheck_code, found.bugcheck_parameters) == (code, parameters)
    assert (found.build, found.processors, found.machine_type) == (build, processors, 0x8664)
    assert (found.dump_type, found.system_time) == (kind, time)


@given(st.binary(max_size=300))
def test_other_bytes_are_refused_and_never_end_in_another_error(data):
    with pytest.raises(NoDumpHeader):
        parse_dump_header(data)


@given(st.integers(0, SIZE - 1))
def test_a_header_that_is_cut_off_is_refused(length):
    with pytest.raises(NoDumpHeader):
        parse_dump_header(header(0x139, (3, 0, 0, 0))[:length])


def test_a_dump_of_a_32_bit_windows_is_named_as_such():
    with pytest.raises(NoDumpHeader, match="32-bit"):
        parse_dump_header(b"PAGEDUMP".ljust(SIZE, b"\0"))
