"""Tests of the scripts that set a guest up: PowerShell 5.1 reads them, and a fresh Windows has what they call."""

from __future__ import annotations

import re
from dataclasses import fields
from importlib import resources
from pathlib import Path

import pytest

from tests.fixtures.powershell.scripts import (
    FreshWindows,
    calls,
    complaints,
    functions,
    nodes,
    parse,
    registry_values,
    text,
)
from vm.windows.images.guest_report import GuestFacts

FOLDER = Path(str(resources.files("vm.windows.images") / "setup"))
SCRIPTS = sorted(FOLDER.rglob("*.ps1"))
WINDOWS = FreshWindows.load()
COMMON = functions((FOLDER / "common.ps1").read_bytes())


def test_there_are_scripts_to_read():
    assert len(SCRIPTS) > 8


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_windows_powershell_5_1_reads_the_script(script):
    assert complaints(script.read_bytes()) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_the_script_calls_only_what_a_fresh_windows_has(script):
    source = script.read_bytes()

    assert WINDOWS.complaints(source, {**COMMON, **functions(source)}) == []


def test_every_command_and_parameter_of_the_table_is_used():
    used = {}
    for script in SCRIPTS:
        for call in calls(script.read_bytes()):
            used.setdefault(call.name, set()).update(call.parameters)

    assert {name for name in WINDOWS.commands if name not in used} == set()
    unused = {name: known - used[name] for name, known in WINDOWS.commands.items() if known - used[name]}
    assert unused == {}


@pytest.mark.parametrize("script", sorted((FOLDER / "steps").glob("*.ps1")), ids=lambda script: script.name)
def test_a_step_takes_its_values_from_the_data_alone(script):
    source = script.read_text(encoding="ascii")

    assert re.match(r"\d\d-[a-z]+\.ps1", script.name)
    assert "[psobject] $Data" in source
    assert not re.search(r"Invoke-Expression|\biex\b|\[scriptblock\]::Create|-EncodedCommand", source, re.IGNORECASE)


def test_the_steps_report_exactly_the_facts_that_the_host_reads():
    """A fact that no step reports fails only at the end of an installation, and one that is unknown too."""
    reported = [name for script in (FOLDER / "steps").glob("*.ps1") for name in reported_facts(script.read_bytes())]

    assert sorted(reported) == sorted(field.name for field in fields(GuestFacts))


def reported_facts(source):
    """Keys of the table that a script gives as its result: one that stands alone in the outermost statements."""
    (statements,) = (child for child in parse(source).root_node.children if child.type == "statement_list")
    for statement in statements.children:
        if text(statement).startswith("@{"):
            table = next(nodes(statement, "hash_literal_expression"))
            yield from (text(key) for key in nodes(table, "key_expression"))


def test_memory_integrity_asks_for_secure_boot_only_where_it_is_on():
    """1 asks for Secure Boot, without which Windows would not start the hypervisor; 0 asks for nothing."""
    script = (FOLDER / "steps" / "80-signing.ps1").read_bytes()

    assert registry_values(script)["RequirePlatformSecurityFeatures"] == "([int] $secureBoot)"


def test_a_guest_in_another_time_zone_reads_its_machine_s_clock_as_it_is_set():
    """The machine's clock shows UTC, and no network corrects what the guest makes of it."""
    script = (FOLDER / "steps" / "10-system.ps1").read_bytes()

    assert registry_values(script)["RealTimeIsUniversal"] == "1"


def test_the_host_key_is_read_when_the_server_listens():
    """The service counts as running before it makes its keys."""
    names = [call.name for call in calls((FOLDER / "steps" / "30-openssh.ps1").read_bytes())]

    assert names.index("Start-Service") < names.index("Wait-Until") < names.index("Get-Content")
    assert "Get-NetTCPConnection" in names


def test_the_page_file_is_set_where_its_size_has_no_limit():
    """WMI refuses a page file of more than an eighth of its disk as out of range."""
    script = (FOLDER / "steps" / "50-crash.ps1").read_bytes()

    assert registry_values(script)["PagingFiles"] == "$pageFile"
    assert not {call.name for call in calls(script)} & {"Set-CimInstance", "New-CimInstance", "Remove-CimInstance"}


def test_remoting_is_set_when_no_network_is_public():
    """Windows refuses it while one is, and one that is still being identified is."""
    names = [call.name for call in calls((FOLDER / "steps" / "20-remoting.ps1").read_bytes())]

    assert names.index("Wait-Until") < names.index("Set-NetConnectionProfile") < names.index("Enable-PSRemoting")


def test_remoting_starts_with_windows_and_not_two_minutes_later():
    """Set-Service of 5.1 leaves a delayed start as it is."""
    script = (FOLDER / "steps" / "20-remoting.ps1").read_bytes()

    assert "Set-Service" not in {call.name for call in calls(script)}
    assert b"-Name 'sc.exe' -Arguments 'config', 'WinRM', 'start=', 'auto'" in script


def test_the_set_up_sends_only_events_that_the_host_knows():
    sent = set(re.findall(r"event = '(\w+)'", (FOLDER / "setup.ps1").read_text(encoding="ascii")))

    assert sent == {"started", "ended", "failed", "result"}


@pytest.mark.parametrize(
    "line",
    [
        "$a = $b ? 1 : 2",
        "$a = $b ?? 1",
        "$a ??= 1",
        "$x = ${a}?.b",
        "$x = ${a}?[0]",
        "Get-Date && Get-Date",
        "Get-Date || Get-Date",
        "1, 2 | ForEach-Object -Parallel { 1 }",
        "function f { clean { 1 } }",
        "Get-Date &",
        '"`u{1F600}"',
        '"`e[0m"',
        "'{}' | ConvertFrom-Json -AsHashtable",
        "$x = 'caf\u00e9'",
        "$x = 0b101",
        "if (",
    ],
)
def test_what_windows_powershell_5_1_does_not_read_is_found(line):
    assert complaints(line.encode())


@pytest.mark.parametrize("line", ['"``u"', "'`u{1F600}'", "if ($a -and $b) { 'x' } else { 'y' }", "1..3 | Out-Null"])
def test_what_windows_powershell_5_1_reads_is_left_alone(line):
    assert complaints(line.encode()) == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("Get-Thing", "Get-Thing is no command"),
        ("1 | % { $_ }", "% is no command"),
        ("Get-ChildItem -Colour red", "no parameter Colour"),
        ("$t = @{ Colour = 1 }; Get-ChildItem @t", "no parameter Colour"),
        ("Invoke-Program -Name 'reg.exe'", "reg.exe is no program"),
        ("Invoke-Program -Name $name", "is no program"),
        ("Start-Service (Get-Thing)", "Get-Thing is no command"),
    ],
)
def test_a_call_of_what_windows_does_not_have_is_found(line, complaint):
    assert [found for found in WINDOWS.complaints(line.encode(), COMMON) if complaint in found]
