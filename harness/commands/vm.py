"""List the machines on a hypervisor, and remove what nobody owns any more."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness.commands import _machine, _output
from harness.errors import ConfigurationError
from harness.exit_codes import ExitCode

if TYPE_CHECKING:
    from vm.windows.hypervisor.garbage import Finding, Resource
    from vm.windows.hypervisor.inventory import Inventory, Slot
    from vm.windows.images.store import ImageStore

_COLUMNS = ("slot", "lease", "owner", "age", "domain", "saved")
_NOT_OURS = "not of this project"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands and their arguments."""
    commands = parser.add_subparsers(metavar="ACTION", required=True)
    listing = commands.add_parser(
        "list",
        help="list slots with who has them and since when, domains, and disk space",
        description="List slots with who has them and since when, domains, and disk space.",
    )
    listing.set_defaults(action=_list)
    collecting = commands.add_parser(
        "gc",
        help="remove what carries the project's mark and belongs to nobody any more, nothing else",
        description="Remove what carries the project's mark and belongs to nobody any more, nothing else.",
    )
    collecting.add_argument("--dry-run", action="store_true", help="remove nothing, only say what would be removed")
    collecting.set_defaults(action=_gc)
    for command in (listing, collecting):
        command.add_argument("--json", action="store_true", help="print as JSON")
        _machine.add_connect(command)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Do what was asked for."""
    action: Callable[[argparse.Namespace], ExitCode] = arguments.action
    return action(arguments)


def _list(arguments: argparse.Namespace) -> ExitCode:
    found: Inventory = _collection().inventory(_machine.connect_uri(arguments), _store())
    rows = [slot_row(slot, found, time.time()) for slot in found.slots]
    if arguments.json:
        print(json.dumps({"slots": rows, "resources": resource_rows(found.resources)}, indent=2))
        return ExitCode.PASSED
    if rows:
        _output.print_table("slots", _COLUMNS, [_slot_cells(row) for row in rows])
    else:
        print("no slots: no machine was made on this hypervisor yet")
    others = [row for row in resource_rows(found.resources) if row["role"] not in {"lease", None}]
    if others:
        headings = ("kind", "role", "name")
        _output.print_table("domains and files", headings, [[str(row[key]) for key in headings] for row in others])
    return ExitCode.PASSED


def slot_row(slot: Slot, found: Inventory, now: float) -> dict[str, Any]:
    """What is known of a slot, under stable keys.

    Args:
        slot: the slot.
        found: what it is of; its record has the last heartbeat.
        now: seconds since 1970 UTC.
    """
    record = found.records.get(slot.name)
    term = None if record is None or record.mark is None else record.mark.term
    return {
        "slot": slot.name,
        "lease": slot.judgement.standing.value,
        "reason": slot.judgement.reason,
        "owner": None if slot.owner is None else str(slot.owner),
        "heartbeat_age_s": None if term is None else round(max(now - term.heartbeat_ms / 1000, 0), 1),
        "domain": slot.state,
        "golden_bytes": slot.golden_bytes,
    }


def resource_rows(resources: Iterable[Resource]) -> list[dict[str, Any]]:
    """Domains and files of the project, under stable keys; what is of somebody else is left out."""
    from vm.windows.hypervisor.inventory import mark_of_resource

    marked = ((one, mark_of_resource(one)) for one in resources)
    return [
        {
            "kind": one.kind.value,
            "name": one.name,
            "role": mark.role.value,
            "image": mark.image,
            "slot": mark.slot,
            "owner": str(mark.owner),
        }
        for one, mark in marked
        if mark is not None
    ]


def _slot_cells(row: dict[str, Any]) -> Sequence[str]:
    age = row["heartbeat_age_s"]
    return (
        row["slot"],
        row["lease"],
        row["owner"] or row["reason"],
        "" if age is None else f"{age:.0f} s",
        row["domain"] or "no domain",
        _output.megabytes(row["golden_bytes"]),
    )


def _gc(arguments: argparse.Namespace) -> ExitCode:
    uri = _machine.connect_uri(arguments)
    findings: tuple[Finding, ...] = _collection().collect(uri, _store(), dry_run=arguments.dry_run)
    if arguments.json:
        print(json.dumps([_finding_row(one) for one in findings], indent=2))
        return ExitCode.PASSED
    removed = [one for one in findings if one.remove]
    kept = [one for one in findings if not one.remove and one.reason != _NOT_OURS]
    word = "would remove" if arguments.dry_run else "removed"
    for finding in removed:
        print(f"{word} {_named(finding.resource)}: {finding.reason}")
    for finding in kept:
        print(f"left {_named(finding.resource)}: {finding.reason}")
    others = len(findings) - len(removed) - len(kept)
    print(f"{word} {len(removed)}, left {len(kept)}, and {others} of others")
    return ExitCode.PASSED


def _finding_row(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.resource.kind.value,
        "name": finding.resource.name,
        "remove": finding.remove,
        "reason": finding.reason,
    }


def _named(resource: Resource) -> str:
    return f"{resource.kind.value} {PurePosixPath(resource.name).name}"


def _store() -> ImageStore:
    from vm.windows.images.store import ImageStore

    return ImageStore.from_environment(os.environ)


def _collection() -> ModuleType:
    """What looks at a hypervisor.

    Raises:
        ConfigurationError: libvirt's module is not installed.
    """
    try:
        return importlib.import_module("vm.windows.hypervisor.collection")
    except ModuleNotFoundError as error:
        message = f"module {error.name} is missing; run 'ntproof doctor', and pip install ntproof[libvirt,windows]"
        raise ConfigurationError(message) from error
