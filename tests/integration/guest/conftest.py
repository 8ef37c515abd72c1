"""Runs the guest programs for real, under Wine."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from harness.build.guest_tools import build_guest_tools
from harness.build.layout import build_directory
from tests.integration.guest.wine import Agent, Wine, copy_prefix, make_base, wine_program


@pytest.fixture(scope="session")
def guest_tools():
    return build_guest_tools()


@contextlib.contextmanager
def prepared_prefix(guest_tools):
    """A Wine prefix with the guest programs in it, in which a program runs as long as the prefix is there."""
    program = wine_program()
    if program is None:
        message = "Wine is absent: apt-get install wine64 wine"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    folder = build_directory() / "wine"
    folder.mkdir(parents=True, exist_ok=True)
    base = make_base(program, folder)
    with tempfile.TemporaryDirectory(prefix="prefix-", dir=folder) as name:
        wine = Wine(program, copy_prefix(base, Path(name) / "wine"))
        for path in (guest_tools.ntguest, guest_tools.child):
            shutil.copy2(path, wine.folder / path.name)
        # With its last program Wine ends its services, and drivers with them; so one program stays.
        keeper = Agent(wine)
        try:
            keeper.do("hello")
            yield wine
        finally:
            keeper.close()
            wine.close()


@pytest.fixture(scope="session")
def wine(guest_tools):
    with prepared_prefix(guest_tools) as wine:
        yield wine


@pytest.fixture
def own_wine(guest_tools):
    """A prefix that a test may leave in any state."""
    with prepared_prefix(guest_tools) as wine:
        yield wine


@pytest.fixture
def agent(wine):
    agent = Agent(wine)
    yield agent
    assert agent.close() == 0
