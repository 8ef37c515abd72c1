"""The guest module against the command schema and the house rules for PowerShell that runs in a guest.

tree-sitter's grammar accepts less and more than PowerShell does, so these rules name what they look for.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.standin.requirements import require_program, require_remoting

require_remoting("tree_sitter", "tree_sitter_powershell")

from tests.fixtures.powershell import scripts  # noqa: E402 - only where tree-sitter is installed
from tests.unit.remoting import powershell  # noqa: E402
from vm.windows.remoting.guest import Guest  # noqa: E402
from vm.windows.remoting.module import FILES, load_module  # noqa: E402
from vm.windows.remoting.schema import Returns, ValueType, guest_schema  # noqa: E402
from vm.windows.remoting.session import DEFAULT_DEADLINE  # noqa: E402

SOURCE = load_module().files["NtproofGuest.psm1"]
ROOT = powershell.parse(SOURCE)
FUNCTIONS = powershell.functions(ROOT)
COMMANDS = {command.name: command for command in guest_schema()}

TYPES = {
    ValueType.STRING: "string",
    ValueType.STRINGS: "string[]",
    ValueType.BYTES: "byte[]",
    ValueType.SWITCH: "switch",
    ValueType.INT32: "int",
    ValueType.UINT32: "uint32",
    ValueType.INT64: "long",
    ValueType.UINT64: "uint64",
    ValueType.DATETIME: "string",
}

# Cmdlets of the modules that Windows PowerShell 5.1 itself brings, with the parameters that are used (Microsoft Learn,
# "PowerShell module browser").
CMDLETS = {
    "Add-Type": {"Path", "OutputAssembly", "OutputType", "IgnoreWarnings"},
    "ForEach-Object": set(),
    "Get-CimInstance": {"ClassName", "Namespace", "ErrorAction"},
    "Get-Service": {"Name", "ErrorAction"},
    "Join-Path": {"Path", "ChildPath"},
    "New-Object": {"TypeName", "ArgumentList"},
    "Set-StrictMode": {"Version"},
    "Sort-Object": {"Property"},
    "Where-Object": set(),
}

# What Windows PowerShell 5.1 does not have, and what would make data into code.
FORBIDDEN = {
    "a ternary": r"\?\s*[^\s{]+\s+:\s",
    "null coalescing": r"\?\?",
    "null-conditional access": r"\?\.|\?\[",
    "a pipeline chain": r"&&|\|\|",
    "a call operator": r"(?m)(^|[=(;{|])\s*&\s*[$'\"(]",
    "Invoke-Expression": r"(?i)\biex\b|invoke-expression",
    "a script made from text": r"(?i)\[scriptblock\]|::Create\(\$[a-z]*script|-EncodedCommand|ExpandString",
    "the clean block": r"(?m)^\s*clean\s*\{",
    "an expandable string": r'"',
    # Which of several methods is meant, or of which type, is then left to PowerShell's guess.
    "an argument by reference": r"\[ref\]",
    # X509Certificate.Equals: the same issuer name and serial number (Microsoft Learn).
    "a comparison of certificates by something else than their thumbprint": r"Certificates\.(Contains|IndexOf)\(",
    "numbers of two types for one method": r"\[System\.Math\]::\w+\(\d",
    "a cmdlet of PowerShell 7": r"(?i)\b(Get-Error|Join-String|Remove-Service|Test-Json|Get-Uptime)\b",
    "a parameter of PowerShell 7": r"(?i)-(Parallel|AsByteStream|AsHashtable|AsUTC)\b",
}


def code_lines():
    """The module without comments and without the contents of literal strings."""
    text = re.sub(r"(?m)^\s*#.*$", "", SOURCE.decode("ascii"))
    return re.sub(r"'[^'\n]*'", "''", text)


def test_the_module_parses():
    assert powershell.errors(ROOT) == []


@pytest.mark.parametrize("broken", [b"function A-B {", b"if ($a { 1 }", b"$x = @{ a = }"])
def test_a_script_that_does_not_parse_is_noticed(broken):
    assert powershell.errors(powershell.parse(broken))


def test_the_sources_are_plain_ascii():
    # Windows PowerShell reads a file without a byte order mark in the system's code page.
    assert all(content.isascii() for content in load_module().files.values())


def test_each_function_is_an_advanced_function():
    assert [name for name, node in FUNCTIONS.items() if not powershell.is_advanced(node)] == []


def test_the_manifest_exports_exactly_the_commands_of_the_schema():
    manifest = load_module().files["NtproofGuest.psd1"].decode()
    block = manifest[manifest.index("FunctionsToExport") :]

    assert sorted(re.findall(r"'([^']+)'", block)) == sorted(COMMANDS)
    assert powershell.errors(powershell.parse(manifest.encode())) == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_param_block_is_what_the_schema_says(name):
    expected = [
        powershell.ParameterBlock(
            name=parameter.name,
            type=TYPES[parameter.type],
            mandatory=parameter.required,
            values=parameter.values,
            limits=expected_limits(parameter),
        )
        for parameter in COMMANDS[name].parameters.values()
    ]

    assert powershell.parameters(FUNCTIONS[name]) == expected


def expected_limits(parameter):
    if parameter.minimum is None and parameter.maximum is None:
        return ()
    low = 0 if parameter.minimum is None else parameter.minimum
    return (str(low), "[long]::MaxValue" if parameter.maximum is None else str(parameter.maximum))


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_function_emits_the_objects_that_the_schema_says(name):
    objects = powershell.emitted_objects(FUNCTIONS[name])

    if COMMANDS[name].returns is Returns.NONE:
        assert objects == []
    else:
        assert objects
        assert all(keys == list(COMMANDS[name].results) for keys in objects)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_failure_is_raised_exactly_where_the_schema_says(name):
    def raised(function, seen):
        own = set(re.findall(r"NtproofFailureRecord -Name '(\w+)'", powershell.text(FUNCTIONS[function])))
        helpers = {called for called in powershell.called(FUNCTIONS[function]) if called in FUNCTIONS} - seen
        return own.union(*(raised(helper, seen | helpers) for helper in helpers))

    assert raised(name, {name}) == set(COMMANDS[name].failures)


def unknown_calls(source):
    """Calls of commands or parameters that neither Windows nor the module has."""
    known = {**CMDLETS, **scripts.functions(source)}
    return [
        (call.line, call.name, parameter)
        for call in scripts.calls(source)
        for parameter in call.parameters or ("",)
        if call.name not in known or (parameter and parameter not in known[call.name])
    ]


def test_only_what_every_windows_has_is_called_with_the_parameters_that_it_has():
    assert unknown_calls(SOURCE) == []


def test_each_listed_cmdlet_is_used():
    assert set(CMDLETS) <= {call.name for call in scripts.calls(SOURCE)}


@pytest.mark.parametrize(
    "line",
    [b"Get-Clipboard", b"Join-Path -Folder 'a'", b"Assert-NtproofOutcome -Result 1", b"& $a", b"Get-NtproofThing"],
)
def test_a_call_of_what_windows_does_not_have_is_noticed(line):
    assert unknown_calls(SOURCE + line)


def test_windows_powershell_5_1_reads_the_module():
    assert scripts.complaints(SOURCE) == []
    assert scripts.complaints(load_module().files["NtproofGuest.psd1"]) == []


def test_no_function_assigns_to_one_of_its_parameters():
    # Names differ in case only by accident, and a parameter keeps its type and its validation when assigned to.
    offences = []
    for name, node in FUNCTIONS.items():
        known = {parameter.name.lower() for parameter in powershell.parameters(node)}
        offences += [(name, variable) for variable in powershell.assigned(node) if variable.lower() in known]

    assert offences == []


def test_an_assignment_to_a_parameter_is_noticed():
    source = b"function A-B {\n [CmdletBinding()]\n param([int] $Count)\n $count = 1\n}\n"
    function = powershell.functions(powershell.parse(source))["A-B"]

    assert [name.lower() for name in powershell.assigned(function)] == ["count"]


@pytest.mark.parametrize("what", sorted(FORBIDDEN))
def test_the_module_has_nothing_that_is_forbidden(what):
    assert re.findall(FORBIDDEN[what], code_lines()) == []


@pytest.mark.parametrize(
    ("what", "example"),
    [
        ("a ternary", "$a = $b ? 1 : 2"),
        ("null coalescing", "$a = $b ?? 1"),
        ("null-conditional access", "${a}?.Length"),
        ("a pipeline chain", "a && b"),
        ("a call operator", "& $program"),
        ("Invoke-Expression", "iex $x"),
        ("a script made from text", "[scriptblock]::Create($x)"),
        ("an expandable string", '"a $b"'),
        ("an argument by reference", "[System.Array]::Resize([ref] $a, 1)"),
        ("numbers of two types for one method", "[System.Math]::Max(0, $long)"),
    ],
)
def test_what_is_forbidden_is_recognised(what, example):
    assert re.search(FORBIDDEN[what], example)


def test_each_native_type_that_the_module_uses_is_in_its_source():
    native = load_module().files["NtproofNative.cs"].decode()
    used = set(re.findall(r"\[Ntproof\.(\w+)\]::(\w+)", SOURCE.decode()))
    made = set(re.findall(r"-TypeName Ntproof\.(\w+)", SOURCE.decode()))

    assert used
    assert all(f"class {kind}" in native and f"public static Outcome {method}(" in native for kind, method in used)
    assert all(f"class {kind}" in native for kind in made)


@pytest.mark.parametrize(
    "ask",
    [
        lambda guest: guest.verify_driver("p.sys", 9),
        lambda guest: guest.fail_allocations("p.sys", 0.5),
        lambda guest: guest.enable_process_auditing(),
    ],
    ids=["verifier", "low resources", "auditing"],
)
def test_what_runs_programs_of_windows_is_given_longer_than_the_guest_gives_them(ask):
    asked = []

    class Session:
        def call(self, name, *, deadline=DEFAULT_DEADLINE, **_arguments):
            asked.append((name, deadline))

    ask(Guest(Session()))

    ((name, deadline),) = asked
    (each,) = re.findall(r"\.Stop\((\d+)\)", powershell.text(FUNCTIONS["Invoke-NtproofTool"]))
    runs = (
        2
        if "foreach" in powershell.text(FUNCTIONS[name])
        else powershell.called(FUNCTIONS[name]).count("Invoke-NtproofTool")
    )
    assert deadline > runs * int(each) / 1000


def test_the_native_source_is_csharp_5_without_warnings(tmp_path):
    require_program("mcs", "mono-mcs")
    source = tmp_path / "NtproofNative.cs"
    source.write_bytes(load_module().files["NtproofNative.cs"])

    done = subprocess.run(
        ["mcs", "-langversion:5", "-target:library", "-warn:4", "-warnaserror", f"-out:{tmp_path / 'n.dll'}", source],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_agent_keeps_numbered_lines_and_exit_codes(tmp_path):
    require_program("mcs", "mono-mcs")
    require_program("mono", "mono-runtime")
    source = tmp_path / "NtproofNative.cs"
    source.write_bytes(load_module().files["NtproofNative.cs"])
    program = tmp_path / "check.exe"
    check = Path(__file__).parent / "AgentCheck.cs"
    subprocess.run(["mcs", "-langversion:5", f"-out:{program}", check, source], check=True, capture_output=True)

    done = subprocess.run(["mono", program], capture_output=True, encoding="utf-8", timeout=60, check=False)

    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "start 0",
        *(f"out [l\u00fc{number}] " for number in range(5)),
        "stop 0",
        "exit [] 0",
        "send 109",
        "absent 2 CreateProcessW",
        "killed True",
        "out [a b] ",
        "exit [] 7",
        "disposed",
        r'"a b" "c\"d" "e\\" "f\\\\\"g" ""',
    ]


@pytest.mark.parametrize(
    ("units", "sent"),
    [
        ("a\ud83d\ude00b", "a\ud83d\ude00b"),
        ("\ud83d", "\ufffd"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83dx\ude00", "\ufffdx\ufffd"),
        ("\ud83d\ud83d\ude00", "\ufffd\ud83d\ude00"),
        ("\ufffe\uffff\ufeff\x01\ufffd", "\ufffd\ufffd\ufeff\x01\ufffd"),
    ],
)
def test_a_record_is_sent_without_what_no_client_can_read(units, sent):
    """.NET's expressions see UTF-16 units, as does Python where each is a character of its own."""
    (pattern,) = re.findall(r"\$unsendable = '([^']*)'", SOURCE.decode())

    assert re.sub(pattern, "\ufffd", units) == sent


def test_the_hash_of_the_module_covers_each_of_its_files():
    module = load_module()
    changed = {type(module)({**module.files, name: module.files[name] + b"\n"}).sha256 for name in FILES}

    assert len(changed | {module.sha256}) == len(FILES) + 1
