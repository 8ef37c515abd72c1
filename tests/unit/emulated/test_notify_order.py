"""The order of process notify routines, and what the caller of CreateProcess is told of statuses without a translation.

docs/reference/process-notify.md sections 1 (order) and 3 (Win32 error).
"""

from __future__ import annotations

import pytest

from tests.fixtures.misuse import Misuse, options

LEGACY, EX, EX2 = 0, 1, 2
REMOVE = 1
ACCESS_DENIED, STATUS_OF_NOBODY = 0xC0000022, 0xC000F00D
ERROR_MR_MID_NOT_FOUND = 317


@pytest.fixture(params=["documented", "observed"])
def denying(request):
    """The Ex routine denies, so that the legacy one is told of a creation only if it is called first."""
    misuse = Misuse(options(profile=request.param))
    misuse.hook("OnCreate", "Deny")
    misuse.hook("OnLegacy", "RecordLegacy")
    misuse.set_cell(15, ACCESS_DENIED)
    yield misuse
    misuse.machine.close()


def legacy_was_told(misuse):
    misuse.launch()
    return misuse.cell(1) == misuse.machine.agent_pid


@pytest.mark.parametrize(("first", "second", "told"), [(LEGACY, EX, True), (EX, LEGACY, False)])
def test_routines_are_called_in_the_order_of_their_slots(denying, first, second, told):
    denying.run("Register", first)
    denying.run("Register", second)

    assert legacy_was_told(denying) is told


def test_a_registration_takes_the_lowest_free_slot_and_is_called_before_older_ones_behind_it(denying):
    denying.run("Register", EX)
    denying.run("Register", LEGACY)
    denying.run("Register", EX, REMOVE)
    denying.run("Register", EX2)

    assert not legacy_was_told(denying)


def test_a_status_without_a_translation_is_message_not_found(denying):
    denying.run("Register", EX)
    denying.set_cell(15, STATUS_OF_NOBODY)

    result = denying.launch()

    assert (result.status, result.win32_error) == (STATUS_OF_NOBODY, ERROR_MR_MID_NOT_FOUND)
