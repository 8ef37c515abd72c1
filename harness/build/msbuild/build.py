"""Builds a driver on a Windows computer: sends what changed, runs MSBuild, fetches what it made and signs the image."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Final

from harness.build.files import digest_of, exclusive, not_writable, sha256_file, write_atomically
from harness.build.layout import build_directory
from harness.build.msbuild.invocation import BATCH, BATCH_PATH, LOG_NAME, Request, command
from harness.build.msbuild.output import findings
from harness.build.msbuild.sources import RemoteTree, remote_tree
from harness.build.report import BuildReport, image_findings
from harness.build.source_findings import Level, SourceFinding
from harness.errors import BuildError, ConfigurationError, ImageError
from vm.errors import Win32Error
from vm.windows.remoting.errors import CommandTimedOut
from vm.windows.remoting.guest import Guest
from vm.windows.remoting.session import GuestSession
from vm.windows.remoting.transfer import GuestFiles

if TYPE_CHECKING:
    from harness.build.description import DriverSources
    from harness.build.msbuild.settings import BuildMachine
    from harness.build.signing.signer import Signer

LONGEST_BUILD: Final = 900.0
"""Seconds after which MSBuild is ended."""
_SHOWN_LINES: Final = 40
_REMEDY: Final = "name what exists there as ewdk, msbuild, infverif or kit in [tool.ntproof.build-machine]"


def build_remotely(
    driver: DriverSources,
    machine: BuildMachine,
    signer: Signer,
    *,
    architecture: str = "x64",
    analyse: bool = False,
    out: Path | None = None,
    deadline: float = LONGEST_BUILD,
) -> BuildReport:
    """Build a driver on a build machine.

    Args:
        driver: what to build; it must name its Visual Studio project.
        machine: where.
        signer: who signs the image.
        architecture: ``x64`` or ``arm64``.
        analyse: whether code analysis runs.
        out: the folder for what is fetched; by default one below the build directory.
        deadline: seconds for MSBuild.

    Raises:
        ConfigurationError: the driver has no project, the password is unknown, there is no MSBuild, or the folder
            cannot be made.
        BuildError: MSBuild failed, hung, or left no image; the message starts with the place of the first error.
        RemotingError: the machine cannot be reached.
    """
    started = time.perf_counter()
    tree = remote_tree(driver)
    request = Request(tree, architecture, machine.kit, analyse)
    made = build_directory() / "msbuild" / driver.name / f"{tree.outputs.name}-{architecture}"
    folder = out if out is not None else made
    try:
        # Before the build, which may take minutes.
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_writable(folder, error) from error
    credentials = machine.credentials()
    with _alone(machine, tree), GuestSession(machine.endpoint, credentials) as session:
        session.connect()
        found = _run(driver, machine, request, session, deadline)
        fetched = _fetch(driver, request, session, folder)
    image = fetched[f"{driver.name}.sys"]
    try:
        signed = signer.sign(image.read_bytes())
    except ImageError as error:
        raise BuildError(f"{image.name}, as {machine.host} built it: {error}") from error
    write_atomically(image, signed.data)
    certificate = image.with_suffix(".cer")
    write_atomically(certificate, signed.certificate)
    report = BuildReport(
        driver=driver.name,
        toolchain=f"msbuild on {machine.host}",
        architecture=architecture,
        image=image,
        pdb=fetched[f"{driver.name}.pdb"],
        sha256=sha256_file(image),
        signed=True,
        duration=time.perf_counter() - started,
        source_findings=tuple(found),
        image_findings=tuple(image_findings(image)),
        files=(*(path for name, path in fetched.items() if not name.endswith((".sys", ".pdb"))), certificate),
        analysed=analyse,
    )
    write_atomically(folder / "report.json", (json.dumps(report.to_json(), indent=2) + "\n").encode())
    return report


@contextmanager
def _alone(machine: BuildMachine, tree: RemoteTree) -> Iterator[None]:
    """Until it ends nobody else here builds in the same folder there, which holds sources and a response file."""
    folder = build_directory() / "requests"
    name = digest_of(machine.host, str(machine.port), str(tree.folder))[:24]
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(folder / f"msbuild-{name}.lock"))
        except OSError as error:
            remedy = "set NTPROOF_BUILD_DIR to a writable directory"
            raise ConfigurationError(f"{error.filename or folder}: {error.strerror}; {remedy}") from error
        yield


def _run(
    driver: DriverSources, machine: BuildMachine, request: Request, session: GuestSession, deadline: float
) -> list[SourceFinding]:
    """Send the sources and run MSBuild; what it found, if it succeeded."""
    guest = Guest(session)
    response = request.tree.folder / "build.rsp"
    with tempfile.TemporaryDirectory(prefix="ntproof-msbuild-") as scratch:
        made = {str(response): Path(scratch, "build.rsp"), str(BATCH_PATH): Path(scratch, BATCH_PATH.name)}
        made[str(response)].write_text(request.response_file(), encoding="utf-8", newline="")
        made[str(BATCH_PATH)].write_text(BATCH, encoding="ascii", newline="")
        GuestFiles(session).send({**request.tree.files, **made})
    program, arguments = command(machine, guest, response)
    lines, status = _output(guest, program, arguments, machine, deadline)
    if not status and machine.inf_verifier is not None:
        inf = str(request.package(driver.name) / f"{driver.name}.inf")
        more, status = _output(guest, machine.inf_verifier, ["/w", inf], machine, deadline)
        lines += more
    found = findings(lines, request.tree, driver.label)
    errors = [finding for finding in found if finding.level == Level.ERROR.value]
    if status or errors:
        raise BuildError(_failure(driver, machine, status, errors, lines))
    return found


def _output(
    guest: Guest, program: str, arguments: Sequence[str], machine: BuildMachine, deadline: float
) -> tuple[list[str], int]:
    lines, status = [], 0
    name = PureWindowsPath(program).name
    try:
        for line in guest.run_program(program, arguments, deadline=deadline):
            if line.exit_code is None:
                lines.append(line.text)
            else:
                status = line.exit_code
    except Win32Error as error:
        raise BuildError(f"{machine.host}: {program} cannot be run: {error}; {_REMEDY}") from error
    except CommandTimedOut as error:
        shown = "\n".join(lines[-_SHOWN_LINES:])
        raise BuildError(f"{machine.host}: {name} did not end within {deadline:g} s and was ended\n{shown}") from error
    return lines, status


def _failure(
    driver: DriverSources, machine: BuildMachine, status: int, errors: Sequence[SourceFinding], lines: Sequence[str]
) -> str:
    shown = [str(error) for error in errors]
    if not shown:
        shown = [f"it ended with status {status} and named no error:", *lines[-_SHOWN_LINES:]]
    return "\n".join([*shown, f"while building {driver.name} on {machine.host}"])


def _fetch(driver: DriverSources, request: Request, session: GuestSession, folder: Path) -> dict[str, Path]:
    """Fetch what a driver project makes: the image and its PDB, and the package with INF and catalog in a folder."""
    package = request.package(driver.name)
    wanted = {
        f"{driver.name}.sys": request.outputs / f"{driver.name}.sys",
        f"{driver.name}.pdb": request.outputs / f"{driver.name}.pdb",
        f"{driver.name}.inf": package / f"{driver.name}.inf",
        f"{driver.name}.cat": package / f"{driver.name}.cat",
        LOG_NAME: request.outputs / LOG_NAME,
    }
    return {name: _fetch_one(path, folder / name, session) for name, path in wanted.items()}


def _fetch_one(path: PureWindowsPath, target: Path, session: GuestSession) -> Path:
    try:
        GuestFiles(session).fetch(str(path), target)
    except Win32Error as error:
        raise BuildError(f"MSBuild ended well and left no {path}: {error}; is that what the project makes?") from error
    return target
