"""The one place that lists which modules add exports to the kernel."""

from __future__ import annotations

import functools

from vm.emulated.cm import exports as registry_exports
from vm.emulated.cm import rtl as registry_rtl
from vm.emulated.debug import exports as debug_exports
from vm.emulated.exceptions import seh
from vm.emulated.exports import ExportTable, merge
from vm.emulated.io import exports as io_exports
from vm.emulated.io import irp_exports, work_items
from vm.emulated.ke import clock, irql, locks, processors, sync, timers
from vm.emulated.mm import lookaside, mdl, pool
from vm.emulated.ob import exports as ob_exports
from vm.emulated.ob import named_objects
from vm.emulated.ps import event_notify, notify
from vm.emulated.ps import exports as ps_exports
from vm.emulated.rtl import codepages as rtl_codepages
from vm.emulated.rtl import crt_format
from vm.emulated.rtl import misc as rtl_misc
from vm.emulated.rtl import strings as rtl_strings
from vm.emulated.se import reference_monitor as se
from vm.emulated.se import rtl_security

_MODULES = (
    clock,
    crt_format,
    debug_exports,
    event_notify,
    io_exports,
    irp_exports,
    irql,
    locks,
    lookaside,
    mdl,
    named_objects,
    notify,
    ob_exports,
    pool,
    processors,
    ps_exports,
    registry_exports,
    registry_rtl,
    rtl_codepages,
    rtl_misc,
    rtl_security,
    rtl_strings,
    se,
    seh,
    sync,
    timers,
    work_items,
)


@functools.cache
def all_exports() -> ExportTable:
    """Every export that has a host implementation."""
    return merge(module.EXPORTS for module in _MODULES)
