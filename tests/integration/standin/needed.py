"""What the stand-in guest needs of this computer."""

from __future__ import annotations

import importlib.util
import shutil

from tests.fixtures.libvirtd import missing_packages

TOOLS = {"apt-get": "apt", "dpkg-deb": "dpkg", "wimlib-imagex": "wimtools", "mformat": "mtools"}


def absent():
    """What these tests need and this computer lacks, with its remedy; empty when nothing is missing."""
    if importlib.util.find_spec("libvirt") is None:
        return "libvirt-python is missing: apt-get install libvirt-dev pkg-config gcc python3-dev, then ci/setup"
    packages = (*missing_packages(), *(one for tool, one in TOOLS.items() if shutil.which(tool) is None))
    return f"missing: apt-get install {' '.join(packages)}" if packages else ""
