"""Code analysis where Linux can: clang's static analyser with the kernel's flags, and annotations that mean something.

clang ignores SAL. An annotation that the kit's headers do not define still compiles when a header of the driver defines
it, and then the kit's own code analysis does not see it either; so each one is looked up in the kit.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.build.invocation import compile_message
from harness.build.source_findings import Level, SourceFinding
from harness.build.wdk.toolchain import Wdk
from harness.errors import BuildError

if TYPE_CHECKING:
    from harness.build.description import DriverSources

ANALYSER_OPTIONS: Final = (
    "--analyze",
    *("-Xclang", "-analyzer-output=text"),
    *("-Xclang", "-analyzer-checker=core,deadcode,nullability,security,optin.core,optin.portability"),
    # Annex K of C11 has no place in the kernel, and copies of fixed size are what drivers are made of.
    *("-Xclang", "-analyzer-disable-checker=security.insecureAPI.DeprecatedOrUnsafeBufferHandling"),
    # The kit's own headers read the time from the page at 0xFFFFF78000000000.
    *("-Xclang", "-analyzer-disable-checker=core.FixedAddressDereference"),
)
_WARNING: Final = re.compile(
    r"^(?P<path>\S.*?):(?P<line>\d+):(?P<column>\d+): warning: (?P<text>.*) \[(?P<check>[\w.]+)\]$"
)
_ANNOTATION: Final = re.compile(r"(?<![\w#])(?:_[A-Z](?=\w*[a-z])\w*_|__drv_\w+)(?!\w)")
_NO_CODE: Final = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)
_LINE_MARKER: Final = re.compile(r'# \d+ "(?P<path>(?:\\.|[^"\\])*)"')
_DEFINE: Final = re.compile(r"#define (?P<name>\w+)")


def analyse(driver: DriverSources, toolchain: Wdk) -> list[SourceFinding]:
    """All findings in a driver's sources, in the order of files and lines.

    Raises:
        BuildError: a source does not compile.
        ConfigurationError: the compiler cannot be run.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        analysed = [pool.submit(_analyse, driver, source, toolchain) for source in driver.sources]
        annotated = [pool.submit(_check_annotations, driver, source, toolchain) for source in driver.sources]
    return sorted({finding for done in (*analysed, *annotated) for finding in done.result()})


def _analyse(driver: DriverSources, source: str, toolchain: Wdk) -> list[SourceFinding]:
    output = _run(driver, source, toolchain, ANALYSER_OPTIONS)
    found = []
    for line in output.splitlines():
        if (match := _WARNING.match(line)) is not None:
            path = _named(driver, Path(match["path"]))
            found.append(
                SourceFinding(
                    path, int(match["line"]), int(match["column"]), Level.WARNING.value, match["check"], match["text"]
                )
            )
    return found


def _check_annotations(driver: DriverSources, source: str, toolchain: Wdk) -> list[SourceFinding]:
    """Annotations of a source and of the driver's headers that it includes, which the kit does not define."""
    output = _run(driver, source, toolchain, ("/E", "/clang:-dD"))
    defined, read = _definitions(output)
    found = []
    for path in sorted(path for path in read if path.is_relative_to(driver.root)):
        for name, line in _annotations(path):
            where = defined.get(name)
            if where is None or not toolchain.is_system_header(where):
                home = "no header defines it" if where is None else f"only {_named(driver, where)} defines it"
                message = f"{name} is no annotation of kit {toolchain.kit.version}: {home}, so code analysis ignores it"
                finding = SourceFinding(_named(driver, path), line, 0, Level.WARNING.value, "sal-annotation", message)
                found.append(finding)
    return found


def _definitions(preprocessed: str) -> tuple[Mapping[str, Path], set[Path]]:
    """Where each macro is defined last, and which files were read."""
    defined: dict[str, Path] = {}
    read: set[Path] = set()
    current = Path()
    for line in preprocessed.splitlines():
        if (marker := _LINE_MARKER.match(line)) is not None:
            name = marker["path"].replace("\\\\", "\\")
            if name.startswith("<"):
                # The compiler itself or its command line: no file, whatever folder this runs in.
                current = Path(name)
                continue
            current = Path(name).resolve()
            read.add(current)
        elif (define := _DEFINE.match(line)) is not None:
            defined[define["name"]] = current
    return defined, read


def _annotations(path: Path) -> Iterator[tuple[str, int]]:
    """Each annotation in a file with its first line; comments, texts and directives hold none."""
    text = _NO_CODE.sub(
        lambda match: "\n" * match.group().count("\n"), path.read_text(encoding="utf-8", errors="replace")
    )
    seen = set()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            continue
        for name in _ANNOTATION.findall(line):
            if name not in seen:
                seen.add(name)
                yield name, number


def _run(driver: DriverSources, source: str, toolchain: Wdk, options: tuple[str, ...]) -> str:
    with tempfile.TemporaryDirectory(prefix="ntproof-analysis-") as scratch:
        path = driver.root / source
        command = [*toolchain.compile_command(driver), *options, "--", str(path)]
        status, output = toolchain.run(command, Path(scratch))
    if status:
        raise BuildError(compile_message(driver, source, output, toolchain.folders))
    return output


def _named(driver: DriverSources, path: Path) -> str:
    """A path as reports have it."""
    if path.is_relative_to(driver.root):
        return f"{driver.label}/{path.relative_to(driver.root).as_posix()}"
    return str(path)
