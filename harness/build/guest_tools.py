"""Builds the user-mode programs that run inside a Windows guest: ntguest.exe, which runs plans, and its child.exe.

They are described by ``driver/guest/guest.toml`` and built by the ziglang wheel's clang and lld-link without any C
runtime: an entry point of their own, and imports from system libraries that the description lists by name. The same
sources give the same bytes wherever they lie.
"""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness.build.description import DriverSources
from harness.build.files import digest_of, exclusive, sha256_file
from harness.build.layout import build_directory, driver_source_root
from harness.build.llvm_mingw import COMPILE_OPTIONS, LlvmMingw
from harness.build.prune import mark_used, prune
from harness.build.toolchain import COMMON_LINK_OPTIONS, LinkOutputs
from harness.errors import BuildError, ConfigurationError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GUEST_DIRECTORY: Final = "guest"
DESCRIPTION: Final = "guest.toml"
SUBSYSTEMS: Final = ("console", "windows")
_ENTRY: Final = "start"
_PLATFORM_DEFINES: Final = ("WINVER=0x0A00", "_WIN32_WINNT=0x0A00", "NTDDI_VERSION=0x0A000006")
_LINK_OPTIONS: Final = (*COMMON_LINK_OPTIONS, "/highentropyva")


@dataclass(frozen=True)
class GuestProgram:
    """A program of the description: its name without ``.exe``, its C files, its subsystem."""

    name: str
    sources: tuple[str, ...]
    subsystem: str


@dataclass(frozen=True)
class GuestTools:
    """The built programs.

    Attributes:
        ntguest: runs plans; see driver/guest/ntguest.c.
        child: does as it is told; see driver/guest/child.c.
        sha256: of each file, by file name, in hexadecimal.
    """

    ntguest: Path
    child: Path
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class _GuestToolchain(LlvmMingw):
    """The wheel's compiler and linker, set up for user mode instead of the kernel."""

    imports: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def compile_options(self, driver: DriverSources) -> tuple[str, ...]:
        """Options for user-mode code."""
        return (*COMPILE_OPTIONS, *(f"-D{define}" for define in (*_PLATFORM_DEFINES, *driver.defines)))

    def link_program(self, program: GuestProgram, objects: Sequence[Path], directory: Path) -> LinkOutputs:
        """Link a program in a directory that holds nothing else.

        Raises:
            BuildError: the linker refused, most often for a function that the description does not list.
        """
        names = []
        for source, path in zip(program.sources, objects, strict=True):
            names.append(f"{Path(source).stem}.obj")
            shutil.copyfile(path, directory / names[-1])
        libraries = [self._library(library, functions, directory) for library, functions in self.imports]
        image, pdb = directory / f"{program.name}.exe", directory / f"{program.name}.pdb"
        options = [*_LINK_OPTIONS, f"/subsystem:{program.subsystem},10.0", f"/entry:{_ENTRY}"]
        outputs = [f"/out:{image.name}", f"/pdb:{pdb.name}"]
        status, output = self._run(["lld-link", *options, *outputs, *names, *libraries], directory)
        if status:
            advice = f"a function of Windows must be listed under [imports] in {DESCRIPTION}"
            raise BuildError(f"{output.strip()}\nwhile linking {program.name}.exe: {advice}")
        for name in (*names, *libraries):
            (directory / name).unlink()
        return LinkOutputs(image, None, pdb)

    def _library(self, library: str, functions: Sequence[str], directory: Path) -> str:
        definition = directory / f"{library}.def"
        definition.write_text("\n".join([f"LIBRARY {library}.dll", "EXPORTS", *functions, ""]), encoding="ascii")
        name = f"{library}.lib"
        status, output = self._run(["dlltool", "-m", "i386:x86-64", "-d", definition.name, "-l", name], directory)
        definition.unlink()
        if status:
            raise BuildError(f"dlltool cannot make the import library of {library}:\n{output}")
        return name


def build_guest_tools(*, build_root: Path | None = None, source_root: Path | None = None) -> GuestTools:
    """Build the guest programs, or find them built already.

    Args:
        build_root: the build directory; see `harness.build.layout.build_directory` for the default.
        source_root: another copy of ``driver/guest``.

    Raises:
        ConfigurationError: the sources are missing or the toolchain is not installed.
        BuildError: they do not compile or link.
    """
    root = (source_root or driver_source_root() / GUEST_DIRECTORY).resolve()
    programs, imports = load_guest_description(root / DESCRIPTION)
    toolchain = _GuestToolchain(imports=imports)
    base = build_root.resolve() if build_root else build_directory()
    try:
        files = sorted(path for path in root.iterdir() if path.suffix in {".c", ".h", ".toml"})
        options = (*toolchain.compile_options(_sources(root, ("x.c",))), *_LINK_OPTIONS)
        key = digest_of(toolchain.identity, *options, *(part for f in files for part in (f.name, sha256_file(f))))
        directory = base / "images" / GUEST_DIRECTORY / key[:24]
        if not _is_made(programs, directory):
            with exclusive(base / "requests" / f"{GUEST_DIRECTORY}-{key[:24]}.lock"):
                # Another process may have made them while this one waited.
                if not _is_made(programs, directory):
                    _make(programs, toolchain, root, directory)
            prune(base)
        mark_used(directory)
        hashes = {f"{p.name}.exe": sha256_file(directory / f"{p.name}.exe") for p in programs}
    except OSError as error:
        message = f"{error.filename or base}: {error.strerror}; set NTPROOF_BUILD_DIR to a writable directory"
        raise ConfigurationError(message) from error
    return GuestTools(directory / "ntguest.exe", directory / "child.exe", hashes)


def _is_made(programs: Sequence[GuestProgram], directory: Path) -> bool:
    return all((directory / f"{program.name}.exe").is_file() for program in programs)


def load_guest_description(
    path: Path,
) -> tuple[tuple[GuestProgram, ...], tuple[tuple[str, tuple[str, ...]], ...]]:
    """The programs, and the functions imported from each system library.

    Raises:
        InputError: the file cannot be read or is malformed; the message names the file and the key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error
    programs, imports = (_table(path, document, key) for key in ("programs", "imports"))
    found = []
    for name, table in programs.items():
        where = f"{path}: programs.{name}"
        if not isinstance(table, dict) or set(table) != {"sources", "subsystem"}:
            raise InputError(f"{where}: expected a table with sources and subsystem")
        if table["subsystem"] not in SUBSYSTEMS:
            raise InputError(f"{where}.subsystem: expected one of {', '.join(SUBSYSTEMS)}")
        found.append(GuestProgram(name, _names(f"{where}.sources", table["sources"]), table["subsystem"]))
    missing = {"ntguest", "child"} - {program.name for program in found}
    if missing:
        raise InputError(f"{path}: programs: {', '.join(sorted(missing))} must be described")
    return tuple(found), tuple((library, _names(f"{path}: imports.{library}", n)) for library, n in imports.items())


def _table(path: Path, document: dict[str, Any], key: str) -> dict[str, Any]:
    table = document.get(key)
    if not isinstance(table, dict):
        raise InputError(f"{path}: {key}: expected a table [{key}]")
    return table


def _names(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where}: expected a list of names")
    return tuple(value)


def _sources(root: Path, sources: tuple[str, ...]) -> DriverSources:
    return DriverSources("guest", root, sources, entry=_ENTRY, integrity_check=False, label=GUEST_DIRECTORY)


def _make(programs: Sequence[GuestProgram], toolchain: _GuestToolchain, root: Path, directory: Path) -> None:
    """Compile every source once, link every program, and publish each file by a rename."""
    sources = _sources(root, tuple(sorted({source for program in programs for source in program.sources})))
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".guest-", dir=directory.parent) as name:
        work = Path(name)
        objects, outputs = work / "objects", work / "outputs"
        objects.mkdir()
        outputs.mkdir()
        targets = {source: objects / f"{Path(source).stem}.obj" for source in sources.sources}
        with ThreadPoolExecutor(2) as pool:
            compiled = [pool.submit(toolchain.compile, sources, source, target) for source, target in targets.items()]
        errors = [str(error) for done in compiled if isinstance(error := done.exception(), BuildError)]
        if errors:
            raise BuildError("\n\n".join(errors))
        for done in compiled:
            done.result()
        for program in programs:
            linking = work / program.name
            linking.mkdir()
            made = toolchain.link_program(program, [targets[source] for source in program.sources], linking)
            for path in (made.image, made.pdb):
                if path is not None:
                    path.replace(outputs / path.name)
        # One file after the other: the folder may be there with some of them, and a rename over it would be refused.
        directory.mkdir(exist_ok=True)
        for path in outputs.iterdir():
            path.replace(directory / path.name)
