"""A machine with the misuse driver, booted once per session and put back for each test."""

from __future__ import annotations

import pytest

from tests.fixtures.misuse import DEVICE, Misuse


@pytest.fixture(scope="session")
def booted():
    found = Misuse()
    found.handle.close()
    found.checkpoint = found.machine.checkpoint()
    yield found
    found.machine.close()


@pytest.fixture
def misuse(booted):
    booted.machine.restore(booted.checkpoint)
    booted.handle = booted.machine.open_device(DEVICE)
    return booted
