"""A private libvirt daemon for these tests, an image of the tiny guest, and a count of what each test leaves behind."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures import libvirtd as daemons
from tests.fixtures import tiny_linux
from tests.fixtures.tiny_image import make_image

NEEDED_PROGRAMS = {
    "mformat": "mtools",
    "objcopy": "binutils",
    "cpio": "cpio",
    "dpkg": "dpkg",
    "apt-get": "apt",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
}
REQUIREMENTS = "test_requirements.py"


def absent():
    """What these tests need and this computer lacks, with its remedy; empty when nothing is missing."""
    if importlib.util.find_spec("libvirt") is None:
        return "libvirt-python is missing: apt-get install libvirt-dev pkg-config gcc python3-dev, then ci/setup"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    packages = [package for name, package in NEEDED_PROGRAMS.items() if shutil.which(name, path=path) is None]
    packages += daemons.missing_packages()
    return f"missing: apt-get install {' '.join(packages)}" if packages else ""


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


def pytest_ignore_collect(collection_path):
    """Where something is missing these modules cannot even be imported; test_requirements says what it is."""
    if collection_path.name.startswith("test_") and collection_path.name != REQUIREMENTS and absent():
        return True
    return None


@pytest.fixture(scope="session")
def daemon(tmp_path_factory):
    """The private daemon, for all tests of this process."""
    with daemons.private_libvirtd(tmp_path_factory.mktemp("libvirtd")) as started:
        yield started


@pytest.fixture(scope="session")
def images():
    """A folder for images that every user can pass through; pytest's own folders cannot be."""
    folder = Path(tempfile.mkdtemp(prefix="ntproof-images-"))
    folder.chmod(0o755)
    yield folder
    for sealed in folder.iterdir():
        sealed.chmod(0o700)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def tiny(images):
    """The image of the tiny guest."""
    return make_image(images)


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """An environment whose caches and folders are the tests' own."""
    return {
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        "NTPROOF_HYPERVISOR_DIR": str(tmp_path_factory.mktemp("host-folder")),
        "HOME": str(tmp_path_factory.mktemp("home")),
    }


def settle(domain):
    """The tiny guest has settled when its shell answers."""
    tiny_linux.wait_until_reachable(domain.address_of)


@pytest.fixture
def request_for(tiny):
    """Makes lease requests for the tiny image."""
    from vm.windows.hypervisor.leasing import LeaseRequest

    def make(image=tiny, **changes):
        plain = LeaseRequest(image=image, content_key="tests", settle=settle, slots=4, waits=60.0)
        return replace(plain, **changes)

    return make


@pytest.fixture
def lease(daemon, environment, request_for):
    """Leases domains on the private daemon; they are given up at the end of the test at the latest."""
    from vm.windows.hypervisor.leasing import lease_domain

    leased = []

    def make(uri=None, **changes):
        domain = lease_domain(uri or daemon.uri, request_for(**changes), environment)
        leased.append(domain)
        return domain

    yield make
    for domain in reversed(leased):
        domain.close()


@pytest.fixture
def host(daemon):
    """A connection to the private daemon that is not the product's own: what is really there."""
    import libvirt

    connection = libvirt.open(daemon.uri)
    yield connection
    connection.close()


class Leftovers:
    """What is on the hypervisor's host beside the records of slots, golden sets and copies of images, if complete."""

    def __init__(self, daemon, folder):
        self._daemon = daemon
        self._folder = Path(folder)

    def now(self):
        import libvirt

        connection = libvirt.open(self._daemon.uri)
        try:
            names = {one.name() for one in connection.listAllDomains()}
        finally:
            connection.close()
        files = {path.name for path in self._folder.iterdir()}
        golden = {path.stem for kind in ("golden", "complete") for path in self._folder.glob(f"*.{kind}")}
        return (
            sorted(name for name in names if not name.startswith("ntproof-lease-")),
            sorted(name for name in files if name.rpartition(".")[0] not in golden),
            sorted(line.split()[0] for line in self._daemon.processes().values()),
        )

    def settled(self, expected, seconds=10.0):
        """What is left once it is as expected, or the time is over: a killed process takes a moment to go."""
        end = time.monotonic() + seconds
        while (found := self.now()) != expected and time.monotonic() < end:
            time.sleep(0.05)
        return found


@pytest.fixture
def leftovers(daemon, environment):
    return Leftovers(daemon, environment["NTPROOF_HYPERVISOR_DIR"])


@pytest.fixture
def nothing_left(leftovers):
    """Fails a test after which anything is there that was not there before."""
    before = leftovers.now()
    yield
    assert leftovers.settled(before) == before
