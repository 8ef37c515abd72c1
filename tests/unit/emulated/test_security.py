"""SIDs, ACLs, descriptors, SDDL and the access check."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as some

from vm.emulated import ntstatus as st
from vm.emulated.ob.object_types import (
    ACCESS_SYSTEM_SECURITY,
    FILE_ALL_ACCESS,
    FILE_GENERIC_READ,
    FILE_GENERIC_WRITE,
    FILE_MAPPING,
    GENERIC_ALL,
    GENERIC_READ,
    GENERIC_WRITE,
    MAXIMUM_ALLOWED,
    READ_CONTROL,
    WRITE_DAC,
)
from vm.emulated.se import descriptors as security
from vm.emulated.se import sddl
from vm.emulated.se.access import ADMINISTRATOR_TOKEN, STANDARD_USER_TOKEN, SYSTEM_TOKEN, access_check
from vm.emulated.se.descriptors import Ace, Acl, SecurityDescriptor, Sid

sids = some.builds(
    Sid, some.integers(0, (1 << 48) - 1), some.lists(some.integers(0, 0xFFFFFFFF), max_size=15).map(tuple)
)
aces = some.builds(Ace, some.sampled_from([0, 1]), some.integers(0, 0x1F), some.integers(0, 0xFFFFFFFF), sids)
acls = some.builds(Acl, some.lists(aces, max_size=5).map(tuple))


@some.composite
def descriptors(draw):
    dacl = draw(some.none() | acls)
    sacl = draw(some.none() | acls)
    control = (security.SE_DACL_PRESENT if dacl is not None else 0) | (
        security.SE_SACL_PRESENT if sacl is not None else 0
    )
    return SecurityDescriptor(draw(some.none() | sids), draw(some.none() | sids), dacl, sacl, control)


def parsed_or_status(data):
    """A descriptor, or the failure status that refuses it; anything else is raised."""
    try:
        return SecurityDescriptor.from_bytes(data)
    except st.NtStatusError as error:
        return error.status if st.nt_error(error.status) else None


@given(descriptors())
def test_a_descriptor_survives_its_self_relative_form(descriptor):
    assert SecurityDescriptor.from_bytes(descriptor.to_bytes()) == descriptor


@given(some.binary(max_size=200))
def test_bytes_that_are_no_descriptor_end_in_a_status(data):
    assert parsed_or_status(data)


@given(descriptors(), some.data())
def test_a_damaged_descriptor_is_read_or_refused(descriptor, data):
    damaged = bytearray(descriptor.to_bytes())
    damaged[data.draw(some.integers(0, len(damaged) - 1))] ^= data.draw(some.integers(1, 255))
    assert parsed_or_status(bytes(damaged))


@given(sids)
def test_a_sid_survives_its_text(sid):
    if sid.subs:
        assert Sid.parse(str(sid)) == sid


def test_well_known_sids_have_their_published_text():
    assert str(security.LOCAL_SYSTEM) == "S-1-5-18"
    assert str(security.ADMINISTRATORS) == "S-1-5-32-544"
    assert str(security.WORLD) == "S-1-1-0"


@given(some.text(max_size=40))
def test_text_that_is_no_sddl_is_refused_with_words(text):
    with contextlib.suppress(ValueError):
        assert isinstance(sddl.parse(text), SecurityDescriptor)


@pytest.mark.parametrize(
    "text",
    [
        "D:P(A;;GA;;;SY)(A;;GA;;;BA)",
        "O:BAG:SYD:(D;OICI;0x12;;;WD)",
        "D:P",
        "D:NO_ACCESS_CONTROL",
        "O:S-1-5-21-1-2-3-500",
    ],
)
def test_sddl_survives_parsing(text):
    assert sddl.render(sddl.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "X",
        "D:(A;;GA;;;XX)",
        "D:(A;;ZZ;;;SY)",
        "D:(Q;;GA;;;SY)",
        "S:(AU;;GA;;;WD)",
        "D:(A;;GA;;SY)",
        "D:Q(A;;GA;;;SY)",
    ],
)
def test_unknown_sddl_is_refused(text):
    with pytest.raises(ValueError, match=r"\w"):
        sddl.parse(text)


def check(text, token, desired):
    return access_check(sddl.parse(text), token, desired, FILE_MAPPING)


def test_the_documented_driver_descriptor_keeps_users_out():
    text = "D:P(A;;GA;;;SY)(A;;GA;;;BA)"
    assert check(text, SYSTEM_TOKEN, GENERIC_ALL) == (0, FILE_ALL_ACCESS)
    assert check(text, ADMINISTRATOR_TOKEN, GENERIC_READ | GENERIC_WRITE) == (0, FILE_GENERIC_READ | FILE_GENERIC_WRITE)
    assert check(text, STANDARD_USER_TOKEN, GENERIC_READ) == (st.STATUS_ACCESS_DENIED, 0)


def test_a_denying_entry_wins_only_over_later_ones():
    denied_first = "D:(D;;GW;;;BU)(A;;GA;;;WD)"
    allowed_first = "D:(A;;GA;;;WD)(D;;GW;;;BU)"
    assert check(denied_first, STANDARD_USER_TOKEN, 2)[0] == st.STATUS_ACCESS_DENIED
    assert check(denied_first, STANDARD_USER_TOKEN, 1) == (0, 1)
    assert check(allowed_first, STANDARD_USER_TOKEN, 2) == (0, 2)


def test_an_empty_dacl_denies_and_an_absent_one_grants():
    assert check("D:", STANDARD_USER_TOKEN, 1)[0] == st.STATUS_ACCESS_DENIED
    assert check("D:NO_ACCESS_CONTROL", STANDARD_USER_TOKEN, 1) == (0, 1)
    assert access_check(None, STANDARD_USER_TOKEN, 1, FILE_MAPPING) == (0, 1)


def test_the_owner_may_always_read_and_change_the_dacl():
    assert check("O:BAD:", ADMINISTRATOR_TOKEN, READ_CONTROL | WRITE_DAC) == (0, READ_CONTROL | WRITE_DAC)
    assert check("O:BAD:", STANDARD_USER_TOKEN, READ_CONTROL)[0] == st.STATUS_ACCESS_DENIED
    assert check("O:BAD:(A;;RC;;;OW)", ADMINISTRATOR_TOKEN, WRITE_DAC)[0] == st.STATUS_ACCESS_DENIED


def test_maximum_allowed_grants_what_the_dacl_grants():
    assert check("D:(A;;GR;;;BU)", STANDARD_USER_TOKEN, MAXIMUM_ALLOWED) == (0, FILE_GENERIC_READ)
    assert check("D:(A;;GR;;;BA)", STANDARD_USER_TOKEN, MAXIMUM_ALLOWED)[0] == st.STATUS_ACCESS_DENIED


def test_access_to_the_sacl_needs_the_privilege():
    assert check("D:(A;;GA;;;WD)", STANDARD_USER_TOKEN, ACCESS_SYSTEM_SECURITY)[0] == st.STATUS_PRIVILEGE_NOT_HELD
    assert check("D:", SYSTEM_TOKEN, ACCESS_SYSTEM_SECURITY) == (0, ACCESS_SYSTEM_SECURITY)


def test_an_entry_that_only_inherits_grants_nothing():
    assert check("D:(A;IO;GA;;;WD)", STANDARD_USER_TOKEN, 1)[0] == st.STATUS_ACCESS_DENIED
