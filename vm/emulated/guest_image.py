"""The part of the kernel that runs as machine code: compiled from guest/*.c, loaded like a driver image.

What is hot in callbacks (memory and string functions, spin locks) or calls back into drivers (cancel-safe queues) is
guest code: it costs no trap, may be interrupted anywhere, and shows up in stacks with its own names.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from vm.emulated.layout import GUEST_IMAGE
from vm.emulated.loader import image
from vm.emulated.rtl import upcase
from vm.emulated.toolchain import cache_directory, compiled, compiler_headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from vm.emulated.kernel import Kernel

_FOLDER = Path(__file__).with_name("guest")
_NAME = "ntoskrnl.exe"
_HOST_PREFIX = "Host"
"""Exports of the host that only the kernel's own machine code may call."""
_UPCASE_TABLE = "NtUpcaseTable"

_COMPILER = (
    "clang", "--target=x86_64-w64-windows-gnu", "-c", "-O2", "-ffreestanding", "-fno-builtin", "-fno-stack-protector",
    "-mno-red-zone", "-mno-stack-arg-probe", "-mno-avx", "-fasynchronous-unwind-tables",
    "-fno-vectorize", "-fno-slp-vectorize", "-Wall", "-Wextra", "-Werror",
)  # fmt: skip


def is_internal(name: str) -> bool:
    """True for what guest code and host share with each other but not with drivers."""
    return name.startswith(_HOST_PREFIX) or name == _UPCASE_TABLE


@functools.cache
def file(host_functions: frozenset[str]) -> Path:
    """The compiled image. `host_functions` are the exports that its code may import."""
    sources = sorted(_FOLDER.glob("*.c"))
    definition = "LIBRARY host.dll\nEXPORTS\n" + "".join(f"{name}\n" for name in sorted(host_functions))
    definition_file = _write_definition(definition)
    objects = ["{tmp}/" + source.stem + ".obj" for source in sources]
    include = (f"-I{_FOLDER}", "-isystem", str(compiler_headers()))
    steps: list[tuple[str, ...]] = [
        (*_COMPILER, *include, str(source), "-o", target) for source, target in zip(sources, objects, strict=True)
    ]
    steps += [
        ("dlltool", "-m", "i386:x86-64", "-d", str(definition_file), "-l", "{tmp}/host.lib"),
        (
            "lld-link", "/nologo", "/dll", "/noentry", "/subsystem:native", "/nodefaultlib", "/dynamicbase", "/Brepro",
            "/out:{out}", *objects, "{tmp}/host.lib",
        ),
    ]  # fmt: skip
    return compiled(_NAME, [*sources, *sorted(_FOLDER.glob("*.h")), definition_file], steps)


def _write_definition(text: str) -> Path:
    """The import definition as a file whose name tells its content, so that parallel runs agree."""
    path = cache_directory() / f"host-{hashlib.sha256(text.encode()).hexdigest()[:16]}.def"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{id(text)}")
        scratch.write_text(text)
        scratch.replace(path)
    return path


@functools.cache
def parsed(host_functions: frozenset[str]) -> image.DriverImage:
    """The compiled image, read once per process."""
    return image.DriverImage.parse(file(host_functions))


def load(kernel: Kernel, resolve: Callable[[str, str | int], int]) -> image.LoadedImage:
    """Map the machine-code part of the kernel."""
    loaded = image.load(kernel, parsed(frozenset(kernel.exports.functions)), GUEST_IMAGE, resolve)
    table = loaded.export(_UPCASE_TABLE)
    if table is not None:
        kernel.mem.load(table, upcase.table_bytes())
    return loaded
