"""Rendered event logs are read strictly: every process event in them, nothing else, no surprise from hostile XML."""

from __future__ import annotations

import codecs
import contextlib
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import InputError
from harness.notification import Create, Exit
from harness.witness import Origin, event_xml, read_event_xml, read_witness
from harness.witness.event_xml import read_event_texts
from harness.witness.names import Agreement, compare_command_lines
from tests.unit.harness.witness.world import IMAGES, as_log, to_xml, worlds

EVENTS = [
    Create(1, 70_000_000_1234567, 1000, 60, 60, 5000, 0, f"\\??\\{IMAGES[2]}", "größe.exe  \U0001f600 <&>\" ' ", True),
    Exit(2, 70_000_000_2345678, 1000, 0xC0000005),
]
XMLNS = 'xmlns="http://schemas.microsoft.com/win/2004/08/events/event"'
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def write(tmp_path):
    def to_file(content, encoding="utf-8"):
        path = tmp_path / "events.xml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return to_file


def one_event(system="", data="", number="4688", provider="Microsoft-Windows-Security-Auditing"):
    system = system or (
        f'<Provider Name="{provider}"/><EventID>{number}</EventID>'
        '<TimeCreated SystemTime="2020-09-17T21:45:44.3712345Z"/>'
        "<EventRecordID>7</EventRecordID><Computer>HOST</Computer>"
    )
    return f"<Event {XMLNS}><System>{system}</System><EventData>{data}</EventData></Event>"


def rows(**members):
    return "".join(f'<Data Name="{name}">{value}</Data>' for name, value in members.items())


CREATION = {"NewProcessId": "0x3e8", "ProcessId": "0x3c", "NewProcessName": "C:\\x.exe", "CommandLine": "x  y "}


def test_an_audited_creation_and_exit_come_out_as_they_were(write):
    log = as_log(EVENTS)

    (read,) = read_witness(write(to_xml(log)))

    assert (read.origin, read.host, read.complete) == (Origin.AUDIT, "HOST", True)
    assert read.events == log.events


def test_sysmon_events_come_out_as_they_were(write):
    log = as_log(EVENTS, Origin.SYSMON)

    (read,) = read_witness(write(to_xml(log)))

    assert read.origin is Origin.SYSMON
    assert read.events == log.events
    assert read.events[1].status is None


@SHARED
@given(worlds(most=20), st.sampled_from(Origin), st.booleans(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_whatever_was_rendered_is_read_back(write, events, origin, root, encoding):
    log = as_log([replace(event, time=event.time + (1 << 57)) for event in events], origin)

    (read,) = read_witness(write(to_xml(log, root=root), encoding))

    assert read.events == log.events


def test_the_time_is_read_to_the_last_100_nanoseconds(write):
    (found,) = read_event_xml(write(one_event(data=rows(**CREATION))))

    assert found.event.time == 132448527443712345


def test_pieces_of_a_file_may_end_anywhere(write, monkeypatch):
    log = as_log(EVENTS)
    path = write("<?xml version='1.0' encoding='utf-16'?>\r\n" + to_xml(log), "utf-16")
    for size in (80, 81, 97, 1000):
        monkeypatch.setattr(event_xml, "_CHUNK", size)
        assert [found.event for found in read_event_xml(path)] == list(log.events)


def test_an_export_that_is_newest_first_is_put_in_order(write):
    log = as_log(EVENTS)

    (read,) = read_witness(write(to_xml(replace(log, events=log.events[::-1]))))

    assert read.events == log.events


def test_one_file_may_hold_the_logs_of_several_witnesses(write):
    text = to_xml(as_log(EVENTS), root=False) + to_xml(as_log(EVENTS, Origin.SYSMON), root=False)

    assert {log.origin for log in read_witness(write(text))} == set(Origin)


def test_events_of_another_kind_are_passed_over(write):
    other = one_event(number="4624") + one_event(number="1", provider="Other") + one_event(number="4688", provider="X")

    assert len(read_witness(write(to_xml(as_log(EVENTS), extra=other)))[0].events) == 2
    with pytest.raises(InputError, match="holds no process event"):
        read_witness(write(other))


def test_a_command_line_that_the_policy_left_out_is_unknown(write):
    (without,) = read_event_xml(write(one_event(data=rows(**{**CREATION, "CommandLine": ""}))))

    assert without.event.command_line is None


# What XML has no place for, and what has no name in it, as Windows renders them.
UNCARRIABLE = ["\0", "\x01", "\x1b", "\ud83d", "\udc00\ud83d", "\uffff", "&#x1;", "&#0;", "&#xD800;", "&#x110000;"]


@pytest.mark.parametrize("text", UNCARRIABLE)
def test_what_xml_cannot_carry_hides_no_event(text):
    (found,) = read_event_texts([one_event(data=rows(**{**CREATION, "CommandLine": f"a {text}b"}))], "the log")

    assert found.event.command_line in {"a \ufffdb", "a \ufffd\ufffdb"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("size", [80, 81, 82, 83, 1000])
def test_nor_does_it_in_a_file_read_in_pieces(write, monkeypatch, encoding, size):
    monkeypatch.setattr(event_xml, "_CHUNK", size)
    data = rows(**{**CREATION, "CommandLine": "&#x1;&#65;&amp;\ud83d&#x1;\x01" * 20})
    content = one_event(data=data).encode(encoding, "surrogatepass")

    (found,) = read_event_xml(write(content))

    assert found.event.command_line == "\ufffdA&\ufffd\ufffd\ufffd" * 20


def test_a_command_line_that_xml_could_not_carry_agrees_with_the_drivers():
    for text in ("app \ud83d end", "app \x1b[31m", "app \uffff\ufffe\ufeff"):
        (found,) = read_event_texts([one_event(data=rows(**{**CREATION, "CommandLine": text}))], "the log")

        assert compare_command_lines(text, found.event.command_line) is Agreement.QUIRK


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_known_without_a_byte_order_mark(write, encoding):
    log = as_log(EVENTS)

    assert read_witness(write(to_xml(log), encoding))[0].events == log.events


def test_sysmons_unknown_process_has_no_image(write):
    data = rows(ProcessId="1000", Image="&lt;unknown process&gt;")
    (found,) = read_event_xml(write(one_event(data=data, number="5", provider="Microsoft-Windows-Sysmon")))

    assert found.event.image_name is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"NewProcessId": None}, "NewProcessId is missing"),
        ({"ProcessId": None}, "ProcessId is missing"),
        ({"NewProcessName": None}, "NewProcessName is missing"),
        ({"NewProcessId": "1000"}, "NewProcessId: expected a number in base 16"),
        ({"NewProcessId": "0x"}, "NewProcessId: expected a number"),
        ({"NewProcessId": "0x1_0"}, "NewProcessId: expected a number"),
        ({"NewProcessId": "0x100000000"}, "at most 32 bits"),
        ({"NewProcessId": "-0x4"}, "NewProcessId: expected a number"),
        ({"NewProcessId": "<b/>"}, "something other than named Data"),
    ],
)
def test_a_malformed_creation_is_refused_with_its_record(write, change, complaint):
    data = {name: value for name, value in {**CREATION, **change}.items() if value is not None}

    with pytest.raises(InputError, match=rf"event 1 \(record 7\): .*{complaint}"):
        list(read_event_xml(write(one_event(data=rows(**data)))))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no process event"),
        ("nonsense", "holds no process event"),
        ("<Events>", "not the XML of an event log"),
        ("</Events>", "not the XML of an event log"),
        ("</ntproof><ntproof>", "not the XML of an event log"),
        (one_event()[:200], "not the XML of an event log"),
        (f"<Event {XMLNS}></Event>", "no System element"),
        (one_event("<EventRecordID>7</EventRecordID>"), "no EventID element"),
        (one_event(data=rows(**CREATION)).replace("2020-09-17T", "2020-19-17T"), "TimeCreated"),
        (one_event(data=rows(**CREATION)).replace("7</EventRecordID>", "x</EventRecordID>"), "EventRecordID"),
        (one_event(data=rows(**CREATION) * 2), "is given twice"),
        (one_event(data="<Data>x</Data>"), "something other than named Data"),
        (one_event(data="<Other Name='x'>x</Other>"), "something other than named Data"),
        (one_event(data=rows(**CREATION)) * 2, "record 7 of HOST is there twice"),
    ],
)
def test_a_malformed_file_is_refused_with_its_place(write, text, complaint):
    with pytest.raises(InputError, match=complaint):
        read_witness(write(text))


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><Events>&b;</Events>',
        '<?xml version="1.0"?><!DOCTYPE x SYSTEM "file:///etc/passwd"><Events/>',
        '<Events><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>&a;</Events>',
        "<Events>&undeclared;</Events>",
    ],
)
def test_no_document_type_and_no_entity_is_accepted(write, text):
    with pytest.raises(InputError, match="not the XML of an event log"):
        read_witness(write(text))


def test_an_event_without_an_end_does_not_fill_the_memory(write, monkeypatch):
    monkeypatch.setattr(event_xml, "_LONGEST_EVENT", 10_000)
    monkeypatch.setattr(event_xml, "_CHUNK", 1000)

    with pytest.raises(InputError, match="event 1 does not end within 10000 characters"):
        list(read_event_xml(write(f"<Event {XMLNS}>" + "x" * 50_000)))


def test_a_binary_log_is_refused_with_the_command_that_renders_it(write):
    with pytest.raises(InputError, match=r"wevtutil qe events\.xml /lf:true /f:xml"):
        read_witness(write(b"ElfFile\0" + bytes(4096)))


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"<\xff>", codecs.BOM_UTF16_BE + b"\xd8", b"<\xfc>"])
def test_text_in_no_known_encoding_is_refused(write, data):
    with pytest.raises(InputError, match="neither UTF-8 nor UTF-16"):
        read_witness(write(data))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read it"):
        read_witness(tmp_path / "missing.xml")


RENDERED = to_xml(as_log(EVENTS)).encode()


@SHARED
@given(st.binary(max_size=300) | st.tuples(st.integers(0, len(RENDERED)), st.binary(max_size=4)))
def test_damaged_files_are_read_or_refused_and_nothing_else(write, damage):
    if isinstance(damage, tuple):
        at, inserted = damage
        damage = RENDERED[:at] + inserted + RENDERED[at + len(inserted) :]
    with contextlib.suppress(InputError):
        logs = read_witness(write(damage))
        assert all(log.events for log in logs)
