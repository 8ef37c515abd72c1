"""Running compilers and linkers, and turning what they print into messages that start with the place of the error."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.errors import BuildError, ConfigurationError

if TYPE_CHECKING:
    from harness.build.description import DriverSources

_TIMEOUT_S: Final = 300
_ENVIRONMENT: Final = (
    *("PATH", "LD_LIBRARY_PATH", "HOME", "USERPROFILE", "LOCALAPPDATA", "SYSTEMROOT"),
    *("TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"),
)
"""What programs need to run at all. Anything else stays away from them: LINK, _LINK_, CL and CCC_OVERRIDE_OPTIONS would
change what they make, and passphrases are none of their business."""
_ERROR_LINE: Final = re.compile(r"^\S.*?:\d+:\d+: (?:fatal )?error: .*$", re.MULTILINE)
_UNDEFINED: Final = re.compile(r"undefined symbol: (?P<symbol>.+)\n>>> referenced by (?P<where>\S+:\d+)")
_PLACE: Final = re.compile(r"^(>>> referenced by )(\S+:\d+)$", re.MULTILINE)


def run_tool(arguments: Sequence[str], directory: Path, remedy: str) -> tuple[int, str]:
    """Run a compiler or linker in a directory; its exit status and what it printed.

    Args:
        arguments: the program and its arguments.
        directory: where it runs.
        remedy: what to do when the program cannot be run.

    Raises:
        ConfigurationError: it cannot be run.
        BuildError: it did not end in time.
    """
    try:
        done = subprocess.run(
            arguments,
            cwd=directory,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        message = f"{arguments[0]}: cannot be run: {error.strerror}; {remedy}"
        raise ConfigurationError(message) from error
    except subprocess.TimeoutExpired:
        message = f"{' '.join(arguments[:2])} did not end within {_TIMEOUT_S} s in {directory}"
        raise BuildError(message) from None
    return done.returncode, done.stdout.decode("utf-8", "replace")


def prefix_map(folder: Path, name: str) -> str:
    """The option of clang that writes a name in place of a folder, so that outputs do not depend on where it is.

    Raises:
        ConfigurationError: clang would take a part of the folder for the whole.
    """
    if "=" in str(folder):
        raise ConfigurationError(
            f"{folder}: compilers take what is before '=' for the whole path, and what they make would depend on it; "
            "move the folder to a path without '='"
        )
    return f"-ffile-prefix-map={folder}={name}"


def compile_message(driver: DriverSources, source: str, output: str, folders: Mapping[Path, str]) -> str:
    """What to tell of a source that does not compile.

    Args:
        driver: what is built.
        source: the file that was compiled.
        output: what the compiler printed.
        folders: what stands for folders of this machine.
    """
    text = output.replace(f"{driver.root}{os.sep}", f"{driver.label}/")
    for folder, name in folders.items():
        text = text.replace(str(folder), name)
    error = _ERROR_LINE.search(text)
    lines = [text.strip()]
    if error is None:
        lines.insert(0, f"{driver.label}/{source}: the compiler failed without a diagnostic of its own:")
    elif not text.startswith(error.group()):
        lines.insert(0, error.group())
    return "\n".join([*lines, f"while compiling {source} of {driver.name} in {driver.root}"])


def link_message(driver: DriverSources, output: str, advice: str) -> str:
    """What to tell of a driver that does not link; `advice` is for symbols that nobody defines."""
    # lld-link writes the places that it reads from CodeView with backslashes, below a root of its own.
    output = _PLACE.sub(lambda match: match[1] + match[2].replace("\\", "/").lstrip("./"), output)
    first = [
        f"{match['where']}: error: undefined symbol {match['symbol']}: {advice}"
        for match in _UNDEFINED.finditer(output)
    ]
    return "\n".join([*first, output.strip(), f"while linking {driver.name} from {driver.root}"])


def parse_dependencies(text: str) -> list[str]:
    """Prerequisites of a make rule as clang writes it: backslash escapes blanks and ``#``, a dollar is doubled."""
    joined = text.replace("\\\n", " ").replace("\\\r\n", " ")
    _, _, prerequisites = joined.partition(": ")
    words = re.findall(r"(?:\\[ #]|[^\s])+", prerequisites)
    return [re.sub(r"\\([ #])", r"\1", word).replace("$$", "$") for word in words]
