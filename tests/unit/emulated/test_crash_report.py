from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.guinea_pigs import SOURCES, build
from vm.emulated.debug.bugcheck import BugcheckCode, bugcheck_name, explain, fast_fail_name
from vm.emulated.debug.crash_report import build_report, describe_address, locate, stack
from vm.emulated.exports import Export
from vm.emulated.faults import Bugcheck
from vm.emulated.kernel import Kernel
from vm.emulated.loader.image import DriverImage


@pytest.fixture
def kernel():
    kernel = Kernel()
    yield kernel
    kernel.close()


@pytest.fixture
def driver(kernel):
    return kernel.load_image(DriverImage.parse(build("unwind")))


def crash(kernel, driver, function, *arguments):
    with pytest.raises(Bugcheck) as caught:
        kernel.call(driver.export(function), *arguments)
    bugcheck = caught.value
    return build_report(kernel, bugcheck, bugcheck.site.rip, bugcheck.site.registers, activity="a test")


def line_of(text):
    lines = (SOURCES / "unwind.c").read_text().splitlines()
    (found,) = (number for number, line in enumerate(lines, 1) if text in line)
    return found


def test_a_report_names_code_place_stack_and_instruction(kernel, driver):
    report = crash(kernel, driver, "CrashDeep", 0x1000)
    assert (report.code, report.name) == (0x1E, "KMODE_EXCEPTION_NOT_HANDLED")
    assert report.activity == "a test"
    assert [frame.function for frame in report.frames] == ["Crash", "CrashDeep"]
    assert [frame.file for frame in report.frames] == ["unwind.c", "unwind.c"]
    assert report.frames[0].line == line_of("return value + ReadInlined(p);")
    assert report.frames[1].line == line_of("LONG b = Crash(p);")
    assert report.frames[0].module == "unwind"
    assert "null pointer" in report.reason
    assert any(note.startswith("instruction: ") and "[" in note for note in report.notes)


def test_inlined_calls_are_frames_of_their_own(kernel, driver):
    report = crash(kernel, driver, "CrashInlined", 0x1000)
    assert [frame.function for frame in report.frames] == ["WriteInlined", "CrashInlined"]
    assert [frame.line for frame in report.frames] == [line_of("*p = 5;"), line_of("    WriteInlined(p);")]


def test_a_raised_status_is_reported_at_the_line_of_the_call(kernel, driver):
    report = crash(kernel, driver, "Fail")
    assert report.frames[0].function == "Fail"
    assert report.frames[0].line == line_of("ExRaiseStatus(STATUS_UNSUCCESSFUL)")
    assert report.parameters[0] == 0xC0000001


def test_a_call_to_nowhere_shows_its_caller(kernel, driver):
    report = crash(kernel, driver, "Call", 0)
    assert report.frames[0].module == "unknown"
    assert report.frames[1].function == "Call"
    assert report.parameters[:3] == (0xC0000005, 0, 8)


def test_the_stack_goes_on_through_an_export_that_calls_the_driver_again(kernel, driver):
    def again(kernel, function):
        return kernel.call(function)

    stub = kernel.cpu.bind(Export("Again", (None,), 15, 0, again))
    report = crash(kernel, driver, "CrashBelowExport", stub, 1)
    functions = [frame.function for frame in report.frames]
    assert functions[0] == "Crash"
    assert functions[-1] == "CrashBelowExport"
    assert report.frames[-1].line == line_of("LONG value = again(")


def test_a_bad_kernel_address_is_reported_with_its_exact_bytes(kernel, driver):
    report = crash(kernel, driver, "CrashDeep", 0xFFFF_A800_0000_0FF1)
    assert report.code == 0x50
    assert report.parameters[0] == 0xFFFF_A800_0000_0FF1


def test_an_image_without_debug_information_is_named_by_its_exports(kernel, tmp_path):
    file = tmp_path / "bare.sys"
    file.write_bytes(build("unwind", link=("/debug:none",)).read_bytes())
    bare = kernel.load_image(DriverImage.parse(file))
    report = crash(kernel, bare, "CrashDeep", 0x1000)
    assert report.frames[0].module == "bare"
    assert report.frames[0].function == "Crash"
    assert report.frames[0].line is None


def test_memory_is_described_by_what_it_belongs_to(kernel, driver):
    assert "section .text" in describe_address(kernel, driver.export("Crash"))
    assert "unwind!Crash" in describe_address(kernel, driver.export("Crash"))
    assert "null pointer" in describe_address(kernel, 8)
    assert "user-mode" in describe_address(kernel, 0x1000_0000)
    assert "no address" in describe_address(kernel, 1 << 63)
    block = kernel.pool.allocate(100, int.from_bytes(b"Tst0", "little"))
    assert "Tst0" in describe_address(kernel, block)
    assert describe_address(kernel, 0xFFFF_FFFF_0000_0000) is None


def test_an_unloaded_driver_is_still_named(kernel, driver):
    address = driver.export("Crash")
    kernel.unload_image(driver)
    assert describe_address(kernel, address) == f"0x{address:X} was part of unwind, which is unloaded"


def test_a_place_in_code_is_found_by_its_address(kernel, driver):
    place = locate(kernel, driver.export("Small"))
    assert (place.function, place.file) == ("Small", "unwind.c")
    assert locate(kernel, 0x1000) is None


def test_a_bugcheck_that_blames_other_code_shows_that_first_and_then_the_stack(kernel, driver):
    blamed = driver.export("Small")
    with pytest.raises(Bugcheck) as caught:
        kernel.call(driver.export("CrashDeep"), 0x1000)
    site = caught.value.site
    bugcheck = Bugcheck(0xC8, 0, reason="a test", rip=blamed)
    bugcheck.site = site
    report = build_report(kernel, bugcheck, blamed, site.registers)
    assert [frame.function for frame in report.frames] == ["Small", "Crash", "CrashDeep"]


def test_a_bugcheck_of_the_host_alone_has_no_stack(kernel):
    assert build_report(kernel, Bugcheck(0xE2, reason="a test"), 0, (0,) * 16).frames == ()
    assert stack(kernel, 0, (0,) * 16) == ()


def test_bugchecks_have_their_names_and_unknown_ones_their_numbers():
    assert bugcheck_name(0xD1) == "DRIVER_IRQL_NOT_LESS_OR_EQUAL"
    assert bugcheck_name(0x139) == "KERNEL_SECURITY_CHECK_FAILURE"
    assert bugcheck_name(0xABCD) == "BUGCHECK_0xABCD"
    assert fast_fail_name(2) == "STACK_COOKIE_CHECK_FAILURE"
    assert explain(0x139, (3, 0, 0, 0)) == "fast fail 3: CORRUPT_LIST_ENTRY"
    assert "without freeing its pool" in explain(0xC4, (0x62, 0, 0, 0))
    assert explain(0x50, (3, 0, 0, 0)) is None


def test_no_two_bugchecks_share_a_number():
    assert len(BugcheckCode.__members__) == len(set(BugcheckCode))


def test_reports_hold_no_path_of_the_build_machine(kernel, driver):
    text = crash(kernel, driver, "CrashDeep", 0x1000).render()
    assert str(Path.cwd()) not in text
