"""Each image check finds its defect, and only its own, in an image that is otherwise sound."""

from __future__ import annotations

import shutil
import struct
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.build import find_driver, pe
from harness.build.dwarf import without_dwarf
from harness.build.exports import base_exports, first_build
from harness.build.findings import Severity
from harness.build.image_checks import check_image, check_reproducible
from harness.build.llvm_mingw import LlvmMingw
from harness.build.signing.signature import verify
from harness.errors import ImageError, SignatureError
from tests.fixtures.built_drivers import DESCRIPTION
from tests.fixtures.built_drivers import signed as sign

DLL_CHARACTERISTICS = 70
SUBSYSTEM = 68
SECTION_ALIGNMENT = 32


class Patient:
    """An image to be damaged in one place, then signed again so that nothing else is wrong with it."""

    def __init__(self, built, identity, path):
        self.image = pe.load(built.image)
        self.data = bytearray(self.image.data)
        self.identity = identity
        self.path = path

    def optional(self, offset, form, change):
        position = self.image.optional_header_offset + offset
        (value,) = struct.unpack_from(form, self.data, position)
        struct.pack_into(form, self.data, position, change(value))

    def section(self, name, change):
        index = [s.name for s in self.image.sections].index(name)
        position = self.image.section_table_offset + index * 40 + 36
        (value,) = struct.unpack_from("<I", self.data, position)
        struct.pack_into("<I", self.data, position, change(value))

    def replace(self, old, new):
        assert len(new) <= len(old)
        assert self.data.count(old) == 1
        start = self.data.index(old)
        self.data[start : start + len(old)] = new.ljust(len(old), b"\0")

    def check(self, *, signed=True, **options):
        self.path.write_bytes(sign(bytes(self.data), self.identity) if signed else self.data)
        return check_image(self.path, **options)


@pytest.fixture
def patient(minimal, identity, tmp_path):
    return Patient(minimal, identity, tmp_path / "patient.sys")


@pytest.fixture
def cookie_patient(cookie, identity, tmp_path):
    return Patient(cookie, identity, tmp_path / "patient.sys")


def names(findings):
    return [f.check for f in findings]


def test_a_sound_image_has_no_findings(minimal, cookie):
    assert check_image(minimal.image) == []
    assert check_image(cookie.image) == []


def test_a_subsystem_other_than_native_is_found(patient):
    patient.optional(SUBSYSTEM, "<H", lambda _: 2)

    assert names(patient.check()) == ["subsystem"]


@pytest.mark.parametrize(("flag", "check"), [(0x80, "force-integrity"), (0x100, "nx"), (0x40, "aslr")])
def test_a_missing_dll_characteristic_is_found(patient, flag, check):
    patient.optional(DLL_CHARACTERISTICS, "<H", lambda value: value & ~flag)

    assert names(patient.check()) == [check]


def test_a_wrong_checksum_is_found_and_both_values_are_named(patient):
    patient.data[patient.image.checksum_offset] ^= 1

    (finding,) = patient.check(signed=False)

    assert finding.check == "checksum"
    assert f"0x{patient.image.checksum:X}" in finding.message


def test_sections_smaller_than_a_page_are_found(patient):
    patient.optional(SECTION_ALIGNMENT, "<I", lambda _: 0x200)

    assert names(patient.check()) == ["section-alignment"]


def test_a_section_both_writable_and_executable_is_found(patient):
    patient.section(".text", lambda value: value | pe.SCN_MEM_WRITE)

    (finding,) = patient.check()

    assert finding.check == "writable-code"
    assert ".text" in finding.message


def test_an_import_table_in_executable_memory_is_warned_of(patient):
    text = next(s for s in patient.image.sections if s.name == ".text")
    struct.pack_into("<I", patient.data, patient.image.directory_offset(pe.DIRECTORY_IAT), text.rva)

    (finding,) = patient.check()

    assert (finding.check, finding.severity) == ("import-table", Severity.WARNING)
    assert ".text" in finding.message


@pytest.mark.parametrize("path", [b"C:\\m.pdb", b"/h/m.pdb", b"C:m.pdb"])
def test_a_local_path_in_the_pdb_reference_is_found(patient, path):
    patient.replace(b"minimal.pdb", path)

    (finding,) = patient.check()

    assert (finding.check, finding.severity) == ("pdb-path", Severity.WARNING)
    assert path.decode() in finding.message


def test_an_import_that_came_later_is_found_for_the_older_build_only(patient):
    patient.replace(b"ExAllocatePoolWithTag", b"ExAllocatePool2")

    (finding,) = patient.check(windows_build=17763)

    assert finding.check == "imports"
    assert "19041" in finding.message
    assert patient.check(windows_build=19041) == []


def test_an_import_in_no_list_is_a_warning(patient):
    patient.replace(b"ExAllocatePoolWithTag", b"ExNoSuchFunction")

    (finding,) = patient.check()

    assert (finding.check, finding.severity) == ("imports", Severity.WARNING)
    assert "ExNoSuchFunction" in finding.message


def test_an_import_by_ordinal_is_found(patient):
    rva, _ = patient.image.directory(pe.DIRECTORY_IMPORT)
    (thunks,) = struct.unpack("<I", patient.image.read(rva, 4, "the thunks"))
    section = patient.image.section_at(thunks)
    struct.pack_into("<Q", patient.data, section.raw_offset + thunks - section.rva, 1 << 63 | 7)

    (finding,) = patient.check()

    assert finding.check == "imports"
    assert "#7" in finding.message


def test_a_read_only_security_cookie_is_found(cookie_patient):
    cookie_patient.section(".data", lambda value: value & ~pe.SCN_MEM_WRITE)

    assert names(cookie_patient.check()) == ["security-cookie"]


def test_a_security_cookie_outside_the_image_is_found(cookie_patient):
    address = cookie_patient.image.image_base + cookie_patient.image.security_cookie_rva()
    cookie_patient.replace(struct.pack("<Q", address), struct.pack("<Q", 0xDEAD))

    assert names(cookie_patient.check()) == ["security-cookie"]


def test_a_missing_signature_is_found_unless_none_is_required(patient):
    offset, _ = patient.image.certificate_table
    struct.pack_into("<II", patient.data, patient.image.directory_offset(pe.DIRECTORY_SECURITY), 0, 0)
    patient.data = bytearray(pe.with_checksum(bytes(patient.data[:offset])))

    (finding,) = patient.check(signed=False)

    assert finding.check == "signature"
    assert "not signed" in finding.message
    assert patient.check(signed=False, require_signature=False) == []


def test_a_byte_changed_after_signing_is_found(patient):
    text = next(s for s in patient.image.sections if s.name == ".text")
    patient.data[text.raw_offset] ^= 0xFF
    patient.data = bytearray(pe.with_checksum(bytes(patient.data)))

    (finding,) = patient.check(signed=False)

    assert finding.check == "signature"
    assert f"0x{text.raw_offset:X}" in finding.message


def test_the_same_sources_give_the_same_bytes_in_two_directories():
    assert check_reproducible(find_driver(f"{DESCRIPTION}:minimal")) == []


class LeakyToolchain(LlvmMingw):
    """Tells the sources where they are, as __FILE__ does with many compilers."""

    def compile_options(self, driver):
        return (*super().compile_options(driver), f'-DMINIMAL_WHERE="{driver.root}"')


def test_a_build_directory_in_the_image_is_found():
    findings = check_reproducible(find_driver(f"{DESCRIPTION}:minimal"), LeakyToolchain())

    assert set(names(findings)) == {"reproducible"}
    assert "minimal.sys differs" in findings[0].message


def test_more_modules_than_any_driver_imports_from_are_refused(patient):
    image = patient.image
    last = image.sections[-1]
    # The first descriptor's module, again and again, with import tables that are empty.
    (module,) = struct.unpack_from("<I", image.read(image.directory(pe.DIRECTORY_IMPORT)[0], 20, ""), 12)
    empty = last.rva + last.raw_size
    area = bytes(8) + struct.pack("<5I", empty, 0, 0, module, empty) * 1025
    header = image.section_table_offset + (len(image.sections) - 1) * 40
    del patient.data[last.raw_offset + last.raw_size :]
    patient.data += area
    for offset in (8, 16):
        struct.pack_into("<I", patient.data, header + offset, last.raw_size + len(area))
    struct.pack_into("<II", patient.data, image.directory_offset(pe.DIRECTORY_IMPORT), empty + 8, len(area) - 8)
    struct.pack_into("<II", patient.data, image.directory_offset(pe.DIRECTORY_SECURITY), 0, 0)

    with pytest.raises(ImageError, match="imports from more than 1024 modules"):
        pe.parse(bytes(patient.data)).imports()


def test_names_that_lead_into_a_large_empty_area_take_no_memory_of_its_size(patient):
    image, size = patient.image, 1 << 22
    end = len(patient.data)
    patient.data += struct.pack("<I", size) + bytes(size)
    # The string table lies at the end, and so does what the first section is called and what the PDB is.
    struct.pack_into("<II", patient.data, image.header_offset + 12, end, 0)
    patient.data[image.section_table_offset : image.section_table_offset + 8] = b"/4".ljust(8, b"\0")
    patient.data[end + 4 : end + 8] = b"RSDS"
    entry = bytes(patient.data).index(image.read(image.directory(pe.DIRECTORY_DEBUG)[0], 28, ""))
    struct.pack_into("<III", patient.data, entry + 16, size, 0, end + 4)
    data = bytes(patient.data)
    tracemalloc.start()
    try:
        parsed = pe.parse(data)
        found = parsed.pdb_references()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert parsed.sections[0].name == "RSDS"
    assert "" in found
    assert peak < 3 * size


def test_the_export_list_knows_functions_data_and_later_additions():
    assert {"IoCreateDevice", "PsProcessType", "memcpy", "__C_specific_handler"} <= base_exports()
    assert first_build("PsSetCreateProcessNotifyRoutineEx") == 7601
    assert first_build("PsSetCreateProcessNotifyRoutineEx2") == 15063
    assert first_build("KernelFunctionThatNeverWas") is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "does not start with MZ"),
        (b"\x7fELF" + bytes(100), "does not start with MZ"),
        (b"MZ", "inside the DOS header"),
        (b"MZ" + bytes(58) + struct.pack("<I", 0x7FFFFFFF), "outside the file"),
        (b"MZ" + bytes(58) + struct.pack("<I", 64) + bytes(100), "no PE signature"),
    ],
)
def test_a_file_that_is_no_image_is_named_in_one_clear_error(tmp_path, content, complaint):
    path = tmp_path / "wrong.sys"
    path.write_bytes(content)

    with pytest.raises(ImageError, match=complaint) as caught:
        check_image(path)

    assert str(path) in str(caught.value)


def test_a_missing_file_is_an_image_error(tmp_path):
    with pytest.raises(ImageError, match="cannot be read"):
        check_image(tmp_path / "absent.sys")


@pytest.mark.parametrize(("machine", "name"), [(0x14C, "x86"), (0xAA64, "Arm64"), (0x1234, "0x1234")])
def test_an_image_for_another_architecture_is_refused_by_name(patient, machine, name):
    struct.pack_into("<H", patient.data, patient.image.header_offset + 4, machine)

    with pytest.raises(ImageError, match=f"{name}.*x64"):
        patient.check(signed=False)


def test_every_truncation_is_refused_or_found(minimal, tmp_path):
    data = minimal.image.read_bytes()
    path = tmp_path / "short.sys"
    for size in [*range(0, 0x400, 7), *range(0x400, len(data), 101)]:
        path.write_bytes(data[:size])
        try:
            findings = check_image(path)
        except ImageError:
            continue
        assert "signature" in names(findings)


def test_dwarf_that_is_not_at_the_end_is_not_removed(minimal):
    data = bytearray(minimal.debug_image.read_bytes())
    image = pe.parse(bytes(data))
    position = image.section_table_offset + (len(image.sections) - 1) * 40
    data[position : position + 8] = b".extra\0\0"

    with pytest.raises(ImageError, match="not the last"):
        without_dwarf(bytes(data))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(
        st.tuples(st.integers(0, 0x3FF) | st.integers(0, 1 << 16), st.sampled_from([1, 2, 4, 8]), st.integers(0)),
        min_size=1,
        max_size=6,
    )
)
def test_a_mutated_image_is_judged_or_refused_but_never_crashes_the_reader(cookie, minimal, tmp_path, edits):
    for name, built in (("m", minimal), ("c", cookie)):
        data = bytearray(built.image.read_bytes())
        for offset, size, value in edits:
            position = offset % (len(data) - size)
            data[position : position + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
        path = tmp_path / f"{name}.sys"
        path.write_bytes(data)
        unchanged = bytes(data) == built.image.read_bytes()
        try:
            findings = check_image(path)
        except ImageError:
            continue
        assert unchanged or findings, "a change that no check noticed"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offset=st.integers(0), value=st.integers(1, 255), size=st.integers(0, 40))
def test_a_mutated_signature_is_refused_or_still_says_the_same(minimal, tmp_path, offset, value, size):
    data = bytearray(minimal.image.read_bytes())
    start, length = pe.load(minimal.image).certificate_table
    position = start + offset % length
    data[position] ^= value
    del data[position + 1 : position + 1 + size]
    path = tmp_path / "m.sys"
    path.write_bytes(data)
    shutil.copyfile(minimal.image, tmp_path / "original.sys")

    try:
        found = verify(path)
    except (SignatureError, ImageError):
        return

    # Octets that no signature covers (the certificate list's order, padding, unsigned fields) may differ.
    assert found.digest == verify(tmp_path / "original.sys").digest


@settings(max_examples=300, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 0x3FF), st.integers(0, 0xFFFFFFFF)), min_size=1, max_size=4),
    size=st.none() | st.integers(0, 0x1000),
)
def test_dwarf_is_removed_from_a_mutated_image_or_it_is_refused(minimal, edits, size):
    data = bytearray(minimal.debug_image.read_bytes())
    for offset, value in edits:
        struct.pack_into("<I", data, offset, value)
    try:
        stripped = without_dwarf(bytes(data[:size]))
    except ImageError:
        return
    assert pe.parse(stripped).checksum == pe.parse(stripped).computed_checksum()


@given(st.one_of(st.binary(min_size=8, max_size=80), st.integers(8, 80).map(lambda size: b"\xff" * size)))
def test_the_checksum_is_the_sum_of_words_with_end_around_carry_and_the_length(data):
    blank = data[:4] + bytes(4) + data[8:] + bytes(len(data) % 2)
    total = 0
    for (word,) in struct.iter_unpack("<H", blank):
        total += word
        total = (total & 0xFFFF) + (total >> 16)

    assert pe.compute_checksum(data, 4) == total + len(data)


def test_the_checksum_of_a_large_file_takes_little_more_memory_than_the_file():
    size = 1 << 23
    data = b"\x5a" * size
    tracemalloc.start()
    try:
        pe.compute_checksum(data, 64)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 * size
