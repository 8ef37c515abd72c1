"""Hooks that the plugin calls, for others to implement in a conftest.py or a plugin of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vm.machine import Machine
    from vm.registry import MachineOptions


@pytest.hookspec
def pytest_ntproof_machines(config: pytest.Config) -> Mapping[str, Callable[[MachineOptions], Machine]]:  # type: ignore[empty-body]
    """Offer machines for ``--vm``: by name, a function that makes the machine as its options say."""
