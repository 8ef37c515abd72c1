"""A collection removes what carries the project's mark and is orphaned, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm.windows.hypervisor.garbage import STALE_DAYS, Kind, Resource, select
from vm.windows.hypervisor.lease_records import Versioned
from vm.windows.hypervisor.mark import Mark, Owner, Role, Term
from vm.windows.hypervisor.owners import Liveness

NOW = 10_000_000
ME = Owner(host="h", boot="b", user="u", pid=1, started=1)
RUNS = replace(ME, pid=2)
ENDED = replace(ME, pid=3)
FAR = Owner(host="far", boot="x", user="u", pid=4, started=1)
FAR_OTHER = replace(FAR, pid=5)


class Probe:
    def liveness(self, owner):
        return {"h": Liveness.ALIVE, "far": Liveness.UNKNOWN}[owner.host] if owner != ENDED else Liveness.GONE


def mark(owner, role=Role.CLONE, slot="s", **changes):
    return replace(Mark(role=role, created_by="test", created=1, image="i", slot=slot, owner=owner), **changes)


def record(owner, *, late=0, released=False):
    term = Term(heartbeat_ms=NOW - 60_000 - late, lifetime_ms=60_000, released=released)
    return Versioned(1, mark(owner, Role.LEASE, term=term))


def removes(xml, found=None, images=("i",), slots=("s",), now=NOW, name="d", kind=Kind.DOMAIN):
    if isinstance(xml, Mark):
        xml = xml.to_xml()
    resource = Resource(kind, name, xml)
    known = dict.fromkeys(images) if isinstance(images, tuple) else images
    (finding,) = select([resource], dict.fromkeys(slots, found), me=ME, images=known, now_ms=now, probe=Probe())
    assert finding.resource is resource
    assert finding.reason
    return finding.remove


@pytest.mark.parametrize("xml", [None, "<other/>", "", "<mark", "<mark/>", "<mark role='clone'/>"])
def test_what_carries_no_mark_stays(xml):
    assert not removes(xml)


@given(st.text())
def test_no_text_is_taken_for_a_mark(text):
    assert not removes(text)


@pytest.mark.parametrize(
    ("owner", "found", "expected"),
    [
        (RUNS, record(RUNS), False),
        (ENDED, record(ENDED), True),
        (ENDED, None, True),
        (ENDED, record(RUNS), True),
        (RUNS, record(FAR), False),
        (FAR, record(FAR), False),
        (FAR, record(FAR, late=10_000), False),
        (FAR, record(FAR, late=40_000), True),
        (FAR, record(FAR, released=True), True),
        (FAR, record(FAR_OTHER), True),
        (FAR, Versioned(1, None), False),
    ],
)
def test_a_clone_stays_as_long_as_its_owner_may_have_the_slot(owner, found, expected):
    assert removes(mark(owner), found) is expected


def test_a_clone_of_a_slot_whose_record_was_not_read_stays():
    assert not removes(mark(ENDED), slots=())


@pytest.mark.parametrize("role", [Role.INSTALLATION, Role.PROBE, Role.CLONE])
@pytest.mark.parametrize(("owner", "expected"), [(RUNS, False), (FAR, False), (ENDED, True)])
def test_what_belongs_to_a_process_alone_goes_with_it(role, owner, expected):
    assert removes(mark(owner, role, slot=None)) is expected


@pytest.mark.parametrize(
    ("owner", "images", "expected"),
    [
        (ENDED, ("i",), False),
        (ENDED, (), True),
        (RUNS, (), False),
        (FAR, (), False),
        (replace(ENDED, user="v", host="far"), (), False),
    ],
)
def test_a_golden_machine_goes_when_its_image_is_gone_and_it_is_ours(owner, images, expected):
    assert removes(mark(owner, Role.GOLDEN), images=images) is expected


@pytest.mark.parametrize("role", [Role.INSTALLATION, Role.PROBE])
def test_what_a_process_without_a_lease_left_is_nobody_s_once_it_is_older_than_any_installation(role):
    left = mark(FAR, role, slot=None)
    end = left.created * 1000 + STALE_DAYS * 24 * 3_600_000

    assert not removes(left, now=end)
    assert removes(left, now=end + 1)
    assert not removes(replace(left, owner=RUNS), now=end + 1)


@pytest.mark.parametrize(
    ("images", "owner", "expected"),
    [
        ({"i": "image.0123"}, ENDED, False),
        ({"i": "image.4567"}, ENDED, True),
        ({"i": "image.4567"}, RUNS, False),
        ({"i": None}, ENDED, False),
        ({}, ENDED, True),
    ],
)
@pytest.mark.parametrize("kind", ["qcow2", "complete", "mark"])
def test_the_copy_of_an_image_goes_with_the_build_that_it_is_a_copy_of(images, owner, kind, expected):
    copy = mark(owner, Role.GOLDEN, slot=None)

    assert removes(copy, images=images, name=f"/folder/image.0123.{kind}", kind=Kind.FILE) is expected


def test_a_golden_machine_stays_where_no_store_says_that_its_image_is_gone():
    assert not removes(mark(ENDED, Role.GOLDEN), images=None)
    assert removes(mark(ENDED), None, images=None), "a clone is none of an image's"


def test_a_record_stays_also_when_its_owner_is_gone():
    assert not removes(record(ENDED).mark, record(ENDED))
