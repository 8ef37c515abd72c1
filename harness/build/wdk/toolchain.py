"""The toolchain `wdk`: clang-cl and lld-link of the ziglang wheel over the headers and import libraries of a kit.

Outputs depend neither on where the sources or the build directory are nor on where the kit is: paths in debug
information are mapped to the driver's label, ``wdk`` or ``toolchain``, and the linker is given relative names only.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.build.dwarf import without_dwarf
from harness.build.invocation import compile_message, link_message, parse_dependencies, prefix_map, run_tool
from harness.build.llvm_mingw import PLATFORM_DEFINES
from harness.build.resources import compile_resource
from harness.build.toolchain import COMMON_LINK_OPTIONS, LinkOutputs
from harness.build.wdk.cookie import SOURCE, require_writable_cookie
from harness.build.wdk.kit import Kit
from harness.build.wdk.programs import Programs, path_programs, wheel_programs
from harness.errors import BuildError

if TYPE_CHECKING:
    from harness.build.description import DriverSources

ENTRY: Final = "GsDriverEntry"
"""The kit's own entry point: checks that the /GS cookie is initialised and calls DriverEntry."""
SUPPORT_LIBRARY: Final = "bufferoverflowfastfailk.lib"
LIBRARIES: Final = ("ntoskrnl.lib", "hal.lib", SUPPORT_LIBRARY)
"""What drivers are linked with; hal.lib where the kit has it: ntoskrnl.exe has its functions since Windows 10 2004."""
_CODE_OPTIONS: Final = ("/nologo", "/kernel", "/GS", "/O2", "/Gy", "/Gw", "/Zl")
_DRIVER_OPTIONS: Final = (
    "-std=gnu17",
    # No C run-time library is there; clang's own stdint.h then stands alone.
    "-ffreestanding",
    "-fasynchronous-unwind-tables",
    "-fno-strict-aliasing",
    "-mno-stack-arg-probe",
    "-Wframe-larger-than=2048",
    *("-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes"),
    *("-Wdate-time", "-Werror"),
    # FIELD_OFFSET of the kit's ntdef.h is no constant expression to the letter of the standard, so an array that is
    # sized with it is taken for one of variable length; -Wvla, which the other toolchain has, would refuse it.
    "-Wno-gnu-folding-constant",
    # The newest kits deprecate functions for which the oldest Windows that drivers are built for has no other.
    "-Wno-deprecated-declarations",
    # UNREFERENCED_PARAMETER(P) of the kit's ntdef.h is the bare expression (P).
    "-Wno-unused-value",
    # Pragmas of the kit's own compiler, such as prefast and alloc_text for functions that clang has inlined.
    "-Wno-unknown-pragmas",
    *("-g", "-gcodeview", "-gno-codeview-command-line"),
    *("-fno-color-diagnostics", "-fdiagnostics-format=clang", "-ferror-limit=50"),
)
_LINK_OPTIONS: Final = (*COMMON_LINK_OPTIONS, "/driver", "/subsystem:native,10.0", f"/entry:{ENTRY}")
_DWARF: Final = "-gdwarf-4"
_UNDEFINED_ADVICE: Final = "no library of the kit has it; look for the name in the kit's documentation, and for a typo"


@dataclass(frozen=True)
class _Target:
    """What is particular to an architecture.

    Attributes:
        triple: clang's name of it.
        machine: lld-link's name of it.
        defines: what the kit's headers know it by.
        options: of clang.
        twin: whether a twin with DWARF is made, which the emulated machine reads; it runs x64 only.
    """

    triple: str
    machine: str
    defines: tuple[str, ...]
    options: tuple[str, ...] = ()
    twin: bool = False


_TARGETS: Final[Mapping[str, _Target]] = {
    # Every processor that Windows 8.1 and later run on has CMPXCHG16B; the kit's own compiler takes it for granted.
    "x64": _Target("x86_64-pc-windows-msvc", "x64", ("_AMD64_", "AMD64"), ("-mcx16",), twin=True),
    "arm64": _Target("aarch64-pc-windows-msvc", "arm64", ("_ARM64_", "ARM64")),
}


@dataclass(frozen=True)
class Wdk:
    """The toolchain over one kit.

    Attributes:
        kit: what it builds with.
        overlay: the kit's VFS overlay.
        architecture: ``x64`` or ``arm64``.
        control_flow_guard: whether calls through pointers are checked (/guard:cf).
        clang: name of a clang on PATH; None for that of the ziglang wheel.
        extra_compile_options: further options of clang-cl.
        extra_link_options: further options of lld-link.
    """

    kit: Kit
    overlay: Path
    architecture: str = "x64"
    control_flow_guard: bool = False
    clang: str | None = None
    extra_compile_options: tuple[str, ...] = ()
    extra_link_options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``wdk`` with the kit's version and, where it is not x64, the architecture."""
        return f"wdk {self.kit.version}" + ("" if self.architecture == "x64" else f" {self.architecture}")

    @cached_property
    def programs(self) -> Programs:
        """Compiler, linker and resource compiler. Raises ConfigurationError when one is not installed."""
        return wheel_programs() if self.clang is None else path_programs(self.clang)

    @cached_property
    def identity(self) -> str:
        """The programs' sizes and time stamps, and the kit's version and fingerprint."""
        return f"{self.name} {self.programs.identity} {self.kit.fingerprint}"

    def compile_options(self, driver: DriverSources) -> tuple[str, ...]:
        """See `Toolchain.compile_options`."""
        target = self._target
        options = (*_DRIVER_OPTIONS, *target.options, *((_DWARF,) if target.twin else ()))
        guard = ("/guard:cf",) if self.control_flow_guard else ()
        defines = (*PLATFORM_DEFINES, "_WIN64=1", "WINNT=1", *(f"{name}=1" for name in target.defines), *driver.defines)
        return (
            f"--target={target.triple}",
            *_CODE_OPTIONS,
            *guard,
            *(f"/clang:{option}" for option in options),
            # Without this a fault directly in the body of __try is not caught.
            *("-Xclang", "-fasync-exceptions"),
            *self.extra_compile_options,
            *(f"/D{define}" for define in defines),
            *(f"/I{driver.label}/{directory}" for directory in driver.include),
        )

    def link_options(self, driver: DriverSources) -> tuple[str, ...]:
        """See `Toolchain.link_options`."""
        target = self._target
        return (
            *_LINK_OPTIONS,
            f"/machine:{target.machine}",
            *(("/debug:dwarf",) if target.twin else ()),
            *(("/guard:cf",) if self.control_flow_guard else ()),
            *(("/integritycheck",) if driver.integrity_check else ()),
            # The kit's entry point calls DriverEntry, whatever the driver calls its own.
            *((f"/alternatename:DriverEntry={driver.entry}",) if driver.entry != "DriverEntry" else ()),
            *self.extra_link_options,
        )

    def compile(self, driver: DriverSources, source: str, target: Path) -> list[Path]:
        """See `Toolchain.compile`."""
        dependencies = target.with_suffix(".d")
        arguments = [
            *self.compile_command(driver),
            *("/clang:-MD", "/clang:-MF", f"/clang:{dependencies.name}", "/c", f"/Fo{target.name}"),
            # A path that begins like an option (/work, /Users) would be taken for one.
            *("--", str(driver.root / source)),
        ]
        status, output = self.run(arguments, target.parent)
        if status:
            raise BuildError(compile_message(driver, source, output, self.folders))
        read = parse_dependencies(dependencies.read_text(encoding="utf-8"))
        dependencies.unlink()
        own = (driver.root / source).resolve()
        resolved = {Path(path).resolve() for path in read} - {own}
        return sorted(path for path in resolved if not self.is_system_header(path))

    def compile_command(self, driver: DriverSources) -> list[str]:
        """clang-cl with all that a source of the driver is compiled with, short of the source and the output."""
        prefix = f"/I{driver.label}/"
        options = [
            f"/I{driver.root / option.removeprefix(prefix)}" if option.startswith(prefix) else option
            for option in self.compile_options(driver)
        ]
        return [
            *("clang", "--driver-mode=cl", *options),
            *(f"/clang:{prefix_map(folder, name)}" for folder, name in self.folders.items()),
            f"/clang:{prefix_map(driver.root, driver.label)}",
            "/clang:-ffile-compilation-dir=.",
            *("-nobuiltininc", "-imsvc", str(self.programs.headers)),
            *("-Xclang", "-ivfsoverlay", "-Xclang", str(self.overlay)),
            *(argument for folder in self.kit.include for argument in ("-imsvc", str(folder))),
        ]

    def link(self, driver: DriverSources, objects: list[Path], directory: Path) -> LinkOutputs:
        """See `Toolchain.link`."""
        names = [self._cookie_object(driver, directory)]
        for index, path in enumerate(objects):
            # A directory of its own keeps names relative, so that nothing of this machine reaches the outputs.
            name = f"{index:02}-{Path(driver.sources[index]).stem}.obj"
            shutil.copyfile(path, directory / name)
            names.append(name)
        names += compile_resource(driver, directory, self.run)
        names += [self._linked_library(name, path, directory) for name, path in self._libraries()]
        image = directory / f"{driver.name}.sys"
        pdb = directory / f"{driver.name}.pdb"
        outputs = [f"/out:{image.name}", f"/pdb:{pdb.name}"]
        status, output = self.run(["lld-link", *self.link_options(driver), *outputs, *names], directory)
        if status:
            raise BuildError(link_message(driver, output, _UNDEFINED_ADVICE))
        for name in names:
            (directory / name).unlink()
        require_writable_cookie(image, self.kit.version)
        if not self._target.twin:
            return LinkOutputs(image, None, pdb)
        twin = directory / f"{image.name}.dwarf"
        image.replace(twin)
        image.write_bytes(without_dwarf(twin.read_bytes()))
        return LinkOutputs(image, twin, pdb)

    @property
    def folders(self) -> dict[Path, str]:
        """What stands for the folders of the kit and of the compiler, in debug information and in messages."""
        headers = {folder: f"wdk/{folder.name}" for folder in self.kit.include}
        # The longest first: km/crt lies in km.
        return {
            **dict(sorted(headers.items(), key=lambda item: -len(str(item[0])))),
            self.programs.headers: "toolchain",
        }

    def is_system_header(self, path: Path) -> bool:
        """Whether a header is the kit's or the compiler's."""
        return any(path.is_relative_to(folder.resolve()) for folder in (*self.kit.include, self.programs.headers))

    def run(self, arguments: Sequence[str], directory: Path) -> tuple[int, str]:
        """Run ``clang``, ``lld-link`` or ``rc``, whichever comes first; its exit status and what it printed."""
        program, *rest = arguments
        return run_tool([*self.programs.commands[program], *rest], directory, "reinstall the package that has it")

    @property
    def _target(self) -> _Target:
        return _TARGETS[self.architecture]

    def _cookie_object(self, driver: DriverSources, directory: Path) -> str:
        source = directory / "cookie.c"
        source.write_text(SOURCE, encoding="ascii")
        arguments = ["clang", "--driver-mode=cl", f"--target={self._target.triple}", "/kernel", "/Zl", "/GS-", "/c"]
        status, output = self.run([*arguments, "/Focookie.obj", "--", source.name], directory)
        source.unlink()
        if status:
            raise BuildError(f"{driver.name}: the object of the /GS cookie does not compile:\n{output}")
        return "cookie.obj"

    def _libraries(self) -> list[tuple[str, Path]]:
        found = [(name, self.kit.library(name, self.architecture)) for name in LIBRARIES]
        return [(name, path) for name, path in found if path is not None]

    @staticmethod
    def _linked_library(name: str, path: Path, directory: Path) -> str:
        # The PDB records the libraries by the names that the linker was given.
        (directory / name).symlink_to(path)
        return name
