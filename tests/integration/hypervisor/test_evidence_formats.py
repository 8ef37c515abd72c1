"""Screens become PNG whatever QEMU gives, and the domain's log is read from where a life began."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from vm.windows.hypervisor.crash import GuestPanic
from vm.windows.hypervisor.domain_log import DomainLog, log_path
from vm.windows.hypervisor.evidence import as_png
from vm.windows.hypervisor.uri import HypervisorUri

LINE = (
    "2026-01-01 00:00:00.000+0000: panic hyper-v: arg1='0x{code:x}', arg2='0x1', arg3='0x2', arg4='0x3', arg5='0x4'\n"
)


def test_a_pixmap_becomes_a_png_with_the_same_pixels():
    pixels = bytes(range(18))

    png = as_png(b"P6\n3 2\n255\n" + pixels)

    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", png[16:24]) == (3, 2)
    start = png.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", png[start - 8 : start - 4])
    lines = zlib.decompress(png[start : start + length])
    assert lines == b"\0" + pixels[:9] + b"\0" + pixels[9:]


def test_a_png_stays_as_it_is():
    assert as_png(b"\x89PNG\r\n\x1a\nrest") == b"\x89PNG\r\n\x1a\nrest"


@pytest.mark.parametrize("picture", [b"", b"P6", b"P5\n1 1\n255\nx", b"GIF89a", b"P6\nx y\n255\n"])
def test_another_picture_is_refused(picture):
    with pytest.raises(ValueError, match=r"known format|invalid literal"):
        as_png(picture)


def test_a_log_tells_only_of_the_life_that_began_last(tmp_path):
    path = tmp_path / "win11-1.log"
    path.write_text(LINE.format(code=0xD1))
    log = DomainLog(path)
    assert log.panic() is None

    with path.open("a") as more:
        more.write(LINE.format(code=0x139))

    assert log.panic() == GuestPanic(0x139, (1, 2, 3, 4), "domain log")
    log.begin()
    assert log.panic() is None


def test_a_log_that_libvirt_began_anew_is_read_from_its_start(tmp_path):
    path = tmp_path / "win11-1.log"
    path.write_text("x" * 10_000)
    log = DomainLog(path)

    path.write_text(LINE.format(code=0xD1))

    assert log.panic().code == 0xD1


def test_a_log_out_of_reach_tells_nothing(tmp_path):
    assert DomainLog(None).panic() is None
    assert DomainLog(tmp_path / "none.log").panic() is None


@pytest.mark.parametrize(
    ("uri", "environment", "path"),
    [
        ("qemu:///system", {}, "/var/log/libvirt/qemu/a-1.log"),
        ("qemu:///session", {"HOME": "/h"}, "/h/.cache/libvirt/qemu/log/a-1.log"),
        ("qemu:///session", {"HOME": "/h", "XDG_CACHE_HOME": "/c"}, "/c/libvirt/qemu/log/a-1.log"),
        ("qemu+ssh://host/system", {}, None),
    ],
)
def test_a_log_is_where_libvirt_keeps_it(uri, environment, path):
    found = log_path(HypervisorUri.parse(uri), "a-1", environment)

    assert found == (None if path is None else Path(path))
