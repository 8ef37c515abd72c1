"""What these tests need beyond the core: absent, they skip with one line; in CI that is a failure."""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest

MODULES = ("pypsrp", "paramiko", "psrpcore")


def require_remoting(*more):
    missing = [name for name in (*MODULES, *more) if importlib.util.find_spec(name) is None]
    if not missing:
        return
    message = f"{', '.join(missing)} missing: pip install 'ntproof[windows,dev]'"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message, allow_module_level=True)


def require_program(name, package):
    """A program that one test runs; without it the test skips, and fails in CI."""
    if shutil.which(name) is not None:
        return
    message = f"{name} is missing: apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
