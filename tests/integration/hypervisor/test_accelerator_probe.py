"""The probe of KVM on this computer's hypervisor: what it says is what running a guest showed, not what is offered."""

from __future__ import annotations

import time

import pytest

from vm.windows.hypervisor.accelerator import DEADLINE, Choice, Observation, choose
from vm.windows.hypervisor.accelerator_memory import AcceleratorMemory
from vm.windows.hypervisor.accelerator_probe import observe
from vm.windows.hypervisor.domain_xml import Accelerator
from vm.windows.hypervisor.mark import Role
from vm.windows.hypervisor.uri import HypervisorUri
from vm.windows.hypervisor.workplace import open_workplace

LOCAL = HypervisorUri.parse("qemu:///system")


@pytest.mark.usefixtures("nothing_left")
def test_the_probe_runs_for_real_and_ends_in_time(daemon, images, environment):
    with open_workplace(daemon.uri, images, environment=environment) as place:
        start = time.monotonic()
        found = observe(place.connection, place.events, place.folder, place.mark(Role.PROBE), "ntproof-probe-test")
        took = time.monotonic() - start

    assert isinstance(found, Observation)
    if found.offered and not found.refused:
        assert found.crashed_after is None or found.crashed_after <= took
        # A computer whose KVM works needs far less than the deadline, and one whose KVM crawls all of it.
        assert took < DEADLINE + 20


@pytest.mark.usefixtures("nothing_left")
def test_the_same_probe_without_kvm_gets_to_its_end(daemon, images, environment, monkeypatch):
    """QEMU's own translator runs it: so a probe that does not get there failed for want of KVM and not of its own."""
    from dataclasses import replace

    from vm.windows.hypervisor import accelerator_probe

    def translated(*arguments):
        return replace(probe_domain(*arguments), accelerator=Accelerator.QEMU)

    probe_domain = accelerator_probe.probe_domain
    monkeypatch.setattr(accelerator_probe, "probe_domain", translated)
    monkeypatch.setattr(accelerator_probe, "DEADLINE", 60.0)
    with open_workplace(daemon.uri, images, environment=environment) as place:
        found = observe(place.connection, place.events, place.folder, place.mark(Role.PROBE), "ntproof-probe-tcg")

    assert found.crashed_after is not None


def test_a_choice_is_remembered_for_the_same_versions_and_hypervisor_only(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    choice = Choice(Accelerator.KVM, "KVM: the probe ran in 0.7 s")
    memory = AcceleratorMemory(environment, LOCAL, {"qemu": "7.2.0"})
    assert memory.recall() is None

    memory.keep(choice)

    assert AcceleratorMemory(environment, LOCAL, {"qemu": "7.2.0"}).recall() == choice
    assert AcceleratorMemory(environment, LOCAL, {"qemu": "8.0.0"}).recall() is None
    assert AcceleratorMemory(environment, HypervisorUri.parse("qemu:///session"), {"qemu": "7.2.0"}).recall() is None
    other = HypervisorUri.parse("qemu:///system?socket=/run/another")
    assert AcceleratorMemory(environment, other, {"qemu": "7.2.0"}).recall() is None
    far = AcceleratorMemory(environment, HypervisorUri.parse("qemu+ssh://far/system"), {"qemu": "7.2.0"})
    far.keep(choice)
    assert far.recall() is None, "when it started anew cannot be seen from here"


@pytest.mark.parametrize(
    ("seen", "kept"),
    [
        (Observation(offered=True, crashed_after=0.7), True),
        (Observation(offered=True), True),
        (Observation(offered=True, refused="/dev/kvm: Permission denied"), False),
        (Observation(offered=False), False),
    ],
)
def test_what_may_be_otherwise_the_next_time_is_not_remembered(tmp_path, seen, kept):
    memory = AcceleratorMemory({"XDG_CACHE_HOME": str(tmp_path)}, LOCAL, {})

    memory.keep(choose(seen))

    assert memory.recall() == (choose(seen) if kept else None)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"accelerator": "magic", "reason": ""}'])
def test_a_damaged_memory_is_none(tmp_path, content):
    memory = AcceleratorMemory({"XDG_CACHE_HOME": str(tmp_path)}, LOCAL, {})
    memory.keep(Choice(Accelerator.QEMU, "TCG"))
    next((tmp_path / "ntproof").iterdir()).write_text(content)

    assert memory.recall() is None


def test_where_nothing_can_be_kept_nothing_is_remembered(tmp_path):
    (tmp_path / "file").write_text("")
    memory = AcceleratorMemory({"XDG_CACHE_HOME": str(tmp_path / "file")}, LOCAL, {})
    memory.keep(Choice(Accelerator.QEMU, "TCG"))

    assert memory.recall() is None
    assert AcceleratorMemory({}, LOCAL, {}).recall() is None
