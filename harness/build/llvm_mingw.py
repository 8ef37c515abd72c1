"""The default toolchain: clang, dlltool and lld-link with the mingw-w64 DDK headers, all in the ziglang wheel.

Outputs do not depend on where the sources or the build directory are: every path in debug information is mapped to
the driver's label or to ``toolchain``, the linker is given relative names only, and ``/Brepro`` replaces the time.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.build.dwarf import without_dwarf
from harness.build.invocation import compile_message, link_message, parse_dependencies, prefix_map, run_tool
from harness.build.resources import compile_resource
from harness.build.toolchain import COMMON_LINK_OPTIONS, LinkOutputs
from harness.errors import BuildError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.build.description import DriverSources

COMPILE_OPTIONS: Final = (
    "--target=x86_64-w64-windows-gnu",
    "-std=gnu17",
    "-O2",
    "-ffreestanding",
    # -ffreestanding turns unwind tables off; without them Windows can neither walk the stack nor dispatch exceptions.
    "-fasynchronous-unwind-tables",
    "-fms-extensions",
    # Without this a fault directly in the body of __try is not caught.
    *("-Xclang", "-fasync-exceptions"),
    "-fno-strict-aliasing",
    "-fno-stack-protector",
    "-mno-red-zone",
    "-mno-stack-arg-probe",
    "-Wframe-larger-than=2048",
    *("-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes", "-Wvla"),
    # __DATE__ and __TIME__ would make builds differ.
    *("-Wdate-time", "-Werror"),
    *("-g", "-gcodeview", "-gdwarf-4", "-gno-codeview-command-line"),
    *("-fno-color-diagnostics", "-ferror-limit=50"),
)
PLATFORM_DEFINES: Final = ("_KERNEL_MODE=1", "WINVER=0x0A00", "_WIN32_WINNT=0x0A00", "NTDDI_VERSION=0x0A000006")
"""Windows 10 1809 (NTDDI_WIN10_RS5, sdkddkver.h), the oldest build that drivers are built for."""

LINK_OPTIONS: Final = (*COMMON_LINK_OPTIONS, "/driver", "/subsystem:native,10.0", "/debug:dwarf")
IMPORT_LIBRARIES: Final = ("ntoskrnl", "hal")
_UNDEFINED_ADVICE: Final = (
    "the import library has no such export; if Windows exports it, add it to extra_exports in the driver's description"
)


def ziglang_directory() -> Path:
    """Where the ziglang wheel is installed.

    Raises:
        ConfigurationError: it is not installed.
    """
    spec = importlib.util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        message = "the llvm-mingw toolchain needs the ziglang package: pip install ziglang"
        raise ConfigurationError(message)
    return Path(spec.submodule_search_locations[0]).resolve()


def mingw_definition_file(library: str, directory: Path | None = None) -> Path:
    """The mingw-w64 module definition (``ntoskrnl``, ``hal``) that the import library is made from."""
    return (directory or ziglang_directory()) / "lib" / "libc" / "mingw" / "lib64" / f"{library}.def"


@dataclass(frozen=True)
class LlvmMingw:
    """The toolchain of the ziglang wheel.

    Attributes:
        extra_compile_options: further clang options, such as ``-fsanitize-coverage=...``. Paths in them end up in the
            outputs' cache key and perhaps in the outputs.
        extra_link_options: further lld-link options.
    """

    extra_compile_options: tuple[str, ...] = ()
    extra_link_options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``llvm-mingw``."""
        return "llvm-mingw"

    @cached_property
    def directory(self) -> Path:
        """The installed ziglang wheel. Raises ConfigurationError when there is none."""
        return ziglang_directory()

    @cached_property
    def program(self) -> Path:
        """The one executable that holds compiler, linker and dlltool."""
        return self.directory / ("zig.exe" if os.name == "nt" else "zig")

    @cached_property
    def identity(self) -> str:
        """The executable's size and time stamp; the headers come in the same wheel."""
        try:
            status = self.program.stat()
        except OSError as error:
            message = f"{self.program}: {error.strerror}; reinstall the ziglang package"
            raise ConfigurationError(message) from error
        return f"{self.name} {status.st_size} {status.st_mtime_ns}"

    def compile_options(self, driver: DriverSources) -> tuple[str, ...]:
        """See `Toolchain.compile_options`."""
        defines = [f"-D{define}" for define in (*PLATFORM_DEFINES, *driver.defines)]
        include = [f"-I{driver.label}/{directory}" for directory in driver.include]
        return (*COMPILE_OPTIONS, *self.extra_compile_options, *defines, *include)

    def link_options(self, driver: DriverSources) -> tuple[str, ...]:
        """See `Toolchain.link_options`."""
        integrity = ("/integritycheck",) if driver.integrity_check else ()
        return (*LINK_OPTIONS, *integrity, *self.extra_link_options, f"/entry:{driver.entry}")

    def compile(self, driver: DriverSources, source: str, target: Path) -> list[Path]:
        """See `Toolchain.compile`."""
        prefix = f"-I{driver.label}/"
        options = [
            f"-I{driver.root / option.removeprefix(prefix)}" if option.startswith(prefix) else option
            for option in self.compile_options(driver)
        ]
        headers = self.directory / "lib" / "libc" / "include" / "any-windows-any"
        dependencies = target.with_suffix(".d")
        arguments = [
            *("clang", "-c", *options),
            prefix_map(self.directory, "toolchain"),
            prefix_map(driver.root, driver.label),
            "-ffile-compilation-dir=.",
            "-nostdinc",
            *("-isystem", str(self.directory / "lib" / "include")),
            *("-isystem", str(headers / "ddk")),
            *("-isystem", str(headers)),
            *("-MD", "-MF", dependencies.name, "-o", target.name),
            str(driver.root / source),
        ]
        status, output = self._run(arguments, target.parent)
        if status:
            raise BuildError(compile_message(driver, source, output, {self.directory: "toolchain"}))
        read = parse_dependencies(dependencies.read_text(encoding="utf-8"))
        dependencies.unlink()
        own = (driver.root / source).resolve()
        resolved = (Path(path).resolve() for path in read)
        return sorted({path for path in resolved if path != own and not path.is_relative_to(self.directory)})

    def link(self, driver: DriverSources, objects: list[Path], directory: Path) -> LinkOutputs:
        """See `Toolchain.link`."""
        names = []
        for index, path in enumerate(objects):
            # A directory of its own keeps names relative, so that nothing of this machine reaches the outputs.
            name = f"{index:02}-{Path(driver.sources[index]).stem}.obj"
            shutil.copyfile(path, directory / name)
            names.append(name)
        names += compile_resource(driver, directory, self._run)
        libraries = [self._import_library(driver, library, directory) for library in IMPORT_LIBRARIES]
        image = directory / f"{driver.name}.sys"
        pdb = directory / f"{driver.name}.pdb"
        outputs = [f"/out:{image.name}", f"/pdb:{pdb.name}"]
        status, output = self._run(["lld-link", *self.link_options(driver), *outputs, *names, *libraries], directory)
        if status:
            raise BuildError(link_message(driver, output, _UNDEFINED_ADVICE))
        for name in (*names, *libraries):
            (directory / name).unlink()
        twin = directory / f"{image.name}.dwarf"
        image.replace(twin)
        image.write_bytes(without_dwarf(twin.read_bytes()))
        return LinkOutputs(image, twin, pdb)

    def _import_library(self, driver: DriverSources, library: str, directory: Path) -> str:
        definition = mingw_definition_file(library, self.directory).read_text(encoding="utf-8")
        if library == IMPORT_LIBRARIES[0]:
            definition = "\n".join([definition, *driver.extra_exports, ""])
        source = directory / f"{library}.def"
        source.write_text(definition, encoding="utf-8")
        status, output = self._run(
            ["dlltool", "-m", "i386:x86-64", "-d", source.name, "-l", f"{library}.lib"], directory
        )
        source.unlink()
        if status:
            message = f"{driver.name}: dlltool cannot make the import library of {library}:\n{output}"
            raise BuildError(message)
        return f"{library}.lib"

    def _run(self, arguments: Sequence[str], directory: Path) -> tuple[int, str]:
        return run_tool([str(self.program), *arguments], directory, "reinstall the ziglang package")
