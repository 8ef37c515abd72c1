"""Builds a driver: compile, link, sign, and remember what was done so that doing it again costs nothing.

Under the build directory:

    objects/KEY/     compiled objects, shared by every build whose source, headers and options are the same
    images/NAME/KEY/ finished images; KEY covers objects, link options and signer, so nothing is ever overwritten
    requests/        for each thing asked for, the files it depended on and the image that came of it
    signing/         the test certificate

Everything appears by an atomic rename, so any number of processes may build at once. What was not used for two weeks
is deleted; all of it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness.build.description import DriverSources, find_driver
from harness.build.files import digest_of, exclusive, not_writable, sha256_file, write_atomically
from harness.build.layout import build_directory
from harness.build.llvm_mingw import LlvmMingw
from harness.build.prune import mark_used, prune
from harness.build.signing.configured import configured_signer
from harness.errors import BuildError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.build.signing.signer import Signer
    from harness.build.toolchain import LinkOutputs, Toolchain

_FORMAT: Final = "2"
_HEADER_SUFFIXES: Final = (".h", ".inc")
_ATTEMPTS: Final = 5
"""How often a source is compiled that is saved meanwhile."""


@dataclass(frozen=True)
class BuiltDriver:
    """A signed driver image and what belongs to it.

    Attributes:
        name: the driver's name.
        image: the signed ``.sys``; its PDB is always beside it.
        debug_image: ``<image>.dwarf``, the same image with DWARF at the same addresses, None where there is none.
        pdb: the program database, None where there is none.
        sha256: of the image file, in hexadecimal.
        certificate: the certificate it is signed with, DER.
        rebuilt: whether the compiler or the linker had to run.
        duration: seconds the call took.
    """

    name: str
    image: Path
    debug_image: Path | None
    pdb: Path | None
    sha256: str
    certificate: Path
    rebuilt: bool
    duration: float


@dataclass(frozen=True)
class _Input:
    """A file that an output depends on, as it was when it was read."""

    path: Path
    size: int
    modified_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> _Input:
        status = path.stat()
        return cls(path, status.st_size, status.st_mtime_ns, sha256_file(path))

    def is_current(self) -> bool:
        """Whether the file is what it was; its content is read only when its time stamp moved."""
        try:
            status = self.path.stat()
            if status.st_size != self.size:
                return False
            return status.st_mtime_ns == self.modified_ns or sha256_file(self.path) == self.sha256
        except OSError:
            return False


@dataclass(frozen=True)
class _Object:
    """A compiled source: where it is, what its content is derived from, and whether the compiler ran for it."""

    path: Path
    key: str
    inputs: tuple[_Input, ...]
    compiled: bool


def build_driver(
    driver: str | DriverSources,
    *,
    toolchain: Toolchain | None = None,
    defines: Sequence[str] = (),
    source_root: Path | None = None,
    out: Path | None = None,
    signer: Signer | None = None,
    build_root: Path | None = None,
) -> BuiltDriver:
    """Build and sign a driver, or find it built already.

    Args:
        driver: a bundled driver's name, a path to a ``drivers.toml`` (``path:name`` to choose), or the sources.
        toolchain: compiler and linker; the ziglang wheel's by default.
        defines: further preprocessor definitions.
        source_root: another copy of the driver's tree to build instead, such as a patched one.
        out: a directory that the finished files are copied to; without it they stay in the build directory.
        signer: who signs; by default what ``[tool.ntproof.signing]`` says, else the build directory's test certificate.
        build_root: the build directory; see `harness.build.layout.build_directory` for the default.

    Raises:
        ConfigurationError: unknown driver, missing sources, toolchain not installed, unwritable directory.
        BuildError: the sources do not compile or link.
        SigningFailed: a token, signing command or time stamp authority did not do its work.
    """
    started = time.perf_counter()
    sources = find_driver(driver) if isinstance(driver, str) else driver
    sources = sources.defining(*defines).at(source_root or sources.root)
    base = build_root.resolve() if build_root else build_directory()
    build = _Build(sources, toolchain or LlvmMingw(), base, signer or configured_signer(base / "signing"))
    try:
        image, rebuilt = build.run()
    except OSError as error:
        message = f"{error.filename or base}: {error.strerror}; set NTPROOF_BUILD_DIR to a writable directory"
        raise ConfigurationError(message) from error
    if out is not None:
        image = _copy_out(image, out)
    facts = json.loads(facts_path(image).read_text(encoding="utf-8"))
    return BuiltDriver(
        name=sources.name,
        image=image,
        debug_image=image.with_name(facts["debug_image"]) if facts["debug_image"] else None,
        pdb=image.with_name(facts["pdb"]) if facts["pdb"] else None,
        sha256=facts["sha256"],
        certificate=image.with_name(facts["certificate"]),
        rebuilt=rebuilt,
        duration=time.perf_counter() - started,
    )


def facts_path(image: Path) -> Path:
    """The small JSON file beside an image: its hash, the names of its debug files, what it was built with."""
    return image.with_name(f"{image.name}.json")


def build_unsigned(sources: DriverSources, toolchain: Toolchain, directory: Path) -> LinkOutputs:
    """Compile and link in a directory, with no cache and no signature.

    Raises:
        BuildError: the sources do not compile or link.
        ConfigurationError: a source is missing, or the toolchain cannot be run.
    """
    _require_sources(sources)
    objects = [directory / "objects" / f"{index}.obj" for index in range(len(sources.sources))]
    linked = directory / "linked"
    for path in (objects[0].parent, linked):
        path.mkdir(parents=True)
    for source, target in zip(sources.sources, objects, strict=True):
        toolchain.compile(sources, source, target)
    return toolchain.link(sources, objects, linked)


def _require_sources(sources: DriverSources) -> None:
    needed = (*sources.sources, *(() if sources.resource is None else (sources.resource,)))
    missing = next((s for s in needed if not (sources.root / s).is_file()), None)
    if missing is not None:
        message = f"driver {sources.name}: there is no source {missing!r} under {sources.root}"
        raise ConfigurationError(message)


class _Build:
    """One request: a driver's sources, a toolchain and a certificate, in a build directory."""

    def __init__(self, sources: DriverSources, toolchain: Toolchain, base: Path, signer: Signer) -> None:
        _require_sources(sources)
        self._sources = sources
        self._toolchain = toolchain
        self._base = base
        self._signer = signer
        # A header that appears may shadow one that was read, so the names of all of them count.
        headers = sorted(str(p.relative_to(sources.root)) for p in _headers(sources.root))
        self._compile_key = digest_of(_FORMAT, toolchain.identity, *toolchain.compile_options(sources), "", *headers)
        self._link_key = digest_of(
            *(_FORMAT, toolchain.identity, sources.name, signer.identity, *toolchain.link_options(sources)),
            *("", *sources.sources, "", *sources.extra_exports),
            *(() if sources.resource is None else (sources.resource, sha256_file(sources.root / sources.resource))),
        )
        request = digest_of(self._compile_key, self._link_key, sources.label, str(sources.root))
        self._manifest = base / "requests" / f"{sources.name}-{request[:24]}.json"

    def run(self) -> tuple[Path, bool]:
        """The image, and whether anything had to be compiled or linked for it."""
        image = self._current_image()
        if image is not None:
            return image, False
        with exclusive(self._manifest.with_suffix(".lock")):
            # Another process may have built it while this one waited.
            image = self._current_image()
            return (image, False) if image is not None else self._make()

    def _current_image(self) -> Path | None:
        try:
            manifest = json.loads(self._manifest.read_text(encoding="utf-8"))
            inputs = [_Input(Path(path), *rest) for path, *rest in manifest["inputs"]]
            outputs = [(self._base / path, size) for path, size in manifest["outputs"]]
            if not all(path.stat().st_size == size for path, size in outputs):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            # A manifest that cannot be read is as good as none: the build that follows replaces it.
            return None
        if not all(i.is_current() for i in inputs):
            return None
        image: Path = outputs[0][0]
        for path in (self._manifest, image.parent):
            mark_used(path)
        return image

    def _make(self) -> tuple[Path, bool]:
        started_ns = time.time_ns()
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            pending = [pool.submit(self._object, source) for source in self._sources.sources]
        failures = [f.exception() for f in pending]
        errors = [str(e) for e in failures if isinstance(e, BuildError)]
        if errors:
            raise BuildError("\n\n".join(errors))
        objects = [f.result() for f in pending]
        key = digest_of(self._link_key, *(o.key for o in objects))[:24]
        directory = self._base / "images" / self._sources.name / key
        image = directory / f"{self._sources.name}.sys"
        linked = not _is_intact(image)
        if linked:
            self._link(objects, directory)
            prune(self._base)
        mark_used(directory)
        inputs = {i.path: i for o in objects for i in o.inputs}
        # A file saved while it was being compiled must be looked at again next time.
        if all(i.modified_ns < started_ns for i in inputs.values()):
            self._remember(image, list(inputs.values()))
        return image, linked or any(o.compiled for o in objects)

    def _remember(self, image: Path, inputs: list[_Input]) -> None:
        # The image comes first: it is what _current_image answers.
        outputs = [image, *sorted(p for p in image.parent.iterdir() if p != image)]
        manifest = {
            "inputs": [[str(i.path), i.size, i.modified_ns, i.sha256] for i in inputs],
            "outputs": [[p.relative_to(self._base).as_posix(), p.stat().st_size] for p in outputs],
        }
        write_atomically(self._manifest, json.dumps(manifest).encode())

    def _object(self, source: str) -> _Object:
        before: tuple[_Input, ...] = ()
        for _ in range(_ATTEMPTS):
            own = _Input.of(self._sources.root / source)
            key = digest_of(self._compile_key, self._sources.label, source, own.sha256)
            directory = self._base / "objects" / key[:24]
            for record in directory.glob("*.json"):
                found = self._recorded_object(own, record)
                if found is not None:
                    return found
            directory.mkdir(parents=True, exist_ok=True)
            started_ns = time.time_ns()
            with tempfile.TemporaryDirectory(prefix=".compile-", dir=directory) as temporary:
                compiled = Path(temporary) / f"{Path(source).stem}.obj"
                headers = self._toolchain.compile(self._sources, source, compiled)
                inputs = tuple(_Input.of(path) for path in (own.path, *headers))
                # What is kept must be what was compiled: nothing was saved meanwhile, or it is as it was before.
                settled = all(i.modified_ns < started_ns for i in inputs) or inputs == before
                if settled and inputs[0].sha256 == own.sha256:
                    return self._keep(compiled, inputs, directory)
            before = inputs
        raise BuildError(
            f"{self._sources.label}/{source}: it, or a header of it, changed each of {_ATTEMPTS} times that it was "
            f"compiled; wait until nothing writes to {self._sources.root}"
        )

    def _keep(self, compiled: Path, inputs: tuple[_Input, ...], directory: Path) -> _Object:
        own, *headers = inputs
        names = [[self._portable(header.path), header.sha256] for header in headers]
        target = directory / f"{digest_of(*(text for pair in names for text in pair))[:24]}.obj"
        compiled.replace(target)
        write_atomically(target.with_suffix(".json"), json.dumps(names).encode())
        return _Object(target, _object_key_of(own, target), inputs, compiled=True)

    def _recorded_object(self, own: _Input, record: Path) -> _Object | None:
        """The object that a record stands for, if the headers are what they were when it was compiled."""
        try:
            names: list[tuple[str, str]] = [(str(n), str(d)) for n, d in json.loads(record.read_bytes())]
            headers = tuple(_Input.of(self._sources.root / name) for name, _ in names)
        except (OSError, ValueError, TypeError):
            return None
        target = record.with_suffix(".obj")
        if [h.sha256 for h in headers] != [digest for _, digest in names] or not target.is_file():
            return None
        mark_used(record.parent)
        return _Object(target, _object_key_of(own, record), (own, *headers), compiled=False)

    def _portable(self, path: Path) -> str:
        """A header's path, relative where it lies in the driver's tree, so that copies of the tree share objects."""
        root = self._sources.root
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)

    def _link(self, objects: list[_Object], directory: Path) -> None:
        from harness.build.pe import ALL_64_BIT, parse
        from harness.build.signing.digests import image_digest

        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".link-", dir=directory.parent))
        try:
            made = self._toolchain.link(self._sources, [o.path for o in objects], temporary)
            signed = self._signer.sign(made.image.read_bytes())
            made.image.write_bytes(signed.data)
            certificate = made.image.with_suffix(".cer")
            certificate.write_bytes(signed.certificate)
            facts: dict[str, Any] = {
                "name": self._sources.name,
                "image": made.image.name,
                "debug_image": made.twin.name if made.twin else None,
                "pdb": made.pdb.name if made.pdb else None,
                "sha256": sha256_file(made.image),
                "authenticode_sha256": image_digest(parse(signed.data, ALL_64_BIT)).hex(),
                "certificate": certificate.name,
                "certificate_sha256": hashlib.sha256(signed.certificate).hexdigest(),
                "toolchain": self._toolchain.name,
                "defines": list(self._sources.defines),
            }
            facts_path(made.image).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            temporary.chmod(0o755)
            self._publish(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @staticmethod
    def _publish(temporary: Path, directory: Path) -> None:
        try:
            temporary.replace(directory)
        except OSError:
            # Another process was first. The key covers everything that decides the content, so its files will do.
            if any(_is_intact(image) for image in directory.glob("*.sys")):
                return
            # Or one of the files was deleted.
            shutil.rmtree(directory)
            temporary.replace(directory)


def _is_intact(image: Path) -> bool:
    """Whether an image and all that belongs to it is there, and the image is what was built."""
    try:
        facts = json.loads(facts_path(image).read_text(encoding="utf-8"))
        beside = [image.with_name(facts[key]) for key in ("debug_image", "pdb", "certificate") if facts[key]]
        return all(path.is_file() for path in beside) and sha256_file(image) == facts["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _object_key_of(own: _Input, record: Path) -> str:
    """What stands for an object's content in keys: its directory covers source and options, its name the headers."""
    return digest_of(own.sha256, record.parent.name, record.stem)


def _headers(root: Path) -> list[Path]:
    return [
        Path(directory) / name
        for directory, _, names in os.walk(root)
        for name in names
        if name.endswith(_HEADER_SUFFIXES)
    ]


def _copy_out(image: Path, out: Path) -> Path:
    for source in image.parent.iterdir():
        target = out / source.name
        content = source.read_bytes()
        try:
            if not target.is_file() or target.read_bytes() != content:
                write_atomically(target, content)
        except OSError as error:
            raise not_writable(out, error) from error
    return out / image.name
