"""A handle of the driver's device whose notifications are held against what is true of every Windows history.

Tests that talk to the driver directly have no scenario for the model to predict from. What they read is judged all the
same: a hole in the sequence numbers or an exit before its creation fails the test, whatever the test itself asserts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.driver import READ_BYTES, PendingRead, ProcNotify
from vm.machine import Account, DeviceAccess, Machine, PendingRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.abi import Abi
    from harness.notification import Notification


class ObservedPendingRead(PendingRead):
    """A read under way whose notifications are observed when it is waited for."""

    def __init__(self, request: PendingRequest, abi: Abi, feed: Callable[[Sequence[Notification]], None]) -> None:
        super().__init__(request, abi)
        self._feed = feed

    def wait(self, deadline: float = 10.0) -> list[Notification]:
        """See `PendingRead.wait`."""
        found = super().wait(deadline)
        self._feed(found)
        return found


class ObservedProcNotify(ProcNotify):
    """See `ProcNotify`. Every notification read is fed to an observer, in the order of the reads."""

    def __init__(
        self,
        machine: Machine,
        feed: Callable[[Sequence[Notification]], None],
        *,
        account: Account = Account.ADMINISTRATOR,
        access: DeviceAccess = DeviceAccess.READ | DeviceAccess.WRITE,
    ) -> None:
        super().__init__(machine, account=account, access=access)
        self._feed = feed

    def read(self, size: int = READ_BYTES) -> list[Notification]:
        """See `ProcNotify.read`."""
        found = super().read(size)
        self._feed(found)
        return found

    def read_available(self, size: int = READ_BYTES) -> list[Notification]:
        """See `ProcNotify.read_available`."""
        found = super().read_available(size)
        self._feed(found)
        return found

    def start_read(self, size: int = READ_BYTES) -> PendingRead:
        """See `ProcNotify.start_read`."""
        return ObservedPendingRead(super().start_read(size).request, self.abi, self._feed)
