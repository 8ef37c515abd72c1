"""System worker threads: IoQueueWorkItem, ExQueueWorkItem.

Each queued item runs in a system thread of its own, in the order of queueing; guest/io.c makes the call. Sources:
Microsoft Learn, "System Worker Threads", IoAllocateWorkItem, IoQueueWorkItem, IoFreeWorkItem, ExQueueWorkItem, "Bug
Check 0xE1: WORKER_THREAD_RETURNED_AT_BAD_IRQL", "Bug Check 0xE4: WORKER_INVALID".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vm.emulated.exports import DISPATCH_LEVEL, ExportTable
from vm.emulated.faults import Bugcheck

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

WORK_ITEM_SIZE = 0x40
"""IO_WORKITEM is opaque: its size is what IoSizeofWorkItem says."""
_CALL_SIZE = 0x20
WORKER_THREAD_RETURNED_AT_BAD_IRQL = 0xE1
WORKER_INVALID = 0xE4
_ACTIVE_QUEUED, _QUEUED_FREED = 1, 2

# WORK_QUEUE_ITEM (wdm.h)
_ROUTINE = 0x10


@dataclass(slots=True)
class WorkItem:
    """A work item.

    Attributes:
        body: guest address.
        io_object: device or driver object that it keeps alive while queued, 0 for ExQueueWorkItem's.
        site: where the driver made or queued it.
        owned: allocated by IoAllocateWorkItem.
        routine: what was queued last.
        queued: it waits for its thread.
        call: block that the worker thread starts from.
    """

    body: int
    io_object: int
    site: int
    owned: bool
    routine: int = 0
    queued: bool = False
    call: int = 0


def _item(kernel: Kernel, body: int) -> WorkItem:
    item = kernel.io.state.work_items.get(body)
    if item is None:
        raise Bugcheck(WORKER_INVALID, 0, body, reason=f"0x{body:X} is no work item, or one that was freed")
    return item


def _queue(kernel: Kernel, item: WorkItem, routine: int, arguments: tuple[int, int, int]) -> None:
    if item.queued:
        raise Bugcheck(
            WORKER_INVALID, _ACTIVE_QUEUED, item.body, reason="a work item was queued that is queued already"
        )
    call = kernel.heap.allocate(_CALL_SIZE)
    kernel.mem.write(call, struct.pack("<4Q", routine, *arguments))
    item.routine, item.queued, item.call = routine, True, call
    kernel.io.state.work_calls[call] = (item.body, item.io_object)
    if item.io_object:
        kernel.ob.reference(item.io_object)
    worker = kernel.guest.export("HostWorker")
    if worker is None:
        raise RuntimeError("guest/io.c does not export HostWorker")
    kernel.ps.create_system_thread(worker, call)


@EXPORTS.function("HostWorkItemStarts", args="ptr")
def host_work_item_starts(kernel: Kernel, call: int) -> None:
    """A worker thread has taken an item off the queue; from here on the driver may queue or free it."""
    item = kernel.io.state.work_items[kernel.io.state.work_calls[call][0]]
    item.queued = False
    if not item.io_object:
        del kernel.io.state.work_items[item.body]


@EXPORTS.function("HostWorkItemReturned", args="ptr ptr")
def host_work_item_returned(kernel: Kernel, call: int, routine: int) -> None:
    """The routine of a work item has returned."""
    body, io_object = kernel.io.state.work_calls.pop(call)
    kernel.heap.free(call)
    if kernel.irql:
        raise Bugcheck(
            WORKER_THREAD_RETURNED_AT_BAD_IRQL, routine, kernel.irql, 0, body,
            reason=f"a work item's routine returned at IRQL {kernel.irql}", rip=routine,
        )  # fmt: skip
    if io_object:
        kernel.ob.dereference(io_object)


@EXPORTS.function("IoAllocateWorkItem", args="ptr", irql=DISPATCH_LEVEL)
def io_allocate_work_item(kernel: Kernel, io_object: int) -> int:
    """Microsoft Learn, IoAllocateWorkItem."""
    kernel.ob.record(io_object)
    if kernel.faults.memory_is_short("IoAllocateWorkItem"):
        return 0
    body = kernel.heap.allocate(WORK_ITEM_SIZE)
    kernel.io.state.work_items[body] = WorkItem(body, io_object, kernel.caller(), owned=True)
    return body


@EXPORTS.function("IoSizeofWorkItem", irql=DISPATCH_LEVEL)
def io_sizeof_work_item(_kernel: Kernel) -> int:
    """Microsoft Learn, IoSizeofWorkItem."""
    return WORK_ITEM_SIZE


@EXPORTS.function("IoInitializeWorkItem", args="ptr ptr", irql=DISPATCH_LEVEL)
def io_initialize_work_item(kernel: Kernel, io_object: int, body: int) -> None:
    """Microsoft Learn, IoInitializeWorkItem: memory of the driver's own."""
    kernel.ob.record(io_object)
    kernel.mem.fill(body, WORK_ITEM_SIZE)
    kernel.io.state.work_items[body] = WorkItem(body, io_object, kernel.caller(), owned=False)


@EXPORTS.function("IoUninitializeWorkItem", "IoFreeWorkItem", args="ptr", irql=DISPATCH_LEVEL)
def io_free_work_item(kernel: Kernel, body: int) -> None:
    """Microsoft Learn, IoFreeWorkItem, IoUninitializeWorkItem."""
    item = _item(kernel, body)
    if item.queued:
        raise Bugcheck(WORKER_INVALID, _QUEUED_FREED, body, reason="a work item was freed while it is queued")
    del kernel.io.state.work_items[body]
    if item.owned:
        kernel.heap.free(body)


@EXPORTS.function("IoQueueWorkItem", args="ptr ptr u32 ptr", irql=DISPATCH_LEVEL)
def io_queue_work_item(kernel: Kernel, body: int, routine: int, _queue_type: int, context: int) -> None:
    """Microsoft Learn, IoQueueWorkItem: the routine gets the device object and the context."""
    item = _item(kernel, body)
    _queue(kernel, item, routine, (item.io_object, context, 0))


@EXPORTS.function("IoQueueWorkItemEx", args="ptr ptr u32 ptr", irql=DISPATCH_LEVEL)
def io_queue_work_item_ex(kernel: Kernel, body: int, routine: int, _queue_type: int, context: int) -> None:
    """Microsoft Learn, IoQueueWorkItemEx: the routine gets the work item too."""
    item = _item(kernel, body)
    _queue(kernel, item, routine, (item.io_object, context, body))


@EXPORTS.function("ExQueueWorkItem", args="ptr u32", irql=DISPATCH_LEVEL)
def ex_queue_work_item(kernel: Kernel, body: int, _queue_type: int) -> None:
    """Microsoft Learn, ExQueueWorkItem: nothing keeps the driver loaded until the item has run."""
    routine, parameter = struct.unpack("<QQ", kernel.mem.read(body + _ROUTINE, 16))
    items = kernel.io.state.work_items
    if body in items:
        raise Bugcheck(WORKER_INVALID, _ACTIVE_QUEUED, body, reason="a work item was queued that is queued already")
    items[body] = WorkItem(body, 0, kernel.caller(), owned=False)
    _queue(kernel, items[body], routine, (parameter, 0, 0))
