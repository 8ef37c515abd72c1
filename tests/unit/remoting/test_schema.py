"""The reader of the command schema, and the conversion of values by it."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.standin.requirements import require_remoting

require_remoting()

from pypsrp.serializer import Serializer, TaggedValue  # noqa: E402 - only where its packages are installed

from vm import win32  # noqa: E402
from vm.windows.remoting.errors import InvalidCommand  # noqa: E402
from vm.windows.remoting.schema import Returns, SchemaError, ValueType, guest_schema, parse_schema  # noqa: E402
from vm.windows.remoting.values import MalformedValue, from_guest, to_guest  # noqa: E402

EVERYTHING = parse_schema(
    """
version = 1
[command.Get-NtproofThing]
summary = "Everything."
returns = "many"
[command.Get-NtproofThing.parameters]
Text = { type = "string" }
Texts = { type = "strings" }
Data = { type = "bytes" }
Force = { type = "switch" }
Small = { type = "int32" }
Word = { type = "uint32" }
Long = { type = "int64" }
Large = { type = "uint64" }
Day = { type = "datetime" }
[command.Get-NtproofThing.results]
Text = { type = "string" }
Texts = { type = "strings" }
Data = { type = "bytes" }
Flag = { type = "boolean" }
Word = { type = "uint32" }
Day = { type = "datetime" }
Maybe = { type = "uint32", nullable = true }
"""
)["Get-NtproofThing"]

ANSWER = {
    "Text": "a",
    "Texts": ["a", "b"],
    "Data": b"\x00",
    "Flag": True,
    "Word": 7,
    "Day": "2026-05-04T03:02:01.1234567Z",
    "Maybe": None,
}


def test_each_command_of_the_package_has_a_sentence():
    assert all(command.summary.endswith(".") for command in guest_schema())


def test_errors_are_numbers_of_winerror():
    assert win32.ERROR_BROKEN_PIPE in guest_schema()["Send-NtproofAgentLine"].errors


def test_what_changes_something_is_not_repeatable():
    changing = [
        command.name for command in guest_schema() if not command.name.startswith("Get-") and command.repeatable
    ]

    # Each of these leaves the same behind however often it runs.
    assert sorted(changing) == [
        "Enable-NtproofProcessAuditing",
        "Export-NtproofAuditEvent",
        "New-NtproofDirectory",
        "Read-NtproofFileChunk",
        "Receive-NtproofAgentLine",
        "Write-NtproofFileChunk",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version = [", "commands.toml"),
        ("other = 1\nversion = 1", "nothing else"),
        ("[command.Get-Thing]\nsummary = ''\nreturns = 'none'", "Verb-NtproofNoun"),
        ("[command.Get-NtproofA]\nreturns = 'none'", "summary"),
        ("[command.Get-NtproofA]\nsummary = ''\nreturns = 'some'", "some"),
        ("[command.Get-NtproofA]\nsummary = ''\nreturns = 'one'", "result fields"),
        ("[command.Get-NtproofA]\nsummary = ''\nreturns = 'none'\nresults.A = {type = 'string'}", "result fields"),
        ("[command.Get-NtproofA]\nsummary = ''\nreturns = 'none'\ncolour = 1", "colour"),
        ("[command.Get-NtproofA]\nsummary = ''\nreturns = 'none'\nerrors = ['ERROR_NONE']", "ERROR_NONE"),
        ("[command.Get-NtproofA]\nsummary = ''\nreturns = 'none'\nparameters.A = {type = 'boolean'}", "switch"),
        (
            "[command.Get-NtproofA]\nsummary = ''\nreturns = 'none'\nparameters.A = {type = 'string', maximum = 1}",
            "range",
        ),
        (
            "[command.Get-NtproofA]\nsummary = ''\nreturns = 'none'\nparameters.A = {type = 'int32', values = ['a']}",
            "set",
        ),
        ("[command.Get-NtproofA]\nsummary = ''\nreturns = 'none'\nparameters.A = {type = 'int32', size = 1}", "size"),
        ("[command.Get-NtproofA]\nsummary = ''\nreturns = 'one'\nresults.A = {type = 'switch'}", "boolean"),
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(text, problem):
    with pytest.raises(SchemaError, match=problem):
        parse_schema(text if "version" in text else f"version = 1\n{text}")


def test_returns_are_read_as_what_they_are():
    assert EVERYTHING.returns is Returns.MANY
    assert EVERYTHING.parameters["Large"].type is ValueType.UINT64


def serialized(value):
    return Serializer().serialize(value)


@pytest.mark.parametrize(
    ("name", "value", "tag", "text"),
    [
        ("Text", "a_x0041_", "S", "a_x005F_x0041_"),
        ("Data", b"\x00\xff", "BA", "AP8="),
        ("Small", -1, "I32", "-1"),
        ("Word", 2**32 - 1, "U32", "4294967295"),
        ("Long", -(2**63), "I64", "-9223372036854775808"),
        ("Large", 2**64 - 1, "U64", "18446744073709551615"),
        ("Day", datetime.datetime(2026, 5, 4, 3, 2, 1, tzinfo=datetime.UTC), "S", "2026-05-04T03:02:01+00:00"),
    ],
)
def test_a_value_goes_over_the_line_as_the_type_that_the_schema_says(name, value, tag, text):
    (sent,) = to_guest(EVERYTHING, {name: value}).values()

    assert isinstance(sent, TaggedValue)
    element = serialized(sent)
    assert (element.tag, element.text) == (tag, text)


def test_nothing_is_sent_for_none_and_for_a_switch_that_is_off():
    assert to_guest(EVERYTHING, {"Text": None, "Force": False}) == {}
    assert to_guest(EVERYTHING, {"Force": True}) == {"Force": None}


@given(st.integers())
def test_a_number_is_sent_or_refused_and_never_cut(value):
    try:
        sent = to_guest(EVERYTHING, {"Word": value})
    except InvalidCommand:
        assert not 0 <= value < 2**32
    else:
        assert int(serialized(sent["Word"]).text) == value


@given(st.text())
def test_a_text_is_sent_or_refused_and_never_changed(value):
    try:
        sent = to_guest(EVERYTHING, {"Text": value})["Text"]
    except InvalidCommand:
        assert any(0xD800 <= ord(letter) <= 0xDFFF or letter in "\ufffe\uffff" for letter in value)
    else:
        line = Serializer()
        assert (line.deserialize(line.serialize(sent)) or "") == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Text", b"a"),
        ("Data", "a"),
        ("Data", bytearray(b"a")),
        ("Word", True),
        ("Word", 1.0),
        ("Texts", "a"),
        ("Force", 1),
        ("Day", "2026-05-04"),
        ("Day", datetime.datetime(2026, 5, 4)),  # noqa: DTZ001 - that is the point
    ],
)
def test_a_value_of_another_type_is_refused(name, value):
    with pytest.raises(InvalidCommand, match=name):
        to_guest(EVERYTHING, {name: value})


def test_an_answer_is_read_by_the_schema():
    row = from_guest(EVERYTHING, {**ANSWER, "Unknown": 1})

    assert row["Day"] == datetime.datetime(2026, 5, 4, 3, 2, 1, 123456, tzinfo=datetime.UTC)
    assert row["Maybe"] is None
    assert "Unknown" not in row


def test_null_stands_for_what_is_empty():
    row = from_guest(EVERYTHING, {**ANSWER, "Text": None, "Texts": None, "Data": None})

    assert (row["Text"], row["Texts"], row["Data"]) == ("", [], b"")


def test_a_list_of_one_may_come_as_its_item():
    assert from_guest(EVERYTHING, {**ANSWER, "Texts": "a"})["Texts"] == ["a"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Word", -1),
        ("Word", "7"),
        ("Word", True),
        ("Word", None),
        ("Flag", 1),
        ("Flag", None),
        ("Text", 1),
        ("Data", "AA=="),
        ("Texts", [1]),
        ("Day", "yesterday"),
        ("Day", "2026-05-04T03:02:01"),
        ("Day", 5),
        ("Maybe", "x"),
    ],
)
def test_an_answer_of_another_type_is_malformed(name, value):
    with pytest.raises(MalformedValue, match=name):
        from_guest(EVERYTHING, {**ANSWER, name: value})


def test_an_answer_that_lacks_a_property_is_malformed():
    with pytest.raises(MalformedValue, match="lacks Flag, Word"):
        from_guest(EVERYTHING, {key: value for key, value in ANSWER.items() if key not in {"Flag", "Word"}})
