from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.guinea_pigs import build
from vm.emulated.debug.symbols import Symbols
from vm.emulated.loader.pe import DriverImage


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "unwind.sys"
    shutil.copy(build("unwind"), path)
    return path


@pytest.fixture
def stripped(tmp_path):
    path = tmp_path / "stripped.sys"
    shutil.copy(build("unwind", link=("/debug:none",)), path)
    return path


def test_functions_and_lines_come_from_the_image_itself(image):
    symbols = Symbols.for_image(image)
    for name, rva in DriverImage.parse(image).exports.items():
        location = symbols.lookup(rva)
        assert (location.function, location.offset, location.file) == (name, 0, "unwind.c")
        assert location.line


def test_offsets_count_from_the_start_of_the_function(image):
    rva = DriverImage.parse(image).exports["Pushes"]
    location = Symbols.for_image(image).lookup(rva + 9)
    assert (location.function, location.offset) == ("Pushes", 9)


def test_a_twin_file_serves_an_image_without_debug_information(stripped):
    assert not Symbols.for_image(stripped).available
    twin = stripped.with_name("stripped.sys.dwarf")
    shutil.copy(build("unwind"), twin)
    rva = DriverImage.parse(twin.read_bytes()).exports["Crash"]
    assert Symbols.for_image(stripped).lookup(rva).function == "Crash"


def test_symbols_are_read_once_until_the_file_changes(image):
    first = Symbols.for_image(image)
    assert Symbols.for_image(image) is first
    os.utime(image, (1, 1))
    assert Symbols.for_image(image) is not first


def test_nothing_is_read_before_the_first_question(tmp_path):
    missing = tmp_path / "missing.sys"
    symbols = Symbols.for_image(missing)
    assert symbols.lookup(0x1000) is None
    assert not symbols.available


def test_addresses_outside_the_code_have_no_place(image):
    symbols = Symbols.for_image(image)
    assert symbols.lookup(0) is None
    assert symbols.lookup(0x500_0000) is None


def test_statement_lines_are_those_of_the_source(image):
    lines = Symbols.for_image(image).statement_lines()
    assert {file for file, _ in lines} == {"unwind.c"}
    assert len(lines) > 20


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=20))
def test_damaged_debug_information_gives_less_but_never_an_error(tmp_path, edits):
    data = bytearray(build("unwind").read_bytes())
    sections = len(data) // 4
    for fraction, byte in edits:
        data[sections + int((len(data) - sections - 1) * fraction)] = byte
    path = tmp_path / "damaged.sys"
    path.write_bytes(data)
    location = Symbols(path).lookup(0x1010)
    assert location is None or location.offset >= 0
