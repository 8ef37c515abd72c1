"""The driver under test as a program sees it: an open handle of its device, typed by its public header."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

from harness.abi import Abi, AbiViolation, Rule, Statistics, Version, load_abi
from harness.notification import Notification
from vm.machine import Account, DeviceAccess, DeviceHandle, Machine, PendingRequest

READ_BYTES: Final = 0x40000
"""Output buffer of a read: larger than the longest record."""


class PendingRead:
    """A read under way.

    Attributes:
        request: the device request itself, to be cancelled or asked whether it is done.
    """

    def __init__(self, request: PendingRequest, abi: Abi) -> None:
        self.request = request
        self._abi = abi

    @property
    def done(self) -> bool:
        """True once the driver has completed it."""
        return self.request.done

    def cancel(self) -> None:
        """Ask for cancellation; `wait` then raises ERROR_OPERATION_ABORTED."""
        self.request.cancel()

    def wait(self, deadline: float = 10.0) -> list[Notification]:
        """The notifications, once there are some; at most `deadline` seconds of the machine's time.

        Raises:
            Win32Error: the driver completed the read with an error.
            TimeoutError: nothing came.
            AbiViolation: the driver's output is malformed.
        """
        return self._abi.decode_notifications(self.request.wait(deadline))


class ProcNotify:
    """An open handle of the procnotify device. Use it as a context manager, or close it.

    Each method raises Win32Error when the driver fails the request and AbiViolation when its answer is malformed.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        account: Account = Account.ADMINISTRATOR,
        access: DeviceAccess = DeviceAccess.READ | DeviceAccess.WRITE,
        abi: Abi | None = None,
    ) -> None:
        """Open the device.

        Raises:
            Win32Error: ERROR_FILE_NOT_FOUND 2 when the driver does not run, ERROR_ACCESS_DENIED 5.
        """
        self.abi = abi if abi is not None else load_abi()
        self.handle: DeviceHandle = machine.open_device(self.abi.text("WIN32_NAME"), access, account=account)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the handle; closing twice does nothing."""
        self.handle.close()

    def version(self) -> Version:
        """Interface version, capabilities and limits."""
        code = self.abi.integer("IOCTL_PROCNOTIFY_GET_VERSION")
        return self.abi.decode_version(self.handle.control(code, b"", self.abi.version_size))

    def statistics(self) -> Statistics:
        """The driver's counters."""
        code = self.abi.integer("IOCTL_PROCNOTIFY_GET_STATISTICS")
        return self.abi.decode_statistics(self.handle.control(code, b"", self.abi.statistics_size))

    def set_rules(self, rules: Iterable[Rule]) -> None:
        """Replace the rules. An invalid set is sent as it is: Win32Error then tells that the driver refused it."""
        self.handle.control(self.abi.integer("IOCTL_PROCNOTIFY_SET_RULES"), self.abi.encode_rules(rules))

    def get_rules(self) -> tuple[Rule, ...]:
        """The rules in force, in order."""
        size = self.statistics().rules_size
        return self.abi.decode_rules(self.handle.control(self.abi.integer("IOCTL_PROCNOTIFY_GET_RULES"), b"", size))

    def read(self, size: int = READ_BYTES) -> list[Notification]:
        """One read that does not wait: what fits in `size` bytes, nothing when the queue is empty."""
        data = self.handle.control(self._read_code, self.abi.encode_read(no_wait=True), size)
        return self.abi.decode_notifications(data)

    def read_available(self, size: int = READ_BYTES) -> list[Notification]:
        """Read without waiting until the queue is empty.

        Raises:
            AbiViolation: the driver hands out more than its queue can ever hold.
        """
        found: list[Notification] = []
        budget = self.abi.integer("QUEUE_BYTES_MAXIMUM")
        taken = 0
        while data := self.handle.control(self._read_code, self.abi.encode_read(no_wait=True), size):
            found += self.abi.decode_notifications(data)
            taken += len(data)
            if taken > budget:
                raise AbiViolation(0, f"{taken} bytes read and the queue is still not empty; it holds at most {budget}")
        return found

    def start_read(self, size: int = READ_BYTES) -> PendingRead:
        """A read that waits for the next notifications (overlapped)."""
        request = self.handle.start_control(self._read_code, self.abi.encode_read(no_wait=False), size)
        return PendingRead(request, self.abi)

    @property
    def _read_code(self) -> int:
        return self.abi.integer("IOCTL_PROCNOTIFY_READ")
