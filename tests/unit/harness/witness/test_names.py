"""Image names in their several forms, and command lines as exporters leave them."""

from __future__ import annotations

import pytest
from hypothesis import given

from harness.witness.names import (
    Agreement,
    compare_command_lines,
    compare_images,
    is_minimal_process,
    parse_image,
    upper_case,
)
from tests.unit.harness.strategies import TEXT

CMD = "C:\\Windows\\System32\\cmd.exe"


@pytest.mark.parametrize(
    "name",
    [
        CMD,
        "c:\\WINDOWS\\system32\\CMD.EXE",
        f"\\??\\{CMD}",
        f"\\\\?\\{CMD}",
        "\\SystemRoot\\System32\\cmd.exe",
        "\\Device\\HarddiskVolume3\\Windows\\System32\\cmd.exe",
        "\\Windows\\System32\\cmd.exe",
    ],
)
def test_every_form_of_a_name_means_the_same_file(name):
    assert compare_images(name, CMD) is Agreement.SAME
    assert compare_images(CMD, name) is Agreement.SAME


@pytest.mark.parametrize(
    "name",
    [
        "D:\\Windows\\System32\\cmd.exe",
        "\\??\\C:\\Windows\\System32\\cmd2.exe",
        "\\??\\C:\\System32\\cmd.exe",
        "\\SystemRoot\\cmd.exe",
        "\\Device\\HarddiskVolume3\\System32\\cmd.exe",
        "\\System32\\cmd.exe",
        "cmd.exe",
        "Registry",
        "\\\\server\\Windows\\System32\\cmd.exe",
    ],
)
def test_another_file_is_told_apart(name):
    assert compare_images(name, CMD) is Agreement.DIFFERENT


@pytest.mark.parametrize(
    ("first", "second", "agreement"),
    [
        ("\\??\\UNC\\srv\\share\\x.exe", "\\\\srv\\share\\x.exe", Agreement.SAME),
        ("\\Device\\Mup\\srv\\share\\x.exe", "\\\\?\\UNC\\SRV\\share\\x.exe", Agreement.SAME),
        ("\\share\\x.exe", "\\\\srv\\share\\x.exe", Agreement.SAME),
        ("\\\\srv\\share\\x.exe", "\\\\srv2\\share\\x.exe", Agreement.DIFFERENT),
        ("\\Device\\HarddiskVolume1\\x.exe", "\\Device\\HarddiskVolume2\\x.exe", Agreement.DIFFERENT),
        ("\\??\\C:\\PROGRA~1\\x.exe", "C:\\Program Files\\x.exe", Agreement.UNKNOWN),
        ("\\??\\C:\\PROGRA~1\\x.exe", "C:\\PROGRA~2\\x.exe", Agreement.DIFFERENT),
        (None, CMD, Agreement.UNKNOWN),
        (CMD, None, Agreement.UNKNOWN),
        ("Registry", "REGISTRY", Agreement.SAME),
        ("\\??\\C:\\gr\u00f6\u00dfe.exe", "C:\\GR\u00d6\u00dfE.EXE", Agreement.SAME),
        ("\\??\\C:\\gr\u00f6\u00dfe.exe", "C:\\GR\u00d6SSE.EXE", Agreement.DIFFERENT),
    ],
)
def test_names_of_other_volumes(first, second, agreement):
    assert compare_images(first, second) is agreement


@given(TEXT)
def test_a_name_is_the_same_as_itself_in_any_case(name):
    assert compare_images(name, upper_case(name)) is Agreement.SAME
    assert compare_images(f"\\??\\C:\\{name}", f"c:\\{name}") is Agreement.SAME
    assert len(upper_case(name)) == len(name)
    parse_image(name)


@pytest.mark.parametrize(
    ("driver", "witness", "agreement"),
    [
        ("cmd  /c dir ", "cmd  /c dir ", Agreement.SAME),
        ("cmd  /c dir ", "cmd  /c dir", Agreement.DIFFERENT),
        ("cmd  /c dir", "cmd /c dir", Agreement.DIFFERENT),
        ("Cmd", "cmd", Agreement.DIFFERENT),
        ("%PATH%", "%%PATH%%", Agreement.QUIRK),
        ("%PATH%", "%%PATHS%%", Agreement.DIFFERENT),
        ("a\r\nb\rc", "a\nb\nc", Agreement.QUIRK),
        ("a\x01b", "a&#1;b", Agreement.QUIRK),
        ("a\ud800b", "a\ufffdb", Agreement.QUIRK),
        ("a\ud800b", "ab", Agreement.QUIRK),
        ("a\ud800b", "axxxxxxxb", Agreement.DIFFERENT),
        ("a\ud800b", "c\ufffdb", Agreement.DIFFERENT),
        (None, "x", Agreement.UNKNOWN),
        ("x", None, Agreement.UNKNOWN),
        ("", "x", Agreement.DIFFERENT),
    ],
)
def test_command_lines_are_equal_to_the_unit_but_for_known_quirks(driver, witness, agreement):
    assert compare_command_lines(driver, witness) is agreement


@given(TEXT, TEXT)
def test_comparing_any_command_lines_ends(driver, witness):
    assert compare_command_lines(driver, driver) is Agreement.SAME
    compare_command_lines(driver, witness)


def test_a_command_line_full_of_what_xml_cannot_carry_is_compared_in_time():
    assert compare_command_lines("\ud800" * 32_766, "\ufffd" * 32_766) is Agreement.QUIRK
    assert compare_command_lines("\ud800x" * 16_000 + "a", "x\ufffd" * 16_000 + "b") is Agreement.DIFFERENT
    different = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))
    assert compare_command_lines("\x01" + different, different) is Agreement.QUIRK


@pytest.mark.parametrize(
    ("name", "minimal"), [("Registry", True), ("MemCompression", True), (CMD, False), (None, False)]
)
def test_a_process_without_an_image_file_is_known_by_its_name(name, minimal):
    assert is_minimal_process(name) is minimal


def test_an_image_name_may_hold_what_xml_cannot_carry():
    driver = "\\??\\C:\\ntproof\\a\ud800b.exe"

    assert compare_images(driver, "C:\\ntproof\\a\ufffdb.exe") is Agreement.QUIRK
    assert compare_images(driver, "\\Device\\HarddiskVolume3\\ntproof\\a?b.exe") is Agreement.QUIRK
    assert compare_images(driver, "C:\\ntproof\\a\ufffdc.exe") is Agreement.DIFFERENT
    assert compare_images(driver, "D:\\ntproof\\a\ufffdb.exe") is Agreement.DIFFERENT
    assert compare_images("C:\\a.exe", "C:\\b.exe") is Agreement.DIFFERENT
