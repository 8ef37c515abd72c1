"""The one place that lists which modules add exports to the kernel."""

from __future__ import annotations

import functools

from vm.emulated import (
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
from vm.emulated.exports import ExportTable, merge

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
