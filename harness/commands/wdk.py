"""Add a Windows Driver Kit that lies somewhere, list, show and remove those that were added."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.build.wdk.kit import Kit
from harness.build.wdk.registry import KitRegistry
from harness.errors import ConfigurationError
from harness.exit_codes import ExitCode


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    subparsers = parser.add_subparsers(metavar="ACTION", required=True)

    def declare(name: str, summary: str, action: Callable[[argparse.Namespace], ExitCode]) -> argparse.ArgumentParser:
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        subparser.add_argument("--json", action="store_true", help="print the kits as JSON")
        subparser.set_defaults(action=action)
        return subparser

    add = declare("add", "index a kit where it is; nothing is copied", _add)
    add.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="unpacked packages, .nupkg files, an EWDK .iso or its mount, or a Windows Kits/10; several make one kit",
    )
    add.add_argument(
        "--extract",
        action="store_true",
        help="unpack the headers and libraries of .nupkg and .iso files into your cache: a compiler cannot read inside",
    )
    declare("list", "list the kits that were added", _list)
    for name, summary, action in (
        ("show", "show where the parts of a kit are", _show),
        ("remove", "forget a kit, and delete what was unpacked of it", _remove),
    ):
        declare(name, summary, action).add_argument("version", metavar="VERSION", help="such as 10.0.26100.0")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Do what was asked for."""
    action: Callable[[argparse.Namespace], ExitCode] = arguments.action
    return action(arguments)


def _add(arguments: argparse.Namespace) -> ExitCode:
    added = KitRegistry.of_user().add(arguments.paths, unpack=arguments.extract)
    return _print(added, as_json=arguments.json)


def _list(arguments: argparse.Namespace) -> ExitCode:
    kits = KitRegistry.of_user().kits()
    if not kits and not arguments.json:
        print("no kit was added; `ntproof wdk add PATH` adds one")
    return _print(kits, as_json=arguments.json)


def _show(arguments: argparse.Namespace) -> ExitCode:
    registry = KitRegistry.of_user()
    kit = _known(registry, arguments.version)
    if arguments.json:
        return _print([kit], as_json=True)
    print(_line(kit))
    rows = [("added as", kit.origin), ("headers", kit.include), ("overlay", (registry.overlay(kit),))]
    rows += [(f"libraries {name}", folders) for name, folders in kit.libraries.items()]
    rows += [("unpacked", (kit.extracted,))] if kit.extracted is not None else []
    for title, paths in rows:
        for path in paths:
            print(f"  {title:16}{path}")
    return ExitCode.PASSED


def _remove(arguments: argparse.Namespace) -> ExitCode:
    removed = KitRegistry.of_user().remove(arguments.version)
    if arguments.json:
        return _print([removed], as_json=True)
    what = "" if removed.extracted is None else f", and {removed.extracted} is deleted"
    print(f"kit {removed.version} is forgotten{what}; its own files were not touched")
    return ExitCode.PASSED


def _known(registry: KitRegistry, version: str) -> Kit:
    kits = registry.kits()
    for kit in kits:
        if kit.version == version:
            return kit
    raise ConfigurationError(f"there is no kit {version}; known: {', '.join(kit.version for kit in kits) or 'none'}")


def _print(kits: Sequence[Kit], *, as_json: bool) -> ExitCode:
    if as_json:
        print(json.dumps({"kits": [kit.to_json() for kit in kits]}, indent=2))
    else:
        for kit in kits:
            print(_line(kit))
            for problem in kit.problems:
                print(f"  {problem}")
    return ExitCode.PASSED


def _line(kit: Kit) -> str:
    state = f"for {', '.join(kit.libraries)}" if kit.usable else "cannot be used:"
    return f"{kit.version}  {state}" + ("" if not kit.usable else f"  from {', '.join(str(p) for p in kit.origin)}")
