"""Every way back on a real hypervisor, UEFI and TPM among them, and what becomes of one that the hypervisor refuses."""

from __future__ import annotations

import libvirt
import pytest

from tests.fixtures import tiny_linux
from tests.fixtures.tiny_image import make_image
from vm.errors import MachineBroken
from vm.windows.hypervisor.leasing import LeaseRequest
from vm.windows.hypervisor.libvirt_errors import OperationRefused, broken
from vm.windows.hypervisor.mark import Role
from vm.windows.hypervisor.reset import Capabilities, Strategy
from vm.windows.hypervisor.slot_machine import Blueprint, SlotMachine
from vm.windows.hypervisor.ways_back import ColdBootWay, GoldenSaveWay, SnapshotWay, Ways, prepare
from vm.windows.hypervisor.workplace import open_workplace
from vm.windows.leased_domain import DomainState
from vm.windows.profiles.profile import Firmware


def shell(domain, line):
    return tiny_linux.ask(domain.address_of(22), line).strip()


@pytest.fixture(scope="module")
def uefi(images):
    """An image with UEFI firmware, a TPM, and all enlightenments that QEMU's own translator has."""
    return make_image(
        images,
        "tiny-uefi",
        firmware=Firmware.UEFI,
        tpm=True,
        hyperv_panic=True,
        enlightenments=("relaxed", "vapic", "spinlocks"),
    )


@pytest.mark.usefixtures("nothing_left")
def test_a_uefi_guest_with_a_tpm_goes_back_by_its_golden_save(lease, uefi):
    domain = lease(image=uefi, settle=lambda one: tiny_linux.wait_until_reachable(one.address_of, seconds=180))

    for _ in range(2):
        assert shell(domain, "cat /tmp/dirty 2>/dev/null; echo dirty > /tmp/dirty") == ""
        domain.revert()
        tiny_linux.wait_until_reachable(domain.address_of)
    assert domain.details["reset"] == "golden save (the fastest)"


@pytest.mark.usefixtures("nothing_left")
def test_a_snapshot_undoes_what_the_guest_did_even_after_a_crash(lease):
    domain = lease(strategy=Strategy.INTERNAL_SNAPSHOT)
    shell(domain, "echo dirty > /tmp/dirty")
    tiny_linux.tell(domain.address_of(22), "echo c > /proc/sysrq-trigger")
    assert domain.wait_for_panic(10) is not None

    domain.revert()

    tiny_linux.wait_until_reachable(domain.address_of)
    assert domain.state() is DomainState.RUNNING
    assert domain.panic() is None
    assert shell(domain, "ls /tmp") == ""
    domain.revert()
    tiny_linux.wait_until_reachable(domain.address_of)


@pytest.mark.usefixtures("nothing_left")
def test_a_cold_boot_settles_the_guest_each_time(lease):
    settled = []

    def settle(domain):
        settled.append(domain.name)
        tiny_linux.wait_until_reachable(domain.address_of)

    domain = lease(strategy=Strategy.COLD_BOOT, settle=settle)
    shell(domain, "echo dirty > /tmp/dirty")

    domain.revert()

    assert shell(domain, "ls /tmp") == ""
    assert settled == [domain.name] * 2


@pytest.mark.usefixtures("nothing_left")
def test_a_way_that_was_asked_for_and_is_refused_says_so(lease, uefi):
    with pytest.raises(OperationRefused, match="pflash based firmware"):
        lease(
            image=uefi,
            strategy=Strategy.INTERNAL_SNAPSHOT,
            settle=lambda one: tiny_linux.wait_until_reachable(one.address_of, seconds=180),
        )


class RefusedWay:
    """A way that the hypervisor refuses."""

    def __init__(self, refusal=None):
        self.refusal = refusal or OperationRefused("the hypervisor cannot do that")

    def prepare(self, settle):
        raise self.refusal

    def revert(self, settle):
        raise AssertionError("it was never prepared")


class WorkingWay(RefusedWay):
    """A way that works."""

    def prepare(self, settle):
        settle()


class Machine:
    """A domain that counts how often nothing is to be left of it."""

    name = "a-1"
    cleared = 0

    def clear_away(self):
        self.cleared += 1


@pytest.mark.parametrize(
    ("ways", "strategy", "words"),
    [
        (Ways(WorkingWay(), RefusedWay(), RefusedWay()), Strategy.GOLDEN_SAVE, "the fastest"),
        (Ways(RefusedWay(), WorkingWay(), RefusedWay()), Strategy.INTERNAL_SNAPSHOT, "the hypervisor refused"),
        (Ways(RefusedWay(), RefusedWay(), WorkingWay()), Strategy.COLD_BOOT, "no golden save: the hypervisor refused"),
    ],
)
def test_the_next_way_is_taken_when_the_hypervisor_refuses_one(ways, strategy, words):
    machine, settled = Machine(), []

    way, plan = prepare(machine, ways, Capabilities(libvirt=(9, 0, 0), uefi=False), lambda: settled.append(1))

    assert way is ways.of(strategy)
    assert plan.strategy is strategy
    assert words in plan.reason
    assert settled == [1]
    assert machine.cleared == len(plan.rejected)


@pytest.mark.usefixtures("nothing_left")
def test_a_refused_snapshot_leaves_no_definition_in_the_way_of_a_cold_boot(daemon, images, environment, uefi):
    with open_workplace(daemon.uri, images, environment=environment) as place:
        blueprint = Blueprint(
            image=uefi,
            base=uefi.disk,
            slot="tiny-uefi-9",
            accelerator=place.accelerator.accelerator,
            mark=place.mark(Role.CLONE, image="tiny-uefi", slot="tiny-uefi-9"),
        )
        machine = SlotMachine(place.connection, place.events, place.folder, blueprint)
        machine.clear_away()
        ways = Ways(RefusedWay(), SnapshotWay(machine, lambda _line: None), ColdBootWay(machine, lambda _line: None))

        # As with a libvirt that makes such snapshots, and a guest that cannot be saved.
        _, plan = prepare(machine, ways, Capabilities(libvirt=(10, 10, 0), uefi=True), lambda: None)

        assert plan.strategy is Strategy.COLD_BOOT
        assert machine.state() is DomainState.RUNNING
        machine.remove()


def test_when_every_way_is_refused_the_last_refusal_is_told():
    ways = Ways(RefusedWay(), RefusedWay(), RefusedWay())

    with pytest.raises(OperationRefused):
        prepare(Machine(), ways, Capabilities(libvirt=(9, 0, 0), uefi=False), lambda: None)


class ShortOfMemory(Machine):
    """A domain for which the hypervisor has no memory just now."""

    def restore(self, golden):
        error = libvirt.libvirtError("restore failed")
        error.err = (
            libvirt.VIR_ERR_INTERNAL_ERROR,
            libvirt.VIR_FROM_QEMU,
            "cannot set up guest memory 'pc.ram': Cannot allocate memory",
        )
        raise broken(error, "domain a-1: its saved memory cannot be restored")

    def require_hypervisor(self):
        pass


class WholeSets:
    """Golden sets of which one is complete; nothing else may be done with them."""

    def find(self, key):
        return f"golden set {key}"


def test_a_golden_set_stays_when_the_hypervisor_is_only_short_of_memory():
    way = GoldenSaveWay(ShortOfMemory(), WholeSets(), "key", None, lambda _line: None)

    with pytest.raises(MachineBroken, match="free memory on the hypervisor, or run fewer machines at once"):
        way.prepare(lambda: None)


def test_a_memory_that_cannot_be_saved_is_refused_although_libvirt_gives_it_no_number_of_its_own():
    error = libvirt.libvirtError("save failed")
    words = "Requested operation is not valid: cannot migrate domain: State blocked by non-migratable CPU device"
    error.err = (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_QEMU, words)

    refusal = broken(error, "domain a: its memory cannot be saved")

    assert isinstance(refusal, OperationRefused)
    settled, ways = [], Ways(RefusedWay(refusal), WorkingWay(), WorkingWay())
    way, plan = prepare(Machine(), ways, Capabilities(libvirt=(9, 0, 0), uefi=False), lambda: settled.append(1))
    assert way is ways.cold_boot, "a snapshot holds the memory too"
    assert "State blocked by non-migratable CPU device" in plan.reason
    assert settled == [1]


def test_slots_are_named_after_their_image_and_counted_from_one(tiny):
    request = LeaseRequest(image=tiny, content_key="", settle=lambda _domain: None, slots=3)

    assert request.slot_names == ("tiny-1", "tiny-2", "tiny-3")
