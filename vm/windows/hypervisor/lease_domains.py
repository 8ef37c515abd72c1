"""The records of leases as domains of a real hypervisor: what `lease_records` asks, on libvirt's calls."""

from __future__ import annotations

from collections.abc import Iterable

from vm.errors import MachineBroken
from vm.windows.hypervisor.connection import Connection
from vm.windows.hypervisor.lease_records import record_domain
from vm.windows.hypervisor.mark import Mark


class LibvirtRecordDomains:
    """Domains of a connection that are never started.

    Args:
        connection: to the hypervisor.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def names(self) -> Iterable[str]:
        """Names of all domains of the hypervisor, whoever they belong to."""
        return [one.name for one in self._connection.domains()]

    def create(self, name: str, mark: Mark) -> bool:
        """Define a domain with a fresh identity; False, and nothing done, where the name exists.

        libvirt refuses a name that a domain of another identity has, so of several that define it one succeeds.
        """
        try:
            self._connection.define(record_domain(name, mark))
        except MachineBroken:
            if self._connection.find(name) is not None:
                return False
            raise
        return True

    def marked(self, name: str) -> tuple[bool, Mark | None]:
        """Whether the domain exists, and its mark, None where it has none that can be read."""
        found = self._connection.find(name)
        if found is None:
            return False, None
        mark = found.mark()
        # It may have been removed between the two calls.
        return (True, mark) if mark is not None or self._connection.find(name) is not None else (False, None)

    def remove(self, name: str) -> None:
        """Undefine a domain; one that is gone is no error."""
        found = self._connection.find(name)
        if found is not None:
            found.undefine()
