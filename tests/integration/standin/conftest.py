"""The stand-in guest for these tests: a private libvirtd, the image, machines of it, and what a test leaves behind."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures import libvirtd as daemons
from tests.integration.standin import image as standin
from tests.integration.standin.needed import absent


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


def pytest_ignore_collect(collection_path):
    """Skip as a whole where something is absent, unless this is a build server, which must have it."""
    if collection_path.name.startswith("test_") and (message := absent()):
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        return True
    return None


@dataclass(frozen=True)
class Host:
    """The hypervisor and the image on it."""

    daemon: daemons.PrivateLibvirtd
    store: standin.ImageStore

    @property
    def image(self):
        return self.store.open(standin.NAME)

    @property
    def environment(self):
        return {**os.environ, **standin.settings(self.daemon.uri)}

    def remains(self):
        """Domains, files and processes that are there, but for records of slots and saved states that are kept."""
        import libvirt

        connection = libvirt.open(self.daemon.uri)
        try:
            domains = sorted(one.name() for one in connection.listAllDomains())
        finally:
            connection.close()
        files = {path.name for path in standin.HOST_FOLDER.iterdir()} if standin.HOST_FOLDER.is_dir() else set()
        golden = {Path(name).stem for name in files if name.endswith(".golden")}
        return (
            [name for name in domains if not name.startswith("ntproof-lease-")],
            sorted(name for name in files if name.rpartition(".")[0] not in golden),
            sorted(line.split()[0] for line in self.daemon.processes().values()),
        )

    def settled(self, expected, seconds=15.0):
        """What is left once it is as expected, or the time is over: a killed process takes a moment to go."""
        end = time.monotonic() + seconds
        while (found := self.remains()) != expected and time.monotonic() < end:
            time.sleep(0.1)
        return found


@pytest.fixture(scope="module")
def host():
    """The hypervisor, for one module: others wait, because slots and saved states are kept in one place."""
    with standin.locked(standin.CACHE / "daemon.lock"), daemons.private_libvirtd(standin.CACHE / "libvirt") as daemon:
        yield Host(daemon, standin.ensure_image(daemon.uri))


@pytest.fixture
def nothing_left(host):
    """Fails a test after which anything is there that was not there before."""
    before = host.remains()
    yield
    assert host.settled(before) == before
