"""Domains as XML: one golden file for each kind of machine, and every property in at least one of them."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm.errors import MachineConfigurationError
from vm.windows import profiles
from vm.windows.hypervisor import accelerator as probe
from vm.windows.hypervisor.devices import Bus, CacheMode, PanicModel
from vm.windows.hypervisor.domain_xml import Accelerator, CpuMode, CrashAction, Domain, OperatingSystem
from vm.windows.hypervisor.domains import ENLIGHTENMENTS, Files, build_domain, check_supported, clone_of
from vm.windows.hypervisor.lease_records import record_domain
from vm.windows.hypervisor.mark import Mark, Owner, Role, Term
from vm.windows.hypervisor.xml_fields import XmlError
from vm.windows.profiles.profile import DiskBus, Firmware, NetworkModel

GOLDEN = Path(__file__).parent / "golden"
PROFILES = ("win10-22h2", "win11-24h2", "server2022", "server2025")
OWNER = Owner(
    host="builder",
    boot="4f6c1f3e-0000-4000-8000-000000000001",
    pid_namespace="pid:[4026531836]",
    user="tester",
    pid=4242,
    started=998877,
    worker="gw1",
)
MARK = Mark(
    role=Role.CLONE, created_by="ntproof 0.1.0", created=1_700_000_000, image="an-image", slot="a-0", owner=OWNER
)
IMAGES = Path("/images/an-image")
RUN = Path("/run-files/slot 0 & <co>")
WIN11 = profiles.load("win11").hardware


def files(hardware, **changes):
    uefi = hardware.firmware is Firmware.UEFI
    made = Files(
        disk=RUN / "disk.qcow2",
        backing=IMAGES / "disk.qcow2",
        variables=RUN / "nvram.fd" if uefi else None,
        serial_log=RUN / "serial.log",
    )
    return replace(made, **changes)


def build(hardware, accelerator=Accelerator.KVM, *, nested=False, **changes):
    return build_domain(
        hardware,
        files(hardware, **changes),
        name="ntproof-a-0",
        accelerator=accelerator,
        mark=MARK,
        nested=nested,
    )


def of_profile(name, accelerator):
    profile = profiles.load(name)
    return build(profile.hardware, accelerator, nested=profile.features.memory_integrity)


def domains():
    """Every kind of machine, by the name of its golden file."""
    found = {f"{name}-{kind.value}": of_profile(name, kind) for name in PROFILES for kind in Accelerator}
    media = (Path("/iso/windows.iso"), Path("/iso/answers.iso"))
    found["installation"] = build(WIN11, backing=None, media=media)
    everything = replace(
        WIN11,
        secure_boot=True,
        disk_bus=DiskBus.NVME,
        network=NetworkModel.VIRTIO,
        enlightenments=tuple(sorted(ENLIGHTENMENTS)),
    )
    found["secure-boot-nvme"] = replace(build(everything), uuid="9a4c0f5e-52b8-4d5c-9d5f-0c2a7f3e1d42")
    found["virtio-scsi"] = build(replace(WIN11, disk_bus=DiskBus.VIRTIO_SCSI, enlightenments=()))
    found["clone-of-clone"] = clone_of(
        build(WIN11), disk=RUN / "overlay.qcow2", variables=RUN / "overlay.fd", mark=MARK, serial_log=None
    )
    linux = OperatingSystem(
        kernel=Path("/boot/vmlinuz"), initrd=Path("/boot/initrd"), command_line="console=ttyS0 a=b&c"
    )
    found["linux-kernel"] = replace(of_profile("win10", Accelerator.QEMU), os=linux)
    record = replace(
        MARK, role=Role.LEASE, term=Term(heartbeat_ms=1_700_000_000_123, lifetime_ms=60_000, released=True)
    )
    found["lease"] = record_domain("ntproof-lease-a-0-v17", record)
    found["probe"] = probe.probe_domain("ntproof-probe", Path("/run-files/probe.rom"), replace(MARK, role=Role.PROBE))
    return found


DOMAINS = domains()


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_a_domain_is_what_its_golden_file_says(name, golden):
    golden(GOLDEN / f"{name}.xml", DOMAINS[name].to_xml())


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_a_domain_comes_back_from_its_golden_file(name):
    assert Domain.from_xml((GOLDEN / f"{name}.xml").read_text()) == DOMAINS[name]


def test_no_golden_file_is_left_over():
    assert {path.stem for path in GOLDEN.iterdir()} == set(DOMAINS)


def properties(kind, found):
    """Every field of a class, and of the classes that its values have."""
    for field in fields(kind):
        found.setdefault((kind.__name__, field.name), set())


def collect(value, found):
    properties(type(value), found)
    for field in fields(value):
        one = getattr(value, field.name)
        parts = one if isinstance(one, tuple) else (one,)
        for each in parts:
            if is_dataclass(each):
                collect(each, found)
            if each is not None and each is not False:
                found[type(value).__name__, field.name].add(repr(each))


def exercised(listed):
    found = {}
    for domain in listed:
        collect(domain, found)
    return found


# Set to false on purpose, which the document says; they have no true anywhere.
SAID_TO_BE_FALSE = {("Domain", "suspend_to_memory"), ("Domain", "suspend_to_disk"), ("Serial", "append")}


def test_every_property_is_in_some_golden_file():
    seen = exercised(Domain.from_xml(path.read_text()) for path in GOLDEN.iterdir())

    assert {key for key, values in seen.items() if not values} == SAID_TO_BE_FALSE


def test_a_property_that_no_golden_file_has_is_noticed():
    seen = exercised([DOMAINS["win10-22h2-kvm"]])

    assert ("OperatingSystem", "kernel") in {key for key, values in seen.items() if not values}


# Another value for each property of the hardware than Windows 11 has.
OTHER_HARDWARE = {
    "firmware": Firmware.BIOS,
    "secure_boot": True,
    "tpm": False,
    "memory_mib": 2048,
    "cpus": 3,
    "disk_bus": DiskBus.VIRTIO_SCSI,
    "network": NetworkModel.VIRTIO,
    "hyperv_panic": False,
    "enlightenments": ("relaxed",),
}


def test_every_property_of_the_hardware_but_the_disk_s_size_has_another_value_here():
    """The size is the file's, which is made before the domain."""
    assert {field.name for field in fields(WIN11)} == set(OTHER_HARDWARE) | {"disk_gib"}


@pytest.mark.parametrize("name", sorted(OTHER_HARDWARE))
def test_a_property_of_the_hardware_changes_the_domain(name):
    assert build(replace(WIN11, **{name: OTHER_HARDWARE[name]})).to_xml() != build(WIN11).to_xml()


@pytest.mark.parametrize("name", PROFILES)
def test_without_kvm_the_processor_is_the_most_that_qemu_has(name):
    domain = of_profile(name, Accelerator.QEMU)

    assert domain.cpu is not None
    assert domain.cpu.mode is CpuMode.MAXIMUM
    assert "host-passthrough" not in domain.to_xml()
    assert "vpindex" not in domain.to_xml()
    assert "synic" not in domain.to_xml(), "synic needs vpindex"


def test_with_kvm_all_enlightenments_of_the_profile_are_on():
    hyperv = build(WIN11).features.hyperv

    assert all(getattr(hyperv, name) for name in WIN11.enlightenments)


def test_a_crashed_guest_stays_for_its_dump():
    assert build(WIN11).on_crash is CrashAction.PRESERVE


def test_the_bugcheck_is_reported_through_both_panic_devices_unless_the_profile_says_otherwise():
    assert [one.model for one in build(WIN11).devices.panics] == [PanicModel.ISA, PanicModel.HYPERV]
    assert [one.model for one in build(replace(WIN11, hyperv_panic=False)).devices.panics] == [PanicModel.ISA]


def test_only_memory_integrity_gives_the_guest_virtualization():
    assert {one.name for one in build(WIN11).cpu.features} == {"vmx", "svm"}
    assert build(WIN11, nested=True).cpu.features == ()


def test_an_overlay_may_lose_writes_but_what_is_kept_may_not():
    assert build(WIN11).devices.disks[0].cache is CacheMode.UNSAFE
    assert build(WIN11, backing=None).devices.disks[0].cache is CacheMode.WRITEBACK


def test_a_clone_keeps_what_libvirt_does_not_let_change():
    golden_domain = build(WIN11, backing=None)

    clone = clone_of(golden_domain, disk=RUN / "c.qcow2", variables=RUN / "c.fd", mark=MARK, serial_log=RUN / "c.log")

    assert clone.name == golden_domain.name
    assert clone.network == golden_domain.network
    assert clone.devices.disks[0].backing.path == golden_domain.devices.disks[0].path
    assert clone.devices.disks[0].backing.pinned
    assert clone.os.variables == RUN / "c.fd"


def test_a_clone_of_a_uefi_machine_needs_its_own_variables():
    with pytest.raises(MachineConfigurationError, match="firmware variables"):
        clone_of(build(WIN11), disk=RUN / "c", variables=None, mark=MARK, serial_log=None)


def test_a_clone_needs_a_disk_to_stand_on():
    with pytest.raises(MachineConfigurationError, match="no disk"):
        clone_of(DOMAINS["probe"], disk=RUN / "c", variables=None, mark=MARK, serial_log=None)


def test_every_file_below_a_clone_is_named_so_that_no_image_chooses_one():
    clone = clone_of(build(WIN11), disk=RUN / "c", variables=RUN / "v", mark=MARK, serial_log=None)

    golden_disk = clone.devices.disks[0].backing
    assert (golden_disk.path, golden_disk.below.path) == (RUN / "disk.qcow2", IMAGES / "disk.qcow2")
    assert golden_disk.pinned
    assert golden_disk.below.pinned


def test_uefi_without_a_file_for_its_variables_is_refused():
    with pytest.raises(MachineConfigurationError, match="variables"):
        build(WIN11, variables=None)


def test_an_unknown_enlightenment_is_refused_with_the_known_ones():
    with pytest.raises(MachineConfigurationError, match=r"'telepathy' is not known; choose from .*vapic"):
        build(replace(WIN11, enlightenments=("telepathy",)))


def test_an_enlightenment_that_lacks_what_it_needs_is_refused():
    with pytest.raises(MachineConfigurationError, match="'stimer' needs 'vpindex'"):
        build(replace(WIN11, enlightenments=("stimer", "relaxed")))


def test_an_nvme_disk_needs_a_new_libvirt():
    domain = DOMAINS["secure-boot-nvme"]
    assert domain.devices.disks[0].bus is Bus.NVME

    check_supported(domain, (11, 5, 0))
    check_supported(build(WIN11), (9, 0, 0))
    with pytest.raises(MachineConfigurationError, match=r"nvme needs libvirt 11\.5\.0, this is 9\.0\.0"):
        check_supported(domain, (9, 0, 0))


def test_what_libvirt_adds_is_left_out():
    xml = DOMAINS["win11-24h2-kvm"].to_xml()
    added = xml.replace(
        "<devices>", "<devices><controller type='pci' index='0' model='pcie-root'/><rng model='virtio'/>"
    )

    assert added != xml
    assert Domain.from_xml(added) == DOMAINS["win11-24h2-kvm"]


def test_memory_is_read_in_the_unit_that_libvirt_answers_with():
    xml = DOMAINS["win11-24h2-kvm"].to_xml().replace('<memory unit="MiB">4096', '<memory unit="KiB">4194304')

    assert Domain.from_xml(xml).memory_mib == 4096


def test_an_empty_backing_store_is_none():
    xml = DOMAINS["installation"].to_xml().replace("</disk>", "<backingStore/></disk>", 1)

    assert Domain.from_xml(xml).devices.disks[0].backing is None


@pytest.mark.parametrize(
    ("xml", "complaint"),
    [
        ("", "no element found"),
        ("<domain", "unclosed token"),
        ("<network/>", "expected a domain, found 'network'"),
        ("<domain/>", "accelerator is missing"),
        ("<domain type='xen'/>", "'xen' does not fit"),
        ("<domain type='kvm'><name>a</name></domain>", "memory_mib is missing"),
        ("<domain type='kvm'><name>a</name><memory unit='acre'>1</memory></domain>", "no amount of memory"),
        ("<!DOCTYPE d [<!ENTITY a 'b'>]><domain>&a;</domain>", "document type"),
        ("<!DOCTYPE d SYSTEM 'file:///etc/hostname'><domain/>", "document type"),
        ("<a>" + "b" * (5 << 20) + "</a>", "at most"),
        ("<a>\ud800</a>", "surrogates"),
    ],
)
def test_what_is_no_domain_is_refused(xml, complaint):
    with pytest.raises(XmlError, match=complaint):
        Domain.from_xml(xml)


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\r", "\ud800", "\ufffe"])
def test_a_name_that_xml_cannot_hold_is_refused(character):
    with pytest.raises(XmlError, match="holds a character that XML cannot"):
        replace(DOMAINS["probe"], name=f"a{character}b").to_xml()


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1))
def test_a_value_is_never_more_than_data(value):
    if value != value.strip():
        return
    domain = replace(DOMAINS["probe"], name=value, mark=replace(MARK, owner=replace(OWNER, user=value)))

    back = Domain.from_xml(domain.to_xml())

    assert (back.name, back.mark) == (value, domain.mark)


def test_a_mark_comes_back_from_what_metadata_calls_take_and_give():
    assert Mark.from_xml(MARK.to_xml()) == MARK


def test_a_mark_of_someone_else_is_none_of_the_project():
    with pytest.raises(XmlError, match="no mark of this project"):
        Mark.from_xml("<libosinfo/>")
    foreign = DOMAINS["probe"].to_xml().replace("urn:ntproof:domain:1", "urn:other:1")
    assert Domain.from_xml(foreign).mark is None
