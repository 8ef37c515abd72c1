from __future__ import annotations

import contextlib
import os
import pickle
import struct
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.guinea_pigs import build
from vm.emulated.faults import PageFault
from vm.emulated.layout import DRIVER_IMAGES, PAGE
from vm.emulated.loader.code_integrity import Signature
from vm.emulated.loader.image import BadImage, DriverImage, load, security_cookie
from vm.emulated.mm.memory import EXECUTE, PAGEABLE, READ, WRITE, Memory
from vm.errors import MachineConfigurationError


@pytest.fixture(scope="module")
def path():
    return build("image")


@pytest.fixture(scope="module")
def data(path):
    return path.read_bytes()


@pytest.fixture
def kernel():
    memory = Memory()
    yield SimpleNamespace(mem=memory)
    memory.close()


EXTREMES = (0, 1, 0x1000, 0x7FFFFFFF, 0x80000000, 0xFFFFF000, 0xFFFFFFFF)


def resolve(dll, name):
    return 0xFFFF_F800_0000_0000 + sum(name.encode())


def section(image, name):
    return next(s for s in image.sections if s.name == name)


def changed(data, offset, format_, *values):
    copy = bytearray(data)
    struct.pack_into(format_, copy, offset, *values)
    return bytes(copy)


def pe_offset(data):
    return struct.unpack_from("<I", data, 0x3C)[0]


def directory(data, index):
    return pe_offset(data) + 24 + 112 + 8 * index


def section_header(data, index):
    pe = pe_offset(data)
    return pe + 24 + struct.unpack_from("<H", data, pe + 20)[0] + 40 * index


def test_a_driver_is_described_as_its_linker_made_it(path):
    image = DriverImage.parse(path)
    assert image.name == "image.sys"
    assert image.force_integrity
    assert image.checksum_ok
    assert image.signature is Signature.ABSENT
    assert image.security_cookie == image.exports["__security_cookie"]
    assert {i.name for i in image.imports} == {"ExRaiseStatus", "DbgPrint"}
    assert {i.dll for i in image.imports} == {"ntoskrnl.exe"}
    assert section(image, "PAGE").pageable
    assert section(image, "INIT").discardable
    assert len(image.relocations) >= 3


def test_sections_are_mapped_with_their_rights(kernel, path):
    image = DriverImage.parse(path)
    load(kernel, image, DRIVER_IMAGES, resolve)
    pages = kernel.mem.state.pages

    def rights(name):
        return pages[(DRIVER_IMAGES + section(image, name).rva) >> 12] & (READ | WRITE | EXECUTE | PAGEABLE)

    assert rights(".text") == READ | EXECUTE
    assert rights(".rdata") == READ
    assert rights(".data") == READ | WRITE
    assert rights("PAGE") == READ | EXECUTE | PAGEABLE
    assert pages[DRIVER_IMAGES >> 12] & (READ | WRITE | EXECUTE) == READ


def test_addresses_are_relocated_and_imports_bound(kernel, path):
    image = DriverImage.parse(path)
    loaded = load(kernel, image, DRIVER_IMAGES, resolve)
    table = loaded.export("Table")
    assert kernel.mem.u64(table) == loaded.export("First")
    assert kernel.mem.u64(table + 8) == loaded.export("Second")
    for entry in image.imports:
        assert kernel.mem.u64(DRIVER_IMAGES + entry.iat_rva) == resolve(entry.dll, entry.name)


def test_the_stack_cookie_is_set_deterministically_and_never_to_the_default(kernel, path):
    image = DriverImage.parse(path)
    loaded = load(kernel, image, DRIVER_IMAGES, resolve)
    cookie = kernel.mem.u64(loaded.export("__security_cookie"))
    assert cookie == security_cookie("image.sys", DRIVER_IMAGES)
    assert cookie not in {0, 0x2B992DDFA232}
    assert cookie >> 48 == 0
    assert cookie != security_cookie("image.sys", DRIVER_IMAGES + 0x10000)


def test_init_code_is_gone_after_it_was_discarded(kernel, path):
    image = DriverImage.parse(path)
    loaded = load(kernel, image, DRIVER_IMAGES, resolve)
    init = DRIVER_IMAGES + section(image, "INIT").rva
    assert kernel.mem.is_mapped(init)
    loaded.discard_init(kernel)
    with pytest.raises(PageFault):
        kernel.mem.u8(init)
    assert kernel.mem.is_mapped(loaded.export("First"))


def test_an_unloaded_image_leaves_nothing_mapped(kernel, path):
    before = dict(kernel.mem.state.pages)
    loaded = load(kernel, DriverImage.parse(path), DRIVER_IMAGES, resolve)
    loaded.discard_init(kernel)
    loaded.unload(kernel)
    assert kernel.mem.state.pages == before


def test_a_refused_import_leaves_nothing_mapped(kernel, path):
    def refuse(dll, name):
        raise KeyError(name)

    with pytest.raises(KeyError):
        load(kernel, DriverImage.parse(path), DRIVER_IMAGES, refuse)
    assert not kernel.mem.state.pages


def test_instructions_that_the_emulator_gets_wrong_are_listed_at_their_exact_addresses(path):
    image = DriverImage.parse(path)
    found = {(i.mnemonic, i.operands) for i in image.special_instructions}
    assert found >= {("rdtsc", ""), ("mov", "rax, cr8"), ("mov", "cr8, rcx"), ("rdrand", "rax")}
    lure = image.exports["Lure"]
    assert not any(lure <= i.rva < lure + 16 for i in image.special_instructions)


def test_an_image_survives_pickling_with_its_cached_results(path):
    image = DriverImage.parse(path)
    assert image.special_instructions
    assert pickle.loads(pickle.dumps(image)) == image


def test_a_small_section_alignment_gives_shared_pages_the_rights_of_all(kernel):
    image = DriverImage.parse(build("image", link=("/align:64", "/filealign:64")))
    loaded = load(kernel, image, DRIVER_IMAGES, resolve)
    assert kernel.mem.u64(loaded.export("Table")) == loaded.export("First")
    assert kernel.mem.is_mapped(loaded.export("First"), 1, EXECUTE)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda d: b"", "not a PE"),
        (lambda d: b"#!/bin/sh\n" * 40, "not a PE"),
        (lambda d: changed(d, 0x3C, "<I", 0x7FFFFFF0), "truncated"),
        (lambda d: changed(d, pe_offset(d) + 4, "<H", 0x14C), "32-bit x86"),
        (lambda d: changed(d, pe_offset(d) + 4, "<H", 0xAA64), "ARM64"),
        (lambda d: changed(d, pe_offset(d) + 6, "<H", 0), "0 sections"),
        (lambda d: changed(d, pe_offset(d) + 22, "<H", 0x23), "no relocations"),
        (lambda d: changed(d, pe_offset(d) + 24, "<H", 0x10B), "PE32+"),
        (lambda d: changed(d, pe_offset(d) + 24 + 16, "<I", 0), "entry point"),
        (lambda d: changed(d, pe_offset(d) + 24 + 56, "<I", 0xFFFFF000), "absurd image size"),
        (lambda d: changed(d, pe_offset(d) + 24 + 68, "<H", 3), "subsystem 3"),
        (lambda d: d[: len(d) // 2], "truncated"),
        (lambda d: changed(d, section_header(d, 1) + 12, "<I", 0x1000), "overlaps"),
        (lambda d: changed(d, section_header(d, 1) + 8, "<I", 0x7FFF0000), "beyond the image size"),
        (lambda d: changed(d, directory(d, 1), "<I", 0xFFFF0000), "import directory"),
        (lambda d: changed(d, directory(d, 5) + 4, "<I", 0xFFFF0000), "relocation directory"),
        (lambda d: changed(d, directory(d, 3), "<I", 0xFFFF0000), "exception directory"),
        (lambda d: changed(d, directory(d, 4), "<II", len(d), 0x1000), "signature is truncated"),
    ],
)
def test_a_damaged_or_foreign_image_is_refused_with_the_reason(data, tmp_path, break_it, said):
    file = tmp_path / "odd.sys"
    file.write_bytes(break_it(data))
    with pytest.raises(BadImage) as caught:
        DriverImage.parse(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    assert isinstance(caught.value, MachineConfigurationError)


def test_a_missing_file_is_the_users_error(tmp_path):
    with pytest.raises(BadImage, match=r"none\.sys: No such file"):
        DriverImage.parse(tmp_path / "none.sys")


def test_a_file_larger_than_any_driver_is_refused_without_being_read_whole(data, tmp_path):
    file = tmp_path / "huge.sys"
    file.write_bytes(data)
    os.truncate(file, 1 << 40)
    with pytest.raises(BadImage, match=r"huge\.sys: larger than 256 MiB"):
        DriverImage.parse(file)


def test_an_import_without_a_name_is_refused(data):
    image = DriverImage.parse(data)
    at = data.index(b"ExRaiseStatus\0")
    assert image.imports
    with pytest.raises(BadImage, match="without a valid name"):
        DriverImage.parse(data[:at] + b"\0" + data[at + 1 :])


def parse_and_load(data):
    image = DriverImage.parse(data)
    memory = Memory()
    try:
        loaded = load(SimpleNamespace(mem=memory), image, DRIVER_IMAGES, lambda _dll, _name: 1)
        assert all(DRIVER_IMAGES <= page << 12 < DRIVER_IMAGES + loaded.size for page in memory.state.pages)
        assert loaded.size % PAGE == 0
        image.special_instructions  # noqa: B018 - must not raise either
    finally:
        memory.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.integers(0, 0x2000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
)
def test_any_mutation_of_an_image_loads_or_is_refused(path, edits):
    copy = bytearray(path.read_bytes())
    for offset, replacement in edits:
        copy[offset : offset + len(replacement)] = replacement
    with contextlib.suppress(BadImage):
        parse_and_load(bytes(copy))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.integers(0, 0x300), value=st.sampled_from(EXTREMES))
def test_any_header_field_set_to_an_extreme_loads_or_is_refused(path, field, value):
    with contextlib.suppress(BadImage):
        parse_and_load(changed(path.read_bytes(), field, "<I", value))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fraction=st.floats(0, 1))
def test_any_truncation_of_an_image_is_refused(path, fraction):
    data = path.read_bytes()
    size, offset = struct.unpack_from("<II", data, section_header(data, len(DriverImage.parse(data).sections) - 1) + 16)
    end = int((offset + size - 1) * fraction)
    with pytest.raises(BadImage):
        DriverImage.parse(data[:end])
