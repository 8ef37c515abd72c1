"""A pytest plugin that puts a machine in place of the emulated one that is out of order from the beginning."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from vm.errors import MachineBroken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def pytest_ntproof_machines() -> Mapping[str, Callable[[str], NoReturn]]:
    """Replace the emulated machine."""

    def make(_profile: str) -> NoReturn:
        raise MachineBroken("out of order")

    return {"emulated": make}
