"""WindowsMachine on a guest in this process: real sockets, TLS, SSH and drivers; only the domain is a double.

Imports stand within the fixtures: each test module first looks whether the packages are there.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import replace

import pytest


@functools.cache
def programs():
    from harness.build.guest_tools import build_guest_tools
    from vm.registry import GuestProgramFiles
    from vm.windows.machine.programs import guest_files

    tools = build_guest_tools()
    return guest_files(GuestProgramFiles(tools.ntguest, tools.child))


@pytest.fixture(scope="session")
def driver_path():
    from harness.build import build_driver

    return build_driver("procnotify").image


@pytest.fixture
def patience():
    """Short enough for tests that wait for something that does not come."""
    from vm.windows.machine.access import Patience

    return Patience(connect=20, call=20, request=2, driver=20, panic=2, again=2, dump=30)


@pytest.fixture
def make_guest():
    from tests.standin.local_guest import LocalGuest
    from vm.windows.machine.settle import settle

    made = []

    def make(**how):
        guest = LocalGuest(**how)
        guest.__enter__()
        made.append(guest)
        guest.settle(lambda domain: settle(domain, guest.access, programs()))
        return guest

    yield make
    for guest in made:
        guest.__exit__(None, None, None)


@pytest.fixture
def guest(make_guest):
    return make_guest()


@pytest.fixture
def make_machine(patience, tmp_path):
    from vm.windows.machine.machine import WindowsMachine

    made = []

    def make(guest, *, access=None, patience=patience, **how):
        how = {"profile": "standin", "artefacts": tmp_path / "artefacts", **how}
        machine = WindowsMachine("local", guest.domain, access or guest.access, patience=patience, **how)
        made.append(machine)
        return machine

    yield make
    for machine in made:
        machine.close()


@pytest.fixture
def machine(make_machine, guest):
    return make_machine(guest)


class Misuse:
    """The misuse driver on a machine: does what no driver may."""

    CONTROL = 0x22 << 16 | 0x800 << 2

    def __init__(self, machine, guest):
        from tests.fixtures.misuse import image

        machine.install_driver("misuse", image())
        machine.start_driver("misuse")
        self._images = guest.windows.system._machine.kernel.images
        self.handle = machine.open_device("\\\\.\\Misuse")

    def run(self, name, *arguments):
        return self.handle.control(self.CONTROL, self._call(name, arguments), 8)

    def start(self, name, *arguments):
        return self.handle.start_control(self.CONTROL, self._call(name, arguments), 8)

    def _call(self, name, arguments):
        loaded = next(found for found in self._images if found.name == "misuse")
        return struct.pack("<4Q", *(loaded.export(name), *arguments, 0, 0, 0)[:4])


@pytest.fixture
def misuse(machine, guest):
    return Misuse(machine, guest)


def with_access(guest, **changes):
    return replace(guest.access, **changes)
