"""Dumps of the guest are what a reader of Windows' dumps takes them for."""

from __future__ import annotations

import pytest

from tests.standin.commands import DUMP_FILE
from tests.standin.guest import crash_dump
from tests.standin.windows import SmallWindows
from vm.windows.machine.dump_header import parse_dump_header


@pytest.fixture
def windows():
    return SmallWindows()


@pytest.fixture
def last_words(tmp_path, monkeypatch):
    """Where the firmware keeps the kernel's last words."""
    monkeypatch.setattr(crash_dump, "PSTORE", tmp_path)
    return tmp_path


def test_the_header_tells_code_and_parameters():
    header = parse_dump_header(crash_dump.dump_header(26100, 0xD1, (1, 2, 3, 0xFFFFF80000000000)))

    assert (header.bugcheck_code, header.bugcheck_parameters) == (0xD1, (1, 2, 3, 0xFFFFF80000000000))
    assert (header.build, header.machine_type, header.dump_type) == (26100, 0x8664, 1)


def test_an_nmi_leaves_a_dump_at_the_next_start(windows, last_words):
    (last_words / "dmesg-efi-1").write_bytes(b"Kernel panic - not syncing: NMI: Not continuing")
    crash_dump.recover_dump(windows)

    header = parse_dump_header(windows.files.read(DUMP_FILE))
    assert (header.bugcheck_code, header.bugcheck_parameters[0]) == (0x80, 0x4F4454)
    assert list(last_words.iterdir()) == []


def test_another_panic_leaves_the_dump_that_was_written_before_it(windows, last_words):
    written = crash_dump.dump_header(26100, 0xD1, (1, 2, 3, 4))
    windows.files.write(DUMP_FILE, written)
    # Its log also tells that the processor has a register for NMIs.
    words = b"<6>[0.07] ACPI: LAPIC_NMI (acpi_id[0xff])\n<0>[9.1] Kernel panic - not syncing: sysrq triggered crash"
    (last_words / "dmesg-efi-1").write_bytes(words)
    crash_dump.recover_dump(windows)

    assert windows.files.read(DUMP_FILE) == written
    assert list(last_words.iterdir()) == []


def test_a_guest_that_keeps_no_dumps_gets_none(windows, last_words):
    windows.crash_control = {**windows.crash_control, "DumpType": 0}
    (last_words / "dmesg-efi-1").write_bytes(b"Kernel panic - not syncing: NMI: Not continuing")
    crash_dump.recover_dump(windows)

    assert windows.files.get(DUMP_FILE) is None
