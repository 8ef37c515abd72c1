"""Endpoints, credentials, deadlines and the errors that carry them."""

from __future__ import annotations

import threading

import pytest

from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.remoting.deadline import Deadline
from vm.windows.remoting.endpoint import Credentials, Endpoint
from vm.windows.remoting.errors import GuestRestarted, IdentityChanged, RemotingError

FINGERPRINT = "0123456789abcdef" * 4


def test_a_fingerprint_may_be_written_with_colons_and_in_capitals():
    colons = ":".join(FINGERPRINT[index : index + 2].upper() for index in range(0, 64, 2))

    assert Endpoint("guest", 5986, colons).fingerprint == FINGERPRINT


@pytest.mark.parametrize(
    "text", ["", FINGERPRINT[:-1], FINGERPRINT + "0", "g" * 64, "0123456789abcdef" * 2 + "01234567"]
)
def test_what_is_no_sha_256_fingerprint_is_refused(text):
    with pytest.raises(MachineConfigurationError, match="64 hexadecimal digits"):
        Endpoint("guest", 5986, text)


def test_an_address_of_ip_version_6_is_shown_in_brackets():
    assert str(Endpoint("::1", 5986, FINGERPRINT)) == "[::1]:5986"


def test_credentials_do_not_show_their_password():
    assert "secret" not in repr(Credentials("administrator", "secret"))


def test_remoting_errors_are_the_machines_fault_and_say_where_and_when():
    error = GuestRestarted("gone", endpoint="127.0.0.1:1", command="Get-NtproofGuestInfo")

    assert isinstance(error, MachineBroken)
    assert isinstance(error, RemotingError)
    assert str(error) == "127.0.0.1:1 during Get-NtproofGuestInfo: gone"


def test_a_changed_identity_names_both_fingerprints():
    error = IdentityChanged("certificate", expected="aa", seen="bb", endpoint="127.0.0.1:1")

    assert "aa is pinned, it shows bb" in str(error)


def test_a_deadline_counts_down_to_nothing():
    now = [100.0]
    deadline = Deadline(2.0, clock=lambda: now[0])

    assert (deadline.remaining(), deadline.passed) == (2.0, False)
    now[0] = 103.0
    assert (deadline.remaining(), deadline.passed) == (0.0, True)


def test_a_cancelled_deadline_has_passed_and_pauses_no_longer():
    cancelled = threading.Event()
    deadline = Deadline(3600.0, cancelled=cancelled)
    threading.Timer(0.05, cancelled.set).start()

    deadline.pause(3600.0)

    assert deadline.passed
