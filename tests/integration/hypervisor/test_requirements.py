"""Whether the tests beside this one can run here; a build server must have what they need."""

from __future__ import annotations

import os

import pytest

from tests.integration.hypervisor.conftest import absent


def test_what_hypervisor_tests_need_is_here():
    message = absent()
    if message and os.environ.get("CI") != "true":
        pytest.skip(message)

    assert not message
