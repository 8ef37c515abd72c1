"""Make, list, show, verify and remove images of Windows for virtual machines."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.commands import _machine, _output
from harness.errors import ConfigurationError
from harness.exit_codes import ExitCode
from harness.settings import read_project
from vm.errors import MachineConfigurationError
from vm.windows.hypervisor.uri import chosen_uri
from vm.windows.profiles.registry import Profiles, shipped

if TYPE_CHECKING:
    from vm.windows.images.store import ImageStore

_HERE: Final = Path()


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands and their arguments."""
    commands = parser.add_subparsers(metavar="ACTION", required=True)

    def add(name: str, summary: str, action: Callable[[argparse.Namespace], ExitCode]) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        found.set_defaults(action=action)
        return found

    build = add("build", "install Windows unattended and seal the result; goes on where it was stopped", _build)
    build.add_argument(
        "profile", metavar="PROFILE", help="which Windows, such as win11; 'ntproof image profiles' lists them"
    )
    build.add_argument("--iso", type=Path, required=True, metavar="FILE", help="the Windows ISO as Microsoft offers it")
    build.add_argument("--sha256", metavar="HASH", help="the SHA-256 that the ISO must have")
    build.add_argument(
        "--virtio-iso", type=Path, metavar="FILE", help="virtio-win ISO, for profiles with virtio hardware"
    )
    build.add_argument(
        "--openssh", type=Path, metavar="FILE", help="OpenSSH server (.msi), for a Windows that lacks it"
    )
    build.add_argument("--name", help="name of the image (default: the profile's name)")
    _machine.add_connect(build)
    build.add_argument("--watch", action="store_true", help="keep a picture of the screen beside the build's log")
    _add_profiles(build)
    listing = add("list", "list images and unfinished builds", _list)
    listing.add_argument("--json", action="store_true", help="print as JSON")
    show = add("show", "print the manifest of an image", _show)
    show.add_argument("name", metavar="NAME", help="the image")
    verify = add("verify", "check that an image is as it was sealed", _verify)
    verify.add_argument("name", metavar="NAME", nargs="+", help="the images")
    remove = add("remove", "remove images, also damaged ones", _remove)
    remove.add_argument("name", metavar="NAME", nargs="+", help="the images")
    remove.add_argument("--build", action="store_true", help="remove unfinished builds of these names instead")
    _add_profiles(add("profiles", "list the profiles that images can be made of", _profiles))


def _add_profiles(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profiles", type=Path, metavar="FOLDER", help="folder with further profiles, TOML files")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Do what was asked for."""
    action: Callable[[argparse.Namespace], ExitCode] = arguments.action
    return action(arguments)


def known_profiles(folder: Path | None, project: Path = _HERE) -> Profiles:
    """The shipped profiles, those of ``[tool.ntproof.profiles]``, and those of a folder.

    Args:
        folder: TOML files, None for none.
        project: the folder whose pyproject.toml counts.

    Raises:
        InputError: the pyproject.toml is malformed.
        MachineConfigurationError: a profile is wrong.
    """
    read = read_project(project)
    found = shipped().with_table(read.profiles, str(read.path))
    return found if folder is None else found.with_folder(folder)


def _build(arguments: argparse.Namespace) -> ExitCode:
    from harness.commands._image_progress import PrintedProgress
    from vm.windows.images.build import BuildRequest, ImageBuild
    from vm.windows.images.first_start import FirstStart
    from vm.windows.images.hypervisor import open_host

    profile = known_profiles(arguments.profiles).load(arguments.profile)
    request = BuildRequest(
        profile=profile,
        iso=arguments.iso,
        name=arguments.name or profile.name,
        iso_sha256=arguments.sha256,
        virtio_iso=arguments.virtio_iso,
        openssh=arguments.openssh,
        watch=arguments.watch,
    )
    if not arguments.iso.is_file():
        raise ConfigurationError(f"--iso {arguments.iso}: no such file; name a Windows ISO")
    host = open_host(chosen_uri(_machine.connect_uri(arguments), os.environ))
    build = ImageBuild(request, _store(), host, listener=PrintedProgress(sys.stdout), probe=FirstStart(host))
    print(f"building {request.name} in {build.folder}", flush=True)
    image = build.run()
    print(f"image {image.manifest.name} is sealed in {image.folder}")
    return ExitCode.PASSED


def _store() -> ImageStore:
    from vm.windows.images.store import ImageStore

    return ImageStore.from_environment(os.environ)


def _list(arguments: argparse.Namespace) -> ExitCode:
    images = _store()
    rows = [_row(images, name) for name in images.names()]
    rows += [{"name": name, "state": "unfinished build"} for name in images.unfinished()]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return ExitCode.PASSED
    if not rows:
        print(f"no images in {images.root}; make one with: ntproof image build PROFILE --iso FILE")
        return ExitCode.PASSED
    columns = ("name", "state", "profile", "build", "created", "size")
    _output.print_table(
        f"images in {images.root}", columns, [[str(row[key]) for key in columns if key in row] for row in rows]
    )
    return ExitCode.PASSED


def _row(images: ImageStore, name: str) -> dict[str, object]:
    try:
        found = images.open(name).manifest
    except MachineConfigurationError as error:
        return {"name": name, "state": f"damaged: {error}"}
    return {
        "name": name,
        "state": "sealed",
        "profile": found.profile.name,
        "build": f"{found.guest.build}.{found.guest.revision}",
        "created": found.created,
        "size": f"{found.size / 1e9:.1f} GB",
    }


def _show(arguments: argparse.Namespace) -> ExitCode:
    print(_store().open(arguments.name).manifest.to_json(), end="")
    return ExitCode.PASSED


def _verify(arguments: argparse.Namespace) -> ExitCode:
    images = _store()
    ended = ExitCode.PASSED
    for name in arguments.name:
        wrong = images.verify(name)
        print(f"{name}: " + ("as it was sealed" if not wrong else f"{len(wrong)} findings"))
        for line in wrong:
            print(f"  {line}")
            ended = ExitCode.MACHINE_ERROR
    return ended


def _remove(arguments: argparse.Namespace) -> ExitCode:
    images = _store()
    for name in arguments.name:
        if arguments.build:
            images.discard_build(name)
        else:
            images.remove(name)
        print(f"{name}: removed")
    return ExitCode.PASSED


def _profiles(arguments: argparse.Namespace) -> ExitCode:
    for profile in known_profiles(arguments.profiles).all():
        print(f"{', '.join((profile.name, *profile.aliases))}: {profile.description}")
        print(f"  {profile.licence}")
    return ExitCode.PASSED
