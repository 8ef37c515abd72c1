"""Compiles the machine's own C parts with the compiler that the ziglang wheel brings, once per content.

Two things are compiled: hooks for the host (native/) and the part of the kernel that runs as guest code (guest/).
Outputs are cached by a hash of sources, flags and compiler version, so that a second process only loads them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from vm.errors import MachineBroken

_ROOT = Path(__file__).resolve().parents[2]
_MISSING = "the emulated machine needs the package ziglang: pip install ziglang"


def cache_directory(root: Path = _ROOT, environment: Mapping[str, str] = os.environ) -> Path:
    """Folder for compiled parts, beside what is built of drivers.

    Under ``NTPROOF_BUILD_DIR`` if set, else under ``build`` of a checkout, else under ``ntproof`` in the user's cache
    folder (``XDG_CACHE_HOME``, ``~/.cache``).

    Args:
        root: the folder that holds the package ``vm``.
        environment: where the variables are looked up.
    """
    if configured := environment.get("NTPROOF_BUILD_DIR"):
        return Path(configured).expanduser().resolve() / "machine"
    if (root / "driver").is_dir() and (root / "pyproject.toml").is_file():
        return root / "build" / "machine"
    cache = environment.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "ntproof" / "machine"


def compiler_headers() -> Path:
    """Folder of the compiler's own headers (stdint.h, stddef.h). Raises MachineBroken when there is no compiler."""
    spec = find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise MachineBroken(_MISSING)
    return Path(spec.origin).parent / "lib" / "include"


def compiled(name: str, sources: Sequence[Path], steps: Sequence[Sequence[str]]) -> Path:
    """Path of an output made from `sources` by running zig with each of `steps`.

    Args:
        name: file name of the output.
        sources: every file that the result depends on.
        steps: argument lists for zig; ``{out}`` stands for the output's path and ``{tmp}`` for a scratch folder.

    Raises:
        MachineBroken: the compiler is missing or refuses its input; the message carries what it said.
    """
    try:
        compiler = version("ziglang")
    except PackageNotFoundError:
        raise MachineBroken(_MISSING) from None
    digest = hashlib.sha256(repr((compiler, sys.platform, os.uname().machine, _without_places(steps))).encode())
    # Ordered by what they hold: the order of their paths is another one in another place.
    for name_and_text in sorted(source.name.encode() + b"\0" + source.read_bytes() for source in sources):
        digest.update(name_and_text)
    folder = cache_directory() / digest.hexdigest()[:20]
    output = folder / name
    if output.exists():
        return output
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / name
            for step in steps:
                _run([argument.format(out=made, tmp=scratch) for argument in step])
            made.replace(output)
    except OSError as error:
        raise MachineBroken(
            f"cannot compile {name} into {folder}: {error}; set NTPROOF_BUILD_DIR to a writable folder"
        ) from error
    return output


def _without_places(steps: Sequence[Sequence[str]]) -> str:
    """The steps as they are in every place: what was compiled may move with its cache to another checkout."""
    text = repr(steps)
    # The checkout comes last, because the others may lie within it.
    for name, folder in (("cache", cache_directory()), ("headers", compiler_headers()), ("root", _ROOT)):
        text = text.replace(str(folder), f"<{name}>")
    return text


def _run(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "ziglang", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise MachineBroken(f"zig {arguments[0]} failed:\n{done.stderr.strip()}")
