"""Builds an image: looks at the media, makes answers, lets Windows install itself, checks what came, and seals it.

Each part is a stage of `vm.windows.images.stages`, so that a build that was stopped goes on where it was.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Protocol

from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.images import answer_media, credentials, manifest, media
from vm.windows.images.answer_media import (
    answer_files,
    check_openssh_package,
    check_virtio_media,
    write_answer_media,
)
from vm.windows.images.guest_report import GuestEvent, GuestFacts
from vm.windows.images.hypervisor import Installation, InstallationHost, Probe
from vm.windows.images.installation import Deadlines, InstallationListener, install
from vm.windows.images.manifest import Manifest, Source, StageTime, StoredFile, read_manifest
from vm.windows.images.stages import Outcome, Stage, StageListener, StageRunner
from vm.windows.images.store import DISK, NVRAM, ROOM_TO_INSTALL, Image, ImageStore
from vm.windows.profiles.profile import Firmware, Profile

WINDOWS_MEDIA: Final = "windows.iso"
ANSWER_MEDIA: Final = "answers.iso"
LOG: Final = "build.log"
SCREENSHOT: Final = "screen.png"
_PACKAGES: Final = ("ntproof", "pycdlib")


class BuildListener(StageListener, InstallationListener, Protocol):
    """Is told how a build goes on, down to the steps in the guest."""

    def progress(self, done: int, total: int) -> None:
        """Bytes of the current stage."""


class SilentListener:
    """Listens to nothing; a base for listeners that want only a part."""

    def stage_started(self, stage: Stage) -> None:
        """A stage began."""

    def stage_ended(self, stage: Stage, seconds: float, *, again: bool) -> None:
        """A stage is done."""

    def stage_failed(self, stage: Stage, seconds: float) -> None:
        """A stage failed."""

    def progress(self, done: int, total: int) -> None:
        """Bytes of the current stage."""

    def guest_event(self, event: GuestEvent) -> None:
        """The guest reported something."""

    def screenshot(self, path: Path) -> None:
        """A picture of the screen was written."""


@dataclass(frozen=True)
class BuildRequest:
    """What to build of what.

    Attributes:
        profile: the profile.
        iso: the Windows ISO.
        name: the image's name.
        iso_sha256: the hash that the ISO must have, None to take any.
        virtio_iso: the virtio-win ISO, None for none.
        openssh: the OpenSSH server's MSI, None where Windows brings the server.
        guest_module: files of the PowerShell module that the guest is driven through, by name.
        watch: write a picture of the screen while Windows is installed.
        deadlines: how long the installation may take.
        room: free bytes without which the installation does not begin.
    """

    profile: Profile
    iso: Path
    name: str
    iso_sha256: str | None = None
    virtio_iso: Path | None = None
    openssh: Path | None = None
    guest_module: Mapping[str, bytes] = field(default_factory=answer_media.shipped_guest_module)
    watch: bool = False
    deadlines: Deadlines = field(default_factory=Deadlines)
    room: int = ROOM_TO_INSTALL


class ImageBuild:
    """One build."""

    def __init__(
        self,
        request: BuildRequest,
        images: ImageStore,
        host: InstallationHost,
        *,
        listener: BuildListener | None = None,
        probe: Probe | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Prepare a build.

        Args:
            request: what to build.
            images: where the image goes.
            host: what installs it.
            listener: is told how it goes on; None for nobody.
            probe: looks at the image at its first start; None to leave that to its first use.
            clock: seconds that never go back.
            now: the time of day.

        Raises:
            MachineConfigurationError: an image of that name is there, or the profile needs a file that was not given.
            MachineBroken: the store cannot be written.
        """
        self._request = request
        self._images = images
        self._host = host
        self._listener: BuildListener = listener if listener is not None else SilentListener()
        self._probe = probe
        self._clock = clock
        self._now = now
        if request.profile.needs_virtio_drivers and request.virtio_iso is None:
            raise MachineConfigurationError(
                f"profile {request.profile.name!r} has a virtio disk or network: give the drivers with --virtio-iso"
            )
        if request.profile.needs_openssh_package and request.openssh is None:
            raise MachineConfigurationError(
                f"this Windows ({request.profile.name}) has no OpenSSH server and no network to fetch it from: give the"
                " OpenSSH-Win64 .msi of the project Win32-OpenSSH with --openssh"
            )
        self.folder = images.build_folder(request.name)
        self._runner = StageRunner(self.folder, self._listener, clock=clock)

    def run(self) -> Image:
        """Do what is not done yet, and seal the image.

        Raises:
            MachineError: a stage failed; the message says which and why. Running again goes on from there.
            MachineBroken: another process builds this image.
        """
        with self._images.building(self._request.name):
            return self._sealed()

    def _sealed(self) -> Image:
        content = self._finished()
        if content is None:
            with _logged_to(self.folder / LOG):
                self._runner.run(self._stages())
            content = self._manifest()
            manifest.save_manifest(content, self.folder)
        kept = {file.name for file in content.files} | {credentials.FILE_NAME, manifest.FILE_NAME}
        # The answer medium holds passwords, and the rest is of no more use.
        for path in self.folder.iterdir():
            if path.name not in kept:
                path.unlink()
        return self._images.admit(self.folder, content)

    def _finished(self) -> Manifest | None:
        """The manifest of a build that was stopped while it was sealed, when it is one of this profile."""
        path = self.folder / manifest.FILE_NAME
        if not path.exists():
            return None
        try:
            content = read_manifest(path)
        except MachineConfigurationError:
            content = None
        if content is not None and self._is_complete(content):
            return content
        path.unlink()
        return None

    def _is_complete(self, content: Manifest) -> bool:
        """Whether a manifest is of what is built here, with all its files."""
        asked_for = self._request.profile.without_product_key()
        names = (credentials.FILE_NAME, *(file.name for file in content.files))
        return (content.name, content.profile) == (self._request.name, asked_for) and all(
            (self.folder / name).is_file() for name in names
        )

    def _stages(self) -> list[Stage]:
        request = self._request
        profile = request.profile.to_mapping()
        stages = [
            Stage("media", "look at the Windows ISO", self._media_inputs, self._look_at_media),
            Stage("boot-media", "copy it without its key prompt", dict, self._copy_media),
            Stage("credentials", "make accounts", dict, self._make_credentials),
            Stage("answers", "write the answer medium", self._answer_inputs, self._write_answers),
            Stage("install", "install Windows and set it up", lambda: {"profile": profile}, self._install),
            Stage("confirm", "hold the guest against its profile", dict, self._confirm),
        ]
        if self._probe is not None:
            stages.append(Stage("probe", "start the guest and look at it", dict, self._observe))
        stages.append(Stage("hash", "hash what is kept", dict, self._hash))
        return stages

    def _media_inputs(self) -> Mapping[str, Any]:
        request = self._request
        files = {"iso": request.iso, "virtio": request.virtio_iso, "openssh": request.openssh}
        return {
            "files": {key: _identity(path) for key, path in files.items() if path is not None},
            "sha256": request.iso_sha256,
            "profile": request.profile.to_mapping(),
        }

    def _look_at_media(self) -> Outcome:
        request = self._request
        # Asked for now, so that it is not missed after gigabytes were copied.
        answer_media.require_pycdlib()
        listed = media.list_images(request.iso)
        image = media.choose_image(request.iso, listed, request.profile)
        if request.virtio_iso is not None:
            check_virtio_media(request.virtio_iso, request.profile)
        if request.openssh is not None:
            check_openssh_package(request.openssh)
        found = media.inspect_media(request.iso, sha256=request.iso_sha256, progress=self._listener.progress)
        hashes = {
            key: media.sha256_of(path)
            for key, path in (("virtio_sha256", request.virtio_iso), ("openssh_sha256", request.openssh))
            if path is not None
        }
        return Outcome(facts={"iso_sha256": found.sha256, "iso_image": image.name, "iso_index": image.index, **hashes})

    def _copy_media(self) -> Outcome:
        target = self.folder / WINDOWS_MEDIA
        firmware = self._request.profile.hardware.firmware
        media.copy_without_prompt(self._request.iso, target, firmware, self._listener.progress)
        return Outcome((WINDOWS_MEDIA,))

    def _make_credentials(self) -> Outcome:
        credentials.save(credentials.new_credentials(self._request.profile), self.folder)
        return Outcome((credentials.FILE_NAME,))

    def _answer_files(self) -> dict[str, bytes]:
        request = self._request
        return answer_files(
            request.profile,
            credentials.load(self.folder),
            image_index=self._runner.facts("media")["iso_index"],
            with_virtio=request.virtio_iso is not None,
            openssh_package=request.openssh,
            guest_module=request.guest_module,
        )

    def _answer_inputs(self) -> Mapping[str, Any]:
        # The medium's content, so that what an update of this package changes in it is written anew.
        return {path: media.sha256_of_bytes(content) for path, content in self._answer_files().items()}

    def _write_answers(self) -> Outcome:
        write_answer_media(self.folder / ANSWER_MEDIA, self._answer_files())
        return Outcome((ANSWER_MEDIA,))

    def _install(self) -> Outcome:
        request, folder = self._request, self.folder
        hardware = request.profile.hardware
        for name in (DISK, NVRAM):
            (folder / name).unlink(missing_ok=True)
        media.require_space(folder, request.room, "the guest's disk")
        self._host.create_disk(folder / DISK, hardware.disk_gib)
        cds = [folder / WINDOWS_MEDIA, folder / ANSWER_MEDIA]
        if request.virtio_iso is not None:
            cds.append(request.virtio_iso)
        installation = Installation(
            name=request.name,
            hardware=hardware,
            nested_virtualization=request.profile.features.memory_integrity,
            disk=folder / DISK,
            nvram=folder / NVRAM if hardware.firmware is Firmware.UEFI else None,
            media=tuple(cds),
        )
        with self._host.run(installation) as machine:
            facts = install(
                machine,
                self._listener,
                request.deadlines,
                pictures=folder / SCREENSHOT,
                watch=request.watch,
                clock=self._clock,
            )
        return Outcome(self._kept(), facts.to_mapping())

    def _kept(self) -> tuple[str, ...]:
        return (DISK, NVRAM) if self._request.profile.hardware.firmware is Firmware.UEFI else (DISK,)

    def _guest(self) -> GuestFacts:
        return GuestFacts.from_mapping(dict(self._runner.facts("install")), "the guest's facts")

    def _confirm(self) -> Outcome:
        wrong = list(differences(self._guest(), self._request.profile))
        if wrong:
            raise MachineBroken(f"the guest is not as profile {self._request.profile.name!r} says: {'; '.join(wrong)}")
        return Outcome()

    def _observe(self) -> Outcome:
        assert self._probe is not None
        request = self._request
        return Outcome(facts=dict(self._probe.observe(self.folder, request.name, request.profile, self._guest())))

    def _hash(self) -> Outcome:
        hashed = {name: _size_and_hash(self.folder / name, self._listener.progress) for name in self._kept()}
        return Outcome(self._kept(), {"files": hashed})

    def _manifest(self) -> Manifest:
        runner, source = self._runner, dict(self._runner.facts("media"))
        seconds = runner.seconds()
        hashed = {**runner.facts("hash")["files"], LOG: _size_and_hash(self.folder / LOG)}
        return Manifest(
            name=self._request.name,
            created=self._now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            profile=self._request.profile.without_product_key(),
            source=Source(**source),
            guest=self._guest(),
            observed=dict(runner.facts("probe")) if self._probe is not None else {},
            tools={**_tools(), **self._host.versions()},
            files=tuple(StoredFile(name=name, size=size, sha256=digest) for name, (size, digest) in hashed.items()),
            stages=tuple(StageTime(name=name, milliseconds=round(1000 * took)) for name, took in seconds.items()),
        )


def differences(guest: GuestFacts, profile: Profile) -> Iterator[str]:
    """Where a guest is not what its profile says."""
    features, hardware = profile.features, profile.hardware
    pairs: tuple[tuple[str, object, object], ...] = (
        ("build", guest.build, profile.media.build),
        ("secure_boot", guest.secure_boot, hardware.secure_boot),
        ("test_signing", guest.test_signing, features.test_signing),
        ("memory_integrity", guest.memory_integrity, features.memory_integrity),
        ("crash_dump", guest.crash_dump, features.crash_dump.value),
        ("process_audit", guest.process_audit, features.process_audit),
    )
    for name, found, wanted in pairs:
        if found != wanted:
            yield f"{name} is {found}, expected {wanted}"


def _size_and_hash(path: Path, progress: media.Progress = media.silent) -> tuple[int, str]:
    return path.stat().st_size, media.sha256_of(path, progress)


def _identity(path: Path) -> list[object]:
    """What tells a file from another without reading it."""
    try:
        status = path.stat()
    except OSError as error:
        raise MachineConfigurationError(f"{path}: {error.strerror}; name a file that can be read") from error
    return [str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino]


def _tools() -> dict[str, str]:
    found = {"python": platform.python_version(), "kernel": platform.release()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


class _BuildLog(logging.FileHandler):
    """The log of a build. When it cannot be written, the build goes on without it."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: what made it fail, such as a full disk, makes the stage fail as well."""


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Keep what this package logs in a file as well."""
    try:
        handler = _BuildLog(path, encoding="utf-8")
    except OSError as error:
        raise MachineBroken(f"{path}: {error.strerror}; the build's folder cannot be written") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("vm.windows.images")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
