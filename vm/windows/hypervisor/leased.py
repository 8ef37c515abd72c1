"""A leased domain on libvirt: what a Windows machine asks, over a slot's domain, its way back and its lease."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from vm.errors import MachineBroken
from vm.windows.hypervisor import evidence
from vm.windows.hypervisor.accelerator import Choice
from vm.windows.hypervisor.crash import GuestPanic, best_of
from vm.windows.hypervisor.domain_log import DomainLog
from vm.windows.hypervisor.file_marks import name_in
from vm.windows.hypervisor.lease_keeper import LeaseKeeper
from vm.windows.hypervisor.reset import Plan
from vm.windows.hypervisor.slot_machine import SlotMachine
from vm.windows.hypervisor.ways_back import WayBack
from vm.windows.leased_domain import Address, DomainState

_LOG = logging.getLogger(__name__)


class LibvirtDomain:
    """A `LeasedDomain`.

    Args:
        machine: the slot's domain.
        keeper: holds the lease.
        log: the domain's log on the hypervisor's host.
        accelerator: what runs the guest's instructions, and why.
        versions: of the hypervisor's parts.
    """

    def __init__(
        self,
        machine: SlotMachine,
        keeper: LeaseKeeper,
        log: DomainLog,
        accelerator: Choice,
        versions: Mapping[str, str],
    ) -> None:
        self._machine = machine
        self._keeper = keeper
        self._log = log
        self._facts = {
            "hypervisor": ", ".join(f"{part} {number}" for part, number in versions.items()),
            "accelerator": accelerator.reason,
        }
        self._way: WayBack | None = None
        self._settle: Callable[[], None] = _nothing
        self._resources = ExitStack()
        self._closed = False

    @property
    def name(self) -> str:
        """Its name, which is unique on the hypervisor."""
        return self._machine.name

    @property
    def details(self) -> Mapping[str, str]:
        """What belongs into reports; ``ended`` says why the domain is off, while it is."""
        ended = self._machine.watch.ended
        return dict(self._facts) if ended is None else {**self._facts, "ended": ended}

    def hand_out(self, way: WayBack, plan: Plan, settle: Callable[[], None], resources: ExitStack) -> None:
        """Take what ends with the domain, once it was brought into its golden state.

        Args:
            way: the way back, by which it came there.
            plan: why that way was chosen.
            settle: brings a guest into that state that was started.
            resources: all that is to be closed with the domain.
        """
        self._way = way
        self._settle = settle
        self._resources = resources
        self._facts["reset"] = f"{plan.strategy.value} ({plan.reason})"

    def address_of(self, guest_port: int) -> Address:
        """Where a TCP port of the guest is reached; the same until the domain is reverted or boots again."""
        self._require()
        return self._machine.address_of(guest_port)

    def state(self) -> DomainState:
        """What it does now."""
        self._require()
        return self._machine.state()

    def panic(self) -> GuestPanic | None:
        """The guest's panic since it was reverted or booted last, None where there was none."""
        self._require()
        return self._completed(self._machine.watch.panic)

    def when_stopped(self, callback: Callable[[], None] | None) -> None:
        """Have a function called once the guest panics or the domain goes off; None takes the last one back.

        It is called as well when the hypervisor or the lease is lost: nothing more comes of the guest then.
        """
        self._machine.watch.when_stopped(callback)

    def wait_for_panic(self, seconds: float) -> GuestPanic | None:
        """The guest's panic, waiting for it at most `seconds`; None when none came."""
        self._require()
        panic = self._machine.watch.wait_for_panic(seconds)
        self._require()
        return self._completed(panic)

    def revert(self) -> None:
        """Go back to the golden state, whatever the domain does now."""
        self._require()
        # It destroys the domain of this name.
        self._keeper.confirm()
        assert self._way is not None
        self._log.begin()
        self._way.revert(self._settle)

    def boot_again(self) -> None:
        """Have a guest that crashed boot from its disk as it is, so that it writes its dump."""
        self._require()
        self._log.begin()
        self._machine.boot_again()

    def inject_nmi(self) -> None:
        """Interrupt a guest that hangs."""
        self._require()
        self._machine.handle.inject_nmi()

    def collect(self, folder: Path) -> tuple[Path, ...]:
        """Write what the hypervisor can show of the guest into a folder: screen, memory dump, serial log."""
        self._require()
        blueprint = self._machine.blueprint
        return evidence.collect(
            self._machine.handle if self._machine.is_started else None,
            self._machine.folder,
            folder,
            serial=self._machine.serial_log(),
            scratch=name_in(blueprint.run_set, "dump"),
            memory_mib=blueprint.image.manifest.profile.hardware.memory_mib,
        )

    def close(self) -> None:
        """Give the domain up: it is destroyed, its overlay removed, its slot released. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        self._machine.watch.when_stopped(None)
        self._resources.close()

    def _require(self) -> None:
        if self._closed:
            raise MachineBroken(f"domain {self.name}: it was given up; lease another one")
        self._keeper.require()
        self._machine.require_hypervisor()

    def _completed(self, panic: GuestPanic | None) -> GuestPanic | None:
        """A panic with what the domain's log knows of it, where the event did not say it."""
        if panic is None or panic.code is not None:
            return panic
        return best_of(panic, self._log.panic())


def _nothing() -> None:
    """Do nothing: a domain that is being prepared has no way back yet."""
