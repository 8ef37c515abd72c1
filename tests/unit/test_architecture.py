"""The rules that keep the parts apart: who may import whom, how long a module may be, what no file may contain."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("harness", "vm")
LONGEST_MODULE = 500

# Importing package, what it must not import, why.
FORBIDDEN = (
    ("vm", "harness", "machines know nothing of what judges drivers"),
    ("vm", "pytest", "machines know nothing of what tests drivers"),
    ("vm", "_pytest", "machines know nothing of what tests drivers"),
    ("vm.emulated", "vm.windows", "the two kinds of machine are interchangeable, so neither stands on the other"),
    ("vm.windows", "vm.emulated", "the two kinds of machine are interchangeable, so neither stands on the other"),
    ("harness.model", "vm.emulated", "the model must not judge a machine by that machine's own code"),
    ("harness.model", "vm.windows", "the model must not judge a machine by that machine's own code"),
)

# Home folders and the like of one machine; texts about Windows or examples of a remedy have none of these.
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:home|Users|root|work)/[\w.-]+")
SLEEP = re.compile(r"\b(?:time|asyncio)\.sleep\(|from time import [^\n]*\bsleep\b")
RUFF_CODE = re.compile(r'^\s*"(?P<code>[A-Z]+\d*)",(?P<rest>.*)$')


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules():
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert found
    return {module_name(path): path for path in found}


def imports(name, source, *, is_package=False):
    """Every module that a source imports, wherever in it, with relative imports made absolute."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if is_package else name.split(".")[:-1]
                kept = package[: len(package) - node.level + 1]
                base = ".".join([*kept, *([node.module] if node.module else [])])
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def is_within(name, package):
    return name == package or name.startswith(f"{package}.")


def tracked_files():
    # In a container the checkout may belong to another user, which git refuses unless told that it is all right.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    found = [ROOT / name for name in listed.decode().split("\0") if name]
    assert found
    return [path for path in found if path.is_file()]


@pytest.mark.parametrize(("importer", "imported", "why"), FORBIDDEN)
def test_imports_point_one_way(importer, imported, why):
    offences = [
        f"{path.relative_to(ROOT)}:{line} imports {target}: {why}"
        for name, path in modules().items()
        if is_within(name, importer)
        for target, line in imports(name, path.read_text(), is_package=path.name == "__init__.py")
        if is_within(target, imported)
    ]

    assert not offences, "\n".join(offences)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("vm.a", "import harness.abi"),
        ("vm.a", "from harness import abi"),
        ("vm.a", "def f():\n    from harness.abi import load_abi"),
        ("vm.a", "if TYPE_CHECKING:\n    import harness"),
        ("harness.a.b", "from ...harness import abi"),
    ],
)
def test_an_import_is_seen_wherever_and_however_it_is_written(name, source):
    assert any(is_within(target, "harness") for target, _ in imports(name, source))


def test_a_package_whose_name_only_begins_alike_is_not_that_package():
    assert not any(is_within(target, "harness") for target, _ in imports("vm.a", "import harness_tools"))


def test_a_relative_import_within_a_package_file_starts_at_that_package():
    found = imports("vm.emulated", "from . import kernel", is_package=True)
    assert "vm.emulated.kernel" in {target for target, _ in found}


def test_no_module_is_too_long():
    lengths = {path: len(path.read_text().splitlines()) for path in modules().values()}
    offences = [f"{path.relative_to(ROOT)}: {count} lines" for path, count in lengths.items() if count > LONGEST_MODULE]

    assert not offences, f"split these by subject, {LONGEST_MODULE} lines at most: {offences}"


def test_every_module_opens_with_what_it_is_for():
    bare = [
        str(path.relative_to(ROOT))
        for path in modules().values()
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]

    assert not bare


def test_nothing_waits_by_sleeping():
    offences = [str(path.relative_to(ROOT)) for path in modules().values() if SLEEP.search(path.read_text())]

    assert not offences, f"wait for a condition with a deadline instead: {offences}"


@pytest.mark.parametrize("text", ["time.sleep(1)", "await asyncio.sleep(0)", "from time import monotonic, sleep"])
def test_a_sleep_is_recognised(text):
    assert SLEEP.search(text)


def test_no_tracked_file_holds_a_path_of_one_machine():
    offences = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        offences += [f"{path.relative_to(ROOT)}: {found.group()}" for found in MACHINE_PATHS.finditer(text)]

    assert not offences, "\n".join(offences)


@pytest.mark.parametrize("text", ["open('/ho" + "me/me/x.c')", "path = /ro" + "ot/.cache", '"/Us' + 'ers/me/src"'])
def test_a_path_of_one_machine_is_recognised(text):
    assert MACHINE_PATHS.search(text)


def test_no_built_file_or_key_is_tracked():
    unwanted = {".sys", ".pdb", ".obj", ".o", ".so", ".dll", ".exe", ".key", ".pem", ".pfx", ".p12", ".dmp", ".qcow2"}

    assert [path for path in tracked_files() if path.suffix in unwanted] == []


def test_each_ignored_lint_rule_has_its_reason():
    text = (ROOT / "pyproject.toml").read_text()
    section = text[text.index("[tool.ruff.lint]") :]
    listed = [match for line in section.splitlines() if (match := RUFF_CODE.match(line))]
    bare = [match["code"] for match in listed if not re.search(r"#\s*\S+\s+\S+", match["rest"])]

    assert listed
    assert not bare


def test_each_suppressed_finding_names_its_rule():
    bare = re.compile(r"#\s*(?:noqa(?!:)|type:\s*ignore(?!\[))")
    offences = [str(path.relative_to(ROOT)) for path in modules().values() if bare.search(path.read_text())]

    assert not offences
