"""The image ``standin``: made by ``ntproof image build`` of a profile and a medium, as an image of Windows is.

It is made anew when what is in it changes, and stays otherwise.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from harness.build.layout import build_directory
from tests.integration.standin import medium
from tests.integration.standin.base_system import ROOT
from tests.integration.standin.guest_system import guest_system
from vm.windows.images.store import BUILDS, VARIABLE, ImageStore

NAME = "standin"
CACHE = build_directory() / "standin"
IMAGES = CACHE / "images"
HOST_FOLDER = CACHE / "slots"
PROFILES = Path(__file__).parent
BUILD_WITHIN = 1800
"""Seconds for the whole build: a busy computer with an emulated processor takes many times what an idle one does."""
_STAMP = "image.key"
_BUILT_BY = (
    "vm/windows/images",
    "vm/windows/profiles",
    "tests/fixtures/boot_programs.py",
    "tests/fixtures/windows_media.py",
    "tests/integration/standin/medium.py",
    "tests/integration/standin/standin.toml",
)
"""What makes the image of the guest's system, whose own name tells its content."""


def settings(uri):
    """The environment in which ``--vm standin`` is this image on that hypervisor."""
    return {
        "LIBVIRT_DEFAULT_URI": uri,
        VARIABLE: str(IMAGES),
        "NTPROOF_HYPERVISOR_DIR": str(HOST_FOLDER),
    }


@contextmanager
def locked(path):
    """One process at a time; the others wait. Ends with its process at the latest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def make_medium():
    """The installation medium for the project as it is now, and what tells it from another."""
    system = guest_system(CACHE)
    digest = hashlib.sha256(system.root_archive.parent.name.encode())
    for name in _BUILT_BY:
        place = ROOT / name
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.name.startswith("test_"):
                continue  # what is tested of the guest is nothing that it is made of
            if path.is_file() and path.suffix in {".py", ".toml", ".txt", ".ps1"}:
                digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    key = digest.hexdigest()[:16]
    path = CACHE / f"windows-{key}.iso"
    if not path.exists():
        medium.write_medium(path, system)
    return path, key


def build(iso, uri, *, images=IMAGES, name=NAME, arguments=(), output=None):
    """Run ``ntproof image build``; its exit status. `output` takes what it prints, None for this process's own."""
    command = [Path(sys.executable).with_name("ntproof"), "image", "build", NAME, "--iso", iso, "--name", name]
    command += ["--profiles", PROFILES, "--connect", uri, *arguments]
    environment = {**os.environ, **settings(uri), VARIABLE: str(images)}
    done = subprocess.run(
        command, cwd=CACHE, env=environment, stdout=output, stderr=output, check=False, timeout=BUILD_WITHIN
    )
    return done.returncode


def ensure_image(uri):
    """The store that holds the image, of the project as it is now."""
    with locked(CACHE / "lock"):
        iso, key = make_medium()
        store, stamp = ImageStore(IMAGES), CACHE / _STAMP
        if NAME in store.names() and stamp.exists() and stamp.read_text() == key:
            return store
        forget(store)
        _clean(key)
        if build(iso, uri):
            raise RuntimeError(f"the image {NAME} was not built; see {IMAGES / BUILDS / NAME}")
        stamp.write_text(key)
    return store


def forget(store):
    """Remove the image and what was built upon it."""
    if NAME in store.names():
        store.remove(NAME)
    if NAME in store.unfinished():
        store.discard_build(NAME)


def _clean(key):
    """Remove media and systems of earlier contents."""
    for path in CACHE.glob("windows-*.iso"):
        if path.stem != f"windows-{key}":
            path.unlink()
    for kind in ("system", "base"):
        for path in sorted(CACHE.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime)[:-1]:
            shutil.rmtree(path)
