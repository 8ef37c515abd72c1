"""The compiler and the linker: those of the ziglang wheel, or a clang on PATH with its lld-link, such as Debian's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.build.llvm_mingw import ziglang_directory
from harness.errors import ConfigurationError

_TIMEOUT_S: Final = 60
_NAME: Final = re.compile(r"clang(-\d+)?\Z")


@dataclass(frozen=True)
class Programs:
    """What compiles and links.

    Attributes:
        commands: the program and its first arguments by the names ``clang``, ``lld-link`` and ``rc``.
        headers: the folder of the compiler's own headers.
        identity: changes when a program does.
    """

    commands: Mapping[str, tuple[str, ...]]
    headers: Path
    identity: str


def wheel_programs() -> Programs:
    """Those of the ziglang wheel.

    Raises:
        ConfigurationError: it is not installed, or not complete.
    """
    directory = ziglang_directory()
    zig = directory / ("zig.exe" if os.name == "nt" else "zig")
    commands = {name: (str(zig), name) for name in ("clang", "lld-link", "rc")}
    return Programs(commands, directory / "lib" / "include", _identity(zig))


def path_programs(clang: str) -> Programs:
    """A clang on PATH, ``clang-19`` for example, with the lld-link of the same version.

    Raises:
        ConfigurationError: one of them is not there; the message names it and Debian's package.
    """
    where = f"[tool.ntproof] clang = {clang!r}"
    if not _NAME.match(clang):
        raise ConfigurationError(f"{where}: not the name of a clang; write it as clang-19")
    linker = clang.replace("clang", "lld-link")
    found = {name: shutil.which(name) for name in (clang, linker)}
    missing = next((name for name, path in found.items() if path is None), None)
    if missing is not None:
        package = clang if missing == clang else clang.replace("clang", "lld")
        remedy = f"apt-get install {package}, or leave the key out to use the ziglang package"
        raise ConfigurationError(f"{where}: {missing} is not on PATH; {remedy}")
    compiler, link = str(found[clang]), str(found[linker])
    wheel = wheel_programs()
    commands = {"clang": (compiler,), "lld-link": (link,), "rc": wheel.commands["rc"]}
    identity = f"{_identity(Path(compiler))} {_identity(Path(link))} {wheel.identity}"
    return Programs(commands, _resource_directory(compiler) / "include", identity)


def _resource_directory(compiler: str) -> Path:
    try:
        done = subprocess.run(
            [compiler, "-print-resource-dir"], capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigurationError(f"{compiler}: cannot be asked for its headers: {error}; reinstall it") from error
    return Path(done.stdout.strip()).resolve()


def _identity(program: Path) -> str:
    try:
        status = program.stat()
    except OSError as error:
        raise ConfigurationError(f"{program}: {error.strerror}; reinstall the package that has it") from error
    return f"{program.name} {status.st_size} {status.st_mtime_ns}"
