"""Tests of the guest's reports: found among other output, in any pieces, and believed only when they are consistent."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm.errors import MachineBroken
from vm.windows.images.guest_report import (
    LONGEST_LINE,
    GuestFacts,
    ReportReader,
    SetupDone,
    SetupFailed,
    StepEnded,
    StepStarted,
)

DER = b"a certificate"
FACTS = {
    "build": 26100,
    "revision": 1742,
    "edition": "Professional",
    "powershell": "5.1.26100.1591",
    "certificate": base64.b64encode(DER).decode(),
    "certificate_sha256": hashlib.sha256(DER).hexdigest(),
    "ssh_host_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl",
    "firewall_rules": ["ntproof-22", "ntproof-5986"],
    "secure_boot": False,
    "test_signing": True,
    "memory_integrity": False,
    "crash_dump": "complete",
    "process_audit": True,
    "defender": False,
}


def line(value):
    return b"ntproof " + json.dumps(value).encode() + b"\r\n"


WHOLE = (
    b"BdsDxe: loading Boot0001\r\n"
    + line({"event": "started", "step": "10-system"})
    + b"\x1b[2J\xff\xfe noise "
    + line({"event": "ended", "step": "10-system", "seconds": 1.5})
    + line(
        {"event": "failed", "step": "20-remoting", "message": "Zugriff verweigert \u00fc\nline 2", "where": "a.ps1:3"}
    )
    + line({"event": "result", "facts": FACTS})
)
EVENTS = [
    StepStarted("10-system"),
    StepEnded("10-system", 1.5),
    SetupFailed("20-remoting", "Zugriff verweigert \u00fc\nline 2", "a.ps1:3"),
    SetupDone(GuestFacts.from_mapping(FACTS, "test")),
]


@given(st.lists(st.integers(0, len(WHOLE)), max_size=30))
def test_events_are_found_in_whatever_pieces_they_come(cuts):
    reader = ReportReader()
    places = [0, *sorted(cuts), len(WHOLE)]

    found = [event for a, b in itertools.pairwise(places) for event in reader.feed(WHOLE[a:b])]

    assert found == EVENTS


@given(st.binary(max_size=200))
def test_noise_is_no_event(noise):
    noise = noise.replace(b"ntproof ", b"")

    assert ReportReader().feed(noise.replace(b"\n", b"") + b"\n" + line({"event": "started", "step": "a"}))[
        -1
    ] == StepStarted("a")


def test_a_line_without_end_does_not_fill_the_memory():
    reader = ReportReader()
    for _ in range(100):
        reader.feed(b"x" * 10_000)

    assert len(reader._rest) <= LONGEST_LINE
    assert reader.feed(b"\n" + line({"event": "started", "step": "a"})) == [StepStarted("a")]


def test_facts_survive_being_stored():
    facts = GuestFacts.from_mapping(FACTS, "test")

    assert GuestFacts.from_mapping(json.loads(json.dumps(facts.to_mapping())), "test") == facts
    assert facts.certificate_der == DER
    assert facts.ssh_fingerprint == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"ntproof {\n", "which is no event: JSONDecodeError"),
        (b"ntproof \xff\n", "which is no event: UnicodeDecodeError"),
        (b"ntproof 3\n", "which is no event"),
        (b"ntproof " + b"[" * 5000 + b"\n", "which is no event"),
        (line({"event": "other"}), "an event 'other', which this version does not know"),
        (line({}), "an event None"),
        (line({"event": "started"}), "'step' is missing"),
        (line({"event": "ended", "step": "a", "seconds": "long"}), "seconds are no number"),
        (line({"event": "ended", "step": "a", "seconds": 10**400}), "seconds are no number"),
        (line({"event": "ended", "step": "a", "seconds": float("nan")}), "seconds are no number"),
        (line({"event": "ended", "step": "a", "seconds": -1}), "seconds are no number"),
        (line({"event": "started", "step": "\x1b[2J"}), "expected a step"),
        (line({"event": "failed", "step": "a", "message": 3, "where": ""}), "message"),
        (line({"event": "result"}), "expected a table, found NoneType"),
        (line({"event": "result", "facts": {**FACTS, "build": "26100"}}), r"build: expected an integer"),
        (line({"event": "result", "facts": {**FACTS, "extra": 1}}), "unknown key 'extra'"),
        (
            line({"event": "result", "facts": {**FACTS, "certificate_sha256": "0" * 64}}),
            "another fingerprint than the guest says",
        ),
        (line({"event": "result", "facts": {**FACTS, "certificate": "AAA"}}), "malformed"),
        (line({"event": "result", "facts": {**FACTS, "ssh_host_key": "ssh-rsa AAAA"}}), "an ed25519 host key"),
    ],
)
def test_a_malformed_event_is_an_error_of_the_machine(value, message):
    with pytest.raises(MachineBroken, match=message):
        ReportReader().feed(value)


def test_what_a_guest_says_of_a_failure_reaches_a_terminal_only_as_escapes():
    said = "cannot\r\n  find \x1b]0;title\x07 it\x9b2J, caf\u00e9"
    (event,) = ReportReader().feed(line({"event": "failed", "step": "a", "message": said, "where": "x.ps1:3"}))

    assert event.message == "cannot\n  find \\x1b]0;title\\x07 it\\x9b2J, caf\u00e9"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_an_event_or_an_error_of_the_machine(value):
    reader = ReportReader()

    with pytest.raises(MachineBroken):
        reader.feed(line(value))
